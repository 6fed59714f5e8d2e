// A small kernel with iommufd, which Debian's kernels lack: built from Debian's linux-source with kernel.config on top of
// tinyconfig, once for each version and configuration, and kept in the user's cache.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cacheFolder, unpackedSelection } from '../../slow/debian-packages.ts';
import type { KernelTree } from '../base/packages.ts';

/** Series whose rules the simulated iommufd knows. */
export type IommufdSeries = '6.12' | '7.2';

const CONFIG = fileURLToPath(new URL('kernel.config', import.meta.url));
/** Suites that have had the source of a series; the newest version in any of them is taken. */
const SUITES: Readonly<Record<IommufdSeries, readonly string[]>> = {
  '6.12': ['trixie', 'trixie-updates', 'trixie-security'],
  '7.2': ['trixie-backports', 'forky', 'sid'],
};
/** BARs for peers as dma-bufs, which earlier kernels do not make. */
const DMA_BUFS = [
  'CONFIG_MEMORY_HOTPLUG=y',
  'CONFIG_MEMORY_HOTREMOVE=y',
  'CONFIG_ZONE_DEVICE=y',
  'CONFIG_PCI_P2PDMA=y',
  'CONFIG_DMABUF_HEAPS=y',
  'CONFIG_VFIO_PCI_DMABUF=y',
];
/** Lines behind those of kernel.config. */
const MORE: Readonly<Record<IommufdSeries, readonly string[]>> = { '6.12': [], '7.2': DMA_BUFS };
const PROGRAMS = ['gcc', 'make', 'flex', 'bison', 'bc', 'tar', 'xz', 'nice'];
const HEADERS = { 'gelf.h': 'libelf-dev', 'openssl/opensslv.h': 'libssl-dev' };

/**
 * The kernel of a series, built when the cache does not have it; `log` hears what takes time.
 * @throws Error that says which packages are missing, or where the log of a failed build is.
 */
export function iommufdKernel(series: IommufdSeries, log: (text: string) => void): KernelTree {
  const name = `linux-source-${series}`;
  const selection = { suites: SUITES[series], names: [name], dependencies: false };
  const source = unpackedSelection(selection, cacheFolder(`iommufd-source-${series}`));
  const packageVersion = source.packages[0]?.split(' ')[1] ?? 'unknown';
  const config = [readFileSync(CONFIG, 'utf8'), ...MORE[series], ''].join('\n');
  const hash = createHash('sha256').update(config).digest('hex').slice(0, 12);
  const folder = cacheFolder(`iommufd-kernel-${packageVersion}-${hash}`);
  if (!existsSync(join(folder, 'vmlinuz'))) {
    checkTools();
    build(join(source.path, 'usr/src', `${name}.tar.xz`), config, folder, log);
  }
  return {
    vmlinuz: join(folder, 'vmlinuz'),
    modules: join(folder, 'modules'),
    version: readFileSync(join(folder, 'release'), 'utf8').trim(),
    packageVersion,
  };
}

function checkTools(): void {
  const runs = (program: string, ...args: string[]): boolean => {
    try {
      execFileSync(program, args, { stdio: 'ignore' });
      return true;
    } catch {
      return false;
    }
  };
  const programs = PROGRAMS.filter((program) => !runs('sh', '-c', `command -v ${program}`));
  const headers = Object.entries(HEADERS).filter(
    ([header]) => !runs('sh', '-c', `echo '#include <${header}>' | gcc -E -o /dev/null -`),
  );
  const missing = [...programs, ...headers.map(([, name]) => name)];
  if (missing.length > 0) {
    throw new Error(`to build a kernel this machine lacks: apt-get install ${missing.join(' ')}`);
  }
}

/** Unpacks beside the goal, builds, keeps what a machine needs, and removes the rest. */
function build(archive: string, config: string, folder: string, log: (text: string) => void): void {
  // What an interrupted build has left.
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const work = mkdtempSync(join(folder, 'build-'));
  const logFile = join(folder, 'build.log');
  const output = openSync(logFile, 'w');
  try {
    const jobs = availableParallelism();
    log(`building ${archive} with ${jobs} jobs: 10 minutes or more; see ${logFile}`);
    execFileSync('tar', ['-x', '-f', archive, '-C', work]);
    const tree = join(work, readdirSync(work)[0]!);
    const make = (...targets: string[]): void => {
      const args = ['-n', '10', 'make', '-s', `-j${jobs}`, 'ARCH=x86_64', '-C', tree, ...targets];
      execFileSync('nice', args, { stdio: ['ignore', output, output] });
    };
    make('tinyconfig');
    writeFileSync(join(tree, '.config'), `${readFileSync(join(tree, '.config'), 'utf8')}\n${config}`);
    make('olddefconfig');
    checkConfig(config, readFileSync(join(tree, '.config'), 'utf8'));
    make('bzImage');
    keep(tree, folder);
  } catch (error) {
    throw new Error(`the kernel was not built, see ${logFile}`, { cause: error });
  } finally {
    closeSync(output);
    rmSync(work, { recursive: true, force: true });
  }
}

/** An option that depends on one that is off is dropped without a word: found here, not in the machine. */
function checkConfig(wanted: string, made: string): void {
  const lines = new Set(made.split('\n'));
  const lost = wanted.split('\n').filter((line) => line.startsWith('CONFIG_') && !lines.has(line));
  if (lost.length > 0) throw new Error(`the kernel does not take: ${lost.join(' ')}`);
}

function keep(tree: string, folder: string): void {
  // No modules; the initial file system still asks what is built in.
  mkdirSync(join(folder, 'modules'), { recursive: true });
  copyFileSync(join(tree, 'modules.builtin'), join(folder, 'modules/modules.builtin'));
  copyFileSync(join(tree, '.config'), join(folder, 'config'));
  copyFileSync(join(tree, 'include/config/kernel.release'), join(folder, 'release'));
  // Last, and at once: it is what says that the rest is there.
  copyFileSync(join(tree, 'arch/x86/boot/bzImage'), join(folder, 'vmlinuz.new'));
  renameSync(join(folder, 'vmlinuz.new'), join(folder, 'vmlinuz'));
}
