// One case of the rules of gathers, what it runs on, and the runner. The cases themselves are in gather-cases.ts.
// The bench is any HostContext of flavour type1, simulated or on a real kernel. Unit: 4 KiB page numbers, ends exclusive.
import { errnoName } from '../../base/errors.ts';
import type { HostContext } from '../context.ts';
import { HostBatch, HostOp } from '../context.ts';

/**
 * Memory that a bench provides, each page with a first 32-bit word of its own. `ram`: 1024 pages of a memfd; `huge`: 1024
 * pages of hugetlbfs with 2 MiB pages; `sealed`: 64 pages of a memfd with F_SEAL_FUTURE_WRITE, mapped before; `readOnly`:
 * 64 pages of a memfd opened with O_RDONLY; `anonymous`: 64 private pages; `parted`: 64 pages of a memfd in three areas, the
 * pages 16 to 31 read-only; `holed`: 64 pages of a memfd, page 16 unmapped; `nothing`: 64 pages of unmapped addresses.
 */
export type GatherBuffer = 'ram' | 'huge' | 'sealed' | 'readOnly' | 'anonymous' | 'parted' | 'holed' | 'nothing';

/** Pages [page, page + pages) of a buffer. */
export type GatherPiece = readonly [buffer: GatherBuffer, page: number, pages: number];

/** One operation of a batch. */
export type GatherOperation =
  | { readonly op: 'gather'; readonly iova: number; readonly rights: number; readonly pieces: readonly GatherPiece[] }
  | { readonly op: 'map'; readonly iova: number; readonly piece: GatherPiece }
  | { readonly op: 'unmap'; readonly iova: number; readonly pages: number };

/** Index of the refused operation, and its errno. */
export type Refused = readonly [index: number, errno: number];

/** A batch whose windows are built, and then used, dropped or forgotten; or a look at what the device reaches. */
export type GatherStep =
  | {
      readonly call: 'batch';
      readonly operations: readonly GatherOperation[];
      /** `apply` (default) after building; `drop` instead of applying; `unbuilt`: apply without building. */
      readonly use?: 'apply' | 'drop' | 'unbuilt';
      /** buildWindows is refused, and nothing is applied. */
      readonly build?: Refused;
      /** apply is refused. */
      readonly apply?: Refused;
    }
  /** The device reads page `page` of `buffer` at `iova`. */
  | { readonly call: 'reads'; readonly iova: number; readonly buffer: GatherBuffer; readonly page: number }
  /** The device writes a word at `iova`, and it arrives in page `page` of `buffer`. */
  | { readonly call: 'writes'; readonly iova: number; readonly buffer: GatherBuffer; readonly page: number }
  | { readonly call: 'blocked'; readonly iova: number; readonly write?: boolean }
  /** The process makes mappings until none is left (vm.max_map_count), or gives them back. */
  | { readonly call: 'crowd' | 'relieve' };

/** Steps on a fresh container. */
export interface GatherCase {
  readonly title: string;
  /** dma_entry_limit when the container is opened; default any value of 16 or more. */
  readonly limit?: number;
  /** RLIMIT_MEMLOCK in pages, without CAP_IPC_LOCK; default no limit. */
  readonly memlock?: number;
  /** {@link HostLimits.windowPieces}; default any value of 2048 or more. */
  readonly windowPieces?: number;
  /** A container of mediated devices only. */
  readonly mediated?: boolean;
  readonly steps: readonly GatherStep[];
  /** Entries after the last step. */
  readonly entries: number;
  /** Pages that the container keeps locked after the last step. */
  readonly locked?: number;
}

/** A fresh container of an implementation under test, whose device may do DMA. */
export interface GatherBench {
  readonly context: HostContext;
  /** First virtual page of a buffer. */
  pageOf(buffer: GatherBuffer): number;
  /** The first word of a page as the process sees it. */
  wordOf(buffer: GatherBuffer, page: number): number;
  /** The first word of I/O virtual page `iova` as the device reads it, undefined when it is blocked. */
  deviceReads(iova: number): number | undefined;
  /** Whether the device's write to the first word of a page went through. */
  deviceWrites(iova: number, word: number): boolean;
  /** What the process may do with virtual page `page` (/proc/self/maps), undefined where nothing is mapped. */
  protectionOf(page: number): 'rw' | 'r' | 'none' | undefined;
  /** Makes mappings until mmap() is refused, or gives them back. */
  crowd(on: boolean): void;
  /** Pages that the container keeps locked. */
  locked(): number;
  /** Everything that must be unchanged after a refusal, as a comparable text. */
  snapshot(): string;
}

/** Runs one case on a fresh container; returns what deviates, an empty list when all is as it must be. */
export function runGatherCase(testCase: GatherCase, bench: GatherBench): string[] {
  const left = bench.context.entriesLeft();
  const wrong = testCase.steps.flatMap((step, i) =>
    runStep(step, bench).map((what) => `step ${i} (${step.call}): ${what}`),
  );
  const entries = left - bench.context.entriesLeft();
  if (entries !== testCase.entries) wrong.push(`${entries} entries at the end instead of ${testCase.entries}`);
  const locked = bench.locked();
  if (locked !== (testCase.locked ?? locked)) wrong.push(`${locked} pages locked instead of ${testCase.locked}`);
  return wrong;
}

function runStep(step: GatherStep, bench: GatherBench): string[] {
  switch (step.call) {
    case 'batch':
      return runBatch(step, bench);
    case 'reads': {
      const [word, expected] = [bench.deviceReads(step.iova), bench.wordOf(step.buffer, step.page)];
      return word === expected ? [] : [`the device reads ${word} at ${step.iova} instead of ${expected}`];
    }
    case 'writes': {
      const word = (bench.wordOf(step.buffer, step.page) ^ 0x5a5a_5a5a) >>> 0;
      const arrived = bench.deviceWrites(step.iova, word) && bench.wordOf(step.buffer, step.page) === word;
      return arrived ? [] : [`the device's write at ${step.iova} does not arrive`];
    }
    case 'blocked': {
      const open = step.write ? bench.deviceWrites(step.iova, 0) : bench.deviceReads(step.iova) !== undefined;
      return open ? [`the device reaches ${step.iova}`] : [];
    }
    case 'crowd':
    case 'relieve':
      bench.crowd(step.call === 'crowd');
      return [];
  }
}

function runBatch(step: Extract<GatherStep, { call: 'batch' }>, bench: GatherBench): string[] {
  const { context } = bench;
  const batch = batchOf(step.operations, bench);
  const before = bench.snapshot();
  const wrong: string[] = [];
  if (step.use !== 'unbuilt') {
    wrong.push(...compare('buildWindows', batch, context.buildWindows(batch, 0), step.build));
    if (bench.snapshot() !== before) wrong.push('buildWindows has changed an entry');
  }
  const windows = windowsOf(batch);
  if (windows.length > 0 && (step.build !== undefined || step.use === 'unbuilt')) wrong.push('a window is left');
  if (windows.some((page) => !['rw', 'r'].includes(bench.protectionOf(page) ?? '')))
    wrong.push('a window is not there');
  if (step.use === 'drop') context.dropWindows(batch);
  else if (step.build === undefined) wrong.push(...compare('apply', batch, context.apply(batch, 0), step.apply));
  if (step.use === 'drop' || step.apply?.[0] === 0) {
    if (bench.snapshot() !== before) wrong.push('an entry has changed');
  }
  // What stands behind the refused operation is dropped by its owner.
  context.dropWindows(batch);
  if (windowsOf(batch).length > 0) wrong.push('a gather still has a window');
  if (windows.some((page) => bench.protectionOf(page) !== 'none')) wrong.push('a window was not dropped to PROT_NONE');
  return wrong;
}

function batchOf(operations: readonly GatherOperation[], bench: GatherBench): HostBatch {
  const batch = new HostBatch(1);
  for (const operation of operations) {
    if (operation.op === 'unmap') batch.unmap(operation.iova, operation.pages);
    else if (operation.op === 'map') {
      const [buffer, page, pages] = operation.piece;
      batch.map(operation.iova, pages, bench.pageOf(buffer) + page, 3);
    } else {
      const total = operation.pieces.reduce((sum, [, , pages]) => sum + pages, 0);
      batch.gather(operation.iova, total, operation.rights);
      for (const [buffer, page, pages] of operation.pieces) batch.piece(bench.pageOf(buffer) + page, pages);
    }
  }
  return batch;
}

/** First and last page of each window that the batch names. */
function windowsOf(batch: HostBatch): number[] {
  const pages: number[] = [];
  for (let i = 0; i < batch.count; i++) {
    const window = batch.window[i]!;
    if (batch.kind[i] === HostOp.gather && window > 0) pages.push(window, window + batch.pages[i]! - 1);
  }
  return pages;
}

function compare(what: string, batch: HostBatch, index: number, refused: Refused | undefined): string[] {
  const [at, errno] = refused ?? [batch.count, 0];
  const got = index < batch.count ? batch.errno[index]! : 0;
  if (index === at && got === errno) return [];
  return [`${what} ends at ${index} with ${nameOf(got)} instead of ${at} with ${nameOf(errno)}`];
}

function nameOf(errno: number): string {
  return errno === 0 ? 'success' : errnoName(errno);
}
