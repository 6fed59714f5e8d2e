// A VFIO user inside the guest, which is this project's host side (vfio-main.ts), on our device: 16,384 MAP requests for
// 64 MiB of scattered pages, DMA through each of them, refused accesses, and their UNMAPs a whole queue at a time.
import { beforeAll, describe, expect, it } from 'vitest';
import { productFiles } from '../../base/product.ts';
import { readReport } from '../../base/report.ts';
import type { Trace } from '../../../../src/testing/trace.ts';
import { readTrace, runProgram } from '../backend.ts';
import { troubles } from '../facts.ts';
import type { GuestRun } from '../machine.ts';
import { ENGINE, ENGINE_ENDPOINT, functionAt, runGuest } from '../machine.ts';
import { MESSAGES, SURVEY, script } from '../scripts.ts';

const PAGES = 16_384;
/** Pages of one UNMAP_DMA of vfio-main.ts. */
const WINDOW = 512;
const MODULES = [
  { name: 'virtio-iommu' },
  { name: 'vfio_iommu_type1', args: 'allow_unsafe_interrupts=1' },
  { name: 'vfio-pci' },
];
const RUN = 'node /app/test/vm/guest/vfio-main.js; status=$?';

describe.each([
  [64, false],
  [256, false],
  [1024, false],
  [1024, true],
] as const)('VFIO in the guest, a queue of %i, packed: %s', (requestQueueSize, packed) => {
  let run: GuestRun;
  let trace: Trace;

  beforeAll(async () => {
    run = await runGuest({
      config: {
        iommu: { requestQueueSize, packed },
        endpoints: [
          {
            device: 'dma',
            addr: '5.0',
            reserved: ['0x10000000000-0x1ffffffffff:reserved', '0xfee00000-0xfeefffff:msi'],
          },
        ],
        qemu: { memory: '1024M' },
      },
      modules: MODULES,
      files: productFiles('test/vm/guest/vfio-main.ts'),
      script: script(SURVEY, RUN, MESSAGES, '[ $status = 0 ] || exit $status'),
    });
    trace = await readTrace(run.backend);
    const report = readReport(run.boot.lines);
    for (const note of report.notes) console.log(note);
    for (const { name, ok, detail } of report.results) if (!ok) console.log(`${name}: ${detail ?? 'failed'}`);
  });

  it('every check of the VFIO user held', () => {
    const { results } = readReport(run.boot.lines);
    expect(results.filter(({ ok }) => !ok).map(({ name }) => name)).toEqual([]);
    expect(results.length).toBeGreaterThanOrEqual(8);
    expect(run.boot.exit).toBe('pass');
    expect(troubles(run.facts.messages)).toEqual([]);
  });

  it('each page was a MAP of its own, answered OK', () => {
    const pages = trace.records.filter(
      (record) => record.op === 'MAP' && record.virtEnd - record.virtStart + 1n === 4096n && record.status === 'OK',
    );
    expect(pages.length).toBeGreaterThanOrEqual(PAGES);
    expect(run.report.iommu.requests.map).toBe(trace.records.filter(({ op }) => op === 'MAP').length);
    expect(run.report.iommu.statuses).toMatchObject({ NOMEM: 0, INVAL: 0, RANGE: 0, IOERR: 0, DEVERR: 0 });
  });

  it('the UNMAPs came a whole queue at a time', () => {
    const kicks = new Map<number, number>();
    for (const record of trace.records)
      if (record.op === 'UNMAP') kicks.set(record.kick, (kicks.get(record.kick) ?? 0) + 1);
    // More when the device was still at work: the driver need not kick again then.
    expect(Math.max(...kicks.values())).toBeGreaterThanOrEqual(Math.min(requestQueueSize, WINDOW));
  });

  it('the group had the regions of our device, and the engine was refused where it should be', () => {
    expect(run.facts.group(ENGINE).reserved).toHaveLength(2);
    const faults = run.facts.messages.filter((line) => line.includes(`page fault from EP ${ENGINE_ENDPOINT} at`));
    // Two past the end, one write of read-only memory, three after the unmap; the kernel writes ten in five seconds.
    expect(faults).toHaveLength(6);
    expect(run.report.iommu.counters).toMatchObject({ faults: 6, faultsReported: 6 });
    expect(functionAt(run.report, '5.0').dma!.refused).toBe(6);
  });

  it('nothing is left, and a replay of the recording ends the same', async () => {
    expect(run.report.iommu).toMatchObject({ mappings: 0, domains: 0 });
    const { code, stdout, stderr } = await runProgram('replay', run.backend.path('trace.ndjson'), '--json');
    expect([code, stderr]).toEqual([0, '']);
    const { requests } = run.report.iommu;
    const { probe, attach, detach, map, unmap } = requests;
    expect(JSON.parse(stdout)).toMatchObject({ differenceCount: 0, requests: probe + attach + detach + map + unmap });
  });
});
