// What package.json promises: entries that exist, with types; only what a user needs in the package.
// What is packed is looked at with npm's own list, without a build: files of dist that are not there yet are not missed
// here (publint and attw look at a built package).
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

const ROOT = join(import.meta.dirname, '..');

interface Manifest {
  readonly type: string;
  readonly license: string;
  readonly sideEffects: boolean;
  readonly engines: { readonly node: string };
  readonly bin: Readonly<Record<string, string>>;
  readonly exports: Readonly<Record<string, string | { readonly types: string; readonly default: string }>>;
  readonly files: readonly string[];
  readonly scripts: Readonly<Record<string, string>>;
  readonly dependencies: Readonly<Record<string, string>>;
  readonly devDependencies: Readonly<Record<string, string>>;
}

const manifest = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as Manifest;
const entries = Object.entries(manifest.exports).flatMap(([name, value]) =>
  typeof value === 'string' ? [] : [[name, value] as const],
);

/** The source of a built file: dist/a/b.js and dist/a/b.d.ts come from src/a/b.ts. */
function sourceOf(built: string): string {
  return built.replace(/^(\.\/)?dist\//, 'src/').replace(/(\.d\.ts|\.js)(\.map)?$/, '.ts');
}

function packedFiles(): string[] {
  const args = ['pack', '--dry-run', '--json', '--ignore-scripts'];
  const output = execFileSync('npm', args, { cwd: ROOT, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  const [pack] = JSON.parse(output) as { files: { path: string }[] }[];
  return pack!.files.map((file) => file.path);
}

const ALLOWED: readonly RegExp[] = [
  /^dist\/.+\.(js|d\.ts)(\.map)?$/,
  /^src\/.+\.ts$/,
  /^test\/traces\/[^/]+\.(ndjson|ndjson\.gz|md)$/,
  /^(package\.json|README\.md|LICENSE|CHANGELOG\.md|SECURITY\.md)$/,
];

describe('package.json', () => {
  it('exports the promised entries', () => {
    expect(Object.keys(manifest.exports)).toEqual(
      expect.arrayContaining(['.', './testing', './testing/node', './diagnostics', './package.json']),
    );
  });

  it.each(entries)('exports %s with types first, built from a file of src', (_name, entry) => {
    expect(Object.keys(entry)).toEqual(['types', 'default']);
    expect(entry.types).toMatch(/^\.\/dist\/.+\.d\.ts$/);
    expect(entry.types.replace(/\.d\.ts$/, '.js')).toBe(entry.default);
    expect(existsSync(join(ROOT, sourceOf(entry.default))), sourceOf(entry.default)).toBe(true);
  });

  it('has an executable command', () => {
    const source = sourceOf(manifest.bin['virtio-iommu'] ?? '');
    expect(readFileSync(join(ROOT, source), 'utf8')).toMatch(/^#!\/usr\/bin\/env node\n/);
  });

  it('is an ES module package for Node 20.19 and later, without side effects', () => {
    expect([manifest.type, manifest.engines.node, manifest.sideEffects, manifest.license]).toEqual([
      'module',
      '>=20.19',
      false,
      'Apache-2.0',
    ]);
  });

  it('pins every dependency to one version', () => {
    const versions = Object.values({ ...manifest.dependencies, ...manifest.devDependencies });
    expect(versions.filter((version) => !/^\d+\.\d+\.\d+$/.test(version))).toEqual([]);
  });

  it('names files that are there', () => {
    const wanted = manifest.files.filter((name) => !name.startsWith('!') && name !== 'dist');
    expect(wanted.filter((name) => !existsSync(join(ROOT, name)))).toEqual([]);
  });

  it('has the scripts that the documents name', () => {
    expect(Object.keys(manifest.scripts)).toEqual(
      expect.arrayContaining(['prepare', 'build', 'start', 'test', 'typecheck', 'lint', 'format', 'check:package']),
    );
  });
});

describe('the package', () => {
  const packed = packedFiles();

  it('holds only what a user needs', () => {
    expect(packed.filter((path) => !ALLOWED.some((pattern) => pattern.test(path)))).toEqual([]);
    expect(packed.filter((path) => path.includes('.test.'))).toEqual([]);
  });

  it('holds the sources, the recorded traces and the documents', () => {
    const wanted = [
      'CHANGELOG.md',
      'LICENSE',
      'README.md',
      'SECURITY.md',
      'package.json',
      'src/index.ts',
      'test/traces/l2-boot.ndjson.gz',
    ];
    expect(wanted.filter((path) => !packed.includes(path))).toEqual([]);
  });

  it('holds a source for every built file', () => {
    const built = packed.filter((path) => path.startsWith('dist/'));
    expect(built.filter((path) => !packed.includes(sourceOf(path)))).toEqual([]);
  });
});

describe('package-lock.json', () => {
  it('names no download host', () => {
    expect(readFileSync(join(ROOT, 'package-lock.json'), 'utf8')).not.toMatch(/"resolved": "http/);
  });
});
