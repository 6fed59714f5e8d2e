// One virtqueue as the runner sees it: sends chains, collects them, and watches every device-readable buffer.
// Not here: what requests mean (reply.ts), features and resets (rig.ts).
import type { GuestMemory } from '../../virtio/memory.ts';
import { DescriptorFlag } from '../../virtio/ring-layout.ts';
import type { CompletedChain, DriverRequest } from '../driver-request.ts';
import { DriverQueue } from '../driver-queue.ts';
import { slotsOf } from './damage.ts';

interface Watched {
  readonly gpa: number;
  readonly bytes: Uint8Array;
}

/** Driver side of one queue. */
export class QueuePort {
  readonly queue: DriverQueue;
  readonly #memory: GuestMemory;
  /** Device-readable buffers per head in flight, as the driver wrote them. */
  readonly #watched = new Map<number, readonly Watched[]>();
  #touched = false;

  constructor(memory: GuestMemory, init: { size: number; base: bigint; bufferBytes: number; eventIdx: boolean }) {
    this.queue = new DriverQueue(memory, init);
    this.#memory = memory;
  }

  /** Builds a chain and notes its readable buffers. @throws Error when the ring has no room. */
  add(request: DriverRequest): number {
    const head = this.queue.add(request);
    const watched = slotsOf(this.queue, head)
      .filter(({ descriptor }) => (descriptor.flags & DescriptorFlag.write) === 0)
      .map(({ descriptor }) => this.#copy(Number(descriptor.addr), descriptor.len));
    this.#watched.set(head, watched);
    return head;
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
