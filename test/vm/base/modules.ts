// Kernel modules of an unpacked kernel: found by name, decompressed, in the order in which they must be inserted.
import { execFileSync } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { KernelTree } from './packages.ts';
import { busybox } from './packages.ts';

/** A module that is wanted, with its arguments. */
export interface ModuleRequest {
  readonly name: string;
  /** As after `insmod FILE`, for example `allow_unsafe_interrupts=1`. */
  readonly args?: string;
}

/** A module and what it needs, ready to be inserted. */
export interface ResolvedModule {
  readonly name: string;
  readonly args: string;
  readonly bytes: Uint8Array;
}

/** The wanted modules, each after those that it depends on. @throws Error for one that this kernel has not. */
export async function resolveModules(tree: KernelTree, wanted: readonly ModuleRequest[]): Promise<ResolvedModule[]> {
  const box = await busybox();
  const files = new Map(moduleFiles(tree.modules).map((path) => [plainName(path), path]));
  const builtin = new Set(readFileSync(join(tree.modules, 'modules.builtin'), 'utf8').split('\n').map(plainName));
  const done = new Map<string, ResolvedModule>();
  const insert = (name: string, args: string): void => {
    if (done.has(name) || builtin.has(name)) return;
    const path = files.get(name);
    if (path === undefined) throw new Error(`kernel ${tree.version} has no module ${name}`);
    const bytes = path.endsWith('.xz')
      ? execFileSync(box, ['xzcat', path], { maxBuffer: 2 ** 28 })
      : readFileSync(path);
    for (const dependency of dependencies(bytes)) insert(plainName(dependency), '');
    done.set(name, { name, args, bytes });
  };
  for (const { name, args = '' } of wanted) insert(plainName(name), args);
  return [...done.values()];
}

function moduleFiles(folder: string): string[] {
  const names = readdirSync(folder, { recursive: true, encoding: 'utf8' });
  return names.filter((name) => /\.ko(\.xz)?$/.test(name)).map((name) => join(folder, name));
}

function plainName(path: string): string {
  return basename(path)
    .replace(/\.ko(\.xz)?$/, '')
    .replace(/-/g, '_');
}

/** The `depends=` string of the section .modinfo. */
function dependencies(bytes: Uint8Array): string[] {
  const text = Buffer.from(bytes).toString('latin1');
  const list = /\0depends=([^\0]*)\0/.exec(text)?.[1] ?? '';
  return list === '' ? [] : list.split(',');
}
