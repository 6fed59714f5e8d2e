// Keeps nodes neither too empty nor scattered: shares entries between neighbours, joins them, lowers the root, and
// moves survivors out of slabs that could be released. Works from the root down along one key.
import { closeGap, compact, copyEntries, openGap, setCount } from './entries.ts';
import { childIndex } from './search.ts';
import { LOCAL_MASK, NONE, SLAB_SHIFT } from './slab.ts';
import {
  addNode,
  baseOf,
  childAt,
  countOf,
  freeLeaf,
  freeNode,
  JOIN_ENTRIES,
  keyAt,
  linkLeaves,
  MIN_ENTRIES,
  nextLeaf,
  previousLeaf,
  slabOf,
  type Tree,
} from './tree.ts';

function setKey(tree: Tree, node: number, index: number, key: number): void {
  slabOf(tree, node).start[baseOf(node) + index] = key;
}

/** Shares the entries of children `index` and `index + 1` of `parent` evenly; `level` is the children's. */
export function share(tree: Tree, parent: number, index: number, level: number): void {
  const left = childAt(tree, parent, index);
  const right = childAt(tree, parent, index + 1);
  if (level === 0) {
    compact(tree, left);
    compact(tree, right);
  }
  const leftCount = countOf(tree, left);
  const target = (leftCount + countOf(tree, right)) >> 1;
  tree.visits += 2;
  // The separator of an inner node's first child lives in the parent; it must travel with that child.
  if (level > 0) setKey(tree, right, 0, keyAt(tree, parent, index + 1));
  if (leftCount > target) {
    openGap(tree, right, 0, leftCount - target);
    copyEntries(tree, left, target, right, 0, leftCount - target);
  } else {
    copyEntries(tree, right, 0, left, leftCount, target - leftCount);
    closeGap(tree, right, 0, target - leftCount);
  }
  setCount(tree, left, target);
  setKey(tree, parent, index + 1, keyAt(tree, right, 0));
}

/** Moves all entries of child `index + 1` of `parent` into child `index` and frees the former. */
function join(tree: Tree, parent: number, index: number, level: number): void {
  const left = childAt(tree, parent, index);
  const right = childAt(tree, parent, index + 1);
  if (level === 0) {
    compact(tree, left);
    compact(tree, right);
  }
  const leftCount = countOf(tree, left);
  const rightCount = countOf(tree, right);
  tree.visits += 2;
  if (level > 0) setKey(tree, right, 0, keyAt(tree, parent, index + 1));
  copyEntries(tree, right, 0, left, leftCount, rightCount);
  setCount(tree, left, leftCount + rightCount);
  closeGap(tree, parent, index + 1, 1);
  if (level > 0) freeNode(tree, right);
  else freeLeaf(tree, right);
}

/** Joins child `index` with a neighbour, or takes entries from one, until it is full enough. Returns its index. */
function mend(tree: Tree, parent: number, index: number, level: number): number {
  while (countOf(tree, parent) > 1) {
    const count = countOf(tree, childAt(tree, parent, index));
    if (count >= MIN_ENTRIES) break;
    const hasLeft = index > 0;
    const hasRight = index + 1 < countOf(tree, parent);
    if (hasLeft && count + countOf(tree, childAt(tree, parent, index - 1)) <= JOIN_ENTRIES) {
      index--;
      join(tree, parent, index, level);
    } else if (hasRight && count + countOf(tree, childAt(tree, parent, index + 1)) <= JOIN_ENTRIES) {
      join(tree, parent, index, level);
    } else {
      share(tree, parent, hasLeft ? index - 1 : index, level);
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
  if (level === 0) compact(tree, old);
  const count = countOf(tree, old);
  tree.visits += 2;
  copyEntries(tree, old, 0, node, 0, count);
  setCount(tree, node, count);
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
    slabOf(tree, node).value[baseOf(node) + index] = child;
    node = child;
  }
}

/** True when a leaf that is not the root has become too empty. */
export function needsMending(tree: Tree, leaf: number): boolean {
  return leaf !== tree.root && slabOf(tree, leaf).count[leaf & LOCAL_MASK]! < MIN_ENTRIES;
}
