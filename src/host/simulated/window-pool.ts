// The virtual windows of one container: addresses reserved for gathers, and which of them stand as windows now.
// Not here: what the kernel lets be mapped (address-space.ts), when windows are built and used (simulated-context.ts).
// Unit: 4 KiB page numbers, ends exclusive.
import { Errno } from '../../base/errors.ts';
import type { HostBatch } from '../context.ts';
import { HostRight } from '../context.ts';
import type { SimulatedAddressSpace } from './address-space.ts';

/** Pages of the first arena (4 GiB of addresses, no memory); later ones double. */
const FIRST_ARENA_PAGES = 2 ** 20;

/** Window starts are multiples of the largest of these that is not longer than the window, for huge pages. */
const ALIGNMENTS = [2 ** 18, 2 ** 9, 1];

/** One stretch of reserved addresses. Windows in it have a free page between them, so that none ever grows together. */
interface Arena {
  readonly start: number;
  readonly pages: number;
  /** First page that no window has had since the arena was last empty. */
  next: number;
  /** Windows that stand in it. */
  windows: number;
}

interface StandingWindow {
  readonly pages: number;
  readonly pieces: number;
  readonly arena: Arena;
}

/** The windows of one container. */
export class WindowPool {
  readonly #space: SimulatedAddressSpace;
  readonly #limit: number;
  readonly #standing = new Map<number, StandingWindow>();
  #arena: Arena | undefined;
  /** One mapping to give up when the kernel's limit of mappings stands in the way of dropping a window; 0: none. */
  #spare = 0;
  /** Pieces of all windows that stand. */
  pieces = 0;

  /** `limit`: most pieces of the windows that stand at a time. */
  constructor(space: SimulatedAddressSpace, limit: number) {
    this.#space = space;
    this.#limit = limit;
  }

  /** Number of windows that stand. */
  get size(): number {
    return this.#standing.size;
  }

  /** True when a window of `pages` pages stands at `start`. */
  has(start: number, pages: number): boolean {
    return this.#standing.get(start)?.pages === pages;
  }

  /** Builds the window of gather `i` and records it in the batch; 0, or the errno with which nothing is left of it. */
  build(batch: HostBatch, i: number): number {
    const pages = batch.pages[i]!;
    const pieces = batch.pieces[i]!;
    if (pages === 0) return Errno.EINVAL;
    if (this.pieces + pieces > this.#limit) return Errno.ENOMEM;
    const arena = this.#arenaFor(pages);
    if (arena === undefined) return Errno.ENOMEM;
    const start = placeIn(arena, pages);
    const errno = this.#fill(start, batch, i);
    if (errno !== 0) {
      this.#clear(start, pages);
      return errno;
    }
    arena.next = start + pages + 1;
    arena.windows++;
    this.#standing.set(start, { pages, pieces, arena });
    this.pieces += pieces;
    batch.window[i] = start;
    return 0;
  }

  /** Drops the window at `start`; nothing when none stands there. */
  drop(start: number): void {
    const window = this.#standing.get(start);
    if (window === undefined) return;
    const { pages, pieces, arena } = window;
    this.#clear(start, pages);
    this.#standing.delete(start);
    this.pieces -= pieces;
    arena.windows--;
    if (arena.windows > 0) return;
    arena.next = arena.start + 1;
    if (arena !== this.#arena) this.#space.release(arena.start, arena.pages);
  }

  /** Drops every window and gives the addresses back. */
  close(): void {
    for (const start of this.#standing.keys()) this.drop(start);
    if (this.#arena !== undefined) this.#space.release(this.#arena.start, this.#arena.pages);
    if (this.#spare > 0) this.#space.release(this.#spare, 1);
    this.#arena = undefined;
    this.#spare = 0;
  }

  #fill(start: number, batch: HostBatch, i: number): number {
    const write = (batch.rights[i]! & HostRight.write) !== 0;
    const first = batch.va[i]!;
    return this.#space.aliasAll(start, batch.pieceVa, batch.piecePages, first, first + batch.pieces[i]!, write);
  }

  /** Maps PROT_NONE over a window. It frees areas, but the kernel refuses every mmap() above its limit. */
  #clear(start: number, pages: number): void {
    if (this.#space.drop(start, pages) === 0) return;
    this.#space.release(this.#spare, 1);
    this.#space.drop(start, pages);
    this.#spare = Math.max(0, this.#space.reserve(1));
  }

  /** An arena with room for a window, undefined when no more addresses can be reserved. */
  #arenaFor(pages: number): Arena | undefined {
    const current = this.#arena;
    if (current !== undefined && placeIn(current, pages) + pages < current.start + current.pages) return current;
    if (this.#spare <= 0) this.#spare = Math.max(0, this.#space.reserve(1));
    if (this.#spare === 0) return undefined;
    // The alignment of a window is at most its length.
    const needed = 2 * pages + 2;
    const size = Math.max(FIRST_ARENA_PAGES, 2 ** Math.ceil(Math.log2(needed)), (current?.pages ?? 0) * 2);
    const start = this.#space.reserve(size);
    if (start < 0) return undefined;
    if (current?.windows === 0) this.#space.release(current.start, current.pages);
    this.#arena = { start, pages: size, next: start + 1, windows: 0 };
    return this.#arena;
  }
}

function placeIn(arena: Arena, pages: number): number {
  const alignment = ALIGNMENTS.find((size) => size <= pages) ?? 1;
  return Math.ceil(arena.next / alignment) * alignment;
}
