// The ordered interval table: guest mappings and host entries live in it. It does not know what an entry means.
// Intervals are half open [start, end) with integer keys 0 <= start < end <= 2^53 and never share a key.
// It is a B+-tree of 64-entry nodes in slabs of typed arrays (pool.ts): an empty table holds no typed array, a table of
// 1 Mi intervals at most 48 bytes each, and no operation allocates but for a new slab. Every operation visits
// O(log n) nodes; removeRange O(log n + k / 24) for k intervals, clear O(1) (with a shared pool O(n / 24)).
// A slot is a number that stays valid until the next insert, remove, removeRange or clear of this table.
import { checkInteger } from '../base/check.ts';
import * as insertion from './insert.ts';
import { NodePool } from './pool.ts';
import * as removal from './remove.ts';
import * as search from './search.ts';
import * as layout from './slab.ts';
import type { Slab } from './slab.ts';
import * as nodes from './tree.ts';
import * as walk from './walk.ts';

export { NodePool };
export { NONE } from './slab.ts';

/** Largest key that may be the (exclusive) end of an interval. */
export const KEY_LIMIT = 2 ** 53;

// Own constants are folded into the code, see search.ts; an exported one is not its own any more.
const LIMIT = KEY_LIMIT;
const { END, NODE_BYTES, SLOT_SHIFT, VALUE } = layout;
const { flagsPlaceOf, GIVEN, placeOf, Tree } = nodes;
const { insertGiven } = insertion;
const { removeAll, removeOne, removeRange, removeSlot } = removal;
const { cuts, find, isFree, seekGiven } = search;
const { firstSlot, lastSlot, nextSlot, previousSlot } = walk;

/** An ordered set of disjoint intervals, each with a number and eight flag bits. */
export class IntervalTable {
  /** The tree behind the table, for the invariant checker; not for other use. */
  readonly tree: nodes.Tree;

  /**
   * An empty table. With `pool` it takes its nodes from there, which suits many small tables; it must then be cleared
   * before it is dropped, else its nodes stay in the pool.
   * @throws TypeError when `pool` is given and no NodePool.
   */
  constructor(pool?: NodePool) {
    if (pool !== undefined && !(pool instanceof NodePool)) throw new TypeError('pool must be a NodePool');
    this.tree = new Tree(pool);
  }

  /** Number of intervals. */
  get size(): number {
    return this.tree.size;
  }

  /** Bytes of typed arrays that the table holds; with a shared pool those of its own nodes. */
  get bytes(): number {
    return this.tree.shared ? this.tree.nodes * NODE_BYTES : this.tree.pool.bytes;
  }

  /** Nodes visited since construction, or since the number was last set. */
  get visits(): number {
    return this.tree.visits;
  }

  set visits(count: number) {
    this.tree.visits = count;
  }

  /**
   * Slot of the first interval with end > key: the one that contains `key`, or the next one after it; NONE without one.
   * @throws RangeError when `key` is outside [0, 2^53], both inclusive.
   */
  seek(key: number): number {
    if (!(key >= 0 && key <= LIMIT)) refuseKey('key', key);
    GIVEN[0] = key;
    return seekGiven(this.tree);
  }

  /**
   * Slot of the interval that contains `key`, or NONE.
   * @throws RangeError when `key` is outside [0, 2^53], both inclusive.
   */
  find(key: number): number {
    if (!(key >= 0 && key <= LIMIT)) refuseKey('key', key);
    return find(this.tree, key);
  }

  /** Slot of the interval with the lowest keys, or NONE. */
  first(): number {
    return firstSlot(this.tree);
  }

  /** Slot of the interval with the highest keys, or NONE. */
  last(): number {
    return lastSlot(this.tree);
  }

  /**
   * Slot of the following interval, or NONE.
   * @throws RangeError when `slot` is NONE or in no memory of the table.
   */
  next(slot: number): number {
    this.#slab(slot);
    return nextSlot(this.tree, slot);
  }

  /**
   * Slot of the preceding interval, or NONE.
   * @throws RangeError when `slot` is NONE or in no memory of the table.
   */
  previous(slot: number): number {
    this.#slab(slot);
    return previousSlot(this.tree, slot);
  }

  /** First key of the interval; throws a RangeError when `slot` is NONE or in no memory of the table. */
  startAt(slot: number): number {
    return this.#slab(slot).doubles[placeOf(slot)]!;
  }

  /** Key after the last one of the interval; throws a RangeError when `slot` is NONE or in no memory of the table. */
  endAt(slot: number): number {
    return this.#slab(slot).doubles[placeOf(slot) + END]!;
  }

  /** Value of the interval; throws a RangeError when `slot` is NONE or in no memory of the table. */
  valueAt(slot: number): number {
    return this.#slab(slot).doubles[placeOf(slot) + VALUE]!;
  }

  /** Flags of the interval, 0 to 255; throws a RangeError when `slot` is NONE or in no memory of the table. */
  flagsAt(slot: number): number {
    return this.#slab(slot).bytes[flagsPlaceOf(slot)]!;
  }

  /**
   * Replaces the value of the interval; slots stay valid.
   * @throws RangeError or TypeError naming `slot` or `value`, an integer from -2^53 to 2^53.
   */
  setValue(slot: number, value: number): void {
    const slab = this.#slab(slot);
    checkValue(value);
    slab.doubles[placeOf(slot) + VALUE] = value;
  }

  /**
   * Replaces the flags of the interval; slots stay valid.
   * @throws RangeError or TypeError naming `slot` or `flags`, an integer from 0 to 255.
   */
  setFlags(slot: number, flags: number): void {
    const slab = this.#slab(slot);
    checkFlags(flags);
    slab.bytes[flagsPlaceOf(slot)] = flags;
  }

  /**
   * Adds the interval [start, end), start < end. Returns false, with nothing changed, when it shares a key with another.
   * @throws RangeError or TypeError naming `start`, `end`, `value` (integer, -2^53 to 2^53) or `flags` (0 to 255).
   */
  insert(start: number, end: number, value: number, flags: number): boolean {
    checkBounds(start, end);
    if (start === end) throw new RangeError(`end must be above start, got ${end}`);
    checkValue(value);
    checkFlags(flags);
    GIVEN[0] = start;
    GIVEN[1] = end;
    GIVEN[2] = value;
    return insertGiven(this.tree, flags);
  }

  /**
   * True when no interval shares a key with [start, end); so also when start equals end.
   * @throws RangeError or TypeError naming `start` or `end`.
   */
  isFree(start: number, end: number): boolean {
    checkBounds(start, end);
    return isFree(this.tree, start, end);
  }

  /**
   * Removes every interval that lies inside [start, end). Returns how many were removed; -1, with nothing removed, when
   * {@link IntervalTable.splits} holds.
   * @throws RangeError or TypeError naming `start` or `end`.
   */
  removeRange(start: number, end: number): number {
    checkBounds(start, end);
    return removeRange(this.tree, start, end);
  }

  /** Removes the interval in `slot`, which must be valid. */
  removeAt(slot: number): void {
    removeSlot(this.tree, slot);
  }

  /**
   * Removes the one interval that starts exactly at `start`; false when there is none.
   * @throws RangeError when `start` is outside [0, 2^53], both inclusive.
   */
  remove(start: number): boolean {
    if (!(start >= 0 && start <= LIMIT)) refuseKey('start', start);
    return removeOne(this.tree, start);
  }

  /**
   * True when `start` or `end` lies strictly inside an interval, so that a removal of [start, end) would cut it.
   * @throws RangeError or TypeError naming `start` or `end`.
   */
  splits(start: number, end: number): boolean {
    checkBounds(start, end);
    return cuts(this.tree, start) || cuts(this.tree, end);
  }

  /** Removes everything. A pool of the table's own keeps at most 6.5 KB for reuse. */
  clear(): void {
    removeAll(this.tree);
  }

  #slab(slot: number): Slab {
    const slab = this.tree.slabs[slot >> SLOT_SHIFT];
    if (slab === undefined) throw new RangeError(`slot must be a live slot, got ${slot}`);
    return slab;
  }
}

function refuseKey(name: string, key: number): never {
  checkInteger(name, key, 0, LIMIT);
  throw new RangeError(`${name} is out of range`);
}

function checkBounds(start: number, end: number): void {
  if (start >= 0 && start <= end && end <= LIMIT && Math.floor(start) === start && Math.floor(end) === end) return;
  checkInteger('start', start, 0, LIMIT);
  checkInteger('end', end, start, LIMIT);
}

function checkValue(value: number): void {
  if (Math.floor(value) === value && value >= -LIMIT && value <= LIMIT) return;
  checkInteger('value', value, -LIMIT, LIMIT);
}

function checkFlags(flags: number): void {
  if ((flags & 255) !== flags) checkInteger('flags', flags, 0, 255);
}
