// Little-endian numbers in byte arrays, one byte at a time.

/** Unsigned integer of `size` bytes at `offset`. */
export function readLe(bytes: Uint8Array, offset: number, size: number): bigint {
  let value = 0n;
  for (let i = size - 1; i >= 0; i--) value = value * 256n + BigInt(bytes[offset + i] ?? 0);
  return value;
}

/** Stores `value` as unsigned integer of `size` bytes at `offset`. */
export function writeLe(bytes: Uint8Array, offset: number, size: number, value: bigint): void {
  for (let i = 0; i < size; i++) bytes[offset + i] = Number((value >> BigInt(8 * i)) & 255n);
}

/** True when any of `size` bytes at `offset` is not zero. */
export function anySet(bytes: Uint8Array, offset: number, size: number): boolean {
  return bytes.subarray(offset, offset + size).some((byte) => byte !== 0);
}
