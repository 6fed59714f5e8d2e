// Options of `virtio-iommu rmrr`, read from text into checked values. Sizes and addresses: decimal, 0x, suffix K M G T.
// Ranges have INCLUSIVE ends, written START-END.
import type { Command } from 'commander';
import { z } from 'zod';
import type { AddressRange } from '../base/ranges.ts';
import { mergeRanges } from '../base/ranges.ts';
import { U64_MAX } from '../base/check.ts';
import { formatDevice, parseDeviceName } from '../firmware/device-ref.ts';
import type { GuestMode } from '../firmware/holes.ts';
import { GUEST_MODES, pcRam } from '../firmware/holes.ts';
import type { KernelVersion } from '../firmware/kernel-version.ts';
import { parseKernelVersion } from '../firmware/kernel-version.ts';
import type { ResvMemOptions } from '../firmware/resv-mem.ts';
import { CliError } from './errors.ts';

/** What commander hands over. */
const RawOptions = z.object({
  dmar: z.array(z.string()).default([]),
  ivrs: z.array(z.string()).default([]),
  iort: z.array(z.string()).default([]),
  sysfs: z.array(z.string()).default([]),
  dmesg: z.array(z.string()).default([]),
  kernel: z.string().optional(),
  device: z.array(z.string()).default([]),
  class: z.array(z.string()).default([]),
  relaxRmrr: z.boolean().default(false),
  arch: z.enum(['x86', 'arm']).optional(),
  msi: z.array(z.string()).default([]),
  relaxable: z.enum(['report', 'omit']).default('report'),
  probeSize: z.string().optional(),
  merge: z.boolean().default(false),
  inputBits: z.string().optional(),
  mode: z.enum(['translated', 'bypass', 'nested']).default('bypass'),
  ram: z.string().optional(),
  low: z.string().optional(),
  ramRange: z.array(z.string()).default([]),
  json: z.boolean().default(false),
  svg: z.string().optional(),
});

/** Checked options of every subcommand. */
export interface RmrrOptions {
  readonly files: Readonly<Record<'dmar' | 'ivrs' | 'iort' | 'sysfs' | 'dmesg', readonly string[]>>;
  readonly kernel: KernelVersion | undefined;
  readonly devices: readonly string[];
  readonly classes: ReadonlyMap<string, number>;
  readonly relaxRmrr: boolean;
  readonly resv: ResvMemOptions;
  readonly mode: GuestMode;
  /** RAM of the guest, undefined when not given. */
  readonly ram: readonly AddressRange[] | undefined;
  readonly json: boolean;
  readonly svg: string | undefined;
}

/** Gathers a repeatable option. */
export function collect(value: string, before: readonly string[] | undefined): string[] {
  return [...(before ?? []), value];
}

/** Adds the options that every subcommand of `rmrr` has. */
export function addRmrrOptions(command: Command): Command {
  const list = collect;
  return command
    .option('--dmar <file>', 'ACPI DMAR table (Intel), repeatable', list)
    .option('--ivrs <file>', 'ACPI IVRS table (AMD), repeatable', list)
    .option('--iort <file>', 'ACPI IORT table (Arm), repeatable', list)
    .option('--sysfs <path>', 'a reserved_regions file, or a copy of /sys, repeatable', list)
    .option('--dmesg <file>', 'kernel log, repeatable; - for stdin', list)
    .option('--kernel <version>', 'judge for this Linux version, e.g. 6.12')
    .option(
      '--device <name>',
      'BDF or scope path: judge this device, exit status 1 unless assignable; repeatable',
      list,
    )
    .option('--class <bdf=code>', 'class code of a device for offline sources, e.g. 00:02.0=0x030000; repeatable', list)
    .option('--relax-rmrr', 'judge as if the out-of-tree relax_rmrr patch were active')
    .option('--arch <x86|arm>', 'platform, found out from the sources by default')
    .option('--msi <start-end>', 'MSI doorbells to report (Arm), repeatable', list)
    .option('--relaxable <report|omit>', 'direct-relaxable regions as RESERVED (default), or left out as VFIO does')
    .option('--probe-size <bytes>', 'room for properties, 512 by default')
    .option('--merge', 'merge nearest neighbours when there are too many regions (reserves more)')
    .option('--input-bits <n>', 'width of the addresses the endpoint translates, 64 by default')
    .option('--mode <mode>', `for the holes: ${GUEST_MODES.join(', ')} (default bypass)`)
    .option('--ram <size>', 'RAM of the guest (or L2), placed as on a PC, e.g. 8G: what the holes cost of it')
    .option('--low <size>', 'RAM below 4 GiB in that layout, 3G by default')
    .option('--ram-range <start-end>', 'RAM of the guest as ranges instead, repeatable', list)
    .option('--json', 'print JSON');
}

/** Checks what commander collected; a wrong value is a {@link CliError}. */
export function readRmrrOptions(raw: unknown): RmrrOptions {
  const parsed = RawOptions.safeParse(raw);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    const option = String(issue?.path[0] ?? 'options').replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    throw new CliError(`--${option}: ${issue?.message ?? 'not understood'}`);
  }
  const { data } = parsed;
  const probeSize = data.probeSize === undefined ? 512 : Number(size('--probe-size', data.probeSize));
  if (probeSize > 0xffff_ffff) throw new CliError('--probe-size: at most 4294967295 bytes');
  return {
    files: { dmar: data.dmar, ivrs: data.ivrs, iort: data.iort, sysfs: data.sysfs, dmesg: data.dmesg },
    kernel: data.kernel === undefined ? undefined : kernel(data.kernel),
    devices: data.device.map(deviceName),
    classes: new Map(data.class.map(classOf)),
    relaxRmrr: data.relaxRmrr,
    resv: {
      ...(data.arch === undefined ? {} : { arch: data.arch }),
      msi: data.msi.map((text) => range('--msi', text)),
      relaxable: data.relaxable,
      probeSize,
      overflow: data.merge ? 'merge' : 'throw',
      inputRange: { start: 0n, end: inputEnd(data.inputBits) },
    },
    mode: data.mode,
    ram: ramLayout(data.ram, data.low, data.ramRange),
    json: data.json,
    svg: data.svg,
  };
}

function ramLayout(
  ram: string | undefined,
  low: string | undefined,
  list: readonly string[],
): readonly AddressRange[] | undefined {
  if (list.length > 0) return mergeRanges(list.map((text) => range('--ram-range', text)));
  if (ram === undefined) return undefined;
  return pcRam(size('--ram', ram), low === undefined ? undefined : size('--low', low));
}

function kernel(text: string): KernelVersion {
  const version = parseKernelVersion(text);
  if (version === undefined) throw new CliError(`--kernel: ${JSON.stringify(text)} is no Linux version such as 6.12`);
  return version;
}

function deviceName(text: string): string {
  const device = parseDeviceName(text);
  if (device === undefined)
    throw new CliError(`--device: ${JSON.stringify(text)} is neither a BDF such as 0000:01:00.0 nor a scope path`);
  return formatDevice(device);
}

function classOf(text: string): [string, number] {
  const [name = '', code = ''] = text.split('=');
  if (!/^0x[0-9a-f]{1,6}$/i.test(code)) throw new CliError(`--class: ${JSON.stringify(text)} is not BDF=0xCCSSPP`);
  const digits = code.length - 2;
  return [deviceName(name), digits <= 4 ? Number(code) << 8 : Number(code)];
}

function inputEnd(text: string | undefined): bigint {
  if (text === undefined) return U64_MAX;
  const bits = Number(text);
  if (!Number.isInteger(bits) || bits < 12 || bits > 64) throw new CliError('--input-bits: a number from 12 to 64');
  return (1n << BigInt(bits)) - 1n;
}

function range(option: string, text: string): AddressRange {
  const [first = '', last = ''] = text.split('-');
  const start = size(option, first);
  const end = size(option, last);
  if (text.split('-').length !== 2 || end < start)
    throw new CliError(`${option}: ${JSON.stringify(text)} is not START-END`);
  return { start, end };
}

function size(option: string, text: string): bigint {
  const match = /^(0x[0-9a-f]{1,16}|\d{1,20})([kmgt]?)(?:i?b)?$/i.exec(text.trim());
  if (match === null) throw new CliError(`${option}: ${JSON.stringify(text)} is no size or address`);
  const shift = BigInt(10 * ['', 'k', 'm', 'g', 't'].indexOf(match[2]!.toLowerCase()));
  const value = BigInt(match[1]!) << shift;
  if (value > U64_MAX) throw new CliError(`${option}: ${JSON.stringify(text)} exceeds 64 bits`);
  return value;
}
