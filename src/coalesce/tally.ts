// What the plan of one context has done so far: counters for stats(), and the windows in which a live mapping lost access.
import type { PlanSettings } from './settings.ts';

/** Why a live mapping lost access for a moment, or until entries come free. */
export type WindowReason = 'demotion' | 'compaction' | 'revoked' | 'memory';

/** Counters of one context. */
export class PlanTally {
  mapCalls = 0;
  unmapCalls = 0;
  unmapAllCalls = 0;
  entriesPeak = 0;
  /** Highest number of entries while a domain was mirrored (bypass is counted apart). */
  domainEntriesPeak = 0;
  /** Peaks of entries and of RAM pages that plans stated before they began. */
  statedEntries = 0;
  statedPages = 0;
  blocks = 0;
  /** Entries that a partial UNMAP took apart. */
  demotions = 0;
  /** Windows that are over or open, and the longest of those that are over, in milliseconds. */
  windows = 0;
  longestWindow = 0;
  /** Disturbances that `pauseDma` turned into a stall. */
  stalls = 0;
  lowWaterHits = 0;
  compactions = 0;
  /** Host calls that a 1:1 plan would have made and this one did not. */
  callsSaved = 0;
  /** Planned installations that the host refused. */
  failedInstalls = 0;
}

/** Brackets a change that takes access away from live mappings for a moment. */
export class Disturbance {
  readonly #settings: PlanSettings;
  readonly #contexts: readonly string[];
  #paused: readonly string[] = [];
  #since = 0;

  /** `contexts`: those whose devices may notice. */
  constructor(settings: PlanSettings, contexts: readonly { readonly name: string }[]) {
    this.#settings = settings;
    this.#contexts = contexts.map(({ name }) => name);
  }

  /** Stalls DMA when the embedder can; starts the clock. */
  begin(): void {
    const { pauseDma, now } = this.#settings;
    this.#paused = this.#contexts.filter((context) => pauseDma?.(context) === true);
    this.#since = now();
  }

  /** Ends the stall; returns the milliseconds of a window, or undefined when all DMA was stalled. */
  end(): number | undefined {
    const length = Math.max(0, this.#settings.now() - this.#since);
    for (const context of this.#paused) this.#settings.resumeDma?.(context);
    return this.#paused.length === this.#contexts.length ? undefined : length;
  }
}
