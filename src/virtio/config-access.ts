// Access to a device's configuration space in any width and at any alignment [2.5]. Not here: what the fields mean.
// Offsets and sizes in bytes; bytes outside the space read as 0, and a write that is not wholly inside is ignored.

/** Width of one access in bytes. */
export type ConfigWidth = 1 | 2 | 4 | 8;

/** What the accesses go to. */
export interface ConfigSpace {
  readonly configLength: number;
  readConfig(into: Uint8Array): void;
  writeConfig(offset: number, bytes: Uint8Array): void;
}

/** Little-endian accesses to one space; each read takes a fresh copy of it. */
export class ConfigAccess {
  readonly #space: ConfigSpace;
  readonly #bytes: Uint8Array;
  readonly #one = new Uint8Array(8);
  readonly #oneView = new DataView(this.#one.buffer);

  constructor(space: ConfigSpace) {
    this.#space = space;
    this.#bytes = new Uint8Array(space.configLength);
  }

  /** Value of `size` bytes at `offset`. [4.1.3.1] both halves of a 64-bit field can be read alone. */
  read(offset: number, size: ConfigWidth): bigint {
    this.#bytes.fill(0);
    this.#space.readConfig(this.#bytes);
    let value = 0n;
    for (let i = size - 1; i >= 0; i--) value = (value << 8n) | BigInt(this.#bytes[offset + i] ?? 0);
    return value;
  }

  /** Hands the low `size` bytes of `value` to the space. */
  write(offset: number, size: ConfigWidth, value: bigint): void {
    if (!(offset >= 0 && offset + size <= this.#space.configLength)) return;
    this.#oneView.setBigUint64(0, BigInt.asUintN(64, value), true);
    this.#space.writeConfig(offset, this.#one.slice(0, size));
  }
}
