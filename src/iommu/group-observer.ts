// Turns what happens to host contexts into counters, events and fault records.
import type { ContextMirror } from '../coalesce/mirror.ts';
import type { Policy } from '../coalesce/settings.ts';
import { HOST_PAGE_SHIFT } from '../host/context.ts';
import type { GroupObserver } from './host-groups.ts';
import { reportBlocked } from './refusal.ts';
import type { IommuState } from './state.ts';

const PAGE_SHIFT = BigInt(HOST_PAGE_SHIFT);

/** What an embedder can do about entries that run short. */
function hintFor(policy: Policy, quietKnown: boolean): string {
  if (policy === 'forward') return 'policy forward never joins entries';
  if (!quietKnown)
    return `policy ${policy} joins on quiet contexts, but setBusMaster was never called: every context counts as live`;
  return 'entries can be joined while the context is quiet, or live with policy lossy';
}

/** The observer of a device's contexts; the state is asked for when it is needed, since it owns the contexts. */
export function groupObserver(stateOf: () => IommuState): GroupObserver {
  return {
    blocked(mirror, operation, errno, iova, pages) {
      const state = stateOf();
      reportBlocked(state, mirror.name, state.groups.usersOf(mirror), operation, errno, iova, pages);
    },
    fatal(mirror, contexts, errno) {
      for (const { name } of contexts) reportFatal(stateOf(), mirror, name, errno);
    },
    window(mirror, reason, iova, pages, ms) {
      const { events } = stateOf();
      if (!events.active) return;
      const start = BigInt(iova) << PAGE_SHIFT;
      const end = start + (BigInt(pages) << PAGE_SHIFT) - 1n;
      events.emit({ type: 'dma-window', context: mirror.name, reason, start, end, ms });
    },
    budgetLow(mirror) {
      const { events, plan } = stateOf();
      if (!events.active) return;
      const { entries, budget, name } = mirror;
      const hint = hintFor(plan.policy, mirror.quietKnown);
      events.emit({ type: 'budget-low', context: name, entries: entries.size, limit: budget.limit, hint });
    },
    compacted(mirror, before) {
      const { events } = stateOf();
      if (!events.active) return;
      events.emit({ type: 'compacted', context: mirror.name, before, after: mirror.entries.size });
    },
    switched(group) {
      const { events } = stateOf();
      if (!events.active) return;
      const to = group.mirror.source?.kind ?? 'blocked';
      events.emit({ type: 'context-switched', context: group.name, endpoints: group.endpointIds, to });
    },
    mmioLeftOut(group) {
      const { events } = stateOf();
      events.emit({ type: 'mmio-left-out', context: group.name, endpoints: group.endpointIds });
    },
    differ(group, operation) {
      const state = stateOf();
      state.counters.contextsDiffering++;
      state.events.emit({
        type: 'context-blocked',
        context: group.name,
        endpoints: group.endpointIds,
        reason: 'endpoints differ',
        operation,
        errno: 0,
        iova: undefined,
        end: undefined,
      });
    },
  };
}

/** Nothing could stop the devices of the context `name`. */
function reportFatal(state: IommuState, mirror: ContextMirror, name: string, errno: number): void {
  const group = state.groups.usersOf(mirror).find((each) => each.name === name);
  state.events.emit({
    type: 'context-blocked',
    context: name,
    endpoints: group?.endpointIds ?? [],
    reason: 'fatal',
    operation: 'block',
    errno,
    iova: undefined,
    end: undefined,
  });
  try {
    state.options.onFatal(name, errno);
  } catch {
    // The tables must be brought in step whatever the embedder does.
    state.events.listenerErrors++;
  }
}
