// What the kernel says of this process, and steps without privileges. Runs in the machine.
import { readFileSync } from 'node:fs';

/** Anybody but root: the kernel limits the locked memory of those who lack CAP_IPC_LOCK only. */
const USER = 1000;

/** Pages that are pinned for devices (VmPin), however their locking is counted. */
export function pinnedPages(): number {
  return statusPages('VmPin');
}

/** Pages that count as locked by this process (VmLck). */
export function lockedPages(): number {
  return statusPages('VmLck');
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

function statusPages(field: string): number {
  const text = readFileSync('/proc/self/status', 'utf8');
  const kib = new RegExp(`^${field}:\\s*(\\d+) kB`, 'm').exec(text)?.[1];
  if (kib === undefined) throw new Error(`the kernel does not tell ${field}`);
  return Number(kib) / 4;
}
