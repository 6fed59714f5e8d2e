// Keeps nodes neither too empty nor scattered: shares entries between neighbours, joins them, lowers the root, and
// moves survivors out of slabs that could be released. Works from the root down along one key.
import { copyNode, moveChildrenLeft, moveChildrenRight, moveLeft, moveRight, removeChildren } from './entries.ts';
import { childIndex } from './search.ts';
import { NONE, SLAB_SHIFT } from './slab.ts';
import {
  addNode,
  childAt,
  countOf,
  firstOf,
  freeLeaf,
  freeNode,
  JOIN_ENTRIES,
  keyAt,
  linkLeaves,
  MIN_ENTRIES,
  nextLeaf,
  previousLeaf,
  setChild,
  setKey,
  type Tree,
} from './tree.ts';

/** Shares the entries of children `index` and `index + 1` of `parent` evenly; `level` is the children's. */
export function share(tree: Tree, parent: number, index: number, level: number): void {
  const left = childAt(tree, parent, index);
  const right = childAt(tree, parent, index + 1);
  const leftCount = countOf(tree, left);
  const target = (leftCount + countOf(tree, right)) >> 1;
  tree.visits += 2;
  if (level === 0) {
    tree.run = NONE;
    if (leftCount > target) moveRight(tree, left, right, leftCount - target);
    else moveLeft(tree, left, right, target - leftCount);
  } else {
    // The separator of an inner node's first child lives in the parent; it must travel with that child.
    setKey(tree, right, 0, keyAt(tree, parent, index + 1));
    if (leftCount > target) moveChildrenRight(tree, left, right, leftCount - target);
    else moveChildrenLeft(tree, left, right, target - leftCount);
  }
  setKey(tree, parent, index + 1, keyAt(tree, right, firstOf(tree, right)));
}

/** Moves all entries of child `index + 1` of `parent` into child `index`, or the other way round, and frees the empty one. */
function join(tree: Tree, parent: number, index: number, level: number): void {
  const left = childAt(tree, parent, index);
  const right = childAt(tree, parent, index + 1);
  const leftCount = countOf(tree, left);
  const rightCount = countOf(tree, right);
  tree.visits += 2;
  if (level > 0) {
    setKey(tree, right, 0, keyAt(tree, parent, index + 1));
    moveChildrenLeft(tree, left, right, rightCount);
    freeNode(tree, right);
  } else if (leftCount < rightCount) {
    moveRight(tree, left, right, leftCount);
    freeLeaf(tree, left);
    setChild(tree, parent, index, right);
  } else {
    moveLeft(tree, left, right, rightCount);
    freeLeaf(tree, right);
  }
  removeChildren(tree, parent, index + 1, 1);
}

/**
 * Joins child `index` with a neighbour, or takes entries from one, until it is full enough. Returns its index.
 * A leaf that lost its front turns to the neighbour behind it: the one before it may be where a run grows.
 */
function mend(tree: Tree, parent: number, index: number, level: number): number {
  while (countOf(tree, parent) > 1) {
    const child = childAt(tree, parent, index);
    const count = countOf(tree, child);
    if (count >= MIN_ENTRIES) break;
    const hasLeft = index > 0;
    const hasRight = index + 1 < countOf(tree, parent);
    const drained = hasRight && level === 0 && firstOf(tree, child) > 0;
    if (!drained && hasLeft && count + countOf(tree, childAt(tree, parent, index - 1)) <= JOIN_ENTRIES) {
      index--;
      join(tree, parent, index, level);
    } else if (hasRight && count + countOf(tree, childAt(tree, parent, index + 1)) <= JOIN_ENTRIES) {
      join(tree, parent, index, level);
    } else {
      share(tree, parent, hasLeft && !drained ? index - 1 : index, level);
    }
  }
  return index;
}

/** Moves a node to the lowest slab with room when the pool is sparse, so that its slab can go. Returns its new id. */
function settle(tree: Tree, old: number, level: number): number {
  if (!tree.pool.sparse) return old;
  const room = tree.pool.lowestRoom();
  if (room === NONE || room >= old >> SLAB_SHIFT) return old;
  const node = addNode(tree);
  tree.visits += 2;
  copyNode(tree, old, node);
  if (level === 0) {
    linkLeaves(tree, previousLeaf(tree, old), node);
    linkLeaves(tree, node, nextLeaf(tree, old));
  }
  freeNode(tree, old);
  return node;
}

function lowerRoot(tree: Tree): void {
  while (tree.height > 0 && countOf(tree, tree.root) === 1) {
    const old = tree.root;
    tree.root = childAt(tree, old, 0);
    tree.height--;
    freeNode(tree, old);
  }
  tree.root = settle(tree, tree.root, tree.height);
}

/** Mends every node on the way from the root to the leaf of `key`; no node of the tree other than that leaf is empty. */
export function mendPath(tree: Tree, key: number): void {
  lowerRoot(tree);
  let node = tree.root;
  let level = tree.height;
  while (level > 0) {
    tree.visits++;
    const index = mend(tree, node, childIndex(tree, node, key), level - 1);
    if (node === tree.root && countOf(tree, node) === 1) {
      lowerRoot(tree);
      node = tree.root;
      level = tree.height;
      continue;
    }
    level--;
    const child = settle(tree, childAt(tree, node, index), level);
    setChild(tree, node, index, child);
    node = child;
  }
}

/** True when a leaf that is not the root has become too empty. */
export function needsMending(tree: Tree, leaf: number): boolean {
  return leaf !== tree.root && countOf(tree, leaf) < MIN_ENTRIES;
}
