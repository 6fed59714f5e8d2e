// Statistics of the host contexts, for stats().
import type { IommuState } from './state.ts';
import type { ContextStats } from './stats.ts';

/** A snapshot of every host context. */
export function contextStats(state: IommuState): ContextStats[] {
  return [...state.groups.all].map((group) => {
    const { mirror } = group;
    return {
      name: group.name,
      flavour: mirror.context.flavour,
      endpoints: group.endpointIds,
      state: mirror.source?.kind ?? 'blocked',
      blockedBy: mirror.blockedBy,
      entries: mirror.entries.size,
      entriesPeak: mirror.entriesPeak,
      domainEntriesPeak: mirror.domainEntriesPeak,
      pages: mirror.pages,
      mapCalls: mirror.mapCalls,
      unmapCalls: mirror.unmapCalls,
      unmapAllCalls: mirror.unmapAllCalls,
      blocks: mirror.blocks,
      failedSwitches: group.failedSwitches,
    };
  });
}
