// Inserts one interval. Nothing is changed before it is known that the interval overlaps no other.
// A full node first gives entries to a neighbour with room; only if there is none it is split, in the middle, or at its
// very end when the keys grow (or shrink) at the edge of the tree: ascending and descending runs fill nodes completely.
import { share } from './balance.ts';
import { copyEntries, insertEntry, setCount } from './entries.ts';
import { childIndex, fitsAt, leafForInsert, rank } from './search.ts';
import { LOCAL_MASK, NODE_CAPACITY, NODE_SHIFT, NONE, SLAB_SHIFT } from './slab.ts';
import { addNode, childAt, countOf, keyAt, linkLeaves, nextLeaf, ROOMY_ENTRIES, type Tree } from './tree.ts';

/** Where in the tree an insertion happens: at its first entry, behind its last one, or between. */
type Edge = -1 | 0 | 1;

/** Inserts [start, end); false, with nothing changed, when it shares a key with an interval. */
export function insert(tree: Tree, start: number, end: number, value: number, flags: number): boolean {
  if (tree.root !== NONE) return place(tree, start, end, value, flags);
  tree.root = addNode(tree);
  tree.firstLeaf = tree.root;
  tree.lastLeaf = tree.root;
  insertEntry(tree, tree.root, 0, start, end, value, flags);
  tree.size = 1;
  return true;
}

/** Appends behind the last interval when the last leaf has room; ascending insertion needs no search. */
function append(tree: Tree, start: number, end: number, value: number, flags: number): boolean {
  const last = tree.lastLeaf;
  const slab = tree.slabs[last >> SLAB_SHIFT]!;
  const local = last & LOCAL_MASK;
  const limit = slab.first[local]! + slab.count[local]!;
  const behind = (local << NODE_SHIFT) + limit;
  if (limit === NODE_CAPACITY || slab.end[behind - 1]! > start) return false;
  slab.start[behind] = start;
  slab.end[behind] = end;
  slab.value[behind] = value;
  slab.flags[behind] = flags;
  slab.count[local] = slab.count[local]! + 1;
  tree.size++;
  tree.visits++;
  return true;
}

function place(tree: Tree, start: number, end: number, value: number, flags: number): boolean {
  if (append(tree, start, end, value, flags)) return true;
  let leaf = leafForInsert(tree, start);
  let index = rank(tree, leaf, start);
  if (!fitsAt(tree, leaf, index, start, end)) return false;
  if (countOf(tree, leaf) === NODE_CAPACITY) {
    leaf = makeRoom(tree, start, edgeOf(tree, leaf, index));
    index = rank(tree, leaf, start);
  }
  insertEntry(tree, leaf, index, start, end, value, flags);
  tree.size++;
  return true;
}

function edgeOf(tree: Tree, leaf: number, index: number): Edge {
  if (leaf === tree.lastLeaf && index === NODE_CAPACITY) return 1;
  return leaf === tree.firstLeaf && index === 0 ? -1 : 0;
}

/** Relieves every full node on the way to the leaf of `key` and returns that leaf, which then has room. */
function makeRoom(tree: Tree, key: number, edge: Edge): number {
  if (countOf(tree, tree.root) === NODE_CAPACITY) raiseRoot(tree);
  let node = tree.root;
  for (let level = tree.height; level > 0; level--) {
    tree.visits++;
    let index = childIndex(tree, node, key);
    if (countOf(tree, childAt(tree, node, index)) === NODE_CAPACITY) {
      relieve(tree, node, index, level - 1, key, edge);
      index = childIndex(tree, node, key);
    }
    node = childAt(tree, node, index);
  }
  return node;
}

function raiseRoot(tree: Tree): void {
  const root = addNode(tree);
  insertEntry(tree, root, 0, 0, 0, tree.root, 0);
  tree.root = root;
  tree.height++;
}

function relieve(tree: Tree, parent: number, index: number, level: number, key: number, edge: Edge): void {
  if (edge === 0) {
    const last = countOf(tree, parent) - 1;
    if (index < last && countOf(tree, childAt(tree, parent, index + 1)) <= ROOMY_ENTRIES) {
      share(tree, parent, index, level);
      return;
    }
    if (index > 0 && countOf(tree, childAt(tree, parent, index - 1)) <= ROOMY_ENTRIES) {
      share(tree, parent, index - 1, level);
      return;
    }
  }
  split(tree, parent, index, level, key, edge);
}

function splitPoint(level: number, edge: Edge): number {
  if (edge === 0) return NODE_CAPACITY / 2;
  // An inner node must keep a child on both sides; of two leaves one may be empty, it receives the new interval.
  const apart = level > 0 ? 1 : 0;
  return edge < 0 ? apart : NODE_CAPACITY - apart;
}

function split(tree: Tree, parent: number, index: number, level: number, key: number, edge: Edge): void {
  const right = addNode(tree);
  const left = childAt(tree, parent, index);
  const at = splitPoint(level, edge);
  tree.visits += 2;
  copyEntries(tree, left, at, right, 0, NODE_CAPACITY - at);
  setCount(tree, left, at);
  setCount(tree, right, NODE_CAPACITY - at);
  if (level === 0) {
    linkLeaves(tree, right, nextLeaf(tree, left));
    linkLeaves(tree, left, right);
  }
  const separator = at === NODE_CAPACITY ? key : keyAt(tree, right, 0);
  insertEntry(tree, parent, index + 1, separator, 0, right, 0);
}
