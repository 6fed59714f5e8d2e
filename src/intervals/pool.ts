// The store of tree nodes: fixed slabs with free lists. It knows nothing of keys.
// A table has a pool of its own unless one is given to it. Many small tables should share one: a table that holds one
// interval then costs one node (1616 bytes) and no typed array of its own. Sharing has one duty: a table must be cleared
// before it is dropped, since the pool cannot see that its nodes are no longer reachable.
// Growth: the first slab starts with one node and doubles to 32 nodes; after that whole slabs are added, nothing is
// copied. Allocation takes the lowest slab that has room, so that slabs with high numbers run empty; an empty slab is
// released, except one that is kept against alternating insert and remove at the border of a slab.
import { LOCAL_MASK, NODE_BYTES, NONE, SLAB_NODES, SLAB_SHIFT, Slab } from './slab.ts';

/** Nodes that an empty pool keeps for reuse: at most 6.5 KB. */
const KEPT_NODES = 4;

/** Unused nodes before {@link NodePool.sparse} asks for compaction: one spare slab and one that is partly used. */
const SPARSE_SLACK = 2 * SLAB_NODES;

/** A store of tree nodes for one {@link IntervalTable} or for many on the same thread. */
export class NodePool {
  /** Slabs by number; undefined where one was released. The array itself stays the same for the pool's life. */
  readonly slabs: (Slab | undefined)[] = [];
  /** Nodes in use. */
  used = 0;
  /** Nodes that there is memory for. */
  capacity = 0;
  readonly #roomy: number[] = []; // bit set, 32 slabs a word: slabs with a free node
  readonly #vacant: number[] = []; // numbers of released slabs
  #emptySlabs = 0;

  /** Bytes of typed arrays held. */
  get bytes(): number {
    return this.capacity * NODE_BYTES;
  }

  /** True when more than two slabs are unused: nodes that survive a removal should move to the lowest slab with room. */
  get sparse(): boolean {
    return this.capacity > this.used + SPARSE_SLACK;
  }

  /** Number of the lowest slab that has a free node, NONE when all are full. */
  lowestRoom(): number {
    const roomy = this.#roomy;
    for (let word = 0; word < roomy.length; word++) {
      const bits = roomy[word]!;
      if (bits !== 0) return word * 32 + 31 - Math.clz32(bits & -bits);
    }
    return NONE;
  }

  /** Takes a node with no entries and no links; its contents are undefined. May replace slab 0 by a larger copy. */
  allocate(): number {
    let index = this.lowestRoom();
    if (index === NONE) index = this.#extend();
    const slab = this.slabs[index]!;
    if (slab.used === 0) this.#emptySlabs--;
    const local = slab.take();
    if (slab.used === slab.capacity) this.#clearRoomy(index);
    this.used++;
    return (index << SLAB_SHIFT) | local;
  }

  /** Gives `node` back; memory that is no longer needed is released. */
  release(node: number): void {
    const index = node >> SLAB_SHIFT;
    const slab = this.slabs[index]!;
    slab.give(node & LOCAL_MASK);
    this.#setRoomy(index);
    this.used--;
    if (slab.used !== 0) return;
    this.#emptySlabs++;
    if (this.used === 0) this.reset();
    else if (this.#emptySlabs > 1) this.#drop(index, slab);
  }

  /** Forgets every node and releases all memory but a small first slab. */
  reset(): void {
    const first = this.slabs[0];
    const kept = this.slabs.length === 1 && first !== undefined && first.capacity <= KEPT_NODES;
    this.slabs.length = kept ? 1 : 0;
    this.#roomy.length = 0;
    this.#vacant.length = 0;
    this.used = 0;
    this.capacity = 0;
    this.#emptySlabs = 0;
    if (!kept) return;
    first.reset();
    this.capacity = first.capacity;
    this.#emptySlabs = 1;
    this.#setRoomy(0);
  }

  #extend(): number {
    const first = this.slabs[0];
    if (first !== undefined && first.capacity < SLAB_NODES) {
      this.slabs[0] = first.grown(first.capacity * 2);
      this.capacity += first.capacity;
      this.#setRoomy(0);
      return 0;
    }
    const slab = new Slab(this.capacity === 0 ? 1 : SLAB_NODES);
    const index = this.#vacant.pop() ?? this.slabs.length;
    this.slabs[index] = slab;
    this.capacity += slab.capacity;
    this.#emptySlabs++;
    this.#setRoomy(index);
    return index;
  }

  #drop(index: number, slab: Slab): void {
    this.slabs[index] = undefined;
    this.#vacant.push(index);
    this.#clearRoomy(index);
    this.capacity -= slab.capacity;
    this.#emptySlabs--;
  }

  #setRoomy(index: number): void {
    const word = index >> 5;
    while (this.#roomy.length <= word) this.#roomy.push(0);
    this.#roomy[word] = this.#roomy[word]! | (1 << (index & 31));
  }

  #clearRoomy(index: number): void {
    const word = index >> 5;
    this.#roomy[word] = this.#roomy[word]! & ~(1 << (index & 31));
  }
}
