// Reads small files below a root: /sys, /proc or /dev, or a copy of them. Node only, never writes, never waits: a FIFO, a
// device, a directory, a dangling link or a file that may not be read is a missing fact, not an error.
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  fstatSync,
  openSync,
  readSync,
  readdirSync,
  readlinkSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import process from 'node:process';

/** Most bytes of one file; /proc/interrupts of a large machine has more than one MiB. */
const MOST_BYTES = 8 << 20;
const MOST_NAMES = 1 << 16;
const PIECE = 1 << 16;

/** What the caller may do with a file. */
export type FileState = 'absent' | 'forbidden' | 'usable';

/** The rules of interrupts that hold on the machine this runs on; undefined for one that this package knows nothing of. */
export function machineArch(): 'x86' | 'arm' | undefined {
  if (process.arch === 'x64' || process.arch === 'ia32') return 'x86';
  return process.arch === 'arm64' || process.arch === 'arm' ? 'arm' : undefined;
}

/** A root directory. */
export class HostFiles {
  readonly #root: string;

  constructor(root: string) {
    this.#root = root;
  }

  /** Text of a regular file without its last white space, at most `most` bytes of it; undefined when there is none. */
  text(path: string, most = MOST_BYTES): string | undefined {
    let file: number | undefined;
    try {
      // Without O_NONBLOCK the open itself would wait for the writer of a FIFO.
      file = openSync(join(this.#root, path), constants.O_RDONLY | constants.O_NONBLOCK);
      return fstatSync(file).isFile() ? contents(file, most).trimEnd() : undefined;
    } catch {
      return undefined;
    } finally {
      if (file !== undefined) closeSync(file);
    }
  }

  /** First line of a file as a number, decimal or 0x; undefined when it is no exact number of that kind. */
  number(path: string): number | undefined {
    const text = this.text(path, 64);
    if (text === undefined || !/^(?:0x[0-9a-f]{1,13}|\d{1,15})$/i.test(text)) return undefined;
    return Number(text);
  }

  /** A module parameter of type bool (`Y`, `N`, `1`, `0`). */
  flag(path: string): boolean | undefined {
    const text = this.text(path, 64);
    return text === 'Y' || text === '1' ? true : text === 'N' || text === '0' ? false : undefined;
  }

  /** Last part of what a link points to; undefined when there is no link. */
  link(path: string): string | undefined {
    try {
      return basename(readlinkSync(join(this.#root, path)));
    } catch {
      return undefined;
    }
  }

  /** Names in a directory, sorted; empty when there is none. */
  list(path: string): string[] {
    try {
      return readdirSync(join(this.#root, path)).slice(0, MOST_NAMES).sort();
    } catch {
      return [];
    }
  }

  has(path: string): boolean {
    return existsSync(join(this.#root, path));
  }

  /** Whether this process may read and write a file. */
  state(path: string): FileState {
    const full = join(this.#root, path);
    if (!existsSync(full)) return 'absent';
    try {
      accessSync(full, constants.R_OK | constants.W_OK);
      return 'usable';
    } catch {
      return 'forbidden';
    }
  }
}

function contents(file: number, most: number): string {
  const pieces: Buffer[] = [];
  for (let left = most; left > 0;) {
    const piece = Buffer.alloc(Math.min(left, PIECE));
    const got = readSync(file, piece);
    if (got === 0) break;
    pieces.push(piece.subarray(0, got));
    left -= got;
  }
  return Buffer.concat(pieces).toString('utf8');
}
