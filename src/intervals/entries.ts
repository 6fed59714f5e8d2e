// Moves entries inside a node and between nodes, all columns together.
// The entries of an inner node begin at index 0. Those of a leaf stand anywhere in it, so that both ends can have room: an
// insertion or a removal moves the shorter part. Unused entries have a start at all times, -Infinity before the first one
// and Infinity behind the last one: the searches rely on it.
// Plain loops: a call of copyWithin costs more than the at most 64 entries that it would move.
import * as layout from './slab.ts';
import type { Slab } from './slab.ts';
import * as nodes from './tree.ts';
import type { Tree } from './tree.ts';

// Own constants are folded into the code, see search.ts.
const { COUNT, END, FIRST, FLAGS, NODE_CAPACITY, VALUE } = layout;
const { baseOf, firstOf, limitOf, slabOf } = nodes;

/** Entries of one slab that are moved: from index `read` of the node at `base`. */
function moveUp(slab: Slab, base: number, read: number, write: number, width: number): void {
  const { doubles, bytes } = slab;
  const flags = base * 8 + FLAGS;
  for (let i = width - 1; i >= 0; i--) {
    const from = base + read + i;
    const to = base + write + i;
    doubles[to] = doubles[from]!;
    doubles[to + END] = doubles[from + END]!;
    doubles[to + VALUE] = doubles[from + VALUE]!;
    bytes[flags + write + i] = bytes[flags + read + i]!;
  }
}

function moveDown(slab: Slab, base: number, read: number, write: number, width: number): void {
  const { doubles, bytes } = slab;
  const flags = base * 8 + FLAGS;
  for (let i = 0; i < width; i++) {
    const from = base + read + i;
    const to = base + write + i;
    doubles[to] = doubles[from]!;
    doubles[to + END] = doubles[from + END]!;
    doubles[to + VALUE] = doubles[from + VALUE]!;
    bytes[flags + write + i] = bytes[flags + read + i]!;
  }
}

/** Gives the entries [from, to) of the node at `base` the start of unused ones. */
function vacate(slab: Slab, base: number, from: number, to: number, start: number): void {
  for (let i = base + from; i < base + to; i++) slab.doubles[i] = start;
}

/** Copies `width` entries from one node over entries of another one; counts stay. */
function copyEntries(tree: Tree, source: number, read: number, target: number, write: number, width: number): void {
  const from = slabOf(tree, source);
  const to = slabOf(tree, target);
  const fromBase = baseOf(source);
  const toBase = baseOf(target);
  for (let i = 0; i < width; i++) {
    const a = fromBase + read + i;
    const b = toBase + write + i;
    to.doubles[b] = from.doubles[a]!;
    to.doubles[b + END] = from.doubles[a + END]!;
    to.doubles[b + VALUE] = from.doubles[a + VALUE]!;
    to.bytes[toBase * 8 + FLAGS + write + i] = from.bytes[fromBase * 8 + FLAGS + read + i]!;
  }
}

/** Sets where the entries of a node begin and how many there are; what they hold is the caller's business. */
function setExtent(tree: Tree, node: number, first: number, count: number): void {
  const { ints } = slabOf(tree, node);
  const at = baseOf(node) * 2;
  ints[at + FIRST] = first;
  ints[at + COUNT] = count;
}

/** Moves all entries of a leaf so that they begin at index `to`. */
export function shift(tree: Tree, leaf: number, to: number): void {
  const slab = slabOf(tree, leaf);
  const base = baseOf(leaf);
  const first = firstOf(tree, leaf);
  const limit = limitOf(tree, leaf);
  if (to < first) {
    moveDown(slab, base, first, to, limit - first);
    vacate(slab, base, to + limit - first, limit, Infinity);
  } else {
    moveUp(slab, base, first, to, limit - first);
    vacate(slab, base, first, to, -Infinity);
  }
  setExtent(tree, leaf, to, limit - first);
}

/** Moves the last `width` entries of `left` before those of its neighbour `right`; what is free there is then on both sides. */
export function moveRight(tree: Tree, left: number, right: number, width: number): void {
  const count = limitOf(tree, right) - firstOf(tree, right);
  const room = NODE_CAPACITY - count - width;
  if (firstOf(tree, right) < width) shift(tree, right, width + (room >> 1));
  const first = firstOf(tree, right) - width;
  const limit = limitOf(tree, left);
  copyEntries(tree, left, limit - width, right, first, width);
  setExtent(tree, right, first, count + width);
  vacate(slabOf(tree, left), baseOf(left), limit - width, limit, Infinity);
  setExtent(tree, left, firstOf(tree, left), limit - width - firstOf(tree, left));
}

/** Moves the first `width` entries of `right` behind those of its neighbour `left`. */
export function moveLeft(tree: Tree, left: number, right: number, width: number): void {
  if (limitOf(tree, left) + width > NODE_CAPACITY) shift(tree, left, 0);
  const first = firstOf(tree, left);
  const limit = limitOf(tree, left);
  const from = firstOf(tree, right);
  copyEntries(tree, right, from, left, limit, width);
  setExtent(tree, left, first, limit + width - first);
  vacate(slabOf(tree, right), baseOf(right), from, from + width, -Infinity);
  setExtent(tree, right, from + width, limitOf(tree, right) - from - width);
}

/** Removes `width` entries of a leaf from `index` on. */
export function removeEntries(tree: Tree, leaf: number, index: number, width: number): void {
  const slab = slabOf(tree, leaf);
  const base = baseOf(leaf);
  const first = firstOf(tree, leaf);
  const limit = limitOf(tree, leaf);
  if (limit - first === width) {
    vacate(slab, base, 0, limit, Infinity);
    setExtent(tree, leaf, 0, 0);
  } else if (index - first < limit - index - width) {
    moveUp(slab, base, first, first + width, index - first);
    vacate(slab, base, first, first + width, -Infinity);
    setExtent(tree, leaf, first + width, limit - first - width);
  } else {
    moveDown(slab, base, index + width, index, limit - index - width);
    vacate(slab, base, limit - width, limit, Infinity);
    setExtent(tree, leaf, first, limit - first - width);
  }
}

/** Inserts one entry into a leaf that has room, before entry `index`. Returns the index where it stands. */
export function insertEntry(
  tree: Tree,
  leaf: number,
  index: number,
  start: number,
  end: number,
  value: number,
  flags: number,
): number {
  const at = makeGap(tree, leaf, index);
  const { doubles, bytes } = slabOf(tree, leaf);
  const base = baseOf(leaf);
  doubles[base + at] = start;
  doubles[base + at + END] = end;
  doubles[base + at + VALUE] = value;
  bytes[base * 8 + FLAGS + at] = flags;
  return at;
}

/** Opens a gap of one entry before entry `index`; returns the gap's index. */
function makeGap(tree: Tree, leaf: number, index: number): number {
  const slab = slabOf(tree, leaf);
  const base = baseOf(leaf);
  let first = firstOf(tree, leaf);
  let limit = limitOf(tree, leaf);
  if (index === limit && limit === NODE_CAPACITY && first < limit) {
    // A run that grows at this end needs all the room here; moving by one would be the same work for each of them.
    shift(tree, leaf, 0);
    limit -= first;
    index = limit;
    first = 0;
  } else if (index === first && first === 0 && limit > 0) {
    shift(tree, leaf, NODE_CAPACITY - limit);
    index = first = NODE_CAPACITY - limit;
    limit = NODE_CAPACITY;
  }
  if (limit < NODE_CAPACITY && (first === 0 || limit - index <= index - first)) {
    moveUp(slab, base, index, index + 1, limit - index);
    setExtent(tree, leaf, first, limit + 1 - first);
    return index;
  }
  moveDown(slab, base, first, first - 1, index - first);
  setExtent(tree, leaf, first - 1, limit + 1 - first);
  return index - 1;
}

/** Inserts one child before entry `index` of an inner node that has room. */
export function insertChild(tree: Tree, node: number, index: number, separator: number, child: number): void {
  const slab = slabOf(tree, node);
  const base = baseOf(node);
  const limit = limitOf(tree, node);
  moveUp(slab, base, index, index + 1, limit - index);
  slab.doubles[base + index] = separator;
  slab.doubles[base + index + VALUE] = child;
  setExtent(tree, node, 0, limit + 1);
}

/** Removes `width` children of an inner node from `index` on. */
export function removeChildren(tree: Tree, node: number, index: number, width: number): void {
  const slab = slabOf(tree, node);
  const base = baseOf(node);
  const limit = limitOf(tree, node);
  moveDown(slab, base, index + width, index, limit - index - width);
  vacate(slab, base, limit - width, limit, Infinity);
  setExtent(tree, node, 0, limit - width);
}

/** Moves the last `width` children of `left` before those of its neighbour `right`. */
export function moveChildrenRight(tree: Tree, left: number, right: number, width: number): void {
  const count = limitOf(tree, right);
  const limit = limitOf(tree, left);
  moveUp(slabOf(tree, right), baseOf(right), 0, width, count);
  copyEntries(tree, left, limit - width, right, 0, width);
  setExtent(tree, right, 0, count + width);
  vacate(slabOf(tree, left), baseOf(left), limit - width, limit, Infinity);
  setExtent(tree, left, 0, limit - width);
}

/** Moves the first `width` children of `right` behind those of its neighbour `left`. */
export function moveChildrenLeft(tree: Tree, left: number, right: number, width: number): void {
  const limit = limitOf(tree, left);
  copyEntries(tree, right, 0, left, limit, width);
  setExtent(tree, left, 0, limit + width);
  removeChildren(tree, right, 0, width);
}

/** Copies all entries of `source` into `target`, which is new. */
export function copyNode(tree: Tree, source: number, target: number): void {
  const first = firstOf(tree, source);
  const limit = limitOf(tree, source);
  copyEntries(tree, source, first, target, first, limit - first);
  vacate(slabOf(tree, target), baseOf(target), 0, first, -Infinity);
  setExtent(tree, target, first, limit - first);
}
