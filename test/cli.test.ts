// The command line as a person meets it: output, one clear line for errors, exit statuses.
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { jobRows, oneToOne } from '../src/cli/nested-rows.ts';
import type { Policy } from '../src/coalesce/settings.ts';
import { run } from './run-cli.ts';

const MAIN = fileURLToPath(new URL('../src/cli/main.ts', import.meta.url));

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
      policy: 'exact',
      limit: 65_535,
      hostEntriesPeak: 1,
      gatherWindows: 1,
      refused: 0,
      windows: 0,
      leftInGuestTable: 0,
      leftInHostTable: 0,
    });
    for (const key of ['requests', 'kicks', 'hostMapCalls', 'hostUnmapCalls', 'seconds'])
      expect(row[key]).toBeTypeOf('number');
    expect(row['l2']).toEqual({ entries: 1, mapCalls: 1, ioptes: { 4096: 512 } });
    expect(row['contexts']).toBeUndefined();
  });

  const SCATTERED = ['nested', '--l2-ram', '2M', '--pattern', 'scattered'];

  it.each([
    [['--policy', 'forward'], 512],
    [['--policy', 'kick'], 1],
    [['--gather', 'never'], 512],
    [['--gather', 'always'], 1],
    [['--max-entry', '1M'], 2],
    [['--backing', 'hugetlb'], 512],
    [['--backing', 'anonymous'], 512],
    [['--live-map'], 512],
    [['--live-map', '--live-unmap', '--policy', 'lossy'], 512],
    [['--live-unmap', '--ring', '64'], 1],
  ])('%j: %i entries', async (args, entries) => {
    const { status, stdout } = await run(...SCATTERED, ...args, '--json');
    expect([status, JSON.parse(stdout)]).toMatchObject([0, { refused: 0, l2: { entries }, failedChecks: [] }]);
  });

  it('counts the windows that a small ring opens when L2 is unmapped live', async () => {
    const windows = async (ring: string): Promise<unknown> => {
      const { stdout } = await run(...SCATTERED, '--live-unmap', '--ring', ring, '--json');
      return (JSON.parse(stdout) as Record<string, unknown>)['windows'];
    };
    expect([await windows('256'), await windows('1024')]).toEqual([1, 0]);
    const { stdout } = await run(...SCATTERED, '--live-unmap', '--ring', '256');
    expect(stdout).toMatch(/│ windows │[^]*│ exact +│(?:[^│]*│){6} +1 │/);
  });

  it('explains what the plan did, with a sentence for each figure', async () => {
    const { status, stdout } = await run(...SCATTERED, '--live-unmap', '--ring', '256', '--explain');
    expect(status).toBe(0);
    expect(stdout).toContain('L2 2 MiB scattered 4k, policy exact: host context type1 group 0');
    const cells = [...stdout.matchAll(/^│ (\S[^│]*?) +│ +([\d,.]+) │ +([\d,.]+) │ +([\d,.]+) │ (.*\.) +│$/gm)];
    const figures = Object.fromEntries(cells.map(([, name = '', ...values]) => [name, values.slice(0, 3).join(' ')]));
    expect(figures).toEqual({
      'guest mappings': '512 512 0',
      entries: '1 1 0',
      'most entries': expect.stringMatching(/^1 1 /) as string,
      joined: '0 0 0',
      gathered: '1 1 0',
      'joins made': '0 0 0',
      'gathers made': expect.stringMatching(/^1 1 /) as string,
      planned: '0 0 0',
      revoked: '0 0 0',
      demotions: '0 0 1',
      windows: '0 0 1',
      'longest, ms': expect.stringMatching(/^0 0 /) as string,
      'low water': '0 0 0',
      compactions: '0 0 0',
      'calls saved': expect.stringMatching(/^511 511 /) as string,
    });
    for (const [, name = '', , , , sentence = ''] of cells) expect(`${name}: ${sentence}`).toMatch(/: [A-Z].*\.$/);
  });

  it('explains in JSON too, tails included that wait for the device', async () => {
    const args = ['--l2-ram', '1M', '--pattern', 'scattered', '--explain', '--json'];
    const { stdout } = await run('nested', ...args);
    const { contexts } = JSON.parse(stdout) as { contexts: Record<string, Record<string, unknown>[]> };
    expect(contexts['mapped']?.[0]).toMatchObject({
      quiet: true,
      planned: 1,
      plannedPages: 256,
      entries: 0,
      limit: 65_535,
    });
    expect(contexts['live']?.[0]).toMatchObject({
      quiet: false,
      planned: 0,
      entries: 1,
      gathered: 1,
      guestMappings: 256,
    });
    expect(contexts['end']?.[0]).toMatchObject({ entries: 0, windows: { count: 0, open: 0 } });
  });

  it('ends with 1 when a request is refused that was not expected to be', async () => {
    const refused = await run(...SCATTERED, '--limit', '511', '--policy', 'forward');
    expect([refused.status, refused.stdout.includes('refused 1 of')]).toEqual([1, true]);
    expect((await run(...SCATTERED, '--limit', '511')).status).toBe(0);
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
    expect([status, JSON.parse(stdout)]).toMatchObject([0, { reservedPages: 256, refused: 0, hostEntriesPeak: 1 }]);
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
    [['--policy', 'greedy'], /policy "greedy" is not available \(available: forward, exact, kick, lossy\)/],
    [['--gather', 'sometimes'], /Allowed choices are never, auto, always/],
    [['--max-entry', '5000', '--l2-ram', '2M'], /maxEntryBytes must be a multiple of 4096/],
    [['--max-entry', '0'], /is not a size/],
    [['--backing', 'file'], /Allowed choices are memfd, hugetlb, anonymous/],
    [['--ring', '100'], /must be a power of two in \[2, 32768\]/],
    [['--ring', '65536'], /must be an integer in \[2, 32768\]/],
    [['--ring', '1'], /must be an integer in \[2, 32768\]/],
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

describe('the rows of the main job', () => {
  const names = (policy?: Policy): string[] =>
    jobRows(policy).map((row) => `${row.l2Bytes / 2 ** 20} ${row.pattern} ${row.policy} ${row.refused}`);

  it('show forwarding beside the default where they differ', () => {
    expect(names()).toEqual(
      expect.arrayContaining([
        '256 scattered forward 1',
        '256 scattered exact 0',
        '1024 mix90 forward 0',
        '1024 mix90 exact 0',
      ]),
    );
  });

  it('are run once each under a policy that is asked for, and only forwarding is refused anything', () => {
    for (const policy of ['exact', 'kick', 'lossy'] as const)
      expect(names(policy).every((name) => name.endsWith(`${policy} 0`))).toBe(true);
    expect(new Set(names('forward')).size).toBe(names('lossy').length);
    expect(names('forward')).toContain('256 scattered forward 1');
    const [contiguous] = jobRows('exact');
    expect([oneToOne(contiguous!, '6.12').refused, oneToOne(contiguous!, '4k').refused]).toEqual([0, 1]);
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

  it('shows what the policy did: a live device is mapped 1:1 and loses nothing', async () => {
    const trace = fileURLToPath(new URL('./traces/vfio-user-blk.ndjson.gz', import.meta.url));
    const exact = await run('replay', trace);
    expect([exact.status, exact.stderr]).toEqual([0, '']);
    expect(exact.stdout).toMatch(/│ policy +│ exact/);
    expect(exact.stdout).toMatch(/│ gathered +│ 0 entries/);
    expect(exact.stdout).toMatch(/│ windows +│ 0, in which/);
    const row = async (policy: string): Promise<Record<string, unknown>> =>
      JSON.parse((await run('replay', trace, '--policy', policy, '--json')).stdout) as Record<string, unknown>;
    const one = await row('exact');
    const other = await row('forward');
    expect([one['hostEntriesPeak'], one['hostMapCalls']]).toEqual([other['hostEntriesPeak'], other['hostMapCalls']]);
    expect(one).toMatchObject({ windows: 0, gatherWindows: 0, differenceCount: 0, policy: 'exact' });
  });

  it('joins what a driver maps before it enables bus mastering', async () => {
    const trace = fileURLToPath(new URL('./traces/l2-boot.ndjson.gz', import.meta.url));
    const { status, stdout } = await run('replay', trace, '--json');
    expect([status, JSON.parse(stdout)]).toMatchObject([0, { windows: 0, differenceCount: 0, leftInHostTable: 0 }]);
    const { hostEntriesPeak } = JSON.parse(stdout) as { hostEntriesPeak: number };
    expect(hostEntriesPeak).toBeLessThan(138);
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
