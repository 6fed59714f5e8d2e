// VERSION: what client and server agree on. The client's JSON is read with suspicion. Not here: when it may come (session.ts).
import { Errno } from '../base/errors.ts';
import { MAX_DESCRIPTORS, MAX_TRANSFER, MessageHeader, Version } from './abi.ts';
import type { Reply, Request } from './message.ts';
import { ProtocolError } from './protocol-error.ts';

/** What a connection has agreed on. */
export interface Agreement {
  /** Most bytes that the client takes in one DMA_READ or DMA_WRITE. */
  readonly clientTransfer: number;
  /** Unit of DMA mappings in bytes: a power of two, at least 4096. */
  readonly pageSize: bigint;
  /** Most mappings at a time. */
  readonly maxMaps: number;
}

/** The one major version there is. */
const MAJOR = 0;
const MINOR = 0;
/** Longest JSON that is looked at; QEMU's has 200 bytes. */
const MAX_DATA = 65536;
const PAGE = 4096n;
const PAGE_MASK = 0xffff_ffff_ffff_f000n;
const DEFAULT_MAPS = 65535;
/** A client that takes less at a time would turn one access into a flood of messages. */
const LEAST_TRANSFER = 4096;

/** The client asks for what we do not speak: it gets an errno, and its connection ends. */
export class VersionRefusal extends ProtocolError {
  readonly errno: number;

  constructor(message: string, errno: number) {
    super(message);
    this.errno = errno;
  }
}

/**
 * Reads VERSION and writes the reply: same major, lower minor, and of the capabilities only those that the client named.
 * @returns the agreement, and bytes of payload of the reply.
 * @throws VersionRefusal for another major version and for data that is not what the protocol says.
 */
export function negotiate(request: Request, reply: Reply, maxMaps: number): { agreed: Agreement; payload: number } {
  if (request.payload < Version.data) throw new VersionRefusal('VERSION without a version', Errno.EINVAL);
  const major = request.u16(Version.major);
  if (major !== MAJOR) {
    throw new VersionRefusal(`the client speaks version ${major}, we speak ${MAJOR}.${MINOR}`, Errno.EOPNOTSUPP);
  }
  const proposed = readCapabilities(request);
  const agreed = {
    clientTransfer: Math.min(count(proposed, 'max_data_xfer_size', MAX_TRANSFER, LEAST_TRANSFER), MAX_TRANSFER),
    pageSize: pageSize(proposed),
    maxMaps: Math.min(count(proposed, 'max_dma_maps', DEFAULT_MAPS, 1), maxMaps),
  };
  count(proposed, 'max_msg_fds', 1, 0);
  const ours: Record<string, number> = {
    max_msg_fds: MAX_DESCRIPTORS,
    max_data_xfer_size: MAX_TRANSFER,
    max_dma_maps: agreed.maxMaps,
    pgsizes: Number(agreed.pageSize),
  };
  const named = Object.entries(ours).filter(([name]) => proposed !== undefined && Object.hasOwn(proposed, name));
  const text = proposed === undefined ? undefined : JSON.stringify({ capabilities: Object.fromEntries(named) });
  reply.setU16(Version.major, MAJOR);
  reply.setU16(Version.minor, Math.min(request.u16(Version.minor), MINOR));
  return { agreed, payload: Version.data + writeText(reply, text) };
}

type Capabilities = Readonly<Record<string, unknown>>;

/** The proposed capabilities; undefined when the client sent none. */
function readCapabilities(request: Request): Capabilities | undefined {
  const length = request.payload - Version.data;
  if (length === 0) return undefined;
  if (length > MAX_DATA) throw refusal(`has ${length} bytes`);
  const bytes = request.part(Version.data, request.payload);
  const end = bytes.indexOf(0);
  if (end < 0) throw refusal('has no NUL at its end');
  const data = parse(bytes.subarray(0, end));
  if (!isObject(data)) throw refusal('is not an object');
  const capabilities = data['capabilities'];
  if (capabilities === undefined) return {};
  if (!isObject(capabilities)) throw refusal('has capabilities that are not an object');
  return capabilities;
}

function parse(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch {
    throw refusal('is not JSON');
  }
}

function isObject(value: unknown): value is Capabilities {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** A capability that counts something. */
function count(capabilities: Capabilities | undefined, name: string, otherwise: number, least: number): number {
  const value = capabilities !== undefined && Object.hasOwn(capabilities, name) ? capabilities[name] : otherwise;
  if (typeof value !== 'number' || !Number.isInteger(value) || value < least) {
    throw refusal(`has a ${name} that is not a number of ${least} or more`);
  }
  return value;
}

/** The smallest page size that both sides have: any power of two from 4096 on is one of ours. */
function pageSize(capabilities: Capabilities | undefined): bigint {
  const common = BigInt.asUintN(64, BigInt(count(capabilities, 'pgsizes', Number(PAGE), 1))) & PAGE_MASK;
  if (common === 0n) throw refusal('has pgsizes below 4096 only');
  return common & -common;
}

function refusal(what: string): VersionRefusal {
  return new VersionRefusal(`the version data ${what}`, Errno.EINVAL);
}

/** Puts text and a NUL behind the version; returns their length. */
function writeText(reply: Reply, text: string | undefined): number {
  if (text === undefined) return 0;
  const at = MessageHeader.SIZE + Version.data;
  const { written } = new TextEncoder().encodeInto(text, reply.bytes.subarray(at));
  reply.bytes[at + written] = 0;
  return written + 1;
}
