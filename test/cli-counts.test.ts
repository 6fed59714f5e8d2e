// `virtio-iommu counts`: the table, JSON, the chart, and what is wrong on a command line.
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { loadVega } from '../src/cli/counts-chart.ts';
import * as live from '../src/testing/lab/count-live.ts';
import { run } from './run-cli.ts';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'viommu-counts-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

const SMALL = ['--l2-ram', '2M,4M', '--pattern', 'scattered,contiguous'];

interface Printed {
  readonly limit: number;
  readonly rows: readonly Readonly<Record<string, unknown>>[];
}

async function json(...args: string[]): Promise<Printed> {
  const { status, stdout, stderr } = await run('counts', ...args, '--json');
  expect([status, stderr]).toEqual([0, '']);
  return JSON.parse(stdout) as Printed;
}

describe('counts', () => {
  it('prints one JSON row for each combination', async () => {
    const { limit, rows } = await json(...SMALL);
    expect([limit, rows.length]).toEqual([65_535, 2 * 2 * 4 * 4]);
    expect(rows[1]).toEqual({
      l2Bytes: 2 ** 21,
      pattern: 'scattered',
      backing: 'memfd',
      policy: 'exact',
      maps: 512,
      hostEntriesPeak: 1,
      hostEntries: 1,
      hostMapCalls: 1,
      refused: 0,
      refusedBytes: 0,
      ioptes: 512,
      largeIoptes: 0,
      largeShare: 0,
      live: null,
    });
  });

  it('is filtered by flags, in lists or repeated', async () => {
    const { rows } = await json(
      ...['--l2-ram', '4M', '--l2-ram', '2M,2M', '--pattern', 'scattered', '--backing', 'memfd, anonymous'],
      ...['--policy', 'forward', '--policy', 'exact'],
    );
    expect(rows.map(({ l2Bytes, backing, policy, hostEntries }) => [l2Bytes, backing, policy, hostEntries])).toEqual([
      [2 ** 22, 'memfd', 'forward', 1024],
      [2 ** 22, 'memfd', 'exact', 2],
      [2 ** 22, 'anonymous', 'forward', 1024],
      [2 ** 22, 'anonymous', 'exact', 1024],
      [2 ** 21, 'memfd', 'forward', 512],
      [2 ** 21, 'memfd', 'exact', 1],
      [2 ** 21, 'anonymous', 'forward', 512],
      [2 ** 21, 'anonymous', 'exact', 512],
    ]);
  });

  it('shows refused rows beside the limit, and ends with 0: they are what is counted', async () => {
    const { status, stdout } = await run(
      ...['counts', '--l2-ram', '2M', '--pattern', 'scattered', '--backing', 'memfd', '--limit', '500'],
    );
    expect(status).toBe(0);
    expect(stdout).toMatch(/limit 500 entries/);
    expect(stdout).toMatch(/2 MiB │ scattered │ memfd +│ forward +│ +512 │ +500 │ +512 │ +12 │ .*█┃█/);
    expect(stdout).toMatch(/2 MiB │ scattered │ memfd +│ exact, kick, lossy +│ +512 │ +1 │ +1 │ +0 │ .* ┃ /);
  });

  it.each(['0', '1', '2'])('counts under a limit of %s', async (limit) => {
    const { rows } = await json('--l2-ram', '2M', '--pattern', 'scattered', '--backing', 'anonymous', '--limit', limit);
    for (const row of rows) expect([row['hostEntries'], row['refused']]).toEqual([Number(limit), 512 - Number(limit)]);
  });
});

describe('the table of README.md', () => {
  const readme = readFileSync(join(import.meta.dirname, '../README.md'), 'utf8');
  const rows = (text: string): string[] =>
    [...text.matchAll(/^│ +\d.*(?:forward|exact).*$/gm)].map(([row]) => plain(row));
  // Columns are as wide as their widest row.
  const plain = (row: string): string => row.replace(/\s+/g, ' ');

  it.each([
    ['256M', 'mix90,scattered'],
    ['16G', 'mix90'],
  ])('has what the command says of %s %s', async (size, pattern) => {
    const command = '--backing memfd+thp --policy forward,exact';
    expect(readme).toContain(`npx virtio-iommu counts --l2-ram 256M,16G --pattern mix90,scattered ${command}`);
    const { stdout } = await run('counts', '--l2-ram', size, '--pattern', pattern, ...command.split(' '));
    expect(rows(stdout).length).toBeGreaterThan(0);
    expect(rows(readme)).toEqual(expect.arrayContaining(rows(stdout)));
  });
});

describe('counts --live', () => {
  it('runs the rows through the device and finds the same', async () => {
    const { status, stdout } = await run('counts', '--live', '--l2-ram', '2M,2G', '--pattern', 'contiguous,mean8');
    expect([status, stdout.includes('DIFFERS')]).toEqual([0, false]);
    expect(stdout).toMatch(/2 MiB .* same /);
    expect(stdout).toMatch(/2 GiB .* not run /);
    const { rows } = await json('--live', '--l2-ram', '2M', '--pattern', 'mean8', '--policy', 'lossy');
    expect(rows.map((row) => row['live'])).toEqual(Array(4).fill({ same: true, differences: [] }));
  });

  it('ends with 1 and names what differs', async () => {
    const spy = vi.spyOn(live, 'runLive').mockReturnValue({
      ...{ hostEntriesPeak: 1, hostEntries: 1, hostMapCalls: 2, refused: 0, refusedBytes: 0, ioptes: 512 },
      failedChecks: ['a page is wrong'],
    });
    try {
      const args = ['counts', '--live', '--l2-ram', '2M', '--pattern', 'scattered', '--policy', 'exact'];
      const { status, stdout, stderr } = await run(...args, '--backing', 'memfd');
      expect([status, stdout.includes('DIFFERS')]).toEqual([1, true]);
      expect(stderr.trim().split('\n')).toEqual([
        'error: L2 2 MiB scattered memfd exact: hostMapCalls: counted 1, live 2',
        'error: L2 2 MiB scattered memfd exact: a page is wrong',
      ]);
    } finally {
      spy.mockRestore();
    }
  });
});

describe('counts --svg', () => {
  it('writes a chart with the limit and a line for each plan', async () => {
    const path = join(folder, 'counts.svg');
    const { status } = await run('counts', ...SMALL, '--limit', '600', '--svg', path);
    expect(status).toBe(0);
    const svg = readFileSync(path, 'utf8');
    expect(svg).toMatch(/^<svg .*<\/svg>\n$/s);
    for (const text of ['limit 600', 'forward', 'exact, kick, lossy', 'hugetlb', 'scattered', '2 M', 'MAPs refused'])
      expect(svg).toContain(`>${text}`.replace('>limit 600', 'limit 600'));
  });

  it('says what to install when vega is not there', async () => {
    const missing = Object.assign(new Error('Cannot find package'), { code: 'ERR_MODULE_NOT_FOUND' });
    await expect(loadVega(() => Promise.reject(missing))).rejects.toThrow(
      /--svg needs .* npm install vega@.* vega-lite@/,
    );
    const broken = new Error('broken');
    await expect(loadVega(() => Promise.reject(broken))).rejects.toBe(broken);
  });

  it('is declared as an optional peer dependency', () => {
    const manifest = JSON.parse(readFileSync(join(import.meta.dirname, '../package.json'), 'utf8')) as {
      readonly peerDependencies: Readonly<Record<string, string>>;
      readonly peerDependenciesMeta: Readonly<Record<string, unknown>>;
    };
    expect(Object.keys(manifest.peerDependencies)).toEqual(['vega', 'vega-lite']);
    expect(manifest.peerDependenciesMeta).toEqual({ vega: { optional: true }, 'vega-lite': { optional: true } });
  });
});

describe('counts with a wrong command line', () => {
  it.each([
    [['--l2-ram', '4097'], /bytes must be a multiple of 4096/],
    [['--l2-ram', '0'], /is not a size/],
    [['--l2-ram', '1G,'], /is not a size/],
    [['--l2-ram', '128G'], /bytes must be at most 68719476736/],
    [['--pattern', 'random'], /"random" is none of contiguous, mix90/],
    [['--pattern', ''], /is none of/],
    [['--backing', 'memfd,file'], /"file" is none of memfd, memfd\+thp, hugetlb, anonymous/],
    [['--policy', 'greedy'], /"greedy" is none of forward, exact, kick, lossy/],
    [['--limit', '-1'], /must be an integer/],
    [['--limit', 'x'], /must be an integer/],
    [['--seed', '4294967296'], /must be an integer/],
    [['--live', '--l2-ram', '4G'], /--live needs an L2 of at most 1 GiB/],
    [['--svg', '/nothing/here/a.svg', '--l2-ram', '2M'], /\/nothing\/here\/a\.svg: ENOENT/],
    [['--bogus'], /unknown option '--bogus'/],
    [['extra'], /too many arguments/],
  ])('%j: one clear line and status 2', async (args, message) => {
    const { status, stdout, stderr } = await run('counts', ...args);
    expect([status, stdout]).toEqual([2, '']);
    expect(stderr.trim().split('\n')).toHaveLength(1);
    expect(stderr).toMatch(message);
    expect(existsSync('/nothing')).toBe(false);
  });

  it('has help with examples', async () => {
    const { status, stdout } = await run('counts', '--help');
    expect([status, stdout.includes('Examples:'), stdout.includes('Exit status:')]).toEqual([0, true, true]);
  });
});
