// Statistics of the host contexts, for stats().
import type { IommuState } from './state.ts';
import type { ContextStats } from './stats.ts';

/** A snapshot of every host context. */
export function contextStats(state: IommuState): ContextStats[] {
  return [...state.groups.all].map((group) => {
    const { mirror } = group;
    const { tally } = mirror;
    return {
      name: group.name,
      flavour: group.context.flavour,
      sharedWith: mirror.contexts.filter((context) => context !== group.context).map(({ name }) => name),
      endpoints: group.endpointIds,
      state: mirror.source?.kind ?? 'blocked',
      blockedBy: mirror.blockedBy,
      entries: mirror.entries.size,
      entriesPeak: tally.entriesPeak,
      domainEntriesPeak: tally.domainEntriesPeak,
      statedPeak: tally.statedEntries,
      statedPagesPeak: tally.statedPages,
      limit: mirror.budget.limit,
      pages: mirror.pages,
      quiet: mirror.quiet,
      guestMappings: mirror.mappings?.size ?? 0,
      joined: mirror.entries.joined,
      gathered: mirror.entries.gathered,
      planned: mirror.waiting.size - mirror.waiting.revoked + (mirror.plan.open ? 1 : 0),
      plannedPages: mirror.waiting.pages - mirror.waiting.revokedPages + mirror.plan.pages,
      revoked: mirror.waiting.revoked,
      revokedPages: mirror.waiting.revokedPages,
      joinsMade: mirror.entries.joinsMade,
      gathersMade: mirror.entries.gathersMade,
      demotions: tally.demotions,
      windows: { count: tally.windows, open: mirror.waiting.revoked, longestMs: tally.longestWindow },
      stalls: tally.stalls,
      lowWaterHits: tally.lowWaterHits,
      compactions: tally.compactions,
      callsSaved: tally.callsSaved,
      failedInstalls: tally.failedInstalls,
      mapCalls: tally.mapCalls,
      unmapCalls: tally.unmapCalls,
      unmapAllCalls: tally.unmapAllCalls,
      blocks: tally.blocks,
      failedSwitches: group.failedSwitches,
    };
  });
}
