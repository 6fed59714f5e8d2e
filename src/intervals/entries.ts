// Moves entries inside a node and between nodes, all columns together. Leaves and inner nodes are treated alike.
// Unused entries have the start Infinity at all times: the searches rely on it.
// Plain loops: a call of copyWithin costs more than the at most 64 entries that it would move.
import { LOCAL_MASK, NODE_CAPACITY } from './slab.ts';
import { baseOf, slabOf, type Tree } from './tree.ts';

/** Opens a gap of `width` entries before entry `index`; the gap's contents are undefined. */
export function openGap(tree: Tree, node: number, index: number, width: number): void {
  const slab = slabOf(tree, node);
  const { start, end, value, flags, count } = slab;
  const local = node & LOCAL_MASK;
  const first = baseOf(node) + index;
  for (let from = baseOf(node) + slab.first[local]! + count[local]! - 1; from >= first; from--) {
    const to = from + width;
    start[to] = start[from]!;
    end[to] = end[from]!;
    value[to] = value[from]!;
    flags[to] = flags[from]!;
  }
  count[local] = count[local]! + width;
}

/** Removes `width` entries from `index` on. */
export function closeGap(tree: Tree, node: number, index: number, width: number): void {
  const slab = slabOf(tree, node);
  const { start, end, value, flags, count } = slab;
  const local = node & LOCAL_MASK;
  const limit = baseOf(node) + slab.first[local]! + count[local]!;
  for (let from = baseOf(node) + index + width; from < limit; from++) {
    const to = from - width;
    start[to] = start[from]!;
    end[to] = end[from]!;
    value[to] = value[from]!;
    flags[to] = flags[from]!;
  }
  for (let i = limit - width; i < limit; i++) start[i] = Infinity;
  count[local] = count[local]! - width;
}

/** Removes `width` entries of a leaf from `index` on; at the front nothing is moved. */
export function removeEntries(tree: Tree, leaf: number, index: number, width: number): void {
  const slab = slabOf(tree, leaf);
  const local = leaf & LOCAL_MASK;
  const first = slab.first[local]!;
  const count = slab.count[local]!;
  if (index !== first) {
    closeGap(tree, leaf, index, width);
    return;
  }
  const base = baseOf(leaf);
  const left = count - width;
  slab.count[local] = left;
  if (left === 0) {
    slab.first[local] = 0;
    for (let i = base; i < base + first + count; i++) slab.start[i] = Infinity;
    return;
  }
  slab.first[local] = first + width;
  for (let i = base + first; i < base + first + width; i++) slab.start[i] = -Infinity;
}

/** Moves the entries of a leaf to its front. */
export function compact(tree: Tree, leaf: number): void {
  const slab = slabOf(tree, leaf);
  const local = leaf & LOCAL_MASK;
  const first = slab.first[local]!;
  if (first === 0) return;
  const count = slab.count[local]!;
  slab.first[local] = 0;
  slab.count[local] = first + count;
  closeGap(tree, leaf, 0, first);
}

/** Copies `width` entries from one node over entries of another one; counts stay. */
export function copyEntries(
  tree: Tree,
  source: number,
  sourceIndex: number,
  target: number,
  targetIndex: number,
  width: number,
): void {
  const from = slabOf(tree, source);
  const to = slabOf(tree, target);
  const read = baseOf(source) + sourceIndex;
  const write = baseOf(target) + targetIndex;
  for (let i = 0; i < width; i++) {
    to.start[write + i] = from.start[read + i]!;
    to.end[write + i] = from.end[read + i]!;
    to.value[write + i] = from.value[read + i]!;
    to.flags[write + i] = from.flags[read + i]!;
  }
}

/** Sets the number of entries of a node. */
export function setCount(tree: Tree, node: number, count: number): void {
  const slab = slabOf(tree, node);
  const local = node & LOCAL_MASK;
  const base = baseOf(node);
  for (let i = base + count; i < base + slab.count[local]!; i++) slab.start[i] = Infinity;
  slab.count[local] = count;
}

/** Inserts one entry before entry `index`; the node has room. */
export function insertEntry(
  tree: Tree,
  node: number,
  index: number,
  start: number,
  end: number,
  value: number,
  flags: number,
): void {
  const slab = slabOf(tree, node);
  const at = baseOf(node) + makeGap(tree, node, index);
  slab.start[at] = start;
  slab.end[at] = end;
  slab.value[at] = value;
  slab.flags[at] = flags;
}

/** Opens a gap of one entry before entry `index` by moving whichever side is cheaper; returns the gap's index. */
function makeGap(tree: Tree, node: number, index: number): number {
  const slab = slabOf(tree, node);
  const local = node & LOCAL_MASK;
  const first = slab.first[local]!;
  const limit = first + slab.count[local]!;
  if (first > 0 && (index === first || limit === NODE_CAPACITY)) {
    moveFrontDown(tree, node, index);
    return index - 1;
  }
  if (index === limit) slab.count[local] = slab.count[local]! + 1;
  else openGap(tree, node, index, 1);
  return index;
}

/** Moves the entries before `index` one place towards the removed front. */
function moveFrontDown(tree: Tree, node: number, index: number): void {
  const { start, end, value, flags, first, count } = slabOf(tree, node);
  const local = node & LOCAL_MASK;
  const base = baseOf(node);
  for (let from = base + first[local]!; from < base + index; from++) {
    const to = from - 1;
    start[to] = start[from]!;
    end[to] = end[from]!;
    value[to] = value[from]!;
    flags[to] = flags[from]!;
  }
  first[local] = first[local]! - 1;
  count[local] = count[local]! + 1;
}
