// Checks the inner structure of a table; for tests only, O(n). It shares no search code with the table.
import { END, NODE_CAPACITY, NONE } from './slab.ts';
import type { IntervalTable } from './table.ts';
import {
  baseOf,
  childAt,
  countOf,
  firstOf,
  keyAt,
  MIN_ENTRIES,
  nextLeaf,
  previousLeaf,
  slabOf,
  type Tree,
} from './tree.ts';

/** What the walk over the tree has seen so far. */
interface Seen {
  readonly leaves: number[];
  nodes: number;
  size: number;
  lastEnd: number;
}

function demand(holds: boolean, what: string): void {
  if (!holds) throw new Error(`interval table is damaged: ${what}`);
}

/** @throws Error that says which invariant does not hold. */
export function checkInvariants(table: IntervalTable): void {
  const tree = table.tree;
  const seen: Seen = { leaves: [], nodes: 0, size: 0, lastEnd: 0 };
  if (tree.root === NONE) demand(tree.height === 0, 'an empty tree has levels');
  else checkNode(tree, tree.root, tree.height, { low: 0, high: Infinity, leftEdge: true, rightEdge: true }, seen);
  demand(seen.size === tree.size, `size is ${tree.size}, found ${seen.size}`);
  demand(seen.nodes === tree.nodes, `nodes is ${tree.nodes}, found ${seen.nodes}`);
  demand(tree.shared || tree.pool.used === seen.nodes, 'nodes have leaked');
  demand(tree.hint === NONE || seen.leaves.includes(tree.hint), 'the hint is no leaf');
  demand(tree.hintIndex >= 0 && tree.hintIndex < NODE_CAPACITY, 'the hint is outside a leaf');
  demand(tree.run === NONE || seen.leaves.includes(tree.run), 'the run is in no leaf');
  checkChain(tree, seen.leaves);
}

interface Place {
  readonly low: number;
  readonly high: number;
  readonly leftEdge: boolean;
  readonly rightEdge: boolean;
}

function checkNode(tree: Tree, node: number, level: number, place: Place, seen: Seen): void {
  const count = countOf(tree, node);
  seen.nodes++;
  demand(count >= 1 && count <= NODE_CAPACITY, `a node has ${count} entries`);
  // A path is mended from the root down: a join below takes one entry more from a node that was just full enough.
  const least = level === 0 ? MIN_ENTRIES : MIN_ENTRIES - 1;
  demand(place.leftEdge || place.rightEdge || count >= least, `an inner node has only ${count} entries`);
  const first = firstOf(tree, node);
  demand(level === 0 || first === 0, 'an inner node has a removed front');
  for (let i = 0; i < first; i++) demand(keyAt(tree, node, i) === -Infinity, 'a removed entry has a start');
  for (let i = first + count; i < NODE_CAPACITY; i++)
    demand(keyAt(tree, node, i) === Infinity, 'an unused entry has a start');
  if (level === 0) {
    const bounded = Math.max(tree.runLow, 0) >= place.low && tree.runHigh <= place.high;
    demand(node !== tree.run || bounded, 'the run may leave its leaf');
    seen.leaves.push(node);
    seen.size += count;
    for (let i = first; i < first + count; i++) checkEntry(tree, node, i, place, seen);
    return;
  }
  for (let i = 0; i < count; i++) {
    const low = i === 0 ? place.low : keyAt(tree, node, i);
    const high = i + 1 < count ? keyAt(tree, node, i + 1) : place.high;
    demand(low >= place.low && low < high, 'separators are out of order');
    const leftEdge = place.leftEdge && i === 0;
    const rightEdge = place.rightEdge && i + 1 === count;
    checkNode(tree, childAt(tree, node, i), level - 1, { low, high, leftEdge, rightEdge }, seen);
  }
}

function checkEntry(tree: Tree, leaf: number, index: number, place: Place, seen: Seen): void {
  const start = keyAt(tree, leaf, index);
  const end = slabOf(tree, leaf).doubles[baseOf(leaf) + index + END]!;
  demand(start < end, `interval at ${start} is empty`);
  demand(start >= seen.lastEnd, `interval at ${start} overlaps or is out of order`);
  demand(start >= place.low && start < place.high, `interval at ${start} is in the wrong leaf`);
  seen.lastEnd = end;
}

function checkChain(tree: Tree, leaves: readonly number[]): void {
  demand(tree.firstLeaf === (leaves.at(0) ?? NONE), 'the first leaf is wrong');
  demand(tree.lastLeaf === (leaves.at(-1) ?? NONE), 'the last leaf is wrong');
  leaves.forEach((leaf, i) => {
    demand(previousLeaf(tree, leaf) === (i > 0 ? leaves[i - 1]! : NONE), 'a link to the left is wrong');
    demand(nextLeaf(tree, leaf) === (leaves[i + 1] ?? NONE), 'a link to the right is wrong');
  });
}
