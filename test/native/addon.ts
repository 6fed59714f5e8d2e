// What the tests of the native addon share: whether it is there, and what the kernel says of this process.
// Without the addon the tests are skipped, aloud; with VIOMMU_NATIVE=required (npm run test:native) that is a failure.
import { readFileSync, readdirSync, readlinkSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe } from 'vitest';
import { isHostError } from '../../src/base/errors.ts';
import { loadNative } from '../../src/host/native.ts';

function missing(): string | undefined {
  try {
    loadNative();
    return undefined;
  } catch (error) {
    if (process.env['VIOMMU_NATIVE'] === 'required') throw error;
    return (error as Error).message;
  }
}

const reason = missing();
if (reason !== undefined) console.warn(`test/native is skipped: ${reason}`);

/** `describe` where the addon is there, else skipped. */
export function describeNative(name: string, body: () => void): void {
  if (reason === undefined) describe(name, body);
  else describe.skip(name, body);
}

// Node counts descriptors in its worker threads, and does not know of those that the addon makes.
const emitWarning = process.emitWarning.bind(process);
process.emitWarning = ((...args: Parameters<typeof emitWarning>) => {
  if (!String(args[0]).includes('unmanaged mode')) emitWarning(...args);
}) as typeof process.emitWarning;

/** Lines of /proc/self/maps that contain `name`. */
export function maps(name: string): string[] {
  return readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter((line) => line.includes(name));
}

/** Descriptors of this process whose target contains `name`. */
export function descriptors(name: string): number[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).includes(name) ? [Number(fd)] : [];
    } catch {
      return [];
    }
  });
}

/** Flags of an open descriptor (fcntl F_GETFL and FD_CLOEXEC as 0o2000000). */
export function flagsOf(fd: number): number {
  return parseInt(/^flags:\s*([0-7]+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))![1]!, 8);
}

export const O_CLOEXEC = 0o2000000;

/** Lets finalisers run that wait for the event loop. */
export async function turns(count = 4): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve));
}

/** Collects garbage until `done`, at most 50 times. */
export async function collectUntil(done: () => boolean): Promise<boolean> {
  setFlagsFromString('--expose-gc');
  const gc = runInNewContext('gc') as () => void;
  for (let i = 0; i < 50 && !done(); i++) {
    gc();
    await turns();
  }
  return done();
}

/** Code, errno and message of the HostError that `run` throws, for one comparison. */
export function hostErrorOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    if (isHostError(error)) return `${error.code} ${error.errno} ${error.message}`;
    throw error;
  }
  return 'no error';
}
