// A guest on our device: serve in one process, QEMU in another, the guest's own driver between them. Not here: what a
// guest must say (the tests).
import { dirname } from 'node:path';
import { buildInitramfs } from '../base/initramfs.ts';
import type { CpioFile } from '../base/cpio.ts';
import type { Boot } from '../base/machine.ts';
import { boot } from '../base/machine.ts';
import type { ModuleRequest } from '../base/modules.ts';
import { resolveModules } from '../base/modules.ts';
import type { KernelTree } from '../base/packages.ts';
import { kernel, qemu } from '../base/packages.ts';
import type { ServeReport } from '../../../src/cli/serve-report.ts';
import type { ServeConfig } from './backend.ts';
import { Backend, removedLater } from './backend.ts';
import { Facts } from './facts.ts';

/** Addresses of the functions, as the guest writes them. */
export const RNG = '0000:00:03.0';
export const ENGINE = '0000:00:05.0';
/** Endpoint id of {@link ENGINE}, the number of the function. */
export const ENGINE_ENDPOINT = 0x28;

/** A guest to run. */
export interface GuestOptions {
  /** Busybox script (scripts.ts). */
  readonly script: string;
  /** Added to the kernel command line. */
  readonly append?: string;
  /** Default: the newest 6.12 of the cloud flavour. */
  readonly kernel?: KernelTree;
  /** Inserted before the script; default the drivers of the IOMMU and of the generator. */
  readonly modules?: readonly ModuleRequest[];
  readonly files?: ReadonlyMap<string, CpioFile>;
  /** More arguments for QEMU. */
  readonly args?: readonly string[];
  readonly seconds?: number;
  /** Called for each line of the guest, with the running backend. */
  readonly onLine?: (line: string, backend: Backend) => void;
}

/** How it went. */
export interface GuestRun {
  readonly boot: Boot;
  readonly facts: Facts;
  /** State of serve when the guest had ended and serve was told to end. */
  readonly report: ServeReport;
  /** What serve wrote for a person. */
  readonly log: string;
  /** Requests and accesses that serve recorded; line 1 is the header. */
  readonly backend: Backend;
}

/** Modules of a guest with a generator. */
export const RNG_MODULES: readonly ModuleRequest[] = [{ name: 'virtio-iommu' }, { name: 'virtio-rng' }];

/** Milliseconds of each second of the time-out after which the state of serve is kept, for the message. */
const LOOK_AT = 900;

/**
 * The guest measures the processor's counter against a timer at boot; on a busy machine it gets that wrong by factors, and
 * its seconds with it. The timer that QEMU keeps is always right.
 */
const CLOCK = 'tsc=unstable clocksource=hpet';

/** Starts serve, boots the guest, waits for its end and ends serve. */
export async function runGuest(options: GuestOptions & { readonly config: ServeConfig }): Promise<GuestRun> {
  // Packages first: looking for them takes longer than anything that is measured.
  await Promise.all([qemu(), kernel('6.12'), guestInitrd(options)]);
  const backend = await Backend.start({ record: 'trace.ndjson', ...options.config });
  try {
    const done = await bootGuest(backend, options);
    const report = await backend.stop();
    return { boot: done, facts: new Facts(done.lines), report, log: backend.log, backend };
  } catch (error) {
    await backend.kill();
    throw error;
  }
}

/**
 * Boots a guest on a running backend. @throws Error with the guest's last lines when it crashed or took too long, and
 * with QEMU's words when QEMU failed, or was killed.
 */
export async function bootGuest(backend: Backend, options: GuestOptions): Promise<Boot> {
  const { append = '', onLine, seconds = 240 } = options;
  const [emulator, tree, initrd] = [await qemu(), options.kernel ?? (await kernel('6.12')), await guestInitrd(options)];
  let state = '';
  const look = setTimeout(
    () => void backend.stats().then((report) => (state = JSON.stringify(report))),
    LOOK_AT * seconds,
  );
  try {
    const done = await boot({
      qemu: emulator,
      kernel: tree,
      initrd,
      args: [...backend.qemuArgs, ...(options.args ?? [])],
      seconds,
      append: `${CLOCK} ${append}`,
      ...(onLine === undefined ? {} : { onLine: (line: string) => onLine(line, backend) }),
    });
    if (done.exit === 'timeout' || done.exit === 'crash') {
      const last = done.lines.slice(-40).join('\n');
      throw new Error(`the guest ended with ${done.exit}:\n${last}\nserve: ${backend.log}\n${state}`);
    }
    return done;
  } finally {
    clearTimeout(look);
  }
}

/** Modules that the script inserts itself: files for the guest, and the lines that do it. */
export async function lateModules(
  tree: KernelTree,
  modules: readonly ModuleRequest[],
): Promise<{ readonly files: ReadonlyMap<string, CpioFile>; readonly insert: string }> {
  const resolved = await resolveModules(tree, modules);
  return {
    files: new Map(resolved.map(({ name, bytes }) => [`late/${name}.ko`, bytes])),
    insert: resolved.map(({ name, args }) => `insmod /late/${name}.ko ${args} || exit 1`).join('\n'),
  };
}

/** The initial file system of a guest, made once for all guests that are alike. */
async function guestInitrd(options: GuestOptions): Promise<string> {
  const { modules = RNG_MODULES, files = NO_FILES, script } = options;
  const tree = options.kernel ?? (await kernel('6.12'));
  const alike = files === NO_FILES ? JSON.stringify([tree.version, modules, script]) : undefined;
  const made = (alike === undefined ? undefined : initrds.get(alike)) ?? ownInitrds.get(options);
  if (made !== undefined) return made;
  const making = buildInitramfs({ kernel: tree, modules, files, init: script });
  void making.then((path) => removedLater(dirname(path)));
  if (alike === undefined) ownInitrds.set(options, making);
  else initrds.set(alike, making);
  return making;
}

const NO_FILES: ReadonlyMap<string, CpioFile> = new Map();
const initrds = new Map<string, Promise<string>>();
const ownInitrds = new WeakMap<GuestOptions, Promise<string>>();

/** The report of one function. @throws Error when there is none at this address. */
export function functionAt(report: ServeReport, addr: string): ServeReport['functions'][number] {
  const found = report.functions.find((each) => each.addr === addr);
  if (found === undefined) throw new Error(`serve has no function at ${addr}`);
  return found;
}
