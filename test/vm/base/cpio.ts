// A writer of newc archives (Documentation/driver-api/early-userspace/buffer-format.rst of Linux), as an initramfs needs
// them: parents before children, no timestamps. Not here: what goes in.
import { closeSync, openSync, readFileSync, statSync, writeSync } from 'node:fs';

/** An entry that is not a folder. */
export type CpioFile =
  | string
  | Uint8Array
  /** A file of this machine, with its own mode unless one is given. */
  | { readonly from: string; readonly mode?: number }
  | { readonly content: string | Uint8Array; readonly mode: number }
  | { readonly link: string }
  /** A character device. */
  | { readonly device: readonly [major: number, minor: number] };

const Kind = { folder: 0o040000, file: 0o100000, link: 0o120000, device: 0o020000 } as const;

interface Entry {
  readonly mode: number;
  readonly bytes: Uint8Array;
  readonly device?: readonly [number, number];
}

/** Writes an archive; keys are paths without a leading slash, folders without entries end with one. */
export function writeCpio(path: string, archives: readonly ReadonlyMap<string, CpioFile>[]): void {
  const fd = openSync(path, 'w');
  try {
    for (const files of archives) writeArchive(fd, files);
  } finally {
    closeSync(fd);
  }
}

function writeArchive(fd: number, files: ReadonlyMap<string, CpioFile>): void {
  const folders = new Set<string>();
  let inode = 1;
  let written = 0;
  const put = (bytes: Uint8Array): void => {
    for (let done = 0; done < bytes.length;) done += writeSync(fd, bytes, done);
    written += bytes.length;
    const rest = -written & 3;
    if (rest > 0) written += writeSync(fd, new Uint8Array(rest));
  };
  const add = (name: string, { mode, bytes, device = [0, 0] }: Entry): void => {
    const label = Buffer.from(`${name}\0`);
    const links = (mode & 0o170000) === Kind.folder ? 2 : 1;
    const fields = [inode++, mode, 0, 0, links, 0, bytes.length, 0, 0, ...device, label.length, 0];
    const header = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`;
    put(Buffer.concat([Buffer.from(header), label]));
    put(bytes);
  };
  for (const [name, file] of files) {
    const parts = name.split('/');
    for (let i = 1; i < parts.length; i++) {
      const folder = parts.slice(0, i).join('/');
      if (folders.has(folder)) continue;
      folders.add(folder);
      add(folder, { mode: Kind.folder | 0o755, bytes: new Uint8Array() });
    }
    if (!name.endsWith('/')) add(name, entryOf(file));
  }
  add('TRAILER!!!', { mode: 0, bytes: new Uint8Array() });
  // The kernel looks for the next archive at a multiple of 4; other readers want blocks of 512.
  put(new Uint8Array(-written & 511));
}

function entryOf(file: CpioFile): Entry {
  if (typeof file === 'string' || file instanceof Uint8Array) return { mode: Kind.file | 0o644, bytes: bytesOf(file) };
  if ('link' in file) return { mode: Kind.link | 0o777, bytes: Buffer.from(file.link) };
  if ('device' in file) return { mode: Kind.device | 0o600, bytes: new Uint8Array(), device: file.device };
  if ('content' in file) return { mode: Kind.file | file.mode, bytes: bytesOf(file.content) };
  const mode = file.mode ?? statSync(file.from).mode & 0o777;
  return { mode: Kind.file | mode, bytes: readFileSync(file.from) };
}

function bytesOf(content: string | Uint8Array): Uint8Array {
  return typeof content === 'string' ? Buffer.from(content) : content;
}
