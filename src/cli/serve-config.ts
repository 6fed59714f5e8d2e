// The configuration of `virtio-iommu serve`: what a JSON file may hold, checked key by key. Not here: flags
// (serve-options.ts), what is built of it (serve-machine.ts). Ranges have INCLUSIVE ends.
import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { ENTROPY_NAMES } from '../devices/entropy.ts';
import { POLICIES } from '../coalesce/settings.ts';
import { CliError } from './errors.ts';
import {
  parseDomainRange,
  parseHostFunction,
  parseLoopback,
  parsePciAddress,
  parseRange,
  parseReserved,
  parseU64,
} from './serve-values.ts';
import { parseSize } from './sizes.ts';

/** Kinds of functions that can stand behind the IOMMU. */
export const DEVICE_KINDS = ['rng', 'dma', 'vfio'] as const;

/** Kind of a function behind the IOMMU: an entropy device, a DMA engine, or a function of the host. */
export type DeviceKind = (typeof DEVICE_KINDS)[number];

/** A text that `parse` reads; what it throws becomes the message for the key. */
function parsed<T>(parse: (text: string) => T): z.ZodType<T> {
  return z.string().transform((text, context) => {
    try {
      return parse(text);
    } catch (error) {
      context.addIssue({ code: 'custom', message: error instanceof Error ? error.message : String(error) });
      return z.NEVER;
    }
  });
}

/** A 64-bit number as a text like "0x1000", or a plain JSON number where that is exact. */
const u64 = z.union([parsed(parseU64), z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER).transform(BigInt)], {
  error: 'must be a 64-bit number like "0x40201000"',
});
const address = parsed(parsePciAddress);
const powerOfTwo = (most: number): z.ZodType<number> =>
  z
    .number()
    .int()
    .min(1)
    .max(most)
    .refine((value) => Math.log2(value) % 1 === 0, 'must be a power of two');
const queueSize = powerOfTwo(32_768);

const Iommu = z.strictObject({
  addr: address.optional(),
  socket: z.string().min(1).optional(),
  requestQueueSize: queueSize.optional(),
  eventQueueSize: queueSize.optional(),
  packed: z.boolean().optional(),
  pageSizeMask: u64.optional(),
  inputRange: parsed(parseRange).optional(),
  domainRange: parsed(parseDomainRange).optional(),
  probeSize: z.number().int().min(0).max(0xffff).optional(),
  bypass: z.boolean().optional(),
  policy: z.enum(POLICIES).optional(),
  reservedOverflow: z.enum(['throw', 'merge', 'probe-error']).optional(),
  maxMappings: z
    .number()
    .int()
    .min(0)
    .max(2 ** 31)
    .optional(),
  maxDomains: z
    .number()
    .int()
    .min(0)
    .max(2 ** 24)
    .optional(),
  faults: z
    .strictObject({
      burst: z
        .number()
        .int()
        .min(0)
        .max(2 ** 31)
        .optional(),
      perSecond: z.number().min(0).optional(),
    })
    .optional(),
});

const Endpoint = z.strictObject({
  device: z.enum(DEVICE_KINDS),
  addr: address,
  socket: z.string().min(1).optional(),
  // Of kind vfio: the function on the host, and the kernel's interface to it.
  host: parsed(parseHostFunction).optional(),
  backend: z.enum(['auto', 'type1', 'iommufd']).optional(),
  reserved: z.array(parsed(parseReserved)).optional(),
  queueSize: queueSize.optional(),
  packed: z.boolean().optional(),
  maxBytes: z.number().int().min(1).max(65_536).optional(),
  // For tests.
  entropy: z.enum(ENTROPY_NAMES).optional(),
  translate: z.boolean().optional(),
  probeUnmapped: u64.optional(),
  probeAccess: z.enum(['read', 'write']).optional(),
});

const File = z.strictObject({
  $schema: z.string().optional(),
  dir: z.string().min(1).optional(),
  iommu: Iommu.optional(),
  endpoints: z.array(Endpoint).min(1).optional(),
  msi: z.union([z.literal('none'), parsed(parseRange)], { error: 'must be "none" or START-END' }).optional(),
  viot: z.string().min(1).optional(),
  record: z.string().min(1).optional(),
  requireSealed: z.boolean().optional(),
  stats: z.string().min(1).optional(),
  metrics: parsed(parseLoopback).optional(),
  interval: z.number().positive().max(86_400).optional(),
  qemu: z
    .strictObject({
      command: z.string().min(1).optional(),
      memory: parsed(parseSize).optional(),
      messageTimeout: z.number().int().min(1).max(0xffff_ffff).optional(),
    })
    .optional(),
});

/** What a configuration file says; every key may be missing. */
export type FileConfig = z.output<typeof File>;

/** What it says of the IOMMU. */
export type IommuInit = z.output<typeof Iommu>;

/** What it says of a function behind it. */
export type EndpointInit = z.output<typeof Endpoint>;

/** Reads and checks a configuration file. @throws CliError that names the file and the key. */
export function readConfigFile(path: string): FileConfig {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw new CliError(`${path}: ${(error as Error).message.split(',')[0]!}`);
  }
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new CliError(`${path}: not JSON: ${(error as Error).message}`);
  }
  return checkConfig(json, path);
}

/** Checks what a file holds. @throws CliError that names `path` and the key. */
export function checkConfig(json: unknown, path: string): FileConfig {
  const result = File.safeParse(json);
  if (result.success) return result.data;
  const [first, ...others] = result.error.issues;
  const more = others.length === 0 ? '' : ` (and ${others.length} more)`;
  throw new CliError(`${path}: ${describe(first!)}${more}`);
}

function describe(issue: z.core.$ZodIssue): string {
  const [head, ...rest] = issue.path;
  const tail = rest.map((part) => (typeof part === 'number' ? `[${part}]` : `.${String(part)}`)).join('');
  const name = head === undefined ? '' : `${String(head)}${tail}: `;
  return `${name}${issue.message}`;
}
