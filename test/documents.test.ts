// The documents name only what exists: files, functions in their file, scripts, and links between documents.
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';

const ROOT = join(import.meta.dirname, '..');
const DOCUMENTS = [
  'README.md',
  'CONTRIBUTING.md',
  'SECURITY.md',
  'CHANGELOG.md',
  'spec/design.md',
  'spec/embedding.md',
  'spec/serving.md',
];

function read(file: string): string {
  return readFileSync(join(ROOT, file), 'utf8');
}

/** Paths of the project in backticks; a trailing slash, `*` or placeholder is not part of a path. */
function namedPaths(text: string): string[] {
  const found = [...text.matchAll(/`((?:src|test|spec|scripts|native|bench|\.ci)\/[^`\s]*)`/g)];
  return found.map((match) => match[1] ?? '').filter((path) => !/[*<>]/.test(path));
}

/** Targets of relative links. */
function links(text: string): string[] {
  const found = [...text.matchAll(/\]\(([^)#\s]+)(?:#[^)]*)?\)/g)];
  return found.map((match) => match[1] ?? '').filter((target) => !/^[a-z]+:/.test(target));
}

/** Scripts in `npm run name`. */
function scripts(text: string): string[] {
  return [...text.matchAll(/npm run ([\w:-]+)/g)].map((match) => match[1] ?? '');
}

/** Functions with the file they stand in: rows of a table that end in a file and its functions. */
function steps(text: string): { readonly file: string; readonly name: string }[] {
  const rows = [...text.matchAll(/^\|.*\| `([^`]+\.ts)` \| ([^|]+) \|$/gm)];
  return rows.flatMap(([, file = '', names = '']) =>
    [...names.matchAll(/`#?(\w+)`/g)].map((match) => ({ file, name: match[1] ?? '' })),
  );
}

/** True when `source` declares a function, method or class of this name. */
function declares(source: string, name: string): boolean {
  const method = new RegExp(`^ {2}#?${name}(<[^(]*>)?\\(`, 'm');
  const topLevel = new RegExp(`^(export )?(function|class|const) ${name}\\b`, 'm');
  return method.test(source) || topLevel.test(source);
}

describe.each(DOCUMENTS)('%s', (document) => {
  const text = read(document);

  it('names only files that exist', () => {
    expect(namedPaths(text).filter((path) => !existsSync(join(ROOT, path)))).toEqual([]);
  });

  it('links only to files that exist', () => {
    expect(links(text).filter((target) => !existsSync(join(ROOT, dirname(document), target)))).toEqual([]);
  });

  it('names only scripts that exist', () => {
    const { scripts: known } = JSON.parse(read('package.json')) as { scripts: Record<string, string> };
    expect(scripts(text).filter((name) => known[name] === undefined)).toEqual([]);
  });
});

describe('spec/design.md', () => {
  const named = steps(read('spec/design.md'));

  it('describes both walks with a file and a function for every step', () => {
    expect(named.length).toBeGreaterThanOrEqual(35);
  });

  it('names only functions that stand in their file', () => {
    const wrong = named.filter(({ file, name }) => !existsSync(join(ROOT, file)) || !declares(read(file), name));
    expect(wrong).toEqual([]);
  });
});

describe('the checks of documents', () => {
  it('find what they look for', () => {
    expect(namedPaths('see `src/a.ts`, `src/*.ts`, `dist/b.js` and `spec/model`')).toEqual(['src/a.ts', 'spec/model']);
    expect(links('[a](b.md), [c](https://d.example), [e](f.md#g)')).toEqual(['b.md', 'f.md']);
    expect(scripts('`npm run lint`, npm run check:package')).toEqual(['lint', 'check:package']);
    expect(steps('| 1 | text | `src/a.ts` | `b`, `#c` |')).toEqual([
      { file: 'src/a.ts', name: 'b' },
      { file: 'src/a.ts', name: 'c' },
    ]);
    expect(declares('class A {\n  b(): void {\n', 'b')).toBe(true);
    expect(declares('  this.b();', 'b')).toBe(false);
  });
});
