// What /proc and /sys say of limits of this process and of memory. Sizes in bytes; undefined: the files do not tell.
import type { HostFiles } from './survey-files.ts';

/** Huge pages of one size. */
export interface HugePages {
  /** Bytes of one page. */
  readonly size: number;
  readonly total: number;
  readonly free: number;
}

/** Limits that matter for passed-through devices. */
export interface SurveyLimits {
  /** Memory that this process has locked and may lock; Infinity with CAP_IPC_LOCK or without a limit. */
  readonly locked: number;
  readonly lockLimit: number | undefined;
  /** Why there is no limit: the capability CAP_IPC_LOCK, or RLIMIT_MEMLOCK; undefined when there is one. */
  readonly unlimitedBy: 'capability' | 'rlimit' | undefined;
  /** vm.max_map_count: bounds gather windows. */
  readonly maxMapCount: number | undefined;
  readonly memoryTotal: number | undefined;
  readonly memoryAvailable: number | undefined;
  readonly hugePages: readonly HugePages[];
}

const CAP_IPC_LOCK = 1n << 14n;
const HUGE = 'kernel/mm/hugepages';

/** Reads the limits below `/proc` and `/sys`. */
export function readLimits(proc: HostFiles, sys: HostFiles): SurveyLimits {
  const status = proc.text('self/status') ?? '';
  const memory = proc.text('meminfo') ?? '';
  const capabilities = BigInt(`0x${/^CapEff:\s*([0-9a-f]{1,16})$/m.exec(status)?.[1] ?? '0'}`);
  const soft = /^Max locked memory\s+(unlimited|\d{1,15})\s/m.exec(proc.text('self/limits') ?? '')?.[1];
  const unlimitedBy = (capabilities & CAP_IPC_LOCK) !== 0n ? 'capability' : soft === 'unlimited' ? 'rlimit' : undefined;
  return {
    locked: kibibytes(status, 'VmLck') ?? 0,
    lockLimit: unlimitedBy !== undefined ? Infinity : soft === undefined ? undefined : Number(soft),
    unlimitedBy,
    maxMapCount: proc.number('sys/vm/max_map_count'),
    memoryTotal: kibibytes(memory, 'MemTotal'),
    memoryAvailable: kibibytes(memory, 'MemAvailable'),
    hugePages: readHugePages(sys),
  };
}

function kibibytes(text: string, name: string): number | undefined {
  const value = new RegExp(`^${name}:\\s*(\\d{1,12}) kB`, 'm').exec(text)?.[1];
  return value === undefined ? undefined : Number(value) * 1024;
}

function readHugePages(sys: HostFiles): HugePages[] {
  return sys.list(HUGE).flatMap((name) => {
    const size = /^hugepages-(\d{1,9})kB$/.exec(name)?.[1];
    const total = sys.number(`${HUGE}/${name}/nr_hugepages`);
    const free = sys.number(`${HUGE}/${name}/free_hugepages`);
    if (size === undefined || total === undefined || free === undefined) return [];
    return [{ size: Number(size) * 1024, total, free }];
  });
}
