// Entry `virtio-iommu/diagnostics` (Node only): hands the events of a device to node:diagnostics_channel, where tracing
// tools listen. One channel per type of event, `virtio-iommu:<type>`; the message is the event itself (iommu/events.ts).
import type { Channel } from 'node:diagnostics_channel';
import { channel } from 'node:diagnostics_channel';
import type { IommuCore } from './iommu/core.ts';
import type { IommuEvent } from './iommu/events.ts';

export type { IommuEvent } from './iommu/events.ts';

/** Name of the channel of each type of event. */
export const DIAGNOSTICS_CHANNELS = {
  request: 'virtio-iommu:request',
  'host-refusal': 'virtio-iommu:host-refusal',
  'context-blocked': 'virtio-iommu:context-blocked',
  'context-switched': 'virtio-iommu:context-switched',
  'mmio-left-out': 'virtio-iommu:mmio-left-out',
  'dma-window': 'virtio-iommu:dma-window',
  'budget-low': 'virtio-iommu:budget-low',
  compacted: 'virtio-iommu:compacted',
  fault: 'virtio-iommu:fault',
  'ring-broken': 'virtio-iommu:ring-broken',
} as const satisfies { readonly [Type in IommuEvent['type']]: `virtio-iommu:${Type}` };

/**
 * Publishes every event of `core` on its channel until the returned function is called. Synchronous; an exception of a
 * subscriber goes to `process.on('uncaughtException')`, as diagnostics_channel does it, and never into the device.
 * @throws TypeError when `core` has no `onEvent`.
 */
export function bridgeToDiagnostics(core: Pick<IommuCore, 'onEvent'>): () => void {
  if (typeof (core as Partial<typeof core> | undefined)?.onEvent !== 'function') {
    throw new TypeError('core must be an IommuCore');
  }
  const channels = new Map<string, Channel>();
  for (const [type, name] of Object.entries(DIAGNOSTICS_CHANNELS)) channels.set(type, channel(name));
  return core.onEvent((event) => channels.get(event.type)?.publish(event));
}
