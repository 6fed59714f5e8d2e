// State of one B+-tree and the access to its nodes. Search, insert, remove and walk are functions over this record.
// All changes work from the root down: a full node is relieved, and an underfull one mended, before its child is
// entered, so that no node needs a parent link and no operation a stack.
import { NodePool } from './pool.ts';
import { LOCAL_MASK, NODE_SHIFT, NONE, SLAB_SHIFT, SLOT_MASK, SLOT_SHIFT, type Slab } from './slab.ts';

/** Fewest entries of a node that is neither the root nor at the left or right edge of its level. */
export const MIN_ENTRIES = 24;
/** Two neighbours are joined when they hold at most this many entries together; the rest is room against thrashing. */
export const JOIN_ENTRIES = 56;
/** A neighbour with at most this many entries takes entries of a full node, which then need not be split. */
export const ROOMY_ENTRIES = 48;

/** One ordered tree of intervals. */
export class Tree {
  readonly pool: NodePool;
  readonly slabs: (Slab | undefined)[];
  /** True when other trees may have nodes in the pool. */
  readonly shared: boolean;
  root = NONE;
  /** Levels above the leaves. */
  height = 0;
  firstLeaf = NONE;
  lastLeaf = NONE;
  /** The leaf found last, always a leaf of this tree, or NONE. */
  hint = NONE;
  /** Intervals. */
  size = 0;
  /** Nodes of this tree. */
  nodes = 0;
  visits = 0;

  constructor(pool: NodePool | undefined) {
    this.shared = pool !== undefined;
    this.pool = pool ?? new NodePool();
    this.slabs = this.pool.slabs;
  }
}

/** Slab of a node; the node must be live. Not to be held across an allocation. */
export function slabOf(tree: Tree, node: number): Slab {
  return tree.slabs[node >> SLAB_SHIFT]!;
}

/** Index of a node's first entry in the columns of its slab. */
export function baseOf(node: number): number {
  return (node & LOCAL_MASK) << NODE_SHIFT;
}

/** Entries of a node. */
export function countOf(tree: Tree, node: number): number {
  return slabOf(tree, node).count[node & LOCAL_MASK]!;
}

/** Index of the first entry in use: 0 but for leaves that lost entries at the front. */
export function firstOf(tree: Tree, node: number): number {
  return slabOf(tree, node).first[node & LOCAL_MASK]!;
}

/** Index behind the last entry in use. */
export function limitOf(tree: Tree, node: number): number {
  const slab = slabOf(tree, node);
  return slab.first[node & LOCAL_MASK]! + slab.count[node & LOCAL_MASK]!;
}

/** Child `index` of an inner node. */
export function childAt(tree: Tree, node: number, index: number): number {
  return slabOf(tree, node).value[baseOf(node) + index]! | 0;
}

/** Start (leaf) or separator (inner node) of entry `index`. */
export function keyAt(tree: Tree, node: number, index: number): number {
  return slabOf(tree, node).start[baseOf(node) + index]!;
}

/** Start of the interval in a live slot. */
export function startOf(tree: Tree, slot: number): number {
  return tree.slabs[slot >> SLOT_SHIFT]!.start[slot & SLOT_MASK]!;
}

/** A new node without entries and links. */
export function addNode(tree: Tree): number {
  tree.nodes++;
  return tree.pool.allocate();
}

/** Gives a node back; a leaf must have been unlinked. */
export function freeNode(tree: Tree, node: number): void {
  if (tree.hint === node) tree.hint = NONE;
  tree.nodes--;
  tree.pool.release(node);
}

/** Makes `next` the neighbour after `previous`; NONE stands for the end of the chain. */
export function linkLeaves(tree: Tree, previous: number, next: number): void {
  if (previous === NONE) tree.firstLeaf = next;
  else slabOf(tree, previous).next[previous & LOCAL_MASK] = next;
  if (next === NONE) tree.lastLeaf = previous;
  else slabOf(tree, next).previous[next & LOCAL_MASK] = previous;
}

/** The leaf after `leaf`, or NONE. */
export function nextLeaf(tree: Tree, leaf: number): number {
  return slabOf(tree, leaf).next[leaf & LOCAL_MASK]!;
}

/** The leaf before `leaf`, or NONE. */
export function previousLeaf(tree: Tree, leaf: number): number {
  return slabOf(tree, leaf).previous[leaf & LOCAL_MASK]!;
}

/** Takes a leaf out of the chain and gives it back. */
export function freeLeaf(tree: Tree, leaf: number): void {
  linkLeaves(tree, previousLeaf(tree, leaf), nextLeaf(tree, leaf));
  freeNode(tree, leaf);
}
