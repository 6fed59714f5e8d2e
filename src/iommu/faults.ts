// Faults: records on the event queue [5.13.6.9], rate-limited per endpoint, never blocking.
// Buffers are looked for when a record is to be sent: Linux fills the queue without a kick.
import { DescriptorChain } from '../virtio/chain.ts';
import type { GuestMemory } from '../virtio/memory.ts';
import type { Virtqueue } from '../virtio/virtqueue.ts';
import { PopResult } from '../virtio/virtqueue.ts';
import * as abi from '../wire/abi.ts';
import { encodeFault } from '../wire/reply.ts';
import type { Endpoint } from './endpoint.ts';
import type { FaultEvent } from './events.ts';
import type { IommuState } from './state.ts';

const REASONS = ['unknown', 'domain', 'mapping'] as const;

/** Where fault records go; undefined while the driver is not running. */
export interface EventSink {
  readonly queue: Virtqueue;
  readonly memory: GuestMemory;
  /** Raises the event queue's interrupt. */
  signal(): void;
  /** The event queue is damaged. */
  broken(): void;
}

/** Sends fault records. */
export class FaultReporter {
  sink: EventSink | undefined = undefined;
  readonly #state: IommuState;
  readonly #record = new Uint8Array(abi.Fault.SIZE);
  readonly #view = new DataView(this.#record.buffer);
  readonly #chain = new DescriptorChain();

  constructor(state: IommuState) {
    this.#state = state;
  }

  /** Reports one fault of a known endpoint; `flags` as on the wire, the address in two words. */
  report(endpoint: Endpoint, reason: number, flags: number, high: number, low: number): void {
    const { counters } = this.#state;
    counters.faults++;
    endpoint.faults++;
    const outcome = this.#send(endpoint, reason, flags, high, low);
    if (outcome === 'reported') counters.faultsReported++;
    this.#emit(endpoint.id, reason, flags, high, low, outcome);
  }

  /** An access by an id that is not an endpoint: no record, since [5.13.6.9] D-FLT-3 wants a valid id. */
  reportUnknown(endpointId: number, flags: number, high: number, low: number): void {
    this.#state.counters.faults++;
    this.#emit(endpointId, abi.VIRTIO_IOMMU_FAULT_R_DOMAIN, flags, high, low, 'unknown endpoint');
  }

  #send(endpoint: Endpoint, reason: number, flags: number, high: number, low: number): FaultEvent['report'] {
    const { counters } = this.#state;
    const { sink } = this;
    if (sink?.queue.ready !== true) {
      counters.faultsNotRunning++;
      return 'not running';
    }
    if (!this.#takeToken(endpoint)) {
      counters.faultsRateLimited++;
      return 'rate limit';
    }
    const popped = sink.queue.pop(this.#chain);
    if (popped !== PopResult.chain) {
      // T-FLT-2: no buffer: wait or drop. Dropping never blocks the device.
      if (popped === PopResult.broken) sink.broken();
      counters.faultsWithoutBuffer++;
      return 'no buffer';
    }
    return this.#write(sink, endpoint, reason, flags, high, low);
  }

  #write(
    sink: EventSink,
    endpoint: Endpoint,
    reason: number,
    flags: number,
    high: number,
    low: number,
  ): FaultEvent['report'] {
    const chain = this.#chain;
    encodeFault(this.#view, reason, flags, endpoint.id, high, low);
    // [5.13.6.9] D-FLT-5: SHOULD NOT spread a report over buffers: a buffer that is too small goes back unused.
    // [5.13.6.9.2] D-FLT-6: an older, shorter record MAY be used, but no release of the standard has one.
    const fits = !chain.malformed && chain.writableLength >= abi.Fault.SIZE;
    const written = fits ? chain.write(0, this.#record, abi.Fault.SIZE) : 0;
    sink.queue.push(chain.head, written);
    if (sink.queue.publish()) sink.signal();
    if (written === abi.Fault.SIZE) return 'reported';
    this.#state.counters.faultBuffersTooSmall++;
    return 'buffer too small';
  }

  /** Token bucket: `faultBurst` at once, refilled at `faultsPerSecond`. */
  #takeToken(endpoint: Endpoint): boolean {
    const { faultBurst, faultsPerSecond, now } = this.#state.options;
    if (faultsPerSecond === Infinity) return true;
    const time = now();
    const refill = ((time - endpoint.faultTime) * faultsPerSecond) / 1000;
    if (refill > 0) endpoint.faultTokens = Math.min(faultBurst, endpoint.faultTokens + refill);
    endpoint.faultTime = time;
    if (endpoint.faultTokens < 1) return false;
    endpoint.faultTokens--;
    return true;
  }

  #emit(id: number, reason: number, flags: number, high: number, low: number, report: FaultEvent['report']): void {
    const { events } = this.#state;
    if (!events.active) return;
    events.emit({
      type: 'fault',
      endpoint: id,
      reason: REASONS[reason] ?? 'unknown',
      access:
        (flags & abi.VIRTIO_IOMMU_FAULT_F_WRITE) !== 0
          ? 'write'
          : (flags & abi.VIRTIO_IOMMU_FAULT_F_READ) !== 0
            ? 'read'
            : undefined,
      iova: (BigInt(high) << 32n) | BigInt(low),
      report,
    });
  }
}
