// What the driver side of a virtqueue can do whatever the ring format. Not here: the rings (driver-queue.ts,
// packed-driver-queue.ts).
import type { CompletedChain, DriverRequest } from './driver-request.ts';

/** Where a buffer of a chain lies; `gpa` and `bytes` are byte numbers. */
export interface BufferPlace {
  readonly gpa: number;
  readonly bytes: number;
  readonly writable: boolean;
}

/** Driver side of one virtqueue. */
export interface DriverVirtqueue {
  /** Entries. */
  readonly size: number;
  /** Guest-physical addresses of the descriptor area, the driver area and the device area. */
  readonly desc: bigint;
  readonly avail: bigint;
  readonly used: bigint;
  /** Descriptors of the ring that no chain uses. */
  readonly freeSlots: number;
  /** Zeroes the ring and forgets all chains, as a driver does before it sets the queue up again. */
  reset(): void;
  /** Builds a chain and returns what names it; Error when there is no room, RangeError for a wrong layout. */
  add(request: DriverRequest): number;
  /** Makes chains visible to the device in this order, all at once. */
  makeAvailable(...heads: number[]): void;
  /** True when the device wants a kick for what was made available since the last call. */
  shouldKick(): boolean;
  /** Asks for an interrupt at the next used chain. */
  armInterrupt(): void;
  /** Collects completed chains in the order of their use and frees them; Error when the device broke the ring. */
  poll(): CompletedChain[];
  /** The buffers of an outstanding chain, in chain order. */
  buffersOf(head: number): readonly BufferPlace[];
}
