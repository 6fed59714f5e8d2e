// Ties requirement ids to code and tests by scanning, so that no list has to be kept by hand:
//   tests:       `statement` of spec/vectors/*.json, and `[D-MAP-1]` or `(D-MAP-1)` in titles of any *.test.ts;
//   implemented: an id in a comment of src/**/*.ts (tests excepted).
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join, relative } from 'node:path';
import type { VectorCase } from './vector-format.ts';
import { OWN_VECTORS, readVectorFolder } from './vector-files.ts';

export type Scope = 'device' | 'driver' | 'transport-pci' | 'transport-mmio' | 'packed';

/** One entry of requirements.json; `implementedIn` and `tests` are files, written by `report.ts --write`. */
export interface Requirement {
  readonly id: string;
  readonly section: string;
  readonly level: string;
  readonly text: string;
  readonly scope: Scope;
  readonly implementedIn: readonly string[];
  readonly tests: readonly string[];
}

/** Where an id was found. */
export interface Found {
  readonly id: string;
  /** File, relative to the project. */
  readonly file: string;
  /** Vector id, or title of the test; empty for a comment. */
  readonly test: string;
}

export const ROOT = join(import.meta.dirname, '..');
export const REQUIREMENTS_FILE = join(import.meta.dirname, 'requirements.json');
/** A requirement id; the last part is EX1 to EX7 for the examples of UNMAP. */
const ID = /\b(?:D|DRV|T)-[A-Z]{2,4}-(?:EX)?\d+\b/g;
const TITLE = /\b(?:it|test|describe)(?:\.\w+)*(?:\([^'"`]*?\))?\(\s*(['"`])((?:\\.|(?!\1)[^\\])*)\1/gs;
const COMMENT = /\/\*[\s\S]*?\*\/|\/\/[^\n]*/g;

export function loadRequirements(): Requirement[] {
  return JSON.parse(readFileSync(REQUIREMENTS_FILE, 'utf8')) as Requirement[];
}

/** Ids in the statements of our own vectors. */
export function scanVectors(): Found[] {
  return readVectorFolder(OWN_VECTORS).flatMap(({ name, content }) =>
    (content as VectorCase[]).flatMap((each) =>
      each.statement.map((id) => ({ id, file: `spec/vectors/${name}`, test: each.id })),
    ),
  );
}

/** Ids in square or round brackets in test titles; several may share one pair: `[D-MAP-1, D-MAP-2]`. */
export function titlesOf(source: string, file: string): Found[] {
  return [...source.matchAll(TITLE)].flatMap((match) => {
    const title = match[2] ?? '';
    const inBrackets = [...title.matchAll(/\[[^\]]*\]|\([^)]*\)/g)].map((bracket) => bracket[0]);
    return inBrackets.flatMap((text) => idsOf(text)).map((id) => ({ id, file, test: title }));
  });
}

/** Ids in comments. */
export function commentsOf(source: string, file: string): Found[] {
  const ids = [...source.matchAll(COMMENT)].flatMap((match) => idsOf(match[0]));
  return [...new Set(ids)].map((id) => ({ id, file, test: '' }));
}

/** Scopes whose ids must have a test, and be named by a comment in each file that their entry lists. */
const ENFORCED: readonly Scope[] = ['device', 'transport-pci', 'transport-mmio', 'packed'];

/** Requirements that need a test and have none. */
export function untested(requirements: readonly Requirement[], tests: readonly Found[]): Requirement[] {
  const tested = new Set(tests.map((test) => test.id));
  return requirements.filter(({ id, scope }) => ENFORCED.includes(scope) && !tested.has(id));
}

/** Files whose comments name the requirement; but for driver ids without src/testing, which is the driver's side. */
export function placesOf(each: Requirement, comments: readonly Found[]): string[] {
  const own = comments.filter(({ id, file }) => {
    return id === each.id && (each.scope === 'driver' || !file.startsWith('src/testing/'));
  });
  return [...new Set(own.map(({ file }) => file))].sort();
}

/** What is wrong with the files that entries list as the place of their implementation. */
export function misplaced(requirements: readonly Requirement[], comments: readonly Found[]): string[] {
  return requirements
    .filter(({ scope }) => ENFORCED.includes(scope))
    .flatMap((each) => {
      const { id, implementedIn } = each;
      const places = placesOf(each, comments);
      if (implementedIn.length === 0) return [`${id}: no file is listed`];
      return [
        ...implementedIn
          .filter((file) => !places.includes(file))
          .map((file) => `${id}: no comment of ${file} names it`),
        ...places.filter((file) => !implementedIn.includes(file)).map((file) => `${id}: ${file} is not listed`),
      ];
    });
}

export function scanTestTitles(): Found[] {
  const files = ['src', 'test', 'spec'].flatMap((folder) => sources(folder)).filter(isTest);
  // This scanner's own test writes ids that do not exist.
  return files.filter((file) => file !== 'spec/requirements.test.ts').flatMap((file) => titlesOf(read(file), file));
}

export function scanComments(): Found[] {
  const files = sources('src').filter((file) => !isTest(file));
  return files.flatMap((file) => commentsOf(read(file), file));
}

function idsOf(text: string): string[] {
  return text.match(ID) ?? [];
}

function isTest(file: string): boolean {
  return file.endsWith('.test.ts');
}

function sources(folder: string): string[] {
  const at = join(ROOT, folder);
  if (!existsSync(at)) return [];
  return readdirSync(at, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => relative(ROOT, join(at, name)).replaceAll('\\', '/'))
    .sort();
}

function read(file: string): string {
  return readFileSync(join(ROOT, file), 'utf8');
}
