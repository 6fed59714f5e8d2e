// Steps from slot to slot in key order. A slot is valid until the next insert, remove or clear.
import * as layout from './slab.ts';
import * as nodes from './tree.ts';
import type { Tree } from './tree.ts';

// Own constants are folded into the code, see search.ts.
const { INDEX_MASK, NODE_SHIFT, NONE } = layout;
const { firstOf, limitOf, nextLeaf, previousLeaf } = nodes;

/** Slot of the first interval, or NONE. */
export function firstSlot(tree: Tree): number {
  return tree.firstLeaf === NONE ? NONE : (tree.firstLeaf << NODE_SHIFT) + firstOf(tree, tree.firstLeaf);
}

/** Slot of the last interval, or NONE. */
export function lastSlot(tree: Tree): number {
  return tree.lastLeaf === NONE ? NONE : lastOfLeaf(tree, tree.lastLeaf);
}

/** Slot after `slot`, or NONE. */
export function nextSlot(tree: Tree, slot: number): number {
  const leaf = slot >> NODE_SHIFT;
  if ((slot & INDEX_MASK) + 1 < limitOf(tree, leaf)) return slot + 1;
  tree.visits++;
  const next = nextLeaf(tree, leaf);
  return next === NONE ? NONE : (next << NODE_SHIFT) + firstOf(tree, next);
}

/** Slot before `slot`, or NONE. */
export function previousSlot(tree: Tree, slot: number): number {
  if ((slot & INDEX_MASK) > firstOf(tree, slot >> NODE_SHIFT)) return slot - 1;
  tree.visits++;
  const previous = previousLeaf(tree, slot >> NODE_SHIFT);
  return previous === NONE ? NONE : lastOfLeaf(tree, previous);
}

function lastOfLeaf(tree: Tree, leaf: number): number {
  return (leaf << NODE_SHIFT) + limitOf(tree, leaf) - 1;
}
