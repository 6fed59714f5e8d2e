// This package as it runs in a machine: a program of this project and all that it imports, compiled, with the native addon
// and Node, below /app: `node /app/test/vm/host/guest-main.js`.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { CpioFile } from './cpio.ts';
import { programFiles } from './initramfs.ts';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));

/** What was compiled already in this process. */
const known = new Map<string, ReadonlyMap<string, CpioFile>>();

/** Files of an initial file system in which `node /app/ENTRY` runs; entries are TypeScript files relative to the project. */
export function productFiles(...entries: readonly string[]): ReadonlyMap<string, CpioFile> {
  const key = entries.join('\n');
  const before = known.get(key);
  if (before !== undefined) return before;
  const files = new Map<string, CpioFile>([
    ['app/package.json', '{"type":"module"}'],
    ...programFiles(process.execPath, '/usr/bin/node'),
    ...compiled(entries),
    ...addon(),
  ]);
  known.set(key, files);
  return files;
}

/** Types are checked elsewhere (`npm run typecheck`); here the compiler only takes them away. */
function compiled(entries: readonly string[]): Map<string, CpioFile> {
  const folder = mkdtempSync(join(tmpdir(), 'virtio-iommu-js-'));
  try {
    const compilerOptions = {
      noEmit: false,
      noCheck: true,
      declaration: false,
      declarationMap: false,
      sourceMap: false,
      rootDir: ROOT,
      outDir: join(folder, 'js'),
      typeRoots: [join(ROOT, 'node_modules/@types')],
    };
    const files = entries.map((entry) => join(ROOT, entry));
    const project = join(folder, 'tsconfig.json');
    writeFileSync(
      project,
      JSON.stringify({ extends: join(ROOT, 'tsconfig.json'), compilerOptions, include: [], files }),
    );
    const compiler = join(ROOT, 'node_modules/typescript/bin/tsc');
    execFileSync(process.execPath, [compiler, '-p', project], { stdio: 'inherit' });
    const names = readdirSync(join(folder, 'js'), { recursive: true, encoding: 'utf8' });
    const modules = names.filter((name) => /\.js(on)?$/.test(name));
    return new Map(modules.map((name) => [`app/${name}`, readFileSync(join(folder, 'js', name))]));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** @throws Error that names the command when the addon is not built. */
function addon(): Map<string, CpioFile> {
  const native = join(ROOT, 'native');
  const built = existsSync(join(native, 'index.js'))
    ? readdirSync(native).filter((name) => name.endsWith('.node'))
    : [];
  if (built.length === 0) throw new Error('the native addon is not built: npm run build:native');
  const files = new Map<string, CpioFile>();
  for (const name of ['index.js', 'package.json']) files.set(`app/native/${name}`, { from: join(native, name) });
  for (const name of built) {
    for (const [path, file] of programFiles(join(native, name), `/app/native/${name}`)) files.set(path, file);
  }
  return files;
}
