import { describe, expect, it } from 'vitest';
import { parseTrace } from '../trace.ts';
import type { NestedRunOptions } from './nested-run.ts';
import { runNested } from './nested-run.ts';
import { replayTrace } from './replay.ts';

const clock = (): number => 0;

function nested(options: Partial<NestedRunOptions>): ReturnType<typeof runNested> {
  return runNested({
    l2Bytes: 2 ** 21,
    pattern: 'scattered',
    page: '4k',
    kernel: '6.12',
    policy: 'forward',
    limit: 65_535,
    seed: 1,
    clock,
    ...options,
  });
}

describe('the main job', () => {
  it('passes with right bytes and leaves nothing behind', () => {
    const result = nested({});
    expect(result).toMatchObject({
      refused: 0,
      failedChecks: [],
      hostEntriesPeak: 512,
      unreachablePages: 0,
      leftInGuestTable: 0,
      leftInHostTable: 0,
    });
    expect(result.told['faultRecords']).toBe(1); // the emulated device's violation
  });

  it.each([
    [511, 1],
    [512, 0],
    [513, 0],
  ])('with a limit of %i entries for 512 pages %i request is refused', (limit, refused) => {
    const result = nested({ limit });
    expect(result).toMatchObject({ refused, unreachablePages: refused, failedChecks: [] });
    expect(result.hostEntriesPeak).toBe(Math.min(limit, 512));
    expect(result.told).toMatchObject({ refusalRecords: refused, events: refused });
  });

  it('sends one MAP and one kick per contiguous run as Linux 6.12, one MAP per page and full rings as 4k', () => {
    const linux = nested({ pattern: 'contiguous' });
    const naive = nested({ pattern: 'contiguous', kernel: '4k' });
    expect(linux.hostEntriesPeak).toBe(1);
    expect(naive.hostEntriesPeak).toBe(512);
    expect(naive.requests - linux.requests).toBe(2 * 511 - 2); // no superpage test in the naive model
    expect(naive.kicks).toBeLessThanOrEqual(linux.kicks);
  });

  it('maps 2 MiB units as one entry each', () => {
    expect(nested({ l2Bytes: 2 ** 25, page: '2m' }).hostEntriesPeak).toBe(16);
  });

  it('leaves reserved regions out of L2, and the device cannot reach them', () => {
    const reserved = [
      { kind: 'reserved' as const, start: 0x0n, end: 0x1fffn }, // where Linux would test for superpages
      { kind: 'reserved' as const, start: 0x1f_f000n, end: 0x2f_ffffn },
    ];
    for (const pattern of ['scattered', 'contiguous'] as const) {
      const result = nested({ reserved, pattern });
      expect(result).toMatchObject({
        refused: 0,
        reservedPages: 3,
        unreachablePages: 0,
        failedChecks: [],
        leftInHostTable: 0,
      });
      expect(result.hostEntriesPeak).toBe(pattern === 'scattered' ? 509 : 1);
    }
  });

  it('names what is impossible', () => {
    expect(() => nested({ l2Bytes: 4097 })).toThrow(/bytes/);
    expect(() => nested({ pattern: 'mix90', page: '2m' })).toThrow(/page/);
  });
});

const HEADER = {
  format: 'viommu-trace/1',
  trace: 'small',
  guest_ram: [['0x0', '0xffffff']],
  page_size_mask: '0x1000',
  input_range: ['0x0', '0x7fffffffff'],
  domain_range: [0, 31],
  bypass: 1,
  resv_mem: [{ subtype: 1, start: '0xfee00000', end: '0xfeefffff' }],
};
const ATTACH = { k: 0, op: 'ATTACH', dom: 1, ep: 8, fl: 0 };
const MAP = { k: 1, op: 'MAP', dom: 1, vs: '0x1000', ve: '0x2fff', pa: '0x10000', fl: 1 };

function replay(records: readonly object[], header: object = HEADER): ReturnType<typeof replayTrace> {
  const text = [header, ...records].map((line) => JSON.stringify(line)).join('\n');
  return replayTrace(parseTrace(text), { policy: 'forward', limit: 65_535, clock });
}

describe('replay', () => {
  it('accepts what happened and names what differs', () => {
    const result = replay([
      { k: 0, op: 'PROBE', ep: 8, resv: 1 },
      { ...ATTACH, ul: 4 },
      MAP,
      { op: 'XLATE', ep: 8, iova: '0x1ff0', len: 32, dir: 'R', gpa: [['0x10ff0', 32]] },
      { op: 'FAULT', ep: 8, iova: '0x1000', dir: 'W' },
      { op: 'EVENT', ep: 8, iova: '0x1000', reason: 2, len: 24 },
      { op: 'COPY', ep: 8, src: '0x1000', dst: '0x2000', len: '0x10', ok: false },
      { k: 2, op: 'MAP', dom: 1, vs: '0x2000', ve: '0x2fff', pa: '0x0', fl: 3, st: 'INVAL' },
      { k: 3, op: 'UNMAP', dom: 1, vs: '0x0', ve: '0xffff' },
      { k: 4, op: 'DETACH', dom: 1, ep: 8 },
      { op: 'CFG', off: 36, size: 1, val: '0x0' },
      { op: 'FAULT', ep: 8, iova: '0x1000', dir: 'R' },
      { op: 'RESET' },
      { k: 5, op: 'UNMAP', dom: 1, vs: '0x0', ve: '0xfff', st: 'NOENT' },
    ]);
    expect(result.differences).toEqual([]);
    expect(result).toMatchObject({ requests: 7, hostEntriesPeak: 1, leftInGuestTable: 0, leftInHostTable: 0 });
  });

  it.each([
    ['status', [{ ...ATTACH, st: 'NOENT' }]],
    ['used length', [{ ...ATTACH, ul: 8 }]],
    ['regions', [{ k: 0, op: 'PROBE', ep: 8, resv: 2 }]],
    ['translation', [ATTACH, MAP, { op: 'XLATE', ep: 8, iova: '0x1000', len: 4, dir: 'R', gpa: [['0x10004', 4]] }]],
    ['translation', [ATTACH, MAP, { op: 'XLATE', ep: 8, iova: '0x1000', len: 4, dir: 'W', gpa: [['0x10000', 4]] }]],
    ['access', [ATTACH, MAP, { op: 'FAULT', ep: 8, iova: '0x1000', dir: 'R' }]],
    ['copy', [ATTACH, MAP, { op: 'COPY', ep: 8, src: '0x1000', dst: '0x1800', len: '0x4', ok: true }]],
    ['fault record', [ATTACH, { op: 'EVENT', ep: 8, iova: '0x1000', reason: 2, len: 24 }]],
  ])('sees a difference of %s', (what, records) => {
    const { differences } = replay(records);
    expect(differences.map((each) => each.what)).toEqual([what]);
  });

  it('works from a bare header, and below the host page size without host contexts', () => {
    expect(replay([{ ...ATTACH }, MAP], { format: 'viommu-trace/1' }).differenceCount).toBe(0);
    const bytes = { ...HEADER, page_size_mask: '0x1' };
    const result = replay([ATTACH, { ...MAP, vs: '0x1', ve: '0x9', pa: '0x7' }], bytes);
    expect([result.differenceCount, result.hostEntriesPeak]).toEqual([0, 0]);
  });
});
