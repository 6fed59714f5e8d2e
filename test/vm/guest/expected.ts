// What a guest must see, asked of our own device: the regions that a PROBE of an endpoint is answered with.
// Not here: what the guest saw (facts.ts). Ranges are bigint with INCLUSIVE ends.
import { parseRange, parseReserved } from '../../../src/cli/serve-values.ts';
import { IommuCore } from '../../../src/iommu/core.ts';
import { GuestMemory } from '../../../src/virtio/memory.ts';
import type { ProbedRegion } from '../../../src/testing/requests.ts';
import { parseProperties } from '../../../src/testing/requests.ts';
import { Probe, Tail, VIRTIO_IOMMU_T_PROBE } from '../../../src/wire/abi.ts';

const ENDPOINT = 0x18;
const PROBE_SIZE = 512;
/** The MSI region that `serve` gives to an endpoint without one. */
const DEFAULT_MSI = '0xfee00000-0xfeefffff:msi';

/** Sends a PROBE to a device with these regions (`START-END:kind`) and returns what Linux reads in the answer, by address. */
export function probedRegions(texts: readonly string[], inputRange = '0-0xffffffffffff'): ProbedRegion[] {
  const own = texts.map(parseReserved);
  const reserved = own.some(({ kind }) => kind === 'msi') ? own : [...own, parseReserved(DEFAULT_MSI)];
  const memory = new GuestMemory();
  const endpoints = [{ id: ENDPOINT, reserved }];
  const core = new IommuCore(memory, { probeSize: PROBE_SIZE, inputRange: parseRange(inputRange) });
  for (const endpoint of endpoints) core.addEndpoint(endpoint);
  core.setFeatures((1n << 64n) - 1n);
  const readable = new Uint8Array(Probe.SIZE);
  const view = new DataView(readable.buffer);
  view.setUint8(Probe.head, VIRTIO_IOMMU_T_PROBE);
  view.setUint32(Probe.endpoint, ENDPOINT, true);
  const writable = new Uint8Array(PROBE_SIZE + Tail.SIZE);
  const used = core.request(readable, writable);
  if (used !== writable.length || writable[PROBE_SIZE] !== 0) throw new Error(`PROBE is answered with ${used} bytes`);
  const { regions } = parseProperties(writable, PROBE_SIZE);
  return [...regions].sort((a, b) => (a.start < b.start ? -1 : 1));
}
