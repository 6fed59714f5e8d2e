// Removes one interval, or all intervals inside a range. Ranges are half open [start, end).
// A range drops whole leaves and subtrees, trims the two leaves at its ends, and then mends the two paths beside the
// hole: O(log n + k / entries per leaf) node visits for k intervals.
import { mendPath, needsMending } from './balance.ts';
import * as entries from './entries.ts';
import * as search from './search.ts';
import * as layout from './slab.ts';
import * as nodes from './tree.ts';
import type { Tree } from './tree.ts';
import { previousSlot } from './walk.ts';

// Own constants are folded into the code, see search.ts.
const { COUNT, FIRST, INDEX_MASK, NODE_SHIFT, NONE } = layout;
const { baseOf, childAt, countOf, endOf, firstOf, freeLeaf, freeNode, keyAt } = nodes;
const { limitOf, MIN_ENTRIES, nextLeaf, slabOf, startOf } = nodes;
const { removeChildren, removeEntries } = entries;
const { childIndex, cuts, rank, seek } = search;

/** Removes the interval that starts at `start`; false when there is none. */
export function removeOne(tree: Tree, start: number): boolean {
  const slot = seek(tree, start);
  if (slot === NONE || startOf(tree, slot) !== start) return false;
  removeSlot(tree, slot);
  return true;
}

/** Removes the interval in a live slot. */
export function removeSlot(tree: Tree, slot: number): void {
  const leaf = slot >> NODE_SHIFT;
  const index = slot & INDEX_MASK;
  const { doubles, ints } = slabOf(tree, leaf);
  const base = baseOf(leaf);
  const first = ints[base * 2 + FIRST]!;
  const count = ints[base * 2 + COUNT]!;
  const front = index === first;
  if (count <= MIN_ENTRIES || !(front || index === first + count - 1)) {
    removeFromLeaf(tree, leaf, index, 1);
    return;
  }
  // At an end of its leaf nothing moves. Nothing is called here but what is inlined.
  doubles[base + index] = front ? -Infinity : Infinity;
  if (front) ints[base * 2 + FIRST] = first + 1;
  ints[base * 2 + COUNT] = count - 1;
  tree.hintIndex = index;
  tree.size--;
}

/** Removes the intervals inside [start, end). Returns how many, or -1, with nothing removed, when an end cuts one. */
export function removeRange(tree: Tree, start: number, end: number): number {
  const slot = seek(tree, start);
  if (slot === NONE) return 0;
  const first = startOf(tree, slot);
  if (first < start) return -1;
  if (first >= end) return 0;
  if (endOf(tree, slot) === end) {
    removeSlot(tree, slot);
    return 1;
  }
  return cuts(tree, end) ? -1 : removeFrom(tree, slot, start, end);
}

/** Removes the intervals inside [start, end), the first of which is in `slot`; returns how many. */
function removeFrom(tree: Tree, slot: number, start: number, end: number): number {
  const leaf = slot >> NODE_SHIFT;
  const index = slot & INDEX_MASK;
  const limit = rank(tree, leaf, end - 1);
  const next = limit < limitOf(tree, leaf) ? NONE : nextLeaf(tree, leaf);
  if (next === NONE || keyAt(tree, next, firstOf(tree, next)) >= end) {
    removeFromLeaf(tree, leaf, index, limit - index);
    return limit - index;
  }
  const removed = trim(tree, tree.root, tree.height, start, end);
  tree.size -= removed;
  if (tree.size === 0) fell(tree);
  else mendHole(tree, start);
  return removed;
}

/** Removes everything and gives all nodes back. */
export function removeAll(tree: Tree): void {
  if (tree.root === NONE) return;
  if (tree.shared) drop(tree, tree.root, tree.height);
  else tree.pool.reset();
  tree.root = NONE;
  tree.firstLeaf = NONE;
  tree.lastLeaf = NONE;
  tree.hint = NONE;
  tree.run = NONE;
  tree.height = 0;
  tree.size = 0;
  tree.nodes = 0;
}

function removeFromLeaf(tree: Tree, leaf: number, index: number, width: number): void {
  const key = keyAt(tree, leaf, index);
  removeEntries(tree, leaf, index, width);
  // What follows is found at the same index when it moved down, else at the next one.
  tree.hintIndex = index;
  tree.size -= width;
  if (tree.size === 0) fell(tree);
  else if (needsMending(tree, leaf)) mendPath(tree, key);
}

/** Frees the nodes above the last removed interval: a root, and below it at most one empty node a level. */
function fell(tree: Tree): void {
  drop(tree, tree.root, tree.height);
  tree.root = NONE;
  tree.height = 0;
}

function mendHole(tree: Tree, start: number): void {
  const after = seek(tree, start);
  const before = after === NONE ? NONE : previousSlot(tree, after);
  const afterKey = after === NONE ? NONE : startOf(tree, after);
  // Without an interval after the hole its left side is the end of the tree, and any key from there on leads to it.
  const beforeKey = after === NONE ? start : before === NONE ? NONE : startOf(tree, before);
  if (afterKey !== NONE) mendPath(tree, afterKey);
  if (beforeKey !== NONE) mendPath(tree, beforeKey);
}

/** Removes the intervals below `node` that start in [start, end); may leave it without entries. Returns how many. */
function trim(tree: Tree, node: number, level: number, start: number, end: number): number {
  tree.visits++;
  if (level === 0) {
    const from = rank(tree, node, start - 1);
    const width = rank(tree, node, end - 1) - from;
    removeEntries(tree, node, from, width);
    return width;
  }
  const left = childIndex(tree, node, start);
  const right = childIndex(tree, node, end - 1);
  let removed = trim(tree, childAt(tree, node, left), level - 1, start, end);
  for (let i = left + 1; i < right; i++) removed += drop(tree, childAt(tree, node, i), level - 1);
  if (right > left) removed += trim(tree, childAt(tree, node, right), level - 1, start, end);
  let from = left + 1;
  let to = Math.max(right, from);
  if (right > left && freeIfEmpty(tree, childAt(tree, node, right), level - 1)) to++;
  if (freeIfEmpty(tree, childAt(tree, node, left), level - 1)) from--;
  if (to > from) removeChildren(tree, node, from, to - from);
  return removed;
}

function freeIfEmpty(tree: Tree, node: number, level: number): boolean {
  if (countOf(tree, node) > 0) return false;
  if (level > 0) freeNode(tree, node);
  else freeLeaf(tree, node);
  return true;
}

/** Frees `node` and everything below it; returns the number of intervals that were there. */
function drop(tree: Tree, node: number, level: number): number {
  tree.visits++;
  const count = countOf(tree, node);
  if (level === 0) {
    freeLeaf(tree, node);
    return count;
  }
  let removed = 0;
  for (let i = 0; i < count; i++) removed += drop(tree, childAt(tree, node, i), level - 1);
  freeNode(tree, node);
  return removed;
}
