// Moves entries inside a node and between nodes, all columns together. Leaves and inner nodes are treated alike.
// Unused entries have the start Infinity at all times: the searches rely on it.
// Plain loops: a call of copyWithin costs more than the at most 64 entries that it would move.
import { LOCAL_MASK } from './slab.ts';
import { baseOf, slabOf, type Tree } from './tree.ts';

/** Opens a gap of `width` entries before entry `index`; the gap's contents are undefined. */
export function openGap(tree: Tree, node: number, index: number, width: number): void {
  const slab = slabOf(tree, node);
  const { start, end, value, flags, count } = slab;
  const local = node & LOCAL_MASK;
  const first = baseOf(node) + index;
  for (let from = baseOf(node) + count[local]! - 1; from >= first; from--) {
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
  const limit = baseOf(node) + count[local]!;
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
  openGap(tree, node, index, 1);
  const slab = slabOf(tree, node);
  const at = baseOf(node) + index;
  slab.start[at] = start;
  slab.end[at] = end;
  slab.value[at] = value;
  slab.flags[at] = flags;
}
