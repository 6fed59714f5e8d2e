// Cuts an access into registers of natural width: pieces of 1, 2, 4, ... bytes, each at a multiple of its own size.
// Offsets and sizes in bytes, ends exclusive.

/**
 * Width of the first piece of `length` >= 1 bytes at `offset`: the largest power of two up to `widest` (a power of two) that
 * fits and that `offset` is a multiple of.
 */
export function firstWidth(offset: number, length: number, widest: number): number {
  let width = widest;
  while (width > 1 && (width > length || offset % width !== 0)) width /= 2;
  return width;
}
