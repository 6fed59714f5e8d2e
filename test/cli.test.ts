// The command line as a person meets it: output, one clear line for errors, exit statuses.
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { runCli } from '../src/cli/program.ts';

const MAIN = fileURLToPath(new URL('../src/cli/main.ts', import.meta.url));

interface Outcome {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command line in this process: starting one takes longer than most commands. */
async function run(...args: string[]): Promise<Outcome> {
  const seen = { stdout: '', stderr: '' };
  const spies = (['stdout', 'stderr'] as const).map((name) =>
    vi.spyOn(process[name], 'write').mockImplementation((text) => {
      seen[name] += String(text);
      return true;
    }),
  );
  try {
    const status = await runCli(args);
    return { status, ...seen };
  } finally {
    for (const spy of spies) spy.mockRestore();
    process.exitCode = undefined;
  }
}

function spawn(...args: string[]): Promise<number> {
  return new Promise((resolve) => {
    execFile(process.execPath, ['--import', 'tsx', MAIN, ...args], (error) => {
      resolve(error === null ? 0 : Number(error.code));
    });
  });
}

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'viommu-cli-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

function file(name: string, content: string | Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

describe('nested', () => {
  it('prints one JSON object for a single L2 with the promised keys', async () => {
    const { status, stdout } = await run('nested', '--l2-ram', '2M', '--pattern', 'scattered', '--json');
    expect(status).toBe(0);
    const row = JSON.parse(stdout) as Record<string, unknown>;
    expect(row).toMatchObject({
      l2Bytes: 2 ** 21,
      pattern: 'scattered',
      page: '4k',
      kernel: '6.12',
      policy: 'forward',
      limit: 65_535,
      hostEntriesPeak: 512,
      gatherWindows: 0,
      refused: 0,
      windows: 0,
      leftInGuestTable: 0,
      leftInHostTable: 0,
    });
    for (const key of ['requests', 'kicks', 'hostMapCalls', 'hostUnmapCalls', 'seconds'])
      expect(row[key]).toBeTypeOf('number');
  });

  it('ends with 1 when a request is refused that was not expected to be', async () => {
    const { status, stdout } = await run('nested', '--l2-ram', '2M', '--pattern', 'scattered', '--limit', '511');
    expect([status, stdout.includes('refused 1 of')]).toEqual([1, true]);
  });

  it('takes reserved memory from a file, and leaves it out of L2', async () => {
    const path = file('reserved_regions', '0x0000000000100000 0x00000000001fffff direct\n');
    const { status, stdout } = await run(
      'nested',
      '--l2-ram',
      '2M',
      '--pattern',
      'scattered',
      '--rmrr',
      path,
      '--json',
    );
    expect([status, JSON.parse(stdout)]).toMatchObject([0, { reservedPages: 256, refused: 0, hostEntriesPeak: 256 }]);
  });

  it('names the size that too many reserved regions need, and merges them when asked to', async () => {
    const line = (i: number): string =>
      `0x${(i * 0x2000).toString(16)} 0x${(i * 0x2000 + 0xfff).toString(16)} direct\n`;
    const path = file('many_regions', Array.from({ length: 30 }, (_, i) => line(i + 16)).join(''));
    const refused = await run('nested', '--l2-ram', '2M', '--rmrr', path);
    expect([refused.status, refused.stderr.trim().split('\n').length]).toEqual([2, 1]);
    expect(refused.stderr).toMatch(/744/);
    const merged = await run('nested', '--l2-ram', '2M', '--rmrr', path, '--merge-reserved', '--json');
    expect([merged.status, JSON.parse(merged.stdout)]).toMatchObject([0, { refused: 0 }]);
  });

  it.each([
    [['--rmrr', '/nothing/here'], /ENOENT/],
    [['--policy', 'exact'], /policy "exact" is not available \(available: forward\)/],
    [['--l2-ram', '4097'], /bytes must be a multiple of 4096/],
    [['--l2-ram', '0'], /is not a size/],
    [['--l2-ram', '3M', '--page', '2m', '--pattern', 'scattered'], /bytes must be a multiple/],
    [['--pattern', 'mix90', '--page', '2m'], /page must be 4k/],
    [['--pattern', 'random'], /Allowed choices are contiguous/],
    [['--limit', '-1'], /must be an integer/],
    [['--bogus'], /unknown option '--bogus'/],
    [['extra'], /too many arguments/],
  ])('%j is a usage error with one clear line', async (args, message) => {
    const { status, stdout, stderr } = await run('nested', ...args);
    expect([status, stdout]).toEqual([2, '']);
    expect(stderr.trim().split('\n')).toHaveLength(1);
    expect(stderr).toMatch(message);
  });
});

describe('replay', () => {
  const header = JSON.stringify({ format: 'viommu-trace/1', guest_ram: [['0x0', '0xffffff']] });
  const attach = JSON.stringify({ k: 0, op: 'ATTACH', dom: 1, ep: 8, fl: 0 });

  it('reads plain and gzipped traces', async () => {
    const plain = await run('replay', file('a.ndjson', `${header}\n${attach}\n`), '--json');
    expect([plain.status, JSON.parse(plain.stdout)]).toMatchObject([0, { requests: 1, differenceCount: 0 }]);
    const zipped = await run('replay', file('b.ndjson.gz', gzipSync(`${header}\n${attach}\n`)));
    expect([zipped.status, zipped.stdout.includes('OK 1')]).toEqual([0, true]);
  });

  it('ends with 1 and names the difference', async () => {
    const wrong = JSON.stringify({ k: 0, op: 'ATTACH', dom: 1, ep: 8, fl: 0, st: 'NOMEM' });
    const { status, stdout } = await run('replay', file('c.ndjson', `${header}\n${wrong}\n`));
    expect(status).toBe(1);
    expect(stdout).toMatch(/ATTACH.*status.*NOMEM.*OK/);
  });

  it.each([
    ['missing.ndjson', undefined, /no such file/],
    ['empty.ndjson', '', /empty|header|line 1/],
    ['text.ndjson', 'hello\n', /line 1: not JSON/],
    ['format.ndjson', '{"format":"viommu-trace/2"}\n', /line 1/],
    ['op.ndjson', `${header}\n{"k":0,"op":"FLY"}\n`, /line 2: unknown op "FLY"/],
    ['field.ndjson', `${header}\n{"k":0,"op":"ATTACH","dom":-1,"ep":8}\n`, /line 2/],
    ['cut.ndjson.gz', gzipSync(`${header}\n${attach}\n`).subarray(0, 30), /cut\.ndjson\.gz/],
    ['mask.ndjson', '{"format":"viommu-trace/1","page_size_mask":"0x1"}\n', /pageSizeMask/],
  ])('%s is refused with one clear line', async (name, content, message) => {
    const path = content === undefined ? join(folder, name) : file(name, content);
    const { status, stdout, stderr } = await run('replay', path);
    expect([status, stdout]).toEqual([2, '']);
    expect(stderr.trim().split('\n')).toHaveLength(1);
    expect(stderr).toMatch(message);
  });
});

describe('help', () => {
  it.each([['--help'], ['nested', '--help'], ['replay', '--help']])(
    '%j has examples and ends with 0',
    async (...args) => {
      const { status, stdout } = await run(...args.flat());
      expect([status, stdout.includes('Examples:')]).toEqual([0, true]);
    },
  );
});

describe('the process', () => {
  it('ends with the status of the command', async () => {
    const statuses = await Promise.all([spawn('--version'), spawn('replay', join(folder, 'nothing'))]);
    expect(statuses).toEqual([0, 2]);
  });
});
