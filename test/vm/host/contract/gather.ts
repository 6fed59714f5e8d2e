// The contract cases of gathers on the real VFIO container, with the DMA of the edu device behind them: the list that the
// simulated container passes. Not here: the case of mediated devices, which the machine has not. Unit: 4 KiB page numbers.
import { readFileSync, writeFileSync } from 'node:fs';
import type { GatherBench, GatherCase } from '../../../../src/host/simulated/gather-case.ts';
import { runGatherCase } from '../../../../src/host/simulated/gather-case.ts';
import { GATHER_CASES } from '../../../../src/host/simulated/gather-cases.ts';
import type { GatherMemory } from '../../../native/real-memory.ts';
import { gatherMemory } from '../../../native/real-memory.ts';
import type { Reporter } from '../../base/reporter.ts';
import type { GuestEnv } from '../guest-env.ts';
import { DeviceProbe } from './device-probe.ts';
import type { Lab } from './lab.ts';
import { lockedPages, openLab } from './lab.ts';
import { APERTURE } from './type1.ts';

/** Pieces that a container may show when a case asks for no other number. */
const WINDOW_PIECES = 4096;
const HUGE_PAGES = '/proc/sys/vm/nr_hugepages';
/** Pages of 2 MiB that the cases with hugetlbfs take. */
const HUGE_COUNT = 2;

export async function run(report: Reporter, env: GuestEnv): Promise<void> {
  for (const testCase of GATHER_CASES) {
    if (testCase.mediated === true || (env.iommu !== 'VT-d' && APERTURE.test(testCase.title))) continue;
    const wrong = await withHugePages(testCase, (huge) => runCase(env, testCase, huge));
    report.result({ name: testCase.title, ok: wrong.length === 0, detail: wrong.join('; ') });
  }
  const readable = await writeOnlyReadable(env);
  report.note(`a device ${readable ? 'can read' : 'cannot read'} what it may only write (${env.iommu})`);
}

async function withHugePages<T>({ steps }: GatherCase, step: (huge: boolean) => Promise<T>): Promise<T> {
  if (!JSON.stringify(steps).includes('"huge"')) return step(false);
  const before = readFileSync(HUGE_PAGES, 'utf8');
  writeFileSync(HUGE_PAGES, String(HUGE_COUNT));
  try {
    return await step(true);
  } finally {
    writeFileSync(HUGE_PAGES, before);
  }
}

async function runCase(env: GuestEnv, testCase: GatherCase, huge: boolean): Promise<string[]> {
  const { limit, memlock, windowPieces = WINDOW_PIECES } = testCase;
  const memory = gatherMemory(huge);
  const lab = await openLab(env, { limit, memlock, windowPieces });
  const probe = new DeviceProbe(lab);
  const bench = benchOf(lab, memory, probe);
  const wrong = lab.run(() => runGatherCase(testCase, bench));
  const hole = windowPieces === 0 ? undefined : holeIn(lab, memory);
  if (hole !== undefined) wrong.push(`page ${hole} of the reserve of the windows is open`);
  lab.close();
  probe.close();
  memory.close();
  return wrong;
}

function benchOf({ context }: Lab, memory: GatherMemory, probe: DeviceProbe): GatherBench {
  const before = lockedPages();
  return {
    context,
    pageOf: (buffer) => memory.pageOf(buffer),
    wordOf: (buffer, page) => memory.wordOf(buffer, page),
    deviceReads: (iova) => probe.read(iova),
    deviceWrites: (iova, word) => {
      const words = memory.words();
      probe.write(iova, word);
      return memory.words().some((now, i) => now !== words[i] && now === word);
    },
    protectionOf: (page) => memory.protectionOf(page),
    crowd: (on) => memory.crowd(on),
    locked: () => lockedPages() - before,
    snapshot: () => `${context.entriesLeft()} entries left, ${lockedPages()} pages locked`,
  };
}

/** First page of the reserve that is mapped to something, or to nothing: there somebody else's memory could come. */
function holeIn({ context }: Lab, memory: GatherMemory): number | undefined {
  const { hva, size } = context.windowState();
  const start = Number(hva / 4096n);
  const at = memory.firstOpen(start, start + Number(size / 4096n));
  return at === undefined ? undefined : at - start;
}

/** An option of the simulation, which no case asserts: true on VT-d, whose second-level entries Linux makes readable. */
async function writeOnlyReadable(env: GuestEnv): Promise<boolean> {
  const memory = gatherMemory(false);
  const lab = await openLab(env);
  const probe = new DeviceProbe(lab);
  const vaddr = BigInt(memory.pageOf('ram')) * 4096n;
  const { errno } = lab.context.mapDma({ flags: 2, vaddr, iova: 0n, size: 4096n });
  const readable = errno === 0 && probe.read(0) !== undefined;
  lab.close();
  probe.close();
  memory.close();
  return readable;
}
