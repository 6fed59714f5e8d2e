// Groups that share an address space: DMA of both, memory pinned once, leaving and closing in any order. Runs in the machine.
import assert from 'node:assert/strict';
import { Errno } from '../../../src/base/errors.ts';
import { HOST_MMIO } from '../../../src/host/context.ts';
import { GuestRam } from '../../../src/host/guest-ram.ts';
import type { IommufdOptions } from '../../../src/host/iommufd.ts';
import type { Reporter } from '../base/reporter.ts';
import type { GuestEnv } from '../host/guest-env.ts';
import { Lab, RW, dmaFaults } from './lab.ts';
import type { Peer } from './peer.ts';
import { PEERS, iommufdFiles, openPeer } from './peer.ts';
import { pinnedPages } from './process.ts';

const K4 = 4096n;
const OUT = 0x100;
const BASE = 0x800;
const PAGES = 64;
const STAMP = 16;
/** Longer than a transfer of the device takes. */
const TRANSFER_MS = 200;
/** The kernel tells few faults in 5 s. */
const FAULT_LOG_MS = 15_000;

export async function run(report: Reporter, env: GuestEnv): Promise<void> {
  await together(report, env);
  await leaving(report, env);
  await refused(report, env);
  await closing(report, env);
  await alternating(report, env);
  await registers(report, env);
}

/** Runs `use` on two attached groups, the first of which has pages from BASE on and OUT. */
async function withPair(
  env: GuestEnv,
  options: Partial<IommufdOptions>,
  use: (lab: Lab, peer: Peer) => Promise<void>,
): Promise<void> {
  await Lab.with(env, 2 * PAGES, options, async (lab) => {
    assert.deepEqual([lab.map(OUT, 1, 0), lab.map(BASE, PAGES, 1)], [0, 0]);
    const peer = openPeer(PEERS[0], options);
    try {
      await use(lab, peer);
    } finally {
      peer.context.close();
    }
  });
}

async function together(report: Reporter, env: GuestEnv): Promise<void> {
  await withPair(env, {}, async (lab, { context, edu }) => {
    await report.check('one iommufd for both groups', () => {
      assert.deepEqual([iommufdFiles(), context.spaces === lab.context.spaces], [1, true]);
      assert.deepEqual([context.ioas === lab.context.ioas, context.ioas.areaCount], [false, 0]);
    });
    await report.check('what the second group finds is not mapped and not pinned again', async () => {
      assert.equal(lab.map(BASE, 8, PAGES + 1, RW, context), 0);
      const before = pinnedPages();
      assert.equal(context.attachTo(lab.context), 0);
      assert.deepEqual(
        [pinnedPages() - before, context.ioas === lab.context.ioas, context.ioas.areaCount],
        [-8, true, 2],
      );
      for (const at of [0, PAGES - 1]) {
        assert.ok(await lab.reads(BASE + at, 1 + at, OUT, edu), `the second reads page ${at}`);
        assert.ok(await lab.writes(BASE + at, 1 + at, OUT, edu), `the second writes page ${at}`);
        assert.ok(await lab.writes(BASE + at, 1 + at, OUT), `the first writes page ${at}`);
      }
      assert.equal(await lab.writes(BASE + PAGES, PAGES + 1, OUT, edu), false);
    });
    await report.check('what either maps is there for both, and pinned once', async () => {
      const before = pinnedPages();
      assert.deepEqual([lab.map(0x300, 2, 70), lab.map(0x310, 2, 72, RW, context)], [0, 0]);
      assert.equal(pinnedPages() - before, 4);
      assert.equal(lab.map(0x300, 1, 80, RW, context), Errno.EEXIST);
      assert.deepEqual([await lab.writes(0x301, 71, OUT, edu), await lab.writes(0x311, 73, OUT)], [true, true]);
    });
    await report.check('what either unmaps is gone for both', async () => {
      assert.deepEqual(
        [lab.unmap(0x300, 2, context), lab.unmap(0x310, 2)],
        [
          [0, 2],
          [0, 2],
        ],
      );
      for (const device of [lab.edu, edu]) {
        assert.deepEqual(
          [await lab.writes(0x301, 71, OUT, device), await lab.writes(0x311, 73, OUT, device)],
          [false, false],
        );
      }
    });
    await report.check('the limits stay those of each group', () => {
      const { limits } = context;
      assert.deepEqual([context.refreshLimits(), lab.context.refreshLimits()], [limits, lab.context.limits]);
    });
  });
}

/** The second device is in a transfer while `step` runs, which must not disturb it. */
async function undisturbed(lab: Lab, edu: Peer['edu'], step: () => void): Promise<void> {
  const before = dmaFaults();
  lab.stamp();
  const transfer = edu.load(BigInt(BASE + 5) * K4, STAMP);
  step();
  await transfer;
  lab.words.fill(0, 0, 4);
  await edu.store(BigInt(OUT) * K4, STAMP);
  assert.deepEqual([lab.words[0], dmaFaults()], [lab.stampOf(6), before]);
}

/** A write of the device at page `page` does not arrive, and the IOMMU says so. */
async function faults(lab: Lab, page: number, edu: Peer['edu']): Promise<void> {
  const before = dmaFaults();
  const end = performance.now() + FAULT_LOG_MS;
  do assert.equal(await lab.writes(BASE + page, 1 + page, OUT, edu), false);
  while (dmaFaults() === before && performance.now() < end);
  assert.ok(dmaFaults() > before, 'no fault was told');
}

async function leaving(report: Reporter, env: GuestEnv): Promise<void> {
  await withPair(env, {}, async (lab, { context, edu }) => {
    await report.check('the first leaves in the middle of a transfer of the second', async () => {
      assert.equal(context.attachTo(lab.context), 0);
      const before = pinnedPages();
      await undisturbed(lab, edu, () => assert.equal(lab.context.attachAlone(), 0));
      assert.deepEqual([pinnedPages(), lab.context.ioas.areaCount, context.ioas.areaCount], [before, 0, 2]);
      assert.ok(await lab.writes(BASE + 7, 8, OUT, edu));
      await faults(lab, 7, lab.edu);
    });
    await report.check('on its own the first has what it maps, and nothing else', async () => {
      assert.deepEqual([lab.map(OUT, 1, 0), lab.map(BASE, 1, 90)], [0, 0]);
      assert.deepEqual([await lab.writes(BASE, 90, OUT), await lab.writes(BASE, 1, OUT, edu)], [true, true]);
      assert.equal(lab.context.unmapAll(), 0);
      assert.deepEqual([await lab.writes(BASE, 90, OUT), await lab.writes(BASE, 1, OUT, edu)], [false, true]);
    });
    await report.check(
      'the first comes back, and the second leaves in the middle of a transfer of the first',
      async () => {
        await undisturbed(lab, edu, () => assert.equal(lab.context.attachTo(context), 0));
        assert.ok(await lab.writes(BASE + 9, 10, OUT));
        await undisturbed(lab, lab.edu, () => assert.equal(context.attachAlone(), 0));
        assert.ok(await lab.writes(BASE + 9, 10, OUT));
        await faults(lab, 9, edu);
      },
    );
    await report.check('there and back again and again while the other is in a transfer', async () => {
      const before = [pinnedPages(), iommufdFiles()];
      let times = 0;
      const turn = (): void => {
        assert.equal(context.attachTo(lab.context), 0);
        assert.equal(lab.map(0x2000, 8, 100, RW, context), 0);
        assert.deepEqual([context.attachAlone(), lab.unmap(0x2000, 8)], [0, [0, 8]]);
        times++;
      };
      for (let round = 0; round < 5; round++) {
        await undisturbed(lab, lab.edu, () => {
          for (const end = performance.now() + TRANSFER_MS; performance.now() < end;) turn();
        });
      }
      assert.deepEqual([pinnedPages(), iommufdFiles()], before);
      report.note(`there and back ${times} times`);
    });
  });
}

async function refused(report: Reporter, env: GuestEnv): Promise<void> {
  await withPair(env, {}, async (lab, { context, edu }) => {
    await report.check('an address space with memory that was given back is not joined, and all stays', async () => {
      const gone = GuestRam.create({ size: 4n * K4 });
      assert.equal(lab.mapVa(0x900, 4, Number(gone.hva / K4)), 0);
      gone.close();
      assert.deepEqual([lab.map(OUT, 1, 0, RW, context), lab.map(BASE, 1, 40, RW, context)], [0, 0]);
      assert.deepEqual([context.attachTo(lab.context), context.attached], [Errno.EFAULT, true]);
      assert.deepEqual([await lab.writes(BASE, 40, OUT, edu), await lab.writes(BASE, 1, OUT)], [true, true]);
      assert.deepEqual(lab.unmap(0x900, 4), [0, 4]);
      assert.deepEqual([context.attachTo(lab.context), await lab.writes(BASE, 1, OUT, edu)], [0, true]);
    });
    await report.check('a context of another file or mode is not joined', () => {
      for (const options of [{ share: false }, { mode: 'cut' }, { accounting: 'process' }] as const) {
        const other = openPeer(PEERS[1], options).context;
        assert.throws(() => other.attachTo(context), { name: 'RangeError', message: /^other / });
        assert.equal(iommufdFiles(), 'mode' in options ? 1 : 2);
        other.close();
      }
      assert.equal(iommufdFiles(), 1);
    });
  });
}

async function closing(report: Reporter, env: GuestEnv): Promise<void> {
  const pins = pinnedPages();
  for (const [first, title] of [
    [true, 'the first closes in the middle of a transfer of the second'],
    [false, 'the second closes in the middle of a transfer of the first'],
  ] as const) {
    await report.check(title, () =>
      withPair(env, {}, async (lab, peer) => {
        assert.equal(peer.context.attachTo(lab.context), 0);
        const before = pinnedPages();
        const [leaves, stays] = first ? [lab, peer] : [peer, lab];
        await undisturbed(lab, stays.edu, () => leaves.context.close());
        assert.deepEqual([pinnedPages(), iommufdFiles()], [before, 1]);
        assert.ok(await lab.writes(BASE + 3, 4, OUT, stays.edu));
        assert.equal(lab.map(0x300, 2, 70, RW, stays.context), 0);
        assert.ok(await lab.writes(0x300, 70, OUT, stays.edu));
        // The group can be opened again, beside the other one.
        if (!first) {
          const again = openPeer();
          assert.equal(again.context.attachTo(lab.context), 0);
          assert.ok(await lab.writes(BASE + 3, 4, OUT, again.edu));
          again.context.close();
        }
        stays.context.close();
        assert.deepEqual([pinnedPages(), iommufdFiles()], [pins, 0]);
      }),
    );
  }
}

/** Mode `cut`: the kernel cuts in one address space of the file at a time, and two pairs take turns. */
async function alternating(report: Reporter, env: GuestEnv): Promise<void> {
  await withPair(env, { mode: 'cut' }, async (lab, second) => {
    const [third, fourth] = PEERS.slice(1).map((name) => openPeer(name, { mode: 'cut' })) as [Peer, Peer];
    await report.check('cut: two pairs take turns', async () => {
      assert.deepEqual([lab.map(OUT, 1, 0, RW, third.context), lab.map(BASE, PAGES, 1, RW, third.context)], [0, 0]);
      assert.equal(second.context.attachTo(lab.context), 0);
      assert.equal(fourth.context.attachTo(third.context), 0);
      const before = pinnedPages();
      for (let at = 0; at < PAGES - 2; at += 4) {
        const [one, two] = at % 8 === 0 ? [lab, third] : [second, fourth];
        assert.deepEqual(lab.unmap(BASE + at + 1, 1, one.context), [0, 1]);
        assert.deepEqual(lab.unmap(BASE + at + 2, 1, two.context), [0, 1]);
      }
      assert.equal(before - pinnedPages(), PAGES / 2);
      const counts = [lab, second, third, fourth].map(({ context }) => context.ioas.areaCount);
      assert.deepEqual(counts, Array(4).fill(2 + PAGES / 4));
      for (const { edu, gone } of [
        { edu: lab.edu, gone: 1 },
        { edu: second.edu, gone: 1 },
        { edu: third.edu, gone: 2 },
        { edu: fourth.edu, gone: 2 },
      ]) {
        for (const at of [8, 12]) {
          for (let i = 0; i < 4; i++) {
            assert.equal(await lab.writes(BASE + at + i, 1 + at + i, OUT, edu), i !== gone, `page ${at + i}`);
          }
        }
      }
    });
    await report.check('cut: pairs change places', async () => {
      assert.deepEqual([second.context.attachTo(third.context), fourth.context.attachTo(lab.context)], [0, 0]);
      assert.deepEqual(lab.unmap(BASE + 4, 1, second.context), [0, 1]);
      assert.deepEqual(lab.unmap(BASE + 7, 1, fourth.context), [0, 1]);
      for (const [i, { edu }] of [lab, second, third, fourth].entries()) {
        const inFirst = i === 0 || i === 3;
        assert.equal(await lab.writes(BASE + 4, 5, OUT, edu), inFirst);
        assert.equal(await lab.writes(BASE + 7, 8, OUT, edu), !inFirst);
      }
    });
    third.context.close();
    fourth.context.close();
  });
}

/** Where registers can be mapped (Linux 7.2), a group that joins reaches them too. */
async function registers(report: Reporter, env: GuestEnv): Promise<void> {
  await withPair(env, {}, async (lab, { context, edu }) => {
    if (!lab.context.mmio) return;
    const third = openPeer(PEERS[1]);
    const bar = third.context.devices[0]!.mapRegion(0, 0n, 0x1_0000n);
    const liveness = BigInt(BASE + 2 * PAGES) * K4 + 4n;
    const answers = async (): Promise<boolean> => {
      lab.words[0] = 0x1234_5678;
      await edu.load(BigInt(OUT) * K4, 4);
      await edu.store(liveness, 4);
      await edu.load(liveness, 4);
      await edu.store(BigInt(OUT) * K4, 4);
      return lab.words[0] === ~0x1234_5678 >>> 0;
    };
    await report.check('registers of a third device are reached by a group that joins, until it leaves', async () => {
      assert.equal(lab.mapVa(BASE + 2 * PAGES, 16, Number(bar.hva / K4), RW | HOST_MMIO), 0);
      assert.deepEqual([context.attachTo(lab.context), await answers()], [0, true]);
      assert.deepEqual([context.attachAlone(), lab.map(OUT, 1, 0, RW, context), await answers()], [0, 0, false]);
    });
    bar.close();
    third.context.close();
  });
}
