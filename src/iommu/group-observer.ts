// Turns what happens to host contexts into counters, events and fault records.
import type { ContextMirror } from '../coalesce/mirror.ts';
import type { GroupObserver, HostGroup } from './host-groups.ts';
import { reportBlocked } from './refusal.ts';
import type { IommuState } from './state.ts';

/** The observer of a device's contexts; the state is asked for when it is needed, since it owns the contexts. */
export function groupObserver(stateOf: () => IommuState): GroupObserver {
  const groupOf = (mirror: ContextMirror): HostGroup | undefined => stateOf().groups.groupOfMirror(mirror);
  return {
    blocked(mirror, operation, errno, iova) {
      const group = groupOf(mirror);
      if (group !== undefined) reportBlocked(stateOf(), group, operation, errno, iova);
    },
    fatal(mirror, errno) {
      const state = stateOf();
      state.events.emit({
        type: 'context-blocked',
        context: mirror.context.name,
        endpoints: groupOf(mirror)?.endpointIds ?? [],
        reason: 'fatal',
        operation: 'block',
        errno,
        iova: undefined,
      });
      try {
        state.options.onFatal(mirror.context.name, errno);
      } catch {
        // The tables must be brought in step whatever the embedder does.
        state.events.listenerErrors++;
      }
    },
    switched(group) {
      const { events } = stateOf();
      if (!events.active) return;
      const to = group.mirror.source?.kind ?? 'blocked';
      events.emit({ type: 'context-switched', context: group.name, endpoints: group.endpointIds, to });
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
      });
    },
  };
}
