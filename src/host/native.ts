// Loads the addon: the only file that does. Also reads what the kernel says of this process in /proc. Node only.
// Not here: what is done with the addon (guest-ram.ts, vfio-type1.ts, vfio-device.ts).
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { Errno, HostError } from '../base/errors.ts';
import type { NativeAddon } from './native-api.ts';

/** What {@link NativeAddon.nativeApi} must return. */
const NATIVE_API = 3;

const BUILD = 'npm run build:native (needs Rust: https://rustup.rs)';
/** The folder of this package, for src/host and for dist/host. */
const ROOT = fileURLToPath(new URL('../..', import.meta.url));

let loaded: NativeAddon | undefined;

/**
 * The addon; loaded at the first call.
 * @throws HostError ERR_VIOMMU_HOST_UNAVAILABLE that names the command to build it when it is missing, built for
 * another platform, or older than this package.
 */
export function loadNative(): NativeAddon {
  loaded ??= loadFrom(join(ROOT, 'native'));
  return loaded;
}

/**
 * {@link loadNative} with the `native` folder given; nothing is kept. A clone has a generated loader there; an installed
 * package has none, and the addon is a package of its own for each platform.
 */
export function loadFrom(folder: string): NativeAddon {
  const machine = `${process.platform}-${process.arch}`;
  if (process.platform !== 'linux') throw unavailable(`real hosts need Linux, this is ${machine}`);
  const packages = ['gnu', 'musl'].map((libc) => `virtio-iommu-${machine}-${libc}`);
  const built = existsSync(join(folder, 'index.js'));
  const remedy = built || existsSync(join(folder, 'Cargo.toml')) ? BUILD : `npm install ${packages.join(' or ')}`;
  const addon = firstOf(built ? [join(folder, 'index.js')] : packages);
  if (addon instanceof Error) {
    throw unavailable(`the native addon for ${machine} is missing or does not load: ${remedy}`, addon);
  }
  if (typeof addon.nativeApi !== 'function' || addon.nativeApi() !== NATIVE_API) {
    throw unavailable(`the native addon belongs to another version of this package: ${remedy}`);
  }
  return addon;
}

/** The first module that loads, or the last error. */
function firstOf(modules: readonly string[]): NativeAddon | Error {
  const load = createRequire(import.meta.url);
  let last = new Error('no module');
  for (const name of modules) {
    try {
      return load(name) as NativeAddon;
    } catch (error) {
      last = error instanceof Error ? error : new Error(String(error));
    }
  }
  return last;
}

/** True when {@link loadNative} would succeed. */
export function nativeIsAvailable(): boolean {
  try {
    loadNative();
    return true;
  } catch {
    return false;
  }
}

/** A refused call of the addon. */
export interface NativeFailure {
  /** `mmap`, `VFIO_SET_IOMMU`, `close` (used after close). */
  readonly call: string;
  readonly errno: number;
}

/** What an exception of the addon says; undefined for any other value. */
export function nativeFailure(error: unknown): NativeFailure | undefined {
  if (!(error instanceof Error) || (error as NodeJS.ErrnoException).code !== 'ERR_NATIVE') return undefined;
  const match = /^(.*) (\d+)$/.exec(error.message);
  return match === null ? undefined : { call: match[1]!, errno: Number(match[2]) };
}

/** A path that means the same after the process has changed its folder. */
export function absolutePath(path: string): string {
  return resolve(path);
}

/** Text of a file of /proc or /sys without its last line feed; undefined when it cannot be read. */
export function kernelText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8').trimEnd();
  } catch {
    return undefined;
  }
}

/** Mappings that this process may still make: vm.max_map_count less what /proc/self/maps lists; 0 when neither is told. */
export function mappingsLeft(): number {
  const limit = Number(kernelText('/proc/sys/vm/max_map_count') ?? 0);
  const maps = kernelText('/proc/self/maps');
  return maps === undefined ? 0 : Math.max(0, limit - maps.split('\n').length);
}

/** Memory that this process has locked and may lock, in bytes; Infinity with CAP_IPC_LOCK or without a limit. */
export function lockedMemory(): { readonly locked: number; readonly limit: number } {
  const status = kernelText('/proc/self/status') ?? '';
  const locked = Number(/^VmLck:\s*(\d+) kB/m.exec(status)?.[1] ?? 0) * 1024;
  const capabilities = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)/m.exec(status)?.[1] ?? '0'}`);
  const soft = /^Max locked memory\s+(\S+)/m.exec(kernelText('/proc/self/limits') ?? '')?.[1];
  const unlimited = (capabilities & CAP_IPC_LOCK) !== 0n || soft === undefined || soft === 'unlimited';
  return { locked, limit: unlimited ? Infinity : Number(soft) };
}

const CAP_IPC_LOCK = 1n << 14n;

function unavailable(message: string, cause?: unknown): HostError {
  const error = new HostError('ERR_VIOMMU_HOST_UNAVAILABLE', message, { errno: Errno.ENOENT, syscall: 'dlopen' });
  if (cause !== undefined) error.cause = cause;
  return error;
}
