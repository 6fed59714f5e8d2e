// How many entries a context may still have: counted here, and read from the host again only after it had none left.
// Unit: entries.
import type { ContextMirror } from './mirror.ts';

/** Entries of one context that are taken, promised, and free. */
export class Budget {
  /** Most entries that the host is known to allow; Infinity without a limit. */
  limit: number;
  /** True after a compaction that freed little, until entries enough were removed or the context turned quiet. */
  exhausted = false;
  #removed = 0;
  /** Entries after the last compaction. */
  #compacted = 0;
  /** Host calls after the last compaction. */
  #calls = -1;
  #low = false;
  readonly #mirror: ContextMirror;

  constructor(mirror: ContextMirror) {
    this.#mirror = mirror;
    const { limits } = mirror.context;
    this.limit = Math.min(limits.entryLimit, mirror.context.entriesLeft());
  }

  /** Entries that are live, in the batch at hand, or promised to what waits. */
  get taken(): number {
    const { entries, waiting, plan } = this.#mirror;
    return entries.size + plan.batched + waiting.size - waiting.revoked + (plan.open ? 1 : 0);
  }

  /** {@link taken}, and one kept free while an entry joins mappings, so that one partial UNMAP has room. */
  get needed(): number {
    return this.taken + (this.joins ? 1 : 0);
  }

  /** True when an entry joins mappings, or will. */
  get joins(): boolean {
    const { entries, waiting, plan } = this.#mirror;
    return entries.joined + entries.gathered + waiting.several + plan.joins > 0;
  }

  /** Entries that nothing needs. */
  get left(): number {
    return this.limit - this.needed;
  }

  /** Free entries below which quiet contexts are compacted. */
  get lowWater(): number {
    return Math.min(this.#mirror.settings.lowWater, Math.floor(this.limit / 8));
  }

  get isLow(): boolean {
    return this.left < this.lowWater;
  }

  /** True when windows of few pieces must be gathered too: entries are short, or would be at the present density. */
  get tight(): boolean {
    const { settings, entries, waiting, plan, backing } = this.#mirror;
    if (settings.gather === 'always') return true;
    if (this.limit === Infinity) return false;
    const { needed, limit, lowWater } = this;
    if (limit - needed < lowWater + 16) return true;
    const pages = entries.pages + waiting.pages + plan.pages;
    return pages > 0 && (needed / pages) * backing.ramPages > limit - lowWater;
  }

  /** The host had no entry left: what it says now holds. */
  readAgain(): void {
    const { context, entries } = this.#mirror;
    this.limit = Math.min(context.limits.entryLimit, entries.size + context.entriesLeft());
  }

  /** `count` entries were removed, or (Infinity) the context turned quiet or has another source. */
  relieved(count: number): void {
    this.#removed += count;
    if (this.#removed < this.#worthwhile) return;
    this.#removed = 0;
    this.exhausted = false;
    if (count === Infinity) this.#compacted = 0;
  }

  /** False when no entry was made or removed since the last compaction. */
  get changedSinceCompaction(): boolean {
    return this.#calls !== this.#mirror.tally.mapCalls + this.#mirror.tally.unmapCalls;
  }

  /** Notes that a compaction brought the entries down from `before`: one that frees little is not tried again soon. */
  compacted(before: number): void {
    const { size } = this.#mirror.entries;
    this.#calls = this.#mirror.tally.mapCalls + this.#mirror.tally.unmapCalls;
    this.#compacted = size;
    this.#removed = 0;
    this.exhausted = before - size < this.#worthwhile;
  }

  /** True when so many entries came since the last compaction that another one, before there is need, pays. */
  get compactionPays(): boolean {
    return this.#mirror.entries.size >= this.#compacted + Math.max(1, this.lowWater >> 1);
  }

  get #worthwhile(): number {
    return Math.max(1, this.lowWater >> 3);
  }

  /** Notes whether entries run short, and tells it once each time they begin to. */
  watch(): void {
    if (this.#low) {
      // Not again for every entry that comes and goes.
      if (this.left >= 2 * this.lowWater) this.#low = false;
      return;
    }
    if (!this.isLow) return;
    this.#low = true;
    this.#mirror.tally.lowWaterHits++;
    this.#mirror.observer.budgetLow(this.#mirror);
  }
}
