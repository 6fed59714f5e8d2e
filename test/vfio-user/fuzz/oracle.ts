// What a server must do with a message, judged from its bytes by the text of the protocol alone: no code of the server is
// used here, and numbers are those of the specification.
import type { FuzzFile } from './files.ts';
import { FILE_PAGES } from './files.ts';

const PAGE = 4096n;
const EINVAL = 22;
const EEXIST = 17;
const ENOENT = 2;
const ENOSPC = 28;
const ERANGE = 34;
const ENOTSUP = 95;

/** `end`: the connection is over; `none`: no reply; `some`: any errno but 0. */
export type Verdict = 'end' | 'none' | 'some' | number;

/** A mapping as the client asked for it. */
export interface OracleMap {
  readonly start: bigint;
  readonly end: bigint;
  readonly flags: number;
  /** Number of the file of memory, -1 without one. */
  readonly file: number;
  readonly offset: bigint;
}

/** What the device under test is like. */
export interface OracleDevice {
  readonly bars: ReadonlyMap<number, number>;
  readonly vectors: number;
  readonly maxMaps: number;
}

/** Follows one connection. */
export class Oracle {
  maps: OracleMap[] = [];
  begun = false;
  /** Requests of the server that wait for a reply: command and count by id. */
  readonly asked = new Map<number, { command: number; count: number }>();
  readonly #device: OracleDevice;

  constructor(device: OracleDevice) {
    this.#device = device;
  }

  /** The connection is over. */
  reset(): void {
    this.maps = [];
    this.begun = false;
    this.asked.clear();
  }

  /** Judges a whole message; what it changes is taken as changed. */
  judge(bytes: Uint8Array, fds: readonly FuzzFile[]): Verdict {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const command = view.getUint16(2, true);
    const flags = view.getUint32(8, true);
    const type = flags & 15;
    const payload = new DataView(bytes.buffer, bytes.byteOffset + 16, bytes.length - 16);
    if (type === 1) return this.#reply(view, payload, fds);
    if (type !== 0) return 'end';
    if (!this.begun) return command === 1 && fds.length === 0 ? this.#version(payload) : 'end';
    if (command === 1) return 'end';
    const verdict = this.#command(command, payload, fds);
    return verdict !== 'end' && (flags & 16) !== 0 ? 'none' : verdict;
  }

  #reply(view: DataView, payload: DataView, fds: readonly FuzzFile[]): Verdict {
    const id = view.getUint16(0, true);
    const asked = this.asked.get(id);
    if (fds.length > 0 || asked?.command !== view.getUint16(2, true)) return 'end';
    const failed = (view.getUint32(8, true) & 32) !== 0;
    if (!failed && asked.command === 11 && payload.byteLength < 16 + asked.count) return 'end';
    this.asked.delete(id);
    return 'none';
  }

  #version(payload: DataView): Verdict {
    if (payload.byteLength < 4 || payload.getUint16(0, true) !== 0) return 'end';
    if (payload.byteLength > 4) {
      const text = new Uint8Array(payload.buffer, payload.byteOffset + 4, payload.byteLength - 4);
      // The generator sends a text that is right; a bit that was flipped in it makes it hard to judge.
      const end = text.indexOf(0);
      if (end < 0) return 'end';
    }
    this.begun = true;
    return 0;
  }

  #command(command: number, payload: DataView, fds: readonly FuzzFile[]): Verdict {
    const least = new Map([
      [2, 32],
      [3, 24],
      [4, 16],
      [5, 32],
      [7, 16],
      [8, 20],
      [9, 16],
      [10, 16],
      [13, 0],
    ]).get(command);
    if (least === undefined) return ENOTSUP;
    if (payload.byteLength < least) return 'end';
    if (command === 2) return this.#map(payload, fds);
    if (command === 8) return this.#irqs(payload, fds);
    if (fds.length > 0) return 'end';
    if (command === 3) return this.#unmap(payload);
    if (command === 9 || command === 10) return this.#access(command, payload);
    if (command === 13) return 0;
    const argsz = payload.getUint32(0, true);
    const index = payload.getUint32(8, true);
    const indices = command === 4 ? 2 ** 32 : command === 5 ? 9 : 5;
    return argsz < least || index >= indices ? EINVAL : 0;
  }

  #map(payload: DataView, fds: readonly FuzzFile[]): Verdict {
    if (fds.length > 1) return 'end';
    const flags = payload.getUint32(4, true);
    const offset = payload.getBigUint64(8, true);
    const start = payload.getBigUint64(16, true);
    const size = payload.getBigUint64(24, true);
    const end = start + size;
    if (payload.getUint32(0, true) < 32 || flags === 0 || flags > 3) return EINVAL;
    if (size === 0n || end > 1n << 53n || start % PAGE !== 0n || size % PAGE !== 0n) return EINVAL;
    const [file] = fds;
    if (file !== undefined && (offset % PAGE !== 0n || offset + size > 1n << 63n)) return EINVAL;
    if (this.maps.some((map) => map.start < end && start < map.end)) return EEXIST;
    if (this.maps.length >= this.#device.maxMaps) return ENOSPC;
    if (file !== undefined) {
      // Bytes beyond all limits, or beyond the file: which comes first is not said.
      if (size > 1n << 42n) return 'some';
      if (file.kind !== 'memory') return 'some';
      if (offset + size > BigInt(FILE_PAGES) * PAGE) return ERANGE;
    }
    this.maps.push({ start, end, flags, file: file?.number ?? -1, offset });
    return 0;
  }

  #unmap(payload: DataView): Verdict {
    const flags = payload.getUint32(4, true);
    const start = payload.getBigUint64(8, true);
    const size = payload.getBigUint64(16, true);
    const end = start + size;
    if (payload.getUint32(0, true) < 24) return EINVAL;
    if ((flags & 1) !== 0) return ENOTSUP;
    if ((flags & ~2) !== 0) return EINVAL;
    if (flags === 2) {
      if (start !== 0n || size !== 0n) return EINVAL;
      this.maps = [];
      return 0;
    }
    if (size === 0n || end > 1n << 64n) return EINVAL;
    const touched = this.maps.filter((map) => map.start < end && start < map.end);
    if (touched.length === 0) return ENOENT;
    if (touched.some((map) => map.start < start || map.end > end)) return EINVAL;
    this.maps = this.maps.filter((map) => !touched.includes(map));
    return 0;
  }

  #access(command: number, payload: DataView): Verdict {
    const offset = payload.getBigUint64(0, true);
    const region = payload.getUint32(8, true);
    const count = payload.getUint32(12, true);
    if (command === 10 && payload.byteLength - 16 !== count) return 'end';
    const size = region === 7 ? 256 : (this.#device.bars.get(region) ?? 0);
    return region > 8 || offset + BigInt(count) > BigInt(size) ? EINVAL : 0;
  }

  #irqs(payload: DataView, fds: readonly FuzzFile[]): Verdict {
    const [argsz, flags, index, start, count] = [0, 4, 8, 12, 16].map((at) => payload.getUint32(at, true)) as [
      number,
      number,
      number,
      number,
      number,
    ];
    const [data, action] = [flags & 7, flags & 56];
    if (fds.length > 0 && (data !== 4 || fds.length !== count)) return 'end';
    if (argsz < 20 || flags > 63 || ![1, 2, 4].includes(data) || ![8, 16, 32].includes(action)) return EINVAL;
    if (index > 4) return EINVAL;
    const there = index === 2 ? this.#device.vectors : index === 3 ? 1 : 0;
    if (start + count > there) return EINVAL;
    if (count === 0 && (start !== 0 || data !== 1 || action !== 32)) return EINVAL;
    if (action !== 32) return ENOTSUP;
    if (data === 2 && payload.byteLength < 20 + count) return 'end';
    return fds.some(({ kind }) => kind !== 'event') ? EINVAL : 0;
  }
}
