// Checks of a HostBatch, the same for every host: a wrong column is a caller's mistake, told before anything changes.
// Unit: 4 KiB page numbers.
import { checkInteger } from '../base/check.ts';
import { HOST_MMIO, HostBatch, HostOp, HostRight } from './context.ts';

/** First page number past the 64-bit address space. */
const PAGE_END = 2 ** 52;
const RIGHTS = HostRight.read | HostRight.write;

/**
 * Checks operations `from`..`batch.count - 1` and returns how many of them are gathers.
 * @throws RangeError that names the column and the index.
 */
export function checkBatch(batch: HostBatch, from: number): number {
  let gathers = 0;
  for (let i = from; i < batch.count; i++) if (checkOperation(batch, i) === HostOp.gather) gathers++;
  return gathers;
}

function checkOperation(batch: HostBatch, i: number): number {
  const kind = batch.kind[i]!;
  if (kind !== HostOp.map && kind !== HostOp.unmap && kind !== HostOp.gather) {
    throw new RangeError(`batch.kind[${i}] must be a HostOp, got ${kind}`);
  }
  checkPage('iova', i, batch.iova[i]!);
  checkPage('pages', i, batch.pages[i]!);
  if (kind === HostOp.unmap) return kind;
  checkPage('va', i, batch.va[i]!);
  const rights = batch.rights[i]!;
  const known = kind === HostOp.map ? RIGHTS | HOST_MMIO : RIGHTS;
  if (rights > known) throw new RangeError(`batch.rights[${i}] has unknown bits: ${rights}`);
  if (kind === HostOp.gather) checkPieces(batch, i);
  return kind;
}

function checkPieces(batch: HostBatch, i: number): void {
  const first = batch.va[i]!;
  const last = first + batch.pieces[i]!;
  if (last < first || last > batch.pieceCount) {
    throw new RangeError(`batch.pieces[${i}] must be pieces of the batch, got [${first}, ${last})`);
  }
  let pages = 0;
  for (let piece = first; piece < last; piece++) {
    checkPage('pieceVa', piece, batch.pieceVa[piece]!);
    checkPage('piecePages', piece, batch.piecePages[piece]!);
    if (batch.piecePages[piece] === 0) throw new RangeError(`batch.piecePages[${piece}] must not be 0`);
    pages += batch.piecePages[piece]!;
  }
  if (pages !== batch.pages[i]) {
    throw new RangeError(`batch.pages[${i}] must be ${pages}, the pages of its pieces, got ${batch.pages[i]}`);
  }
}

function checkPage(column: string, i: number, value: number): void {
  if (Number.isInteger(value) && value >= 0 && value <= PAGE_END) return;
  throw new RangeError(`batch.${column}[${i}] must be a page number in [0, 2^52], got ${value}`);
}

/** The columns go to native code: they must be those of a HostBatch. */
export function checkFrom(batch: HostBatch, from: number): void {
  if (!(batch instanceof HostBatch)) throw new TypeError('batch must be a HostBatch');
  checkInteger('from', from, 0, batch.count);
}
