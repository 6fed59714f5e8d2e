// Inserts one interval. Nothing is changed before it is known that the interval overlaps no other.
// A full node first gives entries to a neighbour with room; only if there is none it is split in the middle. A run of
// insertions that grows at one end of a leaf is met at that end: at the edge of the tree it fills leaves completely, inside
// the tree a full leaf hands on as few entries as may be, to its neighbour on the far side or to a new leaf.
import { share } from './balance.ts';
import * as entries from './entries.ts';
import * as search from './search.ts';
import * as layout from './slab.ts';
import * as nodes from './tree.ts';
import type { Tree } from './tree.ts';

// Own constants are folded into the code, see search.ts.
const { COUNT, END, FIRST, FLAGS, NODE_CAPACITY, NONE, VALUE } = layout;
const { addNode, baseOf, childAt, countOf, firstOf, GIVEN, keyAt, limitOf, linkLeaves, MIN_ENTRIES, nextLeaf } = nodes;
const { previousLeaf, ROOMY_ENTRIES, setChild, setKey, slabOf } = nodes;
const { insertChild, insertEntry, moveChildrenRight, moveLeft, moveRight, shift } = entries;
const { childIndex, fitsAt, leafFor, rank } = search;

/** Where in a full leaf an entry is to be inserted: before its first one, behind its last one, or between. */
type Side = -1 | 0 | 1;

/** Inserts the interval in GIVEN; false, with nothing changed, when it shares a key with another. */
export function insertGiven(tree: Tree, flags: number): boolean {
  const start = GIVEN[0]!;
  const end = GIVEN[1]!;
  const leaf = tree.run;
  if (leaf === NONE) return placeGiven(tree, flags);
  // Where a run of insertions goes on, in whichever part of the tree, no search is needed: a neighbour of the last insertion
  // stands at an end of the leaf, with the bounds of the leaf known. Nothing is called here but what is inlined.
  const { doubles, ints, bytes } = slabOf(tree, leaf);
  const base = baseOf(leaf);
  const first = ints[base * 2 + FIRST]!;
  const count = ints[base * 2 + COUNT]!;
  let index = first + count;
  if (doubles[base + index - 1 + END]! <= start) {
    // Whatever stands in the next leaf starts at or behind the bound between the two.
    if (index === NODE_CAPACITY || end > tree.runHigh) return placeGiven(tree, flags);
  } else {
    if (first === 0 || doubles[base + first]! < end || start < tree.runLow || !clearBefore(tree, leaf, start))
      return placeGiven(tree, flags);
    index = first - 1;
    ints[base * 2 + FIRST] = index;
  }
  doubles[base + index] = start;
  doubles[base + index + END] = end;
  doubles[base + index + VALUE] = GIVEN[2]!;
  bytes[base * 8 + FLAGS + index] = flags;
  ints[base * 2 + COUNT] = count + 1;
  tree.size++;
  tree.visits++;
  return true;
}

/** True when no interval of the leaf before `leaf` reaches to `key`. */
function clearBefore(tree: Tree, leaf: number, key: number): boolean {
  const previous = previousLeaf(tree, leaf);
  if (previous === NONE) return true;
  return slabOf(tree, previous).doubles[baseOf(previous) + limitOf(tree, previous) - 1 + END]! <= key;
}

function placeGiven(tree: Tree, flags: number): boolean {
  const start = GIVEN[0]!;
  const end = GIVEN[1]!;
  if (tree.root === NONE) plant(tree);
  let leaf = leafFor(tree, start);
  let index = rank(tree, leaf, start);
  if (!fitsAt(tree, leaf, index, start, end)) return false;
  if (countOf(tree, leaf) === NODE_CAPACITY) {
    leaf = makeRoom(tree, start, leaf, index === NODE_CAPACITY ? 1 : index === 0 ? -1 : 0);
    index = rank(tree, leaf, start);
  }
  const at = insertEntry(tree, leaf, index, start, end, GIVEN[2]!, flags);
  tree.size++;
  if (at === firstOf(tree, leaf) || at === limitOf(tree, leaf) - 1) beginRun(tree, start);
  return true;
}

function plant(tree: Tree): void {
  tree.root = addNode(tree);
  tree.firstLeaf = tree.root;
  tree.lastLeaf = tree.root;
}

/** The next insertion is likely to be a neighbour of `key`, which stands at an end of its leaf. */
function beginRun(tree: Tree, key: number): void {
  let node = tree.root;
  tree.runLow = -Infinity;
  tree.runHigh = Infinity;
  for (let level = tree.height; level > 0; level--) {
    tree.visits++;
    const index = childIndex(tree, node, key);
    if (index > 0) tree.runLow = keyAt(tree, node, index);
    if (index + 1 < countOf(tree, node)) tree.runHigh = keyAt(tree, node, index + 1);
    node = childAt(tree, node, index);
  }
  tree.run = node;
}

/** Relieves every full node on the way to the full `leaf` of `key` and returns the leaf of `key`, which then has room. */
function makeRoom(tree: Tree, key: number, leaf: number, side: Side): number {
  const edge = leaf === (side > 0 ? tree.lastLeaf : tree.firstLeaf) ? side : 0;
  if (countOf(tree, tree.root) === NODE_CAPACITY) raiseRoot(tree);
  let node = tree.root;
  for (let level = tree.height; level > 0; level--) {
    tree.visits++;
    let index = childIndex(tree, node, key);
    if (countOf(tree, childAt(tree, node, index)) === NODE_CAPACITY) {
      if (level > 1) relieveInner(tree, node, index, edge);
      else relieveLeaf(tree, node, index, key, side, edge);
      index = childIndex(tree, node, key);
    }
    node = childAt(tree, node, index);
  }
  return node;
}

function raiseRoot(tree: Tree): void {
  const root = addNode(tree);
  insertChild(tree, root, 0, 0, tree.root);
  tree.root = root;
  tree.height++;
}

/** Shares with a neighbour that has room; false when there is none. */
function shareWithRoomy(tree: Tree, parent: number, index: number, level: number): boolean {
  const last = countOf(tree, parent) - 1;
  if (index < last && countOf(tree, childAt(tree, parent, index + 1)) <= ROOMY_ENTRIES) {
    share(tree, parent, index, level);
    return true;
  }
  if (index === 0 || countOf(tree, childAt(tree, parent, index - 1)) > ROOMY_ENTRIES) return false;
  share(tree, parent, index - 1, level);
  return true;
}

function relieveInner(tree: Tree, parent: number, index: number, edge: Side): void {
  if (edge === 0 && shareWithRoomy(tree, parent, index, 1)) return;
  const left = childAt(tree, parent, index);
  const right = addNode(tree);
  tree.visits += 2;
  // A node must keep a child on both sides.
  moveChildrenRight(tree, left, right, edge === 0 ? NODE_CAPACITY / 2 : edge > 0 ? 1 : NODE_CAPACITY - 1);
  insertChild(tree, parent, index + 1, keyAt(tree, right, 0), right);
}

function relieveLeaf(tree: Tree, parent: number, index: number, key: number, side: Side, edge: Side): void {
  tree.run = NONE;
  tree.visits += 2;
  if (side === 0) {
    if (!shareWithRoomy(tree, parent, index, 0)) splitBehind(tree, parent, index, key, NODE_CAPACITY / 2);
    return;
  }
  const width = edge === 0 ? MIN_ENTRIES : 0;
  const far = index - side;
  const hasFar = far >= 0 && far < countOf(tree, parent);
  if (edge === 0 && hasFar && countOf(tree, childAt(tree, parent, far)) + MIN_ENTRIES <= NODE_CAPACITY)
    handOn(tree, parent, Math.min(index, far), side);
  else if (side > 0) splitBehind(tree, parent, index, key, width);
  else splitBefore(tree, parent, index, width);
}

/** Moves entries of the leaf in which a run grows to its neighbour on the far side; `left` is the lower one's index. */
function handOn(tree: Tree, parent: number, left: number, side: Side): void {
  const a = childAt(tree, parent, left);
  const b = childAt(tree, parent, left + 1);
  if (side > 0) moveLeft(tree, a, b, MIN_ENTRIES);
  else moveRight(tree, a, b, MIN_ENTRIES);
  setKey(tree, parent, left + 1, keyAt(tree, b, firstOf(tree, b)));
}

/** Adds a leaf behind child `index` and gives it the last `width` entries; with none, it is for keys from `key` on. */
function splitBehind(tree: Tree, parent: number, index: number, key: number, width: number): void {
  const left = childAt(tree, parent, index);
  const right = addNode(tree);
  linkLeaves(tree, right, nextLeaf(tree, left));
  linkLeaves(tree, left, right);
  if (width > 0) moveRight(tree, left, right, width);
  insertChild(tree, parent, index + 1, width > 0 ? keyAt(tree, right, firstOf(tree, right)) : key, right);
}

/** Adds a leaf before child `index` and gives it the first `width` entries; its room is in front of them. */
function splitBefore(tree: Tree, parent: number, index: number, width: number): void {
  const right = childAt(tree, parent, index);
  const left = addNode(tree);
  linkLeaves(tree, previousLeaf(tree, right), left);
  linkLeaves(tree, left, right);
  shift(tree, left, NODE_CAPACITY - width);
  if (width > 0) moveLeft(tree, left, right, width);
  insertChild(tree, parent, index + 1, keyAt(tree, right, firstOf(tree, right)), right);
  setChild(tree, parent, index, left);
}
