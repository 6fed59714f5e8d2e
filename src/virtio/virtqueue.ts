// What a device model sees of a virtqueue, whatever the ring format. Not here: setting a queue up (device.ts).
import type { DescriptorChain } from './chain.ts';

/** Results of {@link Virtqueue.pop}. */
export const PopResult = { empty: 0, chain: 1, broken: 2 } as const;

/** Device side of one virtqueue. No method throws for anything that the driver wrote. */
export interface Virtqueue {
  /** Number of the queue within its device. */
  readonly index: number;
  /** Largest size that the device offers (entries, a power of two). */
  readonly maxSize: number;
  /** Size that the driver chose (entries); `maxSize` until it has. */
  readonly size: number;
  /** True when the driver enabled the queue and the device runs (DRIVER_OK). While false nothing can be popped. */
  readonly ready: boolean;
  /**
   * Takes the next available chain into `chain` and returns a {@link PopResult}.
   * `broken`: the ring is damaged, the device must ask for a reset; nothing was consumed, `chain` holds nothing of use,
   * and the queue stays broken until it is reset.
   */
  pop(chain: DescriptorChain): number;
  /** Chains the driver has made available that are not popped yet; a value above `size` means that pop says broken. */
  available(): number;
  /**
   * Stages a used entry: written to the ring, the index is not yet visible. `length` is bytes written to the chain.
   * Ignored when `head` is not in flight, as after a reset between pop and push.
   */
  push(head: number, length: number): void;
  /**
   * Makes staged entries visible in one atomic store; true when the driver wants an interrupt for them (EVENT_IDX or
   * NO_INTERRUPT). False when nothing was staged.
   */
  publish(): boolean;
  /** Asks the driver to kick for the next chain; true when chains became available meanwhile, so that no kick may come. */
  armNotification(): boolean;
}
