// A stock guest on our device: its driver finds the device, attaches an endpoint, and the endpoint's DMA goes through the
// translation; one access that the guest never mapped is a fault that the guest's kernel reports.
import { beforeAll, describe, expect, it } from 'vitest';
import { readTrace, runProgram } from '../backend.ts';
import { probedRegions } from '../expected.ts';
import { counts, troubles } from '../facts.ts';
import { RNG, functionAt, runGuest } from '../machine.ts';
import type { GuestRun } from '../machine.ts';
import { MESSAGES, SURVEY, readRandom, script, timeRandom } from '../scripts.ts';

const IOMMU = '0000:00:01.0';
const RESERVED = ['0x8000000-0x80fffff:reserved', '0x7000000000-0x70000fffff:reserved', '0xfee00000-0xfeefffff:msi'];
/** Above all that the guest maps: Linux takes addresses from below 4 GiB first. */
const UNMAPPED = '0x7000200000';
const BYTES = 192;
const READS = 500;

describe('a stock Linux on our device', () => {
  let run: GuestRun;

  beforeAll(async () => {
    run = await runGuest({
      config: {
        endpoints: [{ device: 'rng', addr: '3.0', entropy: 'counter', reserved: RESERVED, probeUnmapped: UNMAPPED }],
      },
      script: script(SURVEY, readRandom(BYTES, 60), timeRandom(READS), MESSAGES),
    });
    const [begin = NaN, end = NaN] = run.facts.one('throughput').split(' ').map(Number);
    const { requests, counters } = run.report.iommu;
    console.log(
      `kernel ${run.facts.one('kernel')}: user space after ${run.facts.one('uptime')} s, machine ${run.boot.seconds.toFixed(1)} s; ` +
        `${requests.map} MAP, ${requests.unmap} UNMAP in ${counters['kicks']} kicks; ` +
        `${READS} reads of 64 bytes in ${(end - begin).toFixed(2)} s, ${(((end - begin) * 1000) / READS).toFixed(2)} ms each`,
    );
  });

  it('has its own driver on the IOMMU and on the endpoint', () => {
    expect(run.boot.exit).toBe('pass');
    const drivers = run.facts.virtio.map(({ address, deviceId, driver }) => [address, deviceId, driver]);
    expect(drivers).toEqual([
      [IOMMU, 23, 'virtio_iommu'],
      [RNG, 4, 'virtio_rng'],
    ]);
    expect(troubles(run.facts.messages)).toEqual([]);
  });

  it('agrees on every feature that the device offers and the driver knows', () => {
    const [iommu, rng] = run.facts.virtio;
    // INPUT_RANGE, DOMAIN_RANGE, MAP_UNMAP, PROBE, MMIO, BYPASS_CONFIG; INDIRECT_DESC, EVENT_IDX, VERSION_1, RING_RESET.
    expect(iommu!.features & 0x77n).toBe(0x77n);
    expect(iommu!.features >> 24n).toBe(0x1_0130n);
    // ACCESS_PLATFORM as well.
    expect(rng!.features >> 24n).toBe(0x1_0330n);
    expect(run.facts.messages.join('\n')).toContain('page mask: 0x40201000');
    expect(run.facts.messages.join('\n')).toContain('input address: 48 bits');
  });

  it('probes and attaches the endpoint, and no request is refused', () => {
    const { requests, statuses } = run.report.iommu;
    expect(requests).toMatchObject({ probe: 1, attach: 1, detach: 0, unknown: 0 });
    const total = Object.values(requests).reduce((sum, count) => sum + count, 0);
    expect(statuses).toMatchObject({ OK: total });
    expect(run.report.iommu.counters).toMatchObject({ unwritten: 0, brokenRings: 0, refused: 0 });
  });

  it('has a translated group for the endpoint alone', () => {
    expect(run.facts.groups.map(({ devices }) => devices)).toEqual([[RNG]]);
    expect(run.facts.group(RNG).type).toBe('DMA-FQ');
  });

  it('shows the reserved regions that our device answers to a PROBE', () => {
    const expected = probedRegions(RESERVED).map(({ start, end, kind }) => ({ start, end, type: kind }));
    expect(expected).toHaveLength(3);
    expect(run.facts.group(RNG).reserved).toEqual(expected);
  });

  it('reads what the generator wrote, and every access was translated to another address', () => {
    expect(run.facts.one('random-status')).toBe('0');
    expect(run.facts.random).toHaveLength(BYTES);
    expect(counts(run.facts.random)).toBe(true);
    const { dma, stats } = functionAt(run.report, '3.0');
    expect(stats).toMatchObject({ brokenRings: 0, unfilled: 0 });
    expect(dma!.accesses).toBeGreaterThan(READS);
    expect(dma!.identical).toBe(0);
  });

  it('maps and unmaps for each of its transfers', () => {
    const { requests } = run.report.iommu;
    expect(requests.map).toBeGreaterThanOrEqual(READS);
    expect(requests.map - requests.unmap).toBeGreaterThanOrEqual(0);
    expect(requests.map - requests.unmap).toBeLessThan(8);
  });

  it('reports the access to what it never mapped as a page fault of that endpoint', () => {
    const faults = run.facts.messages.filter((line) => line.includes('page fault'));
    expect(faults.map((line) => line.replace(/^\[ *[\d.]+\] /, ''))).toEqual([
      `virtio_iommu virtio0: page fault from EP 24 at ${UNMAPPED} [R]`,
    ]);
    expect(functionAt(run.report, '3.0').stats).toMatchObject({ probe: 'fault' });
    expect(run.report.iommu.counters).toMatchObject({ faults: 1, faultsReported: 1 });
    expect(run.log).toContain(`rng (3.0) read at ${UNMAPPED} refused`);
  });

  it('leaves nothing behind when it is gone', () => {
    expect(run.report.iommu).toMatchObject({ mappings: 0, domains: 0 });
    for (const { server } of run.report.functions)
      expect(server).toMatchObject({ connected: false, connections: 1, badMessages: 0, mappedBytes: 0, regions: 0 });
  });

  it('was recorded, and the recording can be done again with the same end', async () => {
    const { records } = await readTrace(run.backend);
    const maps = records.filter(({ op }) => op === 'MAP');
    expect(maps.length).toBe(run.report.iommu.requests.map);
    const moved = records.filter(({ op }) => op === 'XLATE');
    expect(moved.length).toBe(functionAt(run.report, '3.0').dma!.accesses);
    const { code, stdout, stderr } = await runProgram('replay', run.backend.path('trace.ndjson'), '--json');
    expect([code, stderr]).toEqual([0, '']);
    const { requests } = run.report.iommu;
    expect(JSON.parse(stdout)).toMatchObject({
      differenceCount: 0,
      requests: requests.map + requests.unmap + requests.attach + requests.detach + requests.probe,
    });
  });
});
