// Turns the events of the device into lines for a person. Not here: how often they are written (serve-log.ts).
import { errnoName } from '../base/errors.ts';
import { hex } from '../base/check.ts';
import type { IommuEvent } from '../iommu/events.ts';

/** One line; `nameOf` gives the name of an endpoint. */
export function eventLine(event: IommuEvent, nameOf: (endpoint: number) => string): string {
  switch (event.type) {
    case 'fault': {
      const access = event.access ?? 'access';
      const told = event.report === 'reported' ? 'the guest was told' : `not told to the guest: ${event.report}`;
      return `fault: ${nameOf(event.endpoint)} ${access} at ${hex(event.iova)} refused (${event.reason}), ${told}`;
    }
    case 'request':
      return `request: ${event.request.toUpperCase()} answered ${event.status}`;
    case 'host-refusal': {
      const at = event.iova === undefined ? '' : ` at ${hex(event.iova)}`;
      const whose = event.domain === undefined ? '' : ` of domain ${event.domain}`;
      return (
        `host refusal: ${event.request.toUpperCase()}${whose}${at} answered ${event.status}, ` +
        `${event.context} said ${errnoName(event.errno)}`
      );
    }
    case 'context-blocked':
      return `host context ${event.context} blocked: ${event.reason} (${event.operation}, ${errnoName(event.errno)})`;
    case 'context-switched':
      return `host context ${event.context} now mirrors ${event.to}`;
    case 'mmio-left-out':
      return `host context ${event.context}: in bypass without device registers, which this host cannot map`;
    case 'dma-window': {
      const length = event.ms === undefined ? 'still open' : `${event.ms} ms`;
      return `host context ${event.context}: [${hex(event.start)}, ${hex(event.end)}] lost access (${event.reason}), ${length}`;
    }
    case 'budget-low':
      return `host context ${event.context}: ${event.entries} of ${event.limit} entries in use; ${event.hint}`;
    case 'compacted':
      return `host context ${event.context}: ${event.before} entries compacted to ${event.after}`;
    case 'ring-broken':
      return `queue ${event.queue} of the IOMMU is damaged: the guest's driver must reset the device`;
  }
}
