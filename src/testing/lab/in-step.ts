// Compares what a host context lets through with what the guest's domain gives: the mirror must be exact at rest. What is
// planned while no device can do DMA, and what was revoked for want of room, counts as held.
import { NONE } from '../../intervals/table.ts';
import { PAGE_BYTES } from '../run-cursor.ts';
import type { LabMachine } from './machine.ts';

/**
 * True when the endpoint's container holds exactly the backed pages of its domain, each at the right page of L1's memory.
 * Costs O(mappings); true for an endpoint without a domain or context.
 */
export function inStep(machine: LabMachine, endpointId: number): boolean {
  const { state } = machine.iommu.core;
  const endpoint = state.endpoints.get(endpointId);
  const context = machine.contexts.get(endpointId);
  const domain = endpoint?.domain;
  if (context === undefined || domain === undefined || domain.bypass) return true;
  const mirror = endpoint?.group?.mirror;
  if (mirror?.source !== domain.source) return true; // blocked: told elsewhere
  const { waiting, plan, quiet } = mirror;
  const planned = waiting.pages - waiting.revokedPages + plan.pages;
  if (!quiet && planned > 0) return false;
  const reachable = machine.host.busMaster(endpointId) && waiting.revoked === 0;
  const { table } = domain;
  const unit = state.granulePages;
  const prober = machine.host.prober(endpointId);
  let wanted = 0;
  for (let slot = table.first(); slot !== NONE; slot = table.next(slot)) {
    const start = table.startAt(slot) * unit;
    const pages = table.endAt(slot) * unit - start;
    const phys = table.valueAt(slot) * unit;
    const rights = table.flagsAt(slot) & 3;
    const backed = rights === 0 ? 0 : state.backing.ramPagesIn(phys, pages, rights);
    wanted += backed;
    if (backed !== pages || !machine.iommu.core.memory.isRam(phys * PAGE_BYTES, PAGE_BYTES)) continue;
    if (reachable && (rights & 1) === 1 && prober.physicalPageAt(start, false) < 0) return false;
  }
  const held = context.entries().reduce((sum, entry) => sum + entry.pages, 0);
  return held + planned + waiting.revokedPages === wanted;
}
