// What an embedder chooses about the host plan: the policy and its limits. One object per device, shared by all of its
// contexts, so that a change at run time holds from the next plan on.
// Units: 4 KiB pages; milliseconds.

/** Policies of the plan (spec/design.md). */
export const POLICIES = ['forward', 'exact', 'kick', 'lossy'] as const;

/**
 * Name of a policy. `forward`: one host entry for each guest mapping. `exact`: joins and gathers while the context is
 * quiet. `kick`: joins inside one kick as well. `lossy`: also compacts live contexts when entries run short.
 */
export type Policy = (typeof POLICIES)[number];

/** When scattered memory is gathered behind a virtual window. */
export const GATHER_MODES = ['never', 'auto', 'always'] as const;

/** `auto`: windows of more than 16 pieces, and of more than one when entries are short. */
export type GatherMode = (typeof GATHER_MODES)[number];

/** A window of I/O virtual addresses is gathered from about this many pages (2 MiB). */
export const WINDOW_PAGES = 512;

/** A gathered window ends with the mapping that fills it; one that would reach further than this starts the next. */
export const WINDOW_PAGES_MOST = WINDOW_PAGES + 64;

/** In mode `auto` a window of more pieces than this is gathered. */
export const GATHER_ABOVE = 16;

/** Default of {@link PlanSettings.maxEntryPages}: 256 MiB, so that no join pins for long. */
export const MAX_ENTRY_PAGES = 65_536;

/** Default of {@link PlanSettings.lowWater}. */
export const LOW_WATER = 8192;

/** Choices of the embedder. */
export interface PlanSettings {
  policy: Policy;
  readonly gather: GatherMode;
  /** No join makes a larger entry; a single mapping is never cut by it. */
  readonly maxEntryPages: number;
  /** Free entries below which quiet contexts are compacted; a context takes at most an eighth of its limit. */
  readonly lowWater: number;
  /** Clock for the lengths of windows. */
  readonly now: () => number;
  /** Stalls all DMA of a context's devices; true when it did, so that what follows is no window. */
  readonly pauseDma: ((context: string) => boolean) | undefined;
  readonly resumeDma: ((context: string) => void) | undefined;
}

/** True when a policy joins on a context that can do no DMA, or whose host cuts entries without loss of access. */
export function joinsWhenQuiet(policy: Policy): boolean {
  return policy !== 'forward';
}

/** True when a policy joins the MAPs of one kick on a live context. */
export function joinsInKick(policy: Policy): boolean {
  return policy === 'kick' || policy === 'lossy';
}

/** True when a policy may disturb a live context to make room. */
export function compactsLive(policy: Policy): boolean {
  return policy === 'lossy';
}
