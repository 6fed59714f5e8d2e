// Mode `cut`: an entry is taken away in parts while the device uses the rest, without any window in which the rest faults.
// In mode `large` the same unmaps are refused and change nothing. Runs in the machine.
import assert from 'node:assert/strict';
import { Errno } from '../../../src/base/errors.ts';
import type { Reporter } from '../base/reporter.ts';
import type { GuestEnv } from '../host/guest-env.ts';
import { Lab, dmaFaults } from './lab.ts';
import { pinnedPages } from './process.ts';

const K4 = 4096n;
const OUT = 0x100;
/** I/O pages of 2 MiB, as one entry. */
const BASE = 0x800;
const PAGES = 512;

export async function run(report: Reporter, env: GuestEnv): Promise<void> {
  await Lab.with(env, PAGES + 1, { mode: 'cut' }, async (lab) => {
    assert.equal(lab.map(OUT, 1, 0), 0);
    await report.check('the remainder is reached between all operations, and never faults', () => remainder(lab));
    await report.check('the remainder is reached while operations run', () => inFlight(lab));
    await report.check('an unmap may begin and end inside entries, over holes', async () => {
      for (const at of [0, 8, 20]) assert.equal(lab.map(BASE + at, 8, 1 + at), 0);
      assert.deepEqual(lab.unmap(BASE + 4, 20), [0, 4 + 8 + 4]);
      assert.deepEqual(areasOf(lab), [
        [0, 4],
        [24, 28],
      ]);
      assert.deepEqual([await lab.reads(BASE + 3, 4, OUT), await lab.reads(BASE + 24, 25, OUT)], [true, true]);
      assert.deepEqual([await lab.writes(BASE + 4, 5, OUT), await lab.writes(BASE + 23, 24, OUT)], [false, false]);
      assert.deepEqual(lab.unmap(BASE, PAGES), [0, 8]);
      assert.deepEqual(lab.unmap(BASE, PAGES), [0, 0]);
    });
  });
  await Lab.with(env, PAGES + 1, { mode: 'large' }, async (lab) => {
    assert.equal(lab.map(OUT, 1, 0), 0);
    await report.check('large: a part is refused, and all stays', async () => {
      for (const at of [0, 8]) assert.equal(lab.map(BASE + at, 8, 1 + at), 0);
      const before = pinnedPages();
      for (const [at, pages] of [
        [0, 4],
        [4, 4],
        [4, 8],
        [0, 12],
        [2, 1],
      ] as const) {
        assert.deepEqual(lab.unmap(BASE + at, pages), [Errno.ENOENT, 0]);
      }
      assert.deepEqual(
        [areasOf(lab), pinnedPages()],
        [
          [
            [0, 8],
            [8, 16],
          ],
          before,
        ],
      );
      assert.deepEqual([await lab.reads(BASE, 1, OUT), await lab.reads(BASE + 15, 16, OUT)], [true, true]);
      assert.match(lab.context.explain(Errno.ENOENT), /cut/);
    });
  });
}

/** Entries from BASE on, as offsets of pages. */
function areasOf({ context }: Lab): [number, number][] {
  const pages = context.ioas.areas().map(({ start, end }) => [Number(start / K4), Number((end + 1n) / K4)] as const);
  return pages.filter(([start]) => start >= BASE).map(([start, end]) => [start - BASE, end - BASE]);
}

/** Takes single pages, halves and ends away from one entry, with a look at what is left after each. */
async function remainder(lab: Lab): Promise<void> {
  assert.equal(lab.map(BASE, PAGES, 1), 0);
  assert.equal(areasOf(lab).length, 1);
  const before = [dmaFaults(), pinnedPages()];
  const gone = new Set<number>();
  const take = async (at: number, pages: number): Promise<void> => {
    assert.deepEqual(lab.unmap(BASE + at, pages), [0, pages]);
    for (let i = at; i < at + pages; i++) gone.add(i);
    for (const near of [at - 1, at + pages, 0, PAGES - 1]) {
      if (near < 0 || near >= PAGES || gone.has(near)) continue;
      assert.ok(await lab.reads(BASE + near, near + 1, OUT), `page ${near} cannot be read after [${at}, +${pages})`);
      assert.ok(
        await lab.writes(BASE + near, near + 1, OUT),
        `page ${near} cannot be written after [${at}, +${pages})`,
      );
    }
  };
  for (const [at, pages] of [
    [256, 1],
    [255, 1],
    [257, 3],
    [1, 1],
    [510, 1],
    [300, 100],
    [2, 30],
  ] as const)
    await take(at, pages);
  assert.deepEqual([dmaFaults() - before[0]!, before[1]! - pinnedPages()], [0, gone.size]);
  assert.deepEqual(
    [
      await lab.writes(BASE + 256, 257, OUT),
      await lab.writes(BASE + 399, 400, OUT),
      await lab.writes(BASE + 1, 2, OUT),
    ],
    [false, false, false],
  );
  assert.deepEqual(lab.unmap(BASE, PAGES), [0, PAGES - gone.size]);
}

/** The device's transfer comes at some moment of the 0.1 s in which pages around its target go one by one. */
async function inFlight(lab: Lab): Promise<void> {
  for (let round = 0; round < 6; round++) {
    assert.equal(lab.map(BASE, PAGES, 1), 0);
    const before = dmaFaults();
    lab.stamp();
    const target = 64 + round * 64;
    const transfer = lab.edu.load(BigInt(BASE + target) * K4, 16);
    const begin = performance.now();
    for (let i = 0; i < PAGES && performance.now() - begin < 200; i++) {
      const page = (i * 5) % PAGES;
      if (page !== target) assert.deepEqual(lab.unmap(BASE + page, 1), [0, 1]);
    }
    await transfer;
    lab.words.fill(0, 0, 4);
    await lab.edu.store(BigInt(OUT) * K4, 16);
    assert.equal(lab.words[0], lab.stampOf(target + 1), `round ${round}`);
    assert.equal(dmaFaults(), before);
    lab.unmap(BASE, PAGES);
  }
}
