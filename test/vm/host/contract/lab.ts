// A container with the edu device on a real kernel, opened the way that a contract case asks for.
// Not here: what is checked (type1.ts, gather.ts). Unit: bytes for sizes, 4 KiB pages where a name says so.
import { readFileSync } from 'node:fs';
import { GuestRam } from '../../../../src/host/guest-ram.ts';
import { lockedMemory } from '../../../../src/host/native.ts';
import type { KernelVersion } from '../../../../src/host/simulated/type1-rules.ts';
import type { VfioDevice } from '../../../../src/host/vfio-device.ts';
import type { VfioType1Options } from '../../../../src/host/vfio-type1.ts';
import { VfioType1Context } from '../../../../src/host/vfio-type1.ts';
import type { GuestEnv } from '../guest-env.ts';
import { withEntryLimit } from '../guest-env.ts';

const K4 = 4096;
const RW = 3;
/** Where the memory that fills the limit of locked memory is mapped: away from what any case maps. */
const FILLER_IOVA = 0x40_0000_0000n;
/** Anybody but root: the kernel asks for a limit of locked memory of those who lack CAP_IPC_LOCK only. */
const USER = 1000;

/** The machine's kernel as far as rules depend on it. */
export function kernelVersion({ kernel }: GuestEnv): KernelVersion {
  const [major = 0, minor = 0] = kernel.split('.').map(Number);
  if (major > 6) return '7.2';
  return major === 6 && minor >= 12 ? '6.12' : '6.1';
}

/** Pages that this process keeps locked. */
export function lockedPages(): number {
  return Number(/^VmLck:\s*(\d+) kB/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]) / 4;
}

/** Runs `step` without the privileges of root. */
export function asUser<T>(step: () => T): T {
  process.seteuid!(USER);
  try {
    return step();
  } finally {
    process.seteuid!(0);
  }
}

/** What a case needs of its container. */
export interface LabOptions extends Partial<VfioType1Options> {
  /** dma_entry_limit. */
  readonly limit?: number | undefined;
  /** Pages that a process without privileges may still lock. */
  readonly memlock?: number | undefined;
}

/** A fresh container with the edu device. */
export interface Lab {
  readonly context: VfioType1Context;
  readonly device: VfioDevice;
  /** Runs the case, with the privileges that it is meant for. */
  run<T>(step: () => T): T;
  readonly close: () => void;
}

/** Opens the edu device's group; dma_entry_limit, which the kernel samples at that moment, is as before afterwards. */
export async function openLab(env: GuestEnv, { limit, memlock, ...options }: LabOptions = {}): Promise<Lab> {
  const open = (): VfioType1Context => VfioType1Context.open({ group: env.edu.group, ...options });
  const context = limit === undefined ? open() : await withEntryLimit(limit, open);
  const filler = memlock === undefined ? undefined : fillLockedMemory(context, memlock);
  return {
    context,
    device: context.devices[0]!,
    run: (step) => (memlock === undefined ? step() : asUser(step)),
    close: () => {
      context.close();
      filler?.close();
    },
  };
}

/** Maps memory until a process without privileges may lock only `pages` more; the limit itself cannot be set from here. */
function fillLockedMemory(context: VfioType1Context, pages: number): GuestRam {
  const { locked, limit } = asUser(lockedMemory);
  const room = (limit - locked) / K4 - pages;
  if (!Number.isSafeInteger(room) || room < 1) throw new Error(`no limit of locked memory to fill: ${limit}`);
  const ram = GuestRam.create({ size: BigInt(room * K4) });
  const { errno } = context.mapDma({ flags: RW, vaddr: ram.hva, iova: FILLER_IOVA, size: ram.size });
  if (errno !== 0) throw new Error(`locked memory cannot be filled: errno ${errno}`);
  return ram;
}
