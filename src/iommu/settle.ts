// Brings a host context in step with the guest's state and tells when the host refuses.
import type { Domain } from './domain.ts';
import type { Endpoint } from './endpoint.ts';
import type { Target } from './host-groups.ts';
import { reportSwitchRefusal } from './refusal.ts';
import type { IommuState } from './state.ts';

/** Context of `endpoint` takes the guest's state as it is; a refusal blocks it and is told. */
export function settleEndpoint(state: IommuState, endpoint: Endpoint, operation: string): void {
  switchGroup(state, endpoint, (member) => state.targetOf(member), operation, undefined);
}

/**
 * The context of `endpoint` takes the state in which the endpoint is in `domain`. Returns 0 or the errno of a refusal:
 * then the former state is back, or the context is blocked if the host refused that too.
 */
export function settleForAttach(state: IommuState, endpoint: Endpoint, domain: Domain): number {
  const target = (member: Endpoint): Target => (member === endpoint ? domain : state.targetOf(member));
  return switchGroup(state, endpoint, target, 'ATTACH', domain);
}

function switchGroup(
  state: IommuState,
  endpoint: Endpoint,
  targetOf: (member: Endpoint) => Target,
  operation: string,
  domain: Domain | undefined,
): number {
  const { group } = endpoint;
  if (group === undefined) return 0;
  const { blocks } = group;
  const errno = state.groups.settle(group, targetOf, operation, domain !== undefined);
  // A context that was blocked has told every endpoint already.
  if (errno !== 0) reportSwitchRefusal(state, group, operation, errno, domain, endpoint, group.blocks > blocks);
  return errno;
}
