// State of one B+-tree and the access to its nodes. Search, insert, remove and walk are functions over this record.
// All changes work from the root down: a full node is relieved, and an underfull one mended, before its child is
// entered, so that no node needs a parent link and no operation a stack.
import { NodePool } from './pool.ts';
import * as layout from './slab.ts';
import type { Slab } from './slab.ts';

// Own constants are folded into the code, see search.ts.
const { COUNT, END, FIRST, FLAGS, INDEX_MASK, LOCAL_MASK, NEXT, NODE_DOUBLES } = layout;
const { NODE_SHIFT, NONE, PREVIOUS, SLAB_SHIFT, VALUE } = layout;

/** Fewest entries of a node that is neither the root nor at the left or right edge of its level. */
export const MIN_ENTRIES = 24;
/** Two neighbours are joined when they hold at most this many entries together; the rest is room against thrashing. */
export const JOIN_ENTRIES = 56;
/** A neighbour with at most this many entries takes entries of a full node, which then need not be split. */
export const ROOMY_ENTRIES = 48;

/**
 * The key to be sought, or start, end and value to be inserted, on their way into a function that is not inlined: a number
 * above 2^31 would become an object on the way. Valid from the call to its first statements.
 */
export const GIVEN = new Float64Array(3);

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
  /** Index in that leaf of what was found or removed last; anything from 0 to 63, since what stands there is checked. */
  hintIndex = 0;
  /** The leaf that an insertion made longer at one of its ends, always a leaf of this tree, or NONE: a run goes on there. */
  run = NONE;
  /** Keys from which on and up to which that leaf may hold starts. */
  runLow = -Infinity;
  runHigh = Infinity;
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

/** Index of a node's first double in its slab. */
export function baseOf(node: number): number {
  return (node & LOCAL_MASK) * NODE_DOUBLES;
}

/** Index of a slot's start in the doubles of its slab. */
export function placeOf(slot: number): number {
  return baseOf(slot >> NODE_SHIFT) + (slot & INDEX_MASK);
}

/** Index of a slot's flags in the bytes of its slab. */
export function flagsPlaceOf(slot: number): number {
  return baseOf(slot >> NODE_SHIFT) * 8 + FLAGS + (slot & INDEX_MASK);
}

/** Entries of a node. */
export function countOf(tree: Tree, node: number): number {
  return slabOf(tree, node).ints[baseOf(node) * 2 + COUNT]!;
}

/** Index of the first entry in use: 0 but for leaves with room at the front. */
export function firstOf(tree: Tree, node: number): number {
  return slabOf(tree, node).ints[baseOf(node) * 2 + FIRST]!;
}

/** Index behind the last entry in use. */
export function limitOf(tree: Tree, node: number): number {
  const { ints } = slabOf(tree, node);
  const at = baseOf(node) * 2;
  return ints[at + FIRST]! + ints[at + COUNT]!;
}

/** Child `index` of an inner node. */
export function childAt(tree: Tree, node: number, index: number): number {
  return slabOf(tree, node).doubles[baseOf(node) + VALUE + index]! | 0;
}

/** Start (leaf) or separator (inner node) of entry `index`. */
export function keyAt(tree: Tree, node: number, index: number): number {
  return slabOf(tree, node).doubles[baseOf(node) + index]!;
}

/** Replaces child `index` of an inner node. */
export function setChild(tree: Tree, node: number, index: number, child: number): void {
  slabOf(tree, node).doubles[baseOf(node) + VALUE + index] = child;
}

/** Replaces separator `index` of an inner node. */
export function setKey(tree: Tree, node: number, index: number, key: number): void {
  slabOf(tree, node).doubles[baseOf(node) + index] = key;
}

/** Start of the interval in a live slot. */
export function startOf(tree: Tree, slot: number): number {
  return keyAt(tree, slot >> NODE_SHIFT, slot & INDEX_MASK);
}

/** Key behind the interval in a live slot. */
export function endOf(tree: Tree, slot: number): number {
  return slabOf(tree, slot >> NODE_SHIFT).doubles[placeOf(slot) + END]!;
}

/** A new node without entries and links. */
export function addNode(tree: Tree): number {
  tree.nodes++;
  return tree.pool.allocate();
}

/** Gives a node back; a leaf must have been unlinked. */
export function freeNode(tree: Tree, node: number): void {
  if (tree.hint === node) tree.hint = NONE;
  if (tree.run === node) tree.run = NONE;
  tree.nodes--;
  tree.pool.release(node);
}

/** Makes `next` the neighbour after `previous`; NONE stands for the end of the chain. */
export function linkLeaves(tree: Tree, previous: number, next: number): void {
  if (previous === NONE) tree.firstLeaf = next;
  else slabOf(tree, previous).ints[baseOf(previous) * 2 + NEXT] = next;
  if (next === NONE) tree.lastLeaf = previous;
  else slabOf(tree, next).ints[baseOf(next) * 2 + PREVIOUS] = previous;
}

/** The leaf after `leaf`, or NONE. */
export function nextLeaf(tree: Tree, leaf: number): number {
  return slabOf(tree, leaf).ints[baseOf(leaf) * 2 + NEXT]!;
}

/** The leaf before `leaf`, or NONE. */
export function previousLeaf(tree: Tree, leaf: number): number {
  return slabOf(tree, leaf).ints[baseOf(leaf) * 2 + PREVIOUS]!;
}

/** Takes a leaf out of the chain and gives it back. */
export function freeLeaf(tree: Tree, leaf: number): void {
  linkLeaves(tree, previousLeaf(tree, leaf), nextLeaf(tree, leaf));
  freeNode(tree, leaf);
}
