// Messages of a client that is partly sane: valid ones that get in each other's way, edges, flipped bits, wrong lengths,
// wrong descriptors, wrong order. The same seed gives the same messages.
import type { Random } from '../../../src/testing/random.ts';
import * as p from '../payloads.ts';
import { message } from '../client.ts';
import type { FuzzFile, FuzzFiles } from './files.ts';
import { FILE_PAGES } from './files.ts';
import type { Oracle } from './oracle.ts';

/** A message and its descriptors. */
export interface FuzzMessage {
  readonly bytes: Uint8Array;
  readonly fds: readonly FuzzFile[];
}

const EDGES = [
  0n,
  1n,
  0xfffn,
  0x1000n,
  1n << 31n,
  1n << 32n,
  (1n << 53n) - 4096n,
  1n << 53n,
  1n << 63n,
  (1n << 64n) - 4096n,
];
/** Pages in which mappings meet. */
const PAGES = 48;

/** Makes messages. */
export class Generator {
  readonly #random: Random;
  readonly #files: FuzzFiles;
  #id = 0;

  constructor(random: Random, files: FuzzFiles) {
    this.#random = random;
    this.#files = files;
  }

  /** The next message, as the oracle's connection stands. */
  next(oracle: Oracle): FuzzMessage {
    if (!oracle.begun && this.#random.below(20) > 0) return this.#message(1, this.#version(), []);
    const one = this.#sane(oracle);
    switch (this.#random.below(200)) {
      case 0:
        return this.#flipped(one);
      case 1:
        return this.#cut(one);
      case 2:
        return { ...one, fds: this.#anyFiles() };
      default:
        return one;
    }
  }

  #sane(oracle: Oracle): FuzzMessage {
    const kind = this.#random.below(100);
    if (kind < 22) return this.#map(oracle);
    if (kind < 38) return this.#unmap(oracle);
    if (kind < 62) return this.#write();
    if (kind < 76) return this.#read();
    if (kind < 84) return this.#irqs();
    if (kind < 93) return this.#info();
    if (kind < 95 && (oracle.asked.size > 0 || this.#random.below(40) === 0)) return this.#reply(oracle);
    if (kind < 96) return this.#message(13, new Uint8Array(0), []);
    if (kind < 97 && this.#random.below(8) === 0) return this.#message(1, this.#version(), []);
    return this.#message(
      this.#random.below(4) === 0 ? this.#random.below(65536) : this.#random.below(20),
      this.#noise(),
      [],
    );
  }

  #message(command: number, payload: Uint8Array, fds: readonly FuzzFile[]): FuzzMessage {
    const flags = this.#random.below(40) === 0 ? 0x10 : 0;
    return { bytes: message({ id: this.#id++ & 0xffff, command, payload, flags }), fds };
  }

  #version(): Uint8Array {
    const data = ['{}', p.QEMU_CAPABILITIES, undefined][this.#random.below(3)];
    return p.version(this.#random.below(30) === 0 ? this.#random.below(3) : 0, this.#random.below(3), data);
  }

  #map(oracle: Oracle): FuzzMessage {
    const random = this.#random;
    const address = this.#address();
    const size = random.below(12) === 0 ? this.#edge() : BigInt(1 + random.below(6)) * 4096n;
    const file = random.below(5) === 0 ? undefined : this.#files.memory[random.below(this.#files.memory.length)]!;
    const offset = random.below(12) === 0 ? this.#edge() : BigInt(random.below(FILE_PAGES)) * 4096n;
    const flags = random.below(15) === 0 ? random.below(8) : 1 + 2 * random.below(2);
    const free = oracle.maps.length > 30 ? random.below(2) === 0 : true;
    const payload = p.dmaMap(free ? address : 0n, size, file === undefined ? 0n : offset, flags, this.#argsz(32));
    return this.#message(2, payload, file === undefined ? [] : [file]);
  }

  #unmap(oracle: Oracle): FuzzMessage {
    const random = this.#random;
    const known = oracle.maps[random.below(Math.max(oracle.maps.length, 1))];
    const flags = random.below(20) === 0 ? random.below(5) : 0;
    if (known !== undefined && random.below(3) > 0) {
      return this.#message(3, p.dmaUnmap(known.start, known.end - known.start, flags, this.#argsz(24)), []);
    }
    if (flags === 2) return this.#message(3, p.dmaUnmap(0n, 0n, 2), []);
    const size = random.below(10) === 0 ? this.#edge() : BigInt(1 + random.below(12)) * 4096n;
    return this.#message(3, p.dmaUnmap(this.#address(), size, flags, this.#argsz(24)), []);
  }

  #write(): FuzzMessage {
    const [region, offset] = this.#register();
    const count = [1, 2, 4, 8, this.#random.below(70)][this.#random.below(5)]!;
    const data = this.#bytes(count);
    const said = this.#random.below(60) === 0 ? this.#random.next() : count;
    return this.#message(10, p.region(region, offset, said, data), []);
  }

  #read(): FuzzMessage {
    const [region, offset] = this.#register();
    const random = this.#random;
    const count = [1, 2, 4, 8, random.below(300), random.below(20_000), random.next()][
      random.below(random.below(9) === 0 ? 7 : 5)
    ]!;
    return this.#message(9, p.region(region, offset, count), []);
  }

  #register(): [number, number | bigint] {
    const random = this.#random;
    const region = [0, 0, 1, 7, 7, random.below(10), random.next()][random.below(random.below(20) === 0 ? 7 : 5)]!;
    if (random.below(40) === 0) return [region, this.#edge()];
    const size = region === 7 ? 256 : region === 1 ? 4096 : 16384;
    return [region, random.below(size + 4)];
  }

  #irqs(): FuzzMessage {
    const random = this.#random;
    const start = random.below(3);
    const count = random.below(12) === 0 ? random.next() : random.below(4 - start);
    const index = random.below(6) === 0 ? random.below(7) : 2;
    const flags = random.below(6) === 0 ? random.below(70) : [0x21, 0x22, 0x24, 0x24, 0x24][random.below(5)]!;
    const events = this.#files.all.filter(({ kind }) => kind === 'event');
    const fds =
      (flags & 4) !== 0 && random.below(4) > 0 && count <= 8
        ? Array.from({ length: count }, () => events[random.below(2)]!)
        : [];
    if (fds.length > 0 && random.below(10) === 0) fds[0] = this.#files.all[random.below(this.#files.all.length)]!;
    const bools = (flags & 2) !== 0 ? Array.from({ length: Math.min(count, 8) }, () => random.below(2)) : [];
    return this.#message(8, p.setIrqs(flags, index, start, count, bools, this.#argsz(20)), fds);
  }

  #info(): FuzzMessage {
    const random = this.#random;
    const [command, size] = (
      [
        [4, 16],
        [5, 32],
        [7, 16],
      ] as const
    )[random.below(3)]!;
    const index = random.below(10) === 0 ? random.next() : random.below(10);
    return this.#message(command, p.info(size, index, this.#argsz(size)), []);
  }

  /** A reply: to something that was asked where there is such a thing. */
  #reply(oracle: Oracle): FuzzMessage {
    const random = this.#random;
    const asked = [...oracle.asked][random.below(Math.max(oracle.asked.size, 1))];
    const id = asked === undefined ? random.below(65536) : asked[0];
    const command = asked === undefined || random.below(10) === 0 ? 11 + random.below(2) : asked[1].command;
    const count = asked === undefined || random.below(10) === 0 ? random.below(64) : asked[1].count;
    const failed = random.below(6) === 0;
    return {
      bytes: message({
        id,
        command,
        payload: new Uint8Array(failed ? 0 : 16 + count),
        flags: failed ? 0x21 : 1,
        errno: random.below(140),
      }),
      fds: [],
    };
  }

  #address(): bigint {
    return this.#random.below(25) === 0 ? this.#edge() : BigInt(this.#random.below(PAGES)) * 4096n;
  }

  #edge(): bigint {
    const edge = EDGES[this.#random.below(EDGES.length)]!;
    const near = edge + BigInt(this.#random.below(3) - 1) * (this.#random.below(2) === 0 ? 1n : 4096n);
    return BigInt.asUintN(64, near);
  }

  #argsz(size: number): number {
    return this.#random.below(40) === 0 ? this.#random.below(2 * size) : size;
  }

  #bytes(count: number): Uint8Array {
    return Uint8Array.from({ length: count }, () => this.#random.next());
  }

  #noise(): Uint8Array {
    return this.#bytes(this.#random.below(64));
  }

  #anyFiles(): FuzzFile[] {
    const { all } = this.#files;
    return Array.from({ length: this.#random.below(6) }, () => all[this.#random.below(all.length)]!);
  }

  /** Flips bits anywhere but in the size of the header, and not in the text of a version. */
  #flipped({ bytes, fds }: FuzzMessage): FuzzMessage {
    const copy = bytes.slice();
    const isVersion = copy[2] === 1 && copy[3] === 0;
    const length = isVersion ? Math.min(copy.length, 20) : copy.length;
    for (let i = 1 + this.#random.below(3); i > 0; i--) {
      const at = this.#random.below(length);
      if (at < 4 || at >= 8) copy[at] = copy[at]! ^ (1 << this.#random.below(8));
    }
    return { bytes: copy, fds };
  }

  /** Another length, in the header too. */
  #cut({ bytes, fds }: FuzzMessage): FuzzMessage {
    const length = 16 + this.#random.below(bytes.length);
    const copy = new Uint8Array(length);
    copy.set(bytes.subarray(0, Math.min(length, bytes.length)));
    new DataView(copy.buffer).setUint32(4, length, true);
    return { bytes: copy, fds };
  }
}
