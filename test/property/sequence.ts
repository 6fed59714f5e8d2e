// What a property run is made of: the setup of one device and driver, and a list of operations with concrete values.
// Not here: making them (generate-*.ts), running them (world.ts). Addresses are bigint, ends of ranges INCLUSIVE.
import type { FeatureName } from '../../src/iommu/options.ts';
import { FEATURES } from '../../src/iommu/options.ts';

/** A reserved region as an embedder gives it: any alignment, may overlap others. */
export interface RawRegion {
  readonly kind: 'reserved' | 'msi';
  readonly start: bigint;
  readonly end: bigint;
}

export interface EndpointSetup {
  readonly id: number;
  readonly regions: readonly RawRegion[];
  /** Host group of a passed-through endpoint; undefined for an emulated one. */
  readonly group: number | undefined;
}

export interface Setup {
  readonly pageSizeMask: bigint;
  readonly inputRange: { readonly start: bigint; readonly end: bigint };
  readonly domainRange: { readonly start: number; readonly end: number };
  readonly probeSize: number;
  readonly bypass: boolean;
  readonly offered: readonly FeatureName[];
  /** Features accepted at the start, as a mask of {@link FEATURES} bits; cut to what is offered. */
  readonly accepted: number;
  readonly maxMappings: number;
  readonly maxDomains: number;
  readonly endpoints: readonly EndpointSetup[];
  readonly queueSize: number;
  readonly eventQueueSize: number;
  readonly indirect: boolean;
  readonly eventIdx: boolean;
  /** Event buffers that the driver keeps available; their sizes follow a pattern of good and bad ones. */
  readonly eventBuffers: number;
  /** Addresses near which requests and probes are made: first address of the arena. */
  readonly arena: bigint;
}

/** One request; fields that its type does not have are ignored. */
export interface RequestOp {
  readonly op: 'request';
  readonly type: number;
  readonly domain: number;
  readonly endpoint: number;
  readonly flags: number;
  readonly start: bigint;
  readonly end: bigint;
  readonly phys: bigint;
  /** First four of the struct's reserved bytes. */
  readonly reserved: number;
  readonly headReserved: number;
  /** Bytes more (or fewer) than the struct in the readable part, and than the driver should give in the writable part. */
  readonly readableDelta: number;
  readonly writableDelta: number;
  /** How it is cut into descriptors, see {@link frame}; 0 = two direct descriptors. */
  readonly framing: number;
  /** The next request belongs to the same kick. */
  readonly more: boolean;
}

/** DMA of `length` bytes by an endpoint. */
export interface AccessOp {
  readonly op: 'access';
  readonly endpoint: number;
  readonly iova: bigint;
  readonly length: number;
  readonly write: boolean;
}

/** Device or system reset, and the driver's next start with the features of the mask. */
export interface ResetOp {
  readonly op: 'reset';
  readonly system: boolean;
  readonly accepted: number;
}

/** Write of configuration space; wholly inside of it, since what else a transport makes of it is not the device's. */
export interface ConfigOp {
  readonly op: 'config';
  readonly offset: number;
  readonly width: 1 | 2 | 4 | 8;
  readonly value: bigint;
}

export type Op = RequestOp | AccessOp | ResetOp | ConfigOp;

export const T = { ATTACH: 1, DETACH: 2, MAP: 3, UNMAP: 4, PROBE: 5 } as const;

export const U64 = 0xffff_ffff_ffff_ffffn;

/** Names of the features in a mask of {@link FEATURES} bits. */
export function namesOf(mask: number): FeatureName[] {
  return (Object.keys(FEATURES) as FeatureName[]).filter((name) => ((mask >> FEATURES[name]) & 1) === 1);
}

/** Granule in bytes: the lowest bit of the mask. */
export function granuleOf(setup: Setup): bigint {
  return setup.pageSizeMask & -setup.pageSizeMask;
}

const hex = (value: bigint | number): string => `0x${value.toString(16)}`;

/** The setup as text, one aspect a line. */
export function formatSetup(setup: Setup): string[] {
  const { inputRange, domainRange } = setup;
  return [
    `page_size_mask ${hex(setup.pageSizeMask)}, input range ${hex(inputRange.start)}-${hex(inputRange.end)}, ` +
      `domain range ${hex(domainRange.start)}-${hex(domainRange.end)}, probe_size ${setup.probeSize}, ` +
      `initial bypass ${String(setup.bypass)}, caps ${setup.maxMappings} mappings ${setup.maxDomains} domains`,
    `offered ${setup.offered.join(' ')}`,
    `accepted ${namesOf(setup.accepted).join(' ')}`,
    `request queue ${setup.queueSize}, event queue ${setup.eventQueueSize} with ${setup.eventBuffers} buffers, ` +
      `indirect ${String(setup.indirect)}, event_idx ${String(setup.eventIdx)}`,
    ...setup.endpoints.map(({ id, regions, group }) => {
      const list = regions.map(({ kind, start, end }) => ` ${kind} ${hex(start)}-${hex(end)}`).join('');
      return `endpoint ${hex(id)}${group === undefined ? '' : ` in host group ${group}`}:${list === '' ? ' no regions' : list}`;
    }),
  ];
}

/** One operation as text. */
export function formatOp(op: Op): string {
  switch (op.op) {
    case 'access':
      return `access endpoint ${hex(op.endpoint)} ${op.write ? 'write' : 'read'} ${hex(op.iova)} length ${op.length}`;
    case 'reset':
      return `${op.system ? 'system' : 'device'} reset, then start with ${namesOf(op.accepted).join(' ')}`;
    case 'config':
      return `config write of ${op.width} bytes at ${op.offset}: ${hex(op.value)}`;
    case 'request':
      return formatRequest(op);
  }
}

function formatRequest(op: RequestOp): string {
  const range = `${hex(op.start)}-${hex(op.end)}`;
  const where = `domain ${hex(op.domain)} endpoint ${hex(op.endpoint)}`;
  const reserved = op.reserved === 0 ? '' : ` reserved ${hex(op.reserved)}`;
  const texts: Readonly<Record<number, string>> = {
    [T.ATTACH]: `ATTACH ${where} flags ${hex(op.flags)}${reserved}`,
    [T.DETACH]: `DETACH ${where}${reserved}`,
    [T.MAP]: `MAP domain ${hex(op.domain)} ${range} -> ${hex(op.phys)} flags ${hex(op.flags)}`,
    [T.UNMAP]: `UNMAP domain ${hex(op.domain)} ${range}${reserved}`,
    [T.PROBE]: `PROBE endpoint ${hex(op.endpoint)}${reserved}`,
  };
  const odd = [
    op.headReserved === 0 ? '' : ` head.reserved ${hex(op.headReserved)}`,
    op.readableDelta === 0 ? '' : ` readable ${op.readableDelta > 0 ? '+' : ''}${op.readableDelta}`,
    op.writableDelta === 0 ? '' : ` writable ${op.writableDelta > 0 ? '+' : ''}${op.writableDelta}`,
    op.framing === 0 ? '' : ` framing ${hex(op.framing)}`,
    op.more ? ' (same kick as the next)' : '',
  ];
  return (texts[op.type] ?? `type ${hex(op.type)}`) + odd.join('');
}
