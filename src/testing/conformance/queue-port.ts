// One virtqueue as the runner sees it: sends chains, collects them, and watches every device-readable buffer.
// Not here: what requests mean (reply.ts), features and resets (rig.ts).
import type { GuestMemory } from '../../virtio/memory.ts';
import type { CompletedChain, DriverRequest } from '../driver-request.ts';
import { DriverQueue } from '../driver-queue.ts';
import { PackedDriverQueue } from '../packed-driver-queue.ts';
import { damageAvailable, damageChain } from './damage.ts';
import { damagePacked } from './damage-packed.ts';
import type { RingKind } from './rig-transport.ts';
import type { Malform } from './vector-types.ts';

interface Watched {
  readonly gpa: number;
  readonly bytes: Uint8Array;
}

/** Where a queue lies and how it behaves. */
export interface QueuePortInit {
  readonly size: number;
  readonly base: bigint;
  readonly bufferBytes: number;
  readonly eventIdx: boolean;
}

/** Driver side of one queue. */
export class QueuePort {
  readonly queue: DriverQueue | PackedDriverQueue;
  readonly #memory: GuestMemory;
  /** Device-readable buffers per head in flight, as the driver wrote them. */
  readonly #watched = new Map<number, readonly Watched[]>();
  #touched = false;

  constructor(memory: GuestMemory, ring: RingKind, init: QueuePortInit) {
    this.queue = ring === 'packed' ? new PackedDriverQueue(memory, init) : new DriverQueue(memory, init);
    this.#memory = memory;
  }

  /** Bytes of RAM that a queue takes, in either format. */
  static byteLength(size: number, bufferBytes: number): number {
    return Math.max(DriverQueue.byteLength(size, bufferBytes), PackedDriverQueue.byteLength(size, bufferBytes));
  }

  /** Builds a chain and notes its readable buffers. @throws Error when the ring has no room. */
  add(request: DriverRequest): number {
    const head = this.queue.add(request);
    const watched = this.queue
      .buffersOf(head)
      .filter(({ writable }) => !writable)
      .map(({ gpa, bytes }) => this.#copy(gpa, bytes));
    this.#watched.set(head, watched);
    return head;
  }

  /** Makes a chain available that is damaged in one way; `scratch` is guest memory for one descriptor. */
  makeDamaged(head: number, malform: Malform, scratch: bigint): void {
    const { queue } = this;
    if (queue instanceof PackedDriverQueue) {
      queue.makeAvailable(head);
      damagePacked(queue, head, malform);
      return;
    }
    damageChain(queue, head, malform, scratch);
    queue.makeAvailable(head);
    if (malform === 'avail_head_out_of_range') damageAvailable(queue);
  }

  /** Collects what came back. @throws Error when the device broke the used ring. */
  poll(): CompletedChain[] {
    const completed = this.queue.poll();
    for (const { head, readableUnchanged } of completed) {
      this.#touched ||= !readableUnchanged;
      this.#watched.delete(head);
    }
    return completed;
  }

  /** True when the device never wrote to a readable buffer, as far as it has been looked at. */
  get readableUntouched(): boolean {
    this.#lookAgain();
    return !this.#touched;
  }

  /** Forgets all chains, as a driver does at a reset. */
  reset(): void {
    this.#lookAgain();
    this.#watched.clear();
    this.queue.reset();
  }

  #lookAgain(): void {
    for (const buffers of this.#watched.values()) {
      for (const { gpa, bytes } of buffers) {
        const now = this.#copy(gpa, bytes.length).bytes;
        this.#touched ||= now.some((byte, i) => byte !== bytes[i]);
      }
    }
  }

  #copy(gpa: number, length: number): Watched {
    const bytes = new Uint8Array(length);
    this.#memory.read(gpa, bytes, 0, length);
    return { gpa, bytes };
  }
}
