// Reads the `device` of a vector case: overrides of the default device. Ranges have inclusive ends.
import type { ReservedRegion } from '../../base/reserved.ts';
import { features } from './read-check.ts';
import type { Read } from './read.ts';
import { Fields, count, list, oneOf, refuse, u32, u64 } from './read.ts';
import type { DeviceSpec } from './vector-types.ts';
import { DEVICE_STATES } from './vector-types.ts';

const DEFAULT_OFFER: readonly string[] = [
  ...['VERSION_1', 'RING_INDIRECT_DESC', 'INPUT_RANGE', 'DOMAIN_RANGE', 'MAP_UNMAP', 'PROBE', 'MMIO', 'BYPASS_CONFIG'],
];
const DEFAULT_INPUT_RANGE = { start: 0n, end: 0xffff_ffff_ffffn };
const DEFAULT_DOMAIN_RANGE = { start: 0, end: 31 };
const MSI: ReservedRegion = { kind: 'msi', start: 0xfee0_0000n, end: 0xfeef_ffffn };
const DEFAULT_ENDPOINTS: DeviceSpec['endpoints'] = [
  { id: 8, reserved: [] },
  { id: 9, reserved: [] },
  { id: 16, reserved: [MSI] },
  { id: 17, reserved: [{ kind: 'reserved', start: 0x8000_0000n, end: 0x8fff_ffffn }, MSI] },
];
const DEFAULT_QUEUE_SIZE = 64;
const DEFAULT_PROBE_SIZE = 512;
const DEFAULT_PAGE_SIZE_MASK = 0x4020_1000n;
const MAX_QUEUE_SIZE = 32_768;

/** Reads a device; an empty object is the default device. */
export const readDevice: Read<DeviceSpec> = (value, key) => {
  const fields = new Fields(value, key, [
    ...['page_size_mask', 'input_range', 'domain_range', 'probe_size', 'bypass', 'queue_size', 'endpoints', 'limits'],
    ...['state', 'offer_add', 'offer_remove', 'accept_remove'],
  ]);
  const removed = fields.optional('offer_remove', features) ?? [];
  const added = fields.optional('offer_add', features) ?? [];
  const offered = [...DEFAULT_OFFER.filter((name) => !removed.includes(name)), ...added];
  const refused = fields.optional('accept_remove', features) ?? [];
  const [inputStart, inputEnd] = fields.optional('input_range', list(u64, 2, 2)) ?? [];
  const [firstDomain, lastDomain] = fields.optional('domain_range', list(u32, 2, 2)) ?? [];
  return {
    pageSizeMask: fields.optional('page_size_mask', u64) ?? DEFAULT_PAGE_SIZE_MASK,
    inputRange: { start: inputStart ?? DEFAULT_INPUT_RANGE.start, end: inputEnd ?? DEFAULT_INPUT_RANGE.end },
    domainRange: { start: firstDomain ?? DEFAULT_DOMAIN_RANGE.start, end: lastDomain ?? DEFAULT_DOMAIN_RANGE.end },
    probeSize: fields.optional('probe_size', count(0, 0xffff)) ?? DEFAULT_PROBE_SIZE,
    bypass: fields.optional('bypass', count(0, 1)) === 1,
    queueSize: fields.optional('queue_size', queueSize) ?? DEFAULT_QUEUE_SIZE,
    endpoints: fields.optional('endpoints', list(endpoint)) ?? DEFAULT_ENDPOINTS,
    maxMappings: fields.optional('limits', limits),
    state: fields.optional('state', oneOf(DEVICE_STATES)) ?? 'DRIVER_OK',
    offered,
    accepted: offered.filter((name) => !refused.includes(name)),
  };
};

const queueSize: Read<number> = (value, key) => {
  const size = count(1, MAX_QUEUE_SIZE)(value, key);
  return (size & (size - 1)) === 0 ? size : refuse(key, `${size} is not a power of two`);
};

const limits: Read<number | undefined> = (value, key) =>
  new Fields(value, key, ['mappings']).optional('mappings', count(0, 2 ** 31));

const endpoint: Read<DeviceSpec['endpoints'][number]> = (value, key) => {
  const fields = new Fields(value, key, ['id', 'resv']);
  return { id: fields.required('id', u32), reserved: fields.optional('resv', list(region)) ?? [] };
};

const region: Read<ReservedRegion> = (value, key) => {
  const fields = new Fields(value, key, ['subtype', 'start', 'end']);
  return {
    kind: fields.required('subtype', count(0, 1)) === 1 ? 'msi' : 'reserved',
    start: fields.required('start', u64),
    end: fields.required('end', u64),
  };
};
