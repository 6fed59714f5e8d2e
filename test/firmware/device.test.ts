// From a table, a sysfs text or a log to what the guest's driver reads in its PROBE reply, and the report says the same.
import { describe, expect, it } from 'vitest';
import { parseAnySource } from '../../src/firmware/any-source.ts';
import { buildReport } from '../../src/firmware/report.ts';
import { endpointReserved } from '../../src/firmware/resv-mem.ts';
import { IommuDriver } from '../../src/testing/iommu-driver.ts';
import { VirtioIommu } from '../../src/iommu/virtio-iommu.ts';
import { GuestMemory } from '../../src/virtio/memory.ts';
import type { ReservedRegion } from '../../src/base/reserved.ts';

const SYSFS = [
  '0x00000000000e8000 0x00000000000e8fff direct',
  '0x0000000001000000 0x00000000010fffff direct-relaxable',
  '0x00000000fee00000 0x00000000feefffff msi',
].join('\n');

const LOG = [
  '[    0.100000] DMAR: RMRR base: 0x000000bdf6e000 end: 0x000000bdf6efff',
  '[    0.100001] DMAR: RMRR base: 0x000000bdf6f000 end: 0x000000bdf7efff',
].join('\n');

function probe(reserved: readonly ReservedRegion[]): string[] {
  const memory = new GuestMemory();
  memory.addRegion({ gpa: 0n, size: 1n << 24n });
  const iommu = new VirtioIommu({
    memory,
    interrupt: { queue: () => undefined, config: () => undefined },
    endpoints: [{ id: 8, reserved }],
  });
  const driver = new IommuDriver({ device: iommu.transport, memory, base: 0n });
  driver.start();
  const { properties, status } = driver.probe(8);
  expect([status, properties.error]).toEqual([0, undefined]);
  return properties.regions.map(({ kind, start, end }) => `${kind} ${start.toString(16)}-${end.toString(16)}`);
}

describe('reserved memory reaches the guest', () => {
  it.each([
    ['sysfs', SYSFS, ['reserved e8000-e8fff', 'reserved 1000000-10fffff', 'msi fee00000-feefffff']],
    ['kernel log', LOG, ['reserved bdf6e000-bdf7efff', 'msi fee00000-feefffff']],
  ])('from a %s text, as the report says', (_name, text, wanted) => {
    const source = parseAnySource(new TextEncoder().encode(text))!;
    const reserved = endpointReserved(source.regions, { arch: source.arch });
    expect(probe(reserved)).toEqual(wanted);
    const report = buildReport({ sources: [{ name: 'file', ...source }] });
    const said = report.holes.map(({ start, end }) => `${start.toString(16)}-${end.toString(16)}`);
    expect(said).toEqual(wanted.map((each) => each.replace(/^\w+ /, '')));
  });

  it('without relaxable regions when they are left out', () => {
    const source = parseAnySource(new TextEncoder().encode(SYSFS))!;
    const reserved = endpointReserved(source.regions, { arch: source.arch, relaxable: 'omit' });
    expect(probe(reserved)).toEqual(['reserved e8000-e8fff', 'msi fee00000-feefffff']);
  });
});
