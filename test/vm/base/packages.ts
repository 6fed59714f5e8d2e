// What virtual machines are made of: a current QEMU, Debian kernels of a version series, a static busybox; all unpacked
// from Debian packages into the user's cache (debian-packages.ts), nothing installed, no version pinned.
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Selection, Tree } from '../../slow/debian-packages.ts';
import { cacheFolder, ownLoader, unpackedSelection } from '../../slow/debian-packages.ts';

/** An unpacked QEMU. */
export interface QemuTree {
  /** Loader, library path, program and firmware folders: put the machine's arguments behind. */
  readonly command: readonly string[];
  /** Version of the package. */
  readonly version: string;
}

/** An unpacked kernel. */
export interface KernelTree {
  readonly vmlinuz: string;
  /** Folder lib/modules/VERSION. */
  readonly modules: string;
  /** As `uname -r` says. */
  readonly version: string;
  /** Version of the package. */
  readonly packageVersion: string;
}

/** Version series for which there is a kernel. */
export type KernelSeries = '6.1' | '6.12';

/** `cloud` is a quarter of the size of `full`, starts faster, and lacks the driver of AMD's IOMMU, 9p and much else. */
export type KernelFlavour = 'cloud' | 'full';

/** All series. */
export const KERNELS: readonly KernelSeries[] = ['6.1', '6.12'];

/** The first suite with QEMU 11, and the one that its libraries come from. */
const QEMU_SUITES = ['trixie', 'trixie-backports'];
const QEMU_PACKAGES = ['qemu-system-x86', 'qemu-system-common', 'qemu-system-data', 'seabios'];
const KERNEL_SUITES = ['bookworm', 'bookworm-updates', 'bookworm-security', 'bookworm-backports'];
/** Names of the images of a series. */
const KERNEL_NAMES: Readonly<Record<KernelSeries, Readonly<Record<KernelFlavour, RegExp>>>> = {
  '6.1': { cloud: /^linux-image-6\.1\.0-\d+-cloud-amd64$/, full: /^linux-image-6\.1\.0-\d+-amd64$/ },
  '6.12': {
    cloud: /^linux-image-6\.12\.\d+\+deb12(\.\d+)?-cloud-amd64$/,
    full: /^linux-image-6\.12\.\d+\+deb12(\.\d+)?-amd64$/,
  },
};

const trees = new Map<string, Tree>();

/** QEMU 11 or later for x86-64. @throws Error on another architecture, without apt, or without the archive. */
export function qemu(): Promise<QemuTree> {
  return promised(() => {
    const names = QEMU_PACKAGES.map((name) => `${name}/trixie-backports`);
    const tree = unpacked('vm-qemu', { suites: QEMU_SUITES, names, dependencies: true });
    const share = join(tree.path, 'usr/share');
    const firmware = ['qemu', 'seabios', 'qemu/optionrom'].flatMap((name) => ['-L', join(share, name)]);
    const command = [...ownLoader(tree), join(tree.path, 'usr/bin/qemu-system-x86_64'), ...firmware];
    return { command, version: versionOf(tree, 'qemu-system-x86') };
  });
}

/** The newest kernel of a series that Debian's stable suites and backports have. */
export function kernel(series: KernelSeries, flavour: KernelFlavour = 'cloud'): Promise<KernelTree> {
  return promised(() => {
    const selection: Selection = {
      suites: KERNEL_SUITES,
      dependencies: false,
      names: (archive) => {
        const newest = archive.named(KERNEL_NAMES[series][flavour]).at(-1);
        if (newest === undefined) throw new Error(`the archive has no ${flavour} kernel ${series}`);
        return [newest];
      },
    };
    const tree = unpacked(`vm-kernel-${series}${flavour === 'cloud' ? '' : `-${flavour}`}`, selection);
    const folder = join(tree.path, 'lib/modules');
    const version = only(readdirSync(folder), folder);
    const vmlinuz = join(tree.path, 'boot', `vmlinuz-${version}`);
    return { vmlinuz, modules: join(folder, version), version, packageVersion: versionOf(tree, 'linux-image') };
  });
}

/** Path of a busybox that needs no library. */
export function busybox(): Promise<string> {
  return promised(() => {
    const tree = unpacked('vm-busybox', { suites: ['bookworm'], names: ['busybox-static'], dependencies: false });
    return join(tree.path, 'bin/busybox');
  });
}

function unpacked(name: string, selection: Selection): Tree {
  const known = trees.get(name);
  if (known !== undefined) return known;
  if (process.arch !== 'x64') throw new Error(`the virtual machines need an x86-64 host, this is ${process.arch}`);
  const tree = unpackedSelection(selection, cacheFolder(name));
  trees.set(name, tree);
  return tree;
}

/** The version of the first package whose name begins so. */
function versionOf(tree: Tree, name: string): string {
  return tree.packages.find((each) => each.startsWith(name))?.replace(/^\S+ /, '') ?? 'unknown';
}

function only(names: readonly string[], folder: string): string {
  const [first] = names;
  if (first === undefined || names.length > 1) throw new Error(`one entry expected in ${folder}: ${names.join(', ')}`);
  return first;
}

/** Errors of the synchronous step as a rejected promise. */
function promised<T>(step: () => T): Promise<T> {
  return new Promise((resolve) => {
    resolve(step());
  });
}
