// Where the pages of a fragmented guest lie: places in a pool of physical pages, before the pool gets its addresses.
// Pieces (runs of 4 KiB pages, huge pages) are placed in shuffled order so that no two neighbours in guest order are
// neighbours in the pool. Numbers are places of the pool from 0; counts are in 4 KiB pages unless said otherwise.
import type { Random } from './random.ts';

const PAGES_PER_2M = 512;

/** Places of all pages in guest order, and the size of the pool in pages. */
export interface Placement {
  readonly slots: Uint32Array;
  readonly poolPages: number;
}

/** A permutation of [0, units-1] in which no value is followed by its successor. `units` >= 1. */
export function placeScattered(units: number, random: Random): Uint32Array {
  const slots = new Uint32Array(units);
  for (let i = 0; i < units; i++) slots[i] = i;
  random.shuffle(slots);
  separate(slots, random);
  return slots;
}

/** 4 KiB pages in runs of `mean` pages on average; no run crosses `barrier` (a page of the guest). */
export function placeRuns(pages: number, barrier: number, mean: number, random: Random): Placement {
  const pieces = new PieceList(pages);
  cutIntoRuns(pieces, { start: 0, end: pages, barrier, mean }, random);
  return place(pieces, random);
}

/** As {@link placeRuns}, but `percent` of the whole 2 MiB windows of the guest are one aligned huge page each. */
export function placeMixed(pages: number, barrier: number, percent: number, mean: number, random: Random): Placement {
  const windows = Math.floor(pages / PAGES_PER_2M);
  const order = new Uint32Array(windows);
  for (let i = 0; i < windows; i++) order[i] = i;
  random.shuffle(order);
  const huge = new Uint8Array(windows);
  for (let i = 0; i < Math.round((windows * percent) / 100); i++) huge[order[i]!] = 1;

  const pieces = new PieceList(pages);
  let small = 0;
  for (let window = 0; window < windows; window++) {
    if (huge[window] === 0) continue;
    const start = window * PAGES_PER_2M;
    cutIntoRuns(pieces, { start: small, end: start, barrier, mean }, random);
    pieces.push(PAGES_PER_2M, true);
    small = start + PAGES_PER_2M;
  }
  cutIntoRuns(pieces, { start: small, end: pages, barrier, mean }, random);
  return place(pieces, random);
}

/** Pieces in guest order; at most one per page. */
class PieceList {
  readonly lengths: Uint16Array;
  readonly hugeFlags: Uint8Array;
  count = 0;
  hugeCount = 0;
  smallPages = 0;

  constructor(pages: number) {
    this.lengths = new Uint16Array(pages);
    this.hugeFlags = new Uint8Array(pages);
  }

  push(length: number, huge: boolean): void {
    this.lengths[this.count] = length;
    this.hugeFlags[this.count] = huge ? 1 : 0;
    this.count++;
    if (huge) this.hugeCount++;
    else this.smallPages += length;
  }
}

interface Stretch {
  readonly start: number;
  readonly end: number;
  /** No run crosses this page. */
  readonly barrier: number;
  readonly mean: number;
}

function cutIntoRuns(pieces: PieceList, { start, end, barrier, mean }: Stretch, random: Random): void {
  for (let page = start; page < end;) {
    const limit = page < barrier && barrier < end ? barrier : end;
    const length = Math.min(random.geometric(mean), limit - page);
    pieces.push(length, false);
    page += length;
  }
}

/**
 * Gives each piece its place: small runs packed without gaps at the start of the pool, then, behind one unused window,
 * huge pages. The unused window keeps the last run and the first huge page apart.
 */
function place(pieces: PieceList, random: Random): Placement {
  const hugeBase = pieces.hugeCount === 0 ? 0 : Math.ceil(pieces.smallPages / PAGES_PER_2M) + 1;
  const starts = new Uint32Array(pieces.count);
  const smallOrder = placeScattered(Math.max(pieces.count - pieces.hugeCount, 1), random);
  const hugeOrder = placeScattered(Math.max(pieces.hugeCount, 1), random);
  const lengthAt = new Uint32Array(smallOrder.length + 1);
  for (let i = 0, small = 0; i < pieces.count; i++) {
    if (pieces.hugeFlags[i] === 0) lengthAt[smallOrder[small++]! + 1] = pieces.lengths[i]!;
  }
  for (let i = 1; i < lengthAt.length; i++) lengthAt[i]! += lengthAt[i - 1]!;
  for (let i = 0, small = 0, huge = 0; i < pieces.count; i++) {
    starts[i] =
      pieces.hugeFlags[i] === 0 ? lengthAt[smallOrder[small++]!]! : (hugeBase + hugeOrder[huge++]!) * PAGES_PER_2M;
  }
  return {
    slots: expand(pieces, starts),
    poolPages: pieces.hugeCount === 0 ? pieces.smallPages : (hugeBase + pieces.hugeCount) * PAGES_PER_2M,
  };
}

function expand(pieces: PieceList, starts: Uint32Array): Uint32Array {
  const slots = new Uint32Array(pieces.lengths.length);
  for (let i = 0, page = 0; i < pieces.count; i++) {
    const start = starts[i]!;
    for (let j = 0; j < pieces.lengths[i]!; j++) slots[page++] = start + j;
  }
  return slots;
}

/** Removes what is left of neighbours in a shuffled permutation (one is expected, whatever the size) by swaps. */
function separate(slots: Uint32Array, random: Random): void {
  for (let i = 0; i + 1 < slots.length; i++) {
    if (slots[i + 1] === slots[i]! + 1 && !swapAway(slots, i + 1, random)) {
      for (let j = 0; j < slots.length; j++) slots[j] = slots.length - 1 - j;
      return;
    }
  }
}

function swapAway(slots: Uint32Array, at: number, random: Random): boolean {
  const start = random.below(slots.length);
  for (let step = 0; step < slots.length; step++) {
    const other = (start + step) % slots.length;
    swap(slots, at, other);
    if (!joined(slots, at) && !joined(slots, at + 1) && !joined(slots, other) && !joined(slots, other + 1)) return true;
    swap(slots, at, other);
  }
  return false;
}

function joined(slots: Uint32Array, at: number): boolean {
  return at > 0 && at < slots.length && slots[at] === slots[at - 1]! + 1;
}

function swap(slots: Uint32Array, a: number, b: number): void {
  const kept = slots[a]!;
  slots[a] = slots[b]!;
  slots[b] = kept;
}
