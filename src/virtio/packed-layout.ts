// Layout of a packed virtqueue in guest memory [2.8] and the arithmetic of its event offsets; shared by both sides.
// Offsets and sizes in bytes. A place in the ring is a position in [0, size) and a wrap counter, 0 or 1.

/** A descriptor, available or used [2.8.13]. */
export const PackedDescriptor = { addr: 0, len: 8, id: 12, flags: 14, SIZE: 16 } as const;

/** Bits of a descriptor's flags. */
export const PackedFlag = { next: 1, write: 2, indirect: 4, avail: 0x80, used: 0x8000 } as const;

/** An event suppression structure [2.8.14]: offset and wrap counter, then flags. */
export const EventSuppress = { offWrap: 0, flags: 2, SIZE: 4 } as const;

/** Values of the two low bits of its flags; `desc` only with VIRTIO_F_EVENT_IDX. */
export const EventFlag = { enable: 0, disable: 1, desc: 2, MASK: 3 } as const;

/** The wrap counter within `offWrap`; the bits below are the offset. */
export const EVENT_WRAP_BIT = 0x8000;

/** Alignment of the three areas [2.8.10.1]. */
export const PackedAlign = { ring: 16, event: 4 } as const;

/** Largest packed queue [2.8]. */
export const MAX_PACKED_SIZE = 32768;

/** AVAIL and USED as a driver writes them to make a descriptor available in a lap with this wrap counter. */
export function availableBits(wrap: number): number {
  return wrap === 0 ? PackedFlag.used : PackedFlag.avail;
}

/** AVAIL and USED as a device writes them to mark a descriptor used. */
export function usedBits(wrap: number): number {
  return wrap === 0 ? 0 : PackedFlag.avail | PackedFlag.used;
}

/** True when `flags` are those of a descriptor that is available in a lap with this wrap counter. */
export function isAvailable(flags: number, wrap: number): boolean {
  return (flags & (PackedFlag.avail | PackedFlag.used)) === availableBits(wrap);
}

/** True when `flags` are those of a descriptor that was used in a lap with this wrap counter. */
export function isUsed(flags: number, wrap: number): boolean {
  return (flags & (PackedFlag.avail | PackedFlag.used)) === usedBits(wrap);
}

/**
 * True when the `count` (at most `size`) places from (`position`, `wrap`) on hold the one that `offWrap` names. An offset
 * outside the ring names none: then true as well, since a notification too many does no harm.
 */
export function packedNeedEvent(offWrap: number, position: number, wrap: number, count: number, size: number): boolean {
  const offset = offWrap & (EVENT_WRAP_BIT - 1);
  if (offset >= size) return true;
  const eventWrap = offWrap >>> 15;
  const ahead = offset - position + (eventWrap === wrap ? 0 : size);
  return (ahead < 0 ? ahead + 2 * size : ahead) < count;
}
