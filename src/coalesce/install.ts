// Plans guest mappings with as few entries as the shape allows: collects stretches while no device can see them, and hands
// what is complete to the sender (send.ts).
// Unit: 4 KiB page numbers, half-open.
import { Errno } from '../base/errors.ts';
import { HOST_MMIO, HOST_PAGE_SHIFT } from '../host/context.ts';
import { NONE } from '../intervals/table.ts';
import type { ContextMirror } from './mirror.ts';
import { ALL_ANSWERED, EntrySender } from './send.ts';
import { EntryShaper, GATHERABLE } from './shaper.ts';
import { shapeLimits, stretchFlags } from './stretch.ts';
import { revokeOneOf } from './revocation.ts';
import { REVOKED } from './waiting.ts';

/** Entries are installed in chunks of at most this many operations. */
const CHUNK = 1024;

/** Times that what is planned is gone through before it counts as failed. */
const PASSES = 3;

/** What is being installed into one context. */
export class InstallPlan {
  /** The batch on its way to the host. */
  readonly sender: EntrySender;
  readonly #mirror: ContextMirror;
  /** The stretch that grows with the requests. */
  readonly #shaper: EntryShaper;
  /** For stretches that were kept and are shaped in one go. */
  readonly #reshaper: EntryShaper;
  /** First pages of usable ranges: no entry may stand across one. */
  readonly #edges: readonly number[];

  constructor(mirror: ContextMirror) {
    this.#mirror = mirror;
    this.sender = new EntrySender(mirror);
    const limits = shapeLimits(mirror, () => mirror.budget.tight);
    this.#shaper = new EntryShaper(this.sender, limits);
    this.#reshaper = new EntryShaper(this.sender, limits);
    const shift = BigInt(HOST_PAGE_SHIFT);
    this.#edges = mirror.context.limits.usableRanges.map(({ start }) => Number(start >> shift));
  }

  /** True while a stretch grows. */
  get open(): boolean {
    return this.#shaper.pieces > 0;
  }

  /** RAM pages of the stretch that grows, and of the batch that is not yet applied. */
  get pages(): number {
    return this.sender.pages + (this.open ? this.#shaper.end - this.#shaper.start : 0);
  }

  /** Entries that join mappings: in the batch, and the stretch that grows. */
  get joins(): number {
    return this.sender.joins + (this.#shaper.mappings > 1 ? 1 : 0);
  }

  /** Entries in the batch that is not yet applied. */
  get batched(): number {
    return this.sender.count;
  }

  /** True when an entry must not stand across page `iova`. */
  isEdge(iova: number): boolean {
    for (const edge of this.#edges) if (edge === iova) return true;
    return false;
  }

  #crossesEdge(start: number, end: number): boolean {
    for (const edge of this.#edges) if (start < edge && edge < end) return true;
    return false;
  }

  /** Forgets what is planned: the context has another source now. */
  forget(): void {
    this.#shaper.forget();
    this.#reshaper.forget();
    this.sender.forget();
  }

  /** Plans a mapping of the source; what is complete goes into the batch. Space without memory is left out. */
  add(iova: number, pages: number, gpa: number, rights: number): void {
    const { backing } = this.#mirror;
    const alone = !backing.locate(gpa, pages, rights) || (backing.foundFlags & HOST_MMIO) !== 0;
    if (alone || this.#crossesEdge(iova, iova + pages)) {
      this.sender.addPlain(iova, pages, gpa, rights);
      return;
    }
    const flags = stretchFlags(this.#mirror, backing.foundFlags);
    if (flags === 0) return;
    const shaper = this.#shaper;
    if (shaper.continues(iova, flags) && !this.isEdge(iova)) {
      shaper.append(iova, pages, backing.foundVa, flags, backing.region);
      return;
    }
    const { foundVa, region } = backing;
    if (this.#hasNeighbour(iova, iova + pages, flags)) {
      this.#settle(iova, iova + pages, flags, false);
      return;
    }
    this.park();
    shaper.append(iova, pages, foundVa, flags, region);
  }

  /** True when this mapping continues the growing stretch. */
  continuedBy(iova: number, pages: number, gpa: number, rights: number): boolean {
    const { backing } = this.#mirror;
    if (!this.open || this.isEdge(iova) || !backing.locate(gpa, pages, rights)) return false;
    if ((backing.foundFlags & HOST_MMIO) !== 0) return false;
    return this.#shaper.continues(iova, stretchFlags(this.#mirror, backing.foundFlags));
  }

  /** Lets the growing stretch wait among the others; a long run is complete and goes into the batch. */
  park(): void {
    const shaper = this.#shaper;
    if (shaper.pieces === 0) return;
    const { start, end, flags } = shaper;
    const several = shaper.mappings > 1;
    if (end - start >= shaper.window) {
      shaper.finish();
      return;
    }
    shaper.forget();
    this.#settle(start, end, flags, several);
  }

  /** As {@link park}, but nothing is installed: mappings of the stretch are about to go. */
  parkForRemoval(start: number, end: number): void {
    const shaper = this.#shaper;
    if (shaper.pieces === 0 || shaper.start >= end || shaper.end <= start) return;
    this.#mirror.waiting.add(shaper.start, shaper.end, shaper.flags, shaper.mappings > 1);
    shaper.forget();
  }

  /** Takes the mapping [start, end) out of what is planned. */
  withdraw(start: number, end: number): void {
    this.parkForRemoval(start, end);
    const { waiting, mappings, budget } = this.#mirror;
    waiting.subtract(start, end, (page) => (mappings?.locate(page) === true ? mappings.found.end : page));
    // A stretch that was cut in two needs one entry more than was promised.
    if (budget.taken > budget.limit && !this.#mirror.relieve()) revokeOneOf(this.#mirror, start, end);
  }

  /** Installs everything that is planned, one entry a stretch; false when something that was answered failed. */
  installWaiting(): boolean {
    const { waiting } = this.#mirror;
    const { sender } = this;
    this.park();
    // A compaction on the way may put stretches back behind the place that was reached.
    for (let pass = 0; pass < PASSES && waiting.size > waiting.revoked && sender.failed === 0; pass++) {
      this.#installOnce();
    }
    const left = sender.flush() && !this.#mirror.isBlocked() ? this.#firstPlanned() : NONE;
    if (left !== NONE)
      sender.fail(waiting.table.startAt(left), waiting.table.endAt(left) - waiting.table.startAt(left), Errno.ENOSPC);
    return sender.failed === 0;
  }

  #installOnce(): void {
    const { waiting } = this.#mirror;
    const { sender } = this;
    for (let slot = waiting.table.first(); slot !== NONE && sender.failed === 0;) {
      const start = waiting.table.startAt(slot);
      const end = waiting.table.endAt(slot);
      const flags = waiting.table.flagsAt(slot);
      if ((flags & REVOKED) === 0) {
        waiting.take(slot);
        this.#shape(start, end, flags);
        if (sender.count >= CHUNK) sender.flush();
      }
      slot = waiting.table.seek(end);
    }
    sender.flush();
  }

  /** Slot of a stretch that is planned, or NONE. */
  #firstPlanned(): number {
    const { table, size, revoked } = this.#mirror.waiting;
    if (size === revoked) return NONE;
    let slot = table.first();
    while (slot !== NONE && (table.flagsAt(slot) & REVOKED) !== 0) slot = table.next(slot);
    return slot;
  }

  /** {@link installWaiting} when everything was answered: a failure blocks the context and is told. */
  installPlanned(operation: string): void {
    this.sender.refusals = ALL_ANSWERED;
    if (!this.installWaiting()) this.sender.blockFailed(operation);
  }

  /** True when a short stretch with the same flags touches [start, end). */
  #hasNeighbour(start: number, end: number, flags: number): boolean {
    const { waiting } = this.#mirror;
    if (waiting.size === 0) return false;
    return this.#joinable(waiting.endingAt(start), flags, start) || this.#joinable(waiting.startingAt(end), flags, end);
  }

  #joinable(slot: number, flags: number, border: number): boolean {
    const { table } = this.#mirror.waiting;
    if (slot === NONE || table.flagsAt(slot) !== flags || this.isEdge(border)) return false;
    if (table.endAt(slot) - table.startAt(slot) >= this.#shaper.window) return false;
    return (flags & GATHERABLE) !== 0 || this.#isOneRun(border);
  }

  /** True when the mappings before and behind `border` show contiguous host virtual pages of one region. */
  #isOneRun(border: number): boolean {
    const { backing, mappings } = this.#mirror;
    if (mappings?.locate(border - 1) !== true) return false;
    const { start, end, gpa, rights } = mappings.found;
    if (!backing.locate(gpa, end - start, rights)) return false;
    const { foundVa, region } = backing;
    if (!mappings.locate(border)) return false;
    const { found } = mappings;
    if (!backing.locate(found.gpa, found.end - found.start, found.rights)) return false;
    return backing.foundVa === foundVa + (end - start) && backing.region === region;
  }

  /** Adds a stretch to those that wait; with short neighbours that make it as long as a window it is shaped. */
  #settle(from: number, to: number, flags: number, several: boolean): void {
    const { waiting } = this.#mirror;
    let start = from;
    let end = to;
    const left = waiting.endingAt(start);
    if (this.#joinable(left, flags, start)) {
      start = waiting.table.startAt(left);
      waiting.take(left);
    }
    const right = waiting.startingAt(end);
    if (this.#joinable(right, flags, end)) {
      end = waiting.table.endAt(right);
      waiting.take(right);
    }
    if (end - start < this.#shaper.window) {
      waiting.add(start, end, flags, several || end - start > to - from);
      return;
    }
    const rest = this.#feed(start, end, flags);
    if (rest.pieces === 0) return;
    if (rest.end - rest.start >= rest.window) rest.finish();
    else waiting.add(rest.start, rest.end, flags, rest.mappings > 1);
    rest.forget();
  }

  /** Puts a whole stretch into the batch, nothing of it waits. */
  #shape(start: number, end: number, flags: number): void {
    this.#feed(start, end, flags).finish();
  }

  /** Feeds the mappings of [start, end) to the second shaper, which is returned with what is not complete. */
  #feed(start: number, end: number, flags: number): EntryShaper {
    const { backing, mappings } = this.#mirror;
    const shaper = this.#reshaper;
    this.sender.held = true;
    mappings?.walkRange(start, end, (iova, pages, gpa, rights) => {
      if (backing.locate(gpa, pages, rights)) shaper.append(iova, pages, backing.foundVa, flags, backing.region);
      return true;
    });
    this.sender.held = false;
    return shaper;
  }
}
