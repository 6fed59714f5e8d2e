// Layout of a split virtqueue in guest memory [2.7] and the arithmetic of its event indices; shared by both sides.
// Offsets and sizes in bytes; positions and indices count modulo 2^16.

/** A descriptor [2.7.5]. */
export const Descriptor = { addr: 0, len: 8, flags: 12, next: 14, SIZE: 16 } as const;

/** Bits of a descriptor's flags. */
export const DescriptorFlag = { next: 1, write: 2, indirect: 4 } as const;

/** Head of the available ring [2.7.6] and of the used ring [2.7.8]; entries follow, then the event index of the other side. */
export const Ring = { flags: 0, idx: 2, entries: 4 } as const;

/** Sizes of one entry. */
export const RingEntry = { availSize: 2, usedSize: 8 } as const;

/** available ring flags: the driver wants no interrupts. Used ring flags: the device wants no kicks. */
export const RingFlag = { noInterrupt: 1, noNotify: 1 } as const;

/** Alignment of the three areas [2.7]. */
export const RingAlign = { desc: 16, avail: 2, used: 4 } as const;

/** Largest split queue [2.7]. */
export const MAX_QUEUE_SIZE = 32768;

/** True when `size` is a legal queue size up to `max`. */
export function isQueueSize(size: number, max: number): boolean {
  return Number.isInteger(size) && size >= 1 && size <= max && size <= MAX_QUEUE_SIZE && (size & (size - 1)) === 0;
}

/**
 * [2.7.7.2, 2.7.10.1] True when the indices `from` (inclusive) to `to` (exclusive), which were just published, contain
 * `event`, the index after which the other side wants to hear; all modulo 2^16. False when nothing was published.
 */
export function needEvent(event: number, to: number, from: number): boolean {
  return ((to - event - 1) & 0xffff) < ((to - from) & 0xffff);
}
