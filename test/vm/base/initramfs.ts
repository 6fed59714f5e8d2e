// The initial file system of a virtual machine: busybox, kernel modules inserted in order, given files, and a script.
// The script runs after /proc, /sys, /dev and /tmp are mounted; its exit status is the machine's (see machine.ts).
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, realpathSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { CpioFile } from './cpio.ts';
import { writeCpio } from './cpio.ts';
import type { ModuleRequest } from './modules.ts';
import { resolveModules } from './modules.ts';
import type { KernelTree } from './packages.ts';
import { busybox } from './packages.ts';

/** What an initial file system holds. */
export interface InitramfsOptions {
  readonly kernel: KernelTree;
  /** Inserted before the script runs, with all that they depend on. */
  readonly modules: readonly ModuleRequest[];
  /** By path without a leading slash. */
  readonly files: ReadonlyMap<string, CpioFile>;
  /** A busybox shell script. */
  readonly init: string;
  /** Put in an archive of its own before all else, for example `kernel/firmware/acpi/DMAR.aml`. */
  readonly early?: ReadonlyMap<string, CpioFile>;
}

const PROLOGUE = `#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /root
/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s /bin
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm /dev/hugepages
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
exec </dev/console >/dev/console 2>&1
export HOME=/root PATH=/bin:/sbin:/usr/bin:/usr/sbin TERM=dumb
ip link set lo up 2>/dev/null || true
`;

/** Debian's kernels have no /dev/port for QEMU's isa-debug-exit, so the status goes over the serial line. */
const LEAVE = `#!/bin/sh
# leave STATUS: ends the machine, 0 = pass.
printf '\\n@@ {"exit":%d}\\n' "$1"
sleep 0.2
poweroff -f
`;

const EPILOGUE = `
sh /body.sh
leave $?
`;

const PREFIX = 'virtio-iommu-vm-';
/** Archives of runs that were killed are removed after this time; milliseconds. */
const STALE = 6 * 3_600_000;

/** Removes an archive: it is as large as Node. */
export function discardInitramfs(path: string): void {
  rmSync(dirname(path), { recursive: true, force: true });
}

function discardStale(): void {
  for (const name of readdirSync(tmpdir()).filter((each) => each.startsWith(PREFIX))) {
    const folder = join(tmpdir(), name);
    const made = statSync(folder, { throwIfNoEntry: false })?.mtimeMs ?? Date.now();
    if (Date.now() - made > STALE) rmSync(folder, { recursive: true, force: true });
  }
}

/** Writes the archive and returns its path; the file goes with {@link discardInitramfs}, or when this process ends. */
export async function buildInitramfs(options: InitramfsOptions): Promise<string> {
  const { kernel, files, init, early } = options;
  const modules = await resolveModules(kernel, options.modules);
  const inserts = modules.map(
    ({ name, args }) => `insmod /m/${name}.ko ${args} || { echo "insmod ${name}"; leave 1; }`,
  );
  const all = new Map<string, CpioFile>([
    ['dev/console', { device: [5, 1] }],
    ['dev/null', { device: [1, 3] }],
    ['bin/busybox', { from: await busybox(), mode: 0o755 }],
    ['bin/leave', { content: LEAVE, mode: 0o755 }],
    ['init', { content: `${PROLOGUE}${inserts.join('\n')}\n${EPILOGUE}`, mode: 0o755 }],
    ['body.sh', { content: init, mode: 0o755 }],
    ...modules.map(({ name, bytes }): [string, CpioFile] => [`m/${name}.ko`, bytes]),
    ...files,
  ]);
  discardStale();
  const folder = mkdtempSync(join(tmpdir(), PREFIX));
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, 'initrd.cpio');
  writeCpio(path, early === undefined ? [all] : [early, all]);
  return path;
}

/** A program (or shared object) of this machine with the libraries that it is linked to, at the places where they are here. */
export function programFiles(path: string, as = path): Map<string, CpioFile> {
  const files = new Map<string, CpioFile>([[as.replace(/^\//, ''), { from: realpathSync(path), mode: 0o755 }]]);
  const text = execFileSync('ldd', [path], { env: { ...process.env, LC_ALL: 'C' } }).toString();
  for (const [, library = ''] of text.matchAll(/(?:=> |^\s*)(\/\S+) \(0x/gm)) {
    files.set(library.slice(1), { from: realpathSync(library), mode: 0o755 });
  }
  return files;
}
