// The walls between the rooms of src/: every file's imports are read and compared with the table (test/rooms/table.ts).
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { cycles, logicInEntries, nodeBehindCore, tooLong, wrongGlobals, wrongImports } from './rooms/rules.ts';
import type { SourceFacts } from './rooms/source-file.ts';
import { readSource } from './rooms/source-file.ts';
import { FORBIDDEN_GLOBALS, ROOMS } from './rooms/table.ts';

const ROOT = join(import.meta.dirname, '..');

const files: readonly SourceFacts[] = readdirSync(join(ROOT, 'src'), { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.ts') && !name.endsWith('.test.ts'))
  .map((name) => `src/${name.replaceAll('\\', '/')}`)
  .sort()
  .map((file) => readSource(file, readFileSync(join(ROOT, file), 'utf8'), FORBIDDEN_GLOBALS));

describe('the rooms of src/', () => {
  it('import only what the table allows', () => expect(wrongImports(files)).toEqual([]));
  it('of the core reach no Node built-in', () => expect(nodeBehindCore(files)).toEqual([]));
  it('of the core use no global that a browser lacks', () => expect(wrongGlobals(files)).toEqual([]));
  it('have no import cycle', () => expect(cycles(files)).toEqual([]));
  it('have no file above the limit', () => expect(tooLong(files)).toEqual([]));
  it('have entry files without logic', () => expect(logicInEntries(files)).toEqual([]));

  it('are all there: the files were found', () => {
    const rooms = ROOMS.filter((room) => files.some(({ file }) => room.files.test(file))).map((room) => room.name);
    expect(rooms).toEqual(
      expect.arrayContaining(['base', 'intervals', 'virtio', 'wire', 'iommu', 'coalesce', 'host/context', 'testing']),
    );
    expect(files.length).toBeGreaterThan(100);
    expect(existsSync(join(ROOT, 'src/index.ts'))).toBe(true);
  });
});

/** Facts of a made-up tree. */
function tree(sources: Readonly<Record<string, string>>): SourceFacts[] {
  return Object.entries(sources).map(([file, text]) => readSource(file, text, FORBIDDEN_GLOBALS));
}

describe('the rules', () => {
  const target = {
    'src/iommu/x.ts': '',
    'src/virtio/split-queue.ts': '',
    'src/virtio/chain.ts': '',
    'src/host/sysfs.ts': '',
  };

  it.each([
    ['src/virtio/a.ts', "import { x } from '../iommu/x.ts';"],
    ['src/virtio/a.ts', "import type { x } from '../iommu/x.ts';"],
    ['src/wire/a.ts', "export * from '../iommu/x.ts';"],
    ['src/base/a.ts', "const x = await import('../iommu/x.ts');"],
    ['src/base/a.ts', "let x: import('../iommu/x.ts').X;"],
    ['src/iommu/a.ts', "import { SplitQueue } from '../virtio/split-queue.ts';"],
    ['src/coalesce/a.ts', "import { readSysfs } from '../host/sysfs.ts';"],
    ['src/firmware/a.ts', "import 'node:fs';"],
    ['src/firmware/a.ts', "import { readFileSync } from 'fs';"],
    ['src/host/iommufd.ts', "import 'node:fs';"],
    ['src/iommu/a.ts', "import { z } from 'zod';"],
    ['src/cli/a.ts', "import x from 'left-pad';"],
    ['src/base/a.ts', "import '../nowhere.ts';"],
    ['src/base/a.ts', 'const name = 1; await import(name);'],
    ['src/attic/a.ts', ''],
  ])('find the wrong import in %s: %s', (file, text) => {
    expect(wrongImports(tree({ ...target, [file]: text }))).toHaveLength(1);
  });

  it('allow what the table allows', () => {
    const sources = {
      ...target,
      'src/iommu/a.ts': "import { Chain } from '../virtio/chain.ts';\nimport './x.ts';",
      'src/cli/a.ts': "import 'node:fs';\nimport 'commander';\nimport '../host/sysfs.ts';",
    };
    expect(wrongImports(tree(sources))).toEqual([]);
  });

  it('follow imports to a built-in, but not erased ones', () => {
    const node = { 'src/host/sysfs.ts': "import 'node:fs';" };
    const kept = {
      ...node,
      'src/testing/a.ts': "import '../host/sysfs.ts';",
      'src/testing.ts': "export * from './testing/a.ts';",
    };
    expect(nodeBehindCore(tree(kept))).toEqual([
      'src/testing/a.ts -> src/host/sysfs.ts',
      'src/testing.ts -> src/testing/a.ts -> src/host/sysfs.ts',
    ]);
    expect(nodeBehindCore(tree({ ...node, 'src/testing/a.ts': "import type { X } from '../host/sysfs.ts';" }))).toEqual(
      [],
    );
  });

  it.each([
    'console.log(1);',
    'const b = Buffer.from("");',
    'x = process;',
    'f(globalThis.process);',
    'setTimeout(f);',
  ])('find the global in %s', (text) => expect(wrongGlobals(tree({ 'src/base/a.ts': text }))).toHaveLength(1));

  it.each([
    'const process = f; process();',
    'a.console = 1;',
    'const a = { process: 1 };',
    '// console.log',
    'const a = "process";',
  ])('see no global in %s', (text) => expect(wrongGlobals(tree({ 'src/base/a.ts': text }))).toEqual([]));

  it('find cycles at run time, and through types between rooms only', () => {
    const pair = (one: string, two: string): string[] =>
      cycles(
        tree({ 'src/base/a.ts': one, 'src/base/b.ts': two, 'src/wire/c.ts': "import type { A } from '../base/a.ts';" }),
      );
    expect(pair("import { b } from './b.ts';", "import { a } from './a.ts';")).toEqual([
      'at run time: src/base/a.ts, src/base/b.ts',
    ]);
    expect(pair("import type { b } from './b.ts';", "import { a } from './a.ts';")).toEqual([]);
    expect(pair("import type { c } from '../wire/c.ts';", '')).toEqual([
      'through types, between rooms: src/base/a.ts, src/wire/c.ts',
    ]);
  });

  it('count lines up to the limit', () => {
    const lines = (count: number): string[] => tooLong(tree({ 'src/base/a.ts': 'f();\n'.repeat(count) }));
    expect([lines(399), lines(400), lines(401)]).toEqual([[], [], ['src/base/a.ts has 401 lines']]);
  });

  it('find logic in an entry file', () => {
    expect(logicInEntries(tree({ 'src/index.ts': "export { a } from './base/a.ts';" }))).toEqual([]);
    expect(logicInEntries(tree({ 'src/index.ts': 'export const a = 1;' }))).toEqual(['src/index.ts holds logic']);
  });
});
