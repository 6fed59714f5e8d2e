// Kernels of flavours that base/packages.ts does not have. Not here: the usual one.
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { KernelTree } from '../base/packages.ts';
import { cacheFolder, unpackedSelection } from '../../slow/debian-packages.ts';

const SUITES = ['bookworm', 'bookworm-updates', 'bookworm-security', 'bookworm-backports'];
const NAME = /^linux-image-6\.12\.\d+\+deb12(\.\d+)?-amd64$/;

/** The newest Debian kernel 6.12 of the full flavour: all drivers, those of real machines too. */
export function fullKernel(): Promise<KernelTree> {
  return new Promise((resolve) => {
    const selection = {
      suites: SUITES,
      dependencies: false,
      names: (archive: { named: (pattern: RegExp) => string[] }): string[] => archive.named(NAME).slice(-1),
    };
    const tree = unpackedSelection(selection, cacheFolder('vm-kernel-6.12-full'));
    const folder = join(tree.path, 'lib/modules');
    const [version = 'none'] = readdirSync(folder);
    const vmlinuz = join(tree.path, 'boot', `vmlinuz-${version}`);
    if (!existsSync(vmlinuz)) throw new Error(`the archive has no full kernel 6.12 (${vmlinuz})`);
    const packageVersion = tree.packages.join(' ').replace(/^\S+ /, '');
    resolve({ vmlinuz, modules: join(folder, version), version, packageVersion });
  });
}
