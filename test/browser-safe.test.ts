// The core runs without Node: it is loaded in a realm without Node's globals, where no built-in and no package can be
// imported, and a MAP goes through the ring there. Compiled on the fly from src/, so no build is needed.
import { execFile } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { roomOf } from './rooms/table.ts';

const ROOT = join(import.meta.dirname, '..');
const CHILD = join(import.meta.dirname, 'browser-safe/child.mjs');
const PUBLIC = ['src/index.ts', 'src/testing.ts'];
/** A file of the core that other files import: the places where the failing cases are put. */
const INJECTED = 'src/base/ranges.ts';

interface Request {
  readonly entries: readonly string[];
  readonly call?: readonly [file: string, name: string];
  readonly overlay?: Readonly<Record<string, string>>;
}

interface Answer {
  readonly ok: boolean;
  readonly value?: unknown;
  readonly error?: string;
}

const coreFiles = readdirSync(join(ROOT, 'src'), { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.ts') && !name.endsWith('.test.ts'))
  .map((name) => `src/${name.replaceAll('\\', '/')}`)
  .filter((file) => roomOf(file)?.core === true)
  .sort();

const REQUESTS = {
  map: { entries: PUBLIC, call: ['test/browser-safe/map-through-ring.ts', 'mapThroughRing'] },
  all: { entries: coreFiles },
  builtin: { entries: PUBLIC, overlay: { [INJECTED]: "import { readFileSync } from 'node:fs';\nreadFileSync('x');" } },
  bare: { entries: PUBLIC, overlay: { [INJECTED]: "import 'fs';" } },
  package: { entries: PUBLIC, overlay: { [INJECTED]: "import 'zod';" } },
  dynamic: { entries: ['src/a.ts'], overlay: { 'src/a.ts': "await import('node:fs');" } },
  process: { entries: ['src/a.ts'], overlay: { 'src/a.ts': 'process.version;' } },
  buffer: { entries: ['src/a.ts'], overlay: { 'src/a.ts': 'Buffer.from("a");' } },
  console: { entries: ['src/a.ts'], overlay: { 'src/a.ts': 'console.log(1);' } },
} as const satisfies Readonly<Record<string, Request>>;

const answers = new Map<string, Answer>();

function runChild(requests: readonly Request[]): Promise<Answer[]> {
  return new Promise((resolve, reject) => {
    const args = ['--experimental-vm-modules', '--no-warnings', CHILD];
    const child = execFile(process.execPath, args, { maxBuffer: 2 ** 24 }, (error, stdout, stderr) => {
      if (error === null) resolve(JSON.parse(stdout) as Answer[]);
      else reject(new Error(`the child process failed: ${stderr}`));
    });
    child.stdin?.end(JSON.stringify(requests));
  });
}

beforeAll(async () => {
  const found = await runChild(Object.values(REQUESTS));
  Object.keys(REQUESTS).forEach((name, i) => answers.set(name, found[i]!));
}, 60_000); // a process that loads every file of the core

describe('the core without Node', () => {
  it('maps a page through the ring, translates, and mirrors', () => {
    expect(answers.get('map')).toEqual({
      ok: true,
      value: {
        statuses: [0, 0, 0],
        written: 'ok',
        passed: [1, 2, 3],
        entries: 1,
        unmapped: 0,
        afterUnmap: 'blocked',
        interrupted: true,
      },
    });
  });

  it('loads every file of its rooms', () => {
    expect(answers.get('all')).toEqual({ ok: true, value: coreFiles.length });
    expect(coreFiles.length).toBeGreaterThan(100);
  });
});

describe('the realm without Node', () => {
  it.each([
    ['builtin', 'src/base/ranges.ts imports node:fs, which is blocked'],
    ['bare', 'src/base/ranges.ts imports fs, which is blocked'],
    ['package', 'src/base/ranges.ts imports zod, which is blocked'],
    ['dynamic', /dynamic import/i],
    ['process', 'process is not defined'],
    ['buffer', 'Buffer is not defined'],
    ['console', 'console is not defined'],
  ])('refuses: %s', (name, message) => {
    expect(answers.get(name)).toEqual({ ok: false, error: expect.stringMatching(message) as string });
  });
});
