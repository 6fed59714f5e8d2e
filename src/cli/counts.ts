// `virtio-iommu counts`: how many host entries an L2 takes, by its size, layout, backing and policy. Thin: the counting
// is src/testing/lab/count-matrix.ts.
import { Command, Option } from 'commander';
import { writeFile } from 'node:fs/promises';
import type { Policy } from '../coalesce/settings.ts';
import { POLICIES } from '../coalesce/settings.ts';
import type { L2Pattern } from '../testing/l2-memory.ts';
import { L2_PATTERNS } from '../testing/l2-memory.ts';
import { MAX_LIVE_BYTES, liveDifferences, runLive } from '../testing/lab/count-live.ts';
import type { CountBacking, CountRow } from '../testing/lab/count-matrix.ts';
import { COUNT_BACKINGS, countMatrix } from '../testing/lab/count-matrix.ts';
import { countsChart, loadVega } from './counts-chart.ts';
import type { CheckedRow } from './counts-table.ts';
import { printCounts } from './counts-table.ts';
import { CliError } from './errors.ts';
import { listOption, oneOf } from './list-option.ts';
import { DEFAULT_LIMIT } from './nested-rows.ts';
import { Progress } from './progress.ts';
import { formatSize, integerArgument, parseSize } from './sizes.ts';

interface CountsOptions {
  readonly l2Ram?: readonly number[];
  readonly pattern?: readonly L2Pattern[];
  readonly backing?: readonly CountBacking[];
  readonly policy?: readonly Policy[];
  readonly limit: number;
  readonly seed: number;
  readonly live?: true;
  readonly json?: true;
  readonly svg?: string;
}

const GIB = 2 ** 30;
const DEFAULT_SIZES: readonly number[] = [GIB / 4, GIB, 4 * GIB, 16 * GIB, 64 * GIB];

const EXAMPLES = `
Examples:
  $ virtio-iommu counts
  $ virtio-iommu counts --l2-ram 16G --backing memfd --policy forward,exact
  $ virtio-iommu counts --l2-ram 256M,1G --pattern scattered --live
  $ virtio-iommu counts --l2-ram 4G --limit 4096 --json
  $ virtio-iommu counts --svg counts.svg

Nothing is asked for: 256M to 64G, all patterns, backings and policies; that takes a minute or less on an idle machine.
Exit status: 0 all counted (refused MAPs are part of the count), 1 a live run differs from its count, 2 usage.`;

/** The command. */
export function countsCommand(): Command {
  return new Command('counts')
    .description('count the host entries, host calls and IOPTEs that the RAM of an L2 takes, beside the limit')
    .addOption(listOption('--l2-ram <sizes>', 'bytes of L2 RAM (default 256M, 1G, 4G, 16G, 64G)', parseSize))
    .addOption(
      listOption(
        '--pattern <names>',
        `how L2's RAM lies in L1's memory (${L2_PATTERNS.join(', ')})`,
        oneOf(L2_PATTERNS),
      ),
    )
    .addOption(
      listOption('--backing <names>', `what L1's RAM is made of (${COUNT_BACKINGS.join(', ')})`, oneOf(COUNT_BACKINGS)),
    )
    .addOption(listOption('--policy <names>', `how host entries are planned (${POLICIES.join(', ')})`, oneOf(POLICIES)))
    .addOption(
      new Option('--limit <entries>', 'most live entries per host container')
        .argParser(integerArgument(0, 2 ** 31))
        .default(DEFAULT_LIMIT),
    )
    .addOption(new Option('--seed <n>', 'seed of the layouts').argParser(integerArgument(0, 2 ** 32 - 1)).default(1))
    .option('--live', 'run each L2 of at most 1 GiB through the device as well, every page read, and compare')
    .option('--json', 'print JSON: {"limit": …, "rows": […]}')
    .option('--svg <file>', 'write a chart (needs the packages vega and vega-lite)')
    .addHelpText('after', EXAMPLES)
    .action(async (options: CountsOptions) => {
      process.exitCode = await run(options);
    });
}

async function run(options: CountsOptions): Promise<number> {
  const { l2Ram = DEFAULT_SIZES, limit, svg } = options;
  if (options.live === true && Math.min(...l2Ram) > MAX_LIVE_BYTES) {
    throw new CliError(`--live needs an L2 of at most ${formatSize(MAX_LIVE_BYTES)}`);
  }
  // What is missing is told before the minute is spent.
  const vega = svg === undefined ? undefined : await loadVega();
  const progress = new Progress(options.json !== true);
  const counted = countRows(options, l2Ram, progress);
  const rows = counted.map((row): CheckedRow => ({ row, differences: checkLive(row, options, progress) }));
  progress.clear();
  if (svg !== undefined && vega !== undefined) await write(svg, await countsChart(counted, limit, vega));
  if (options.json === true) process.stdout.write(`${JSON.stringify({ limit, rows: rows.map(toJson) })}\n`);
  else printCounts(rows, limit);
  return report(rows) ? 0 : 1;
}

function countRows(options: CountsOptions, sizes: readonly number[], progress: Progress): CountRow[] {
  try {
    return countMatrix({
      sizes,
      patterns: options.pattern ?? L2_PATTERNS,
      backings: options.backing ?? COUNT_BACKINGS,
      policies: options.policy ?? POLICIES,
      limit: options.limit,
      seed: options.seed,
      progress: (bytes, pattern, done, total) =>
        progress.show(`L2 ${formatSize(bytes)} ${pattern}: ${done + 1} of ${total}`),
    });
  } catch (error) {
    throw error instanceof RangeError ? new CliError(error.message) : error;
  }
}

function checkLive(row: CountRow, options: CountsOptions, progress: Progress): readonly string[] | undefined {
  if (options.live !== true || row.l2Bytes > MAX_LIVE_BYTES) return undefined;
  progress.show(`live: ${nameOf(row)}`);
  return liveDifferences(row, runLive(row, options.limit, options.seed));
}

/** Tells each difference on standard error; false when there is one. */
function report(rows: readonly CheckedRow[]): boolean {
  let same = true;
  for (const { row, differences = [] } of rows) {
    for (const difference of differences) process.stderr.write(`error: ${nameOf(row)}: ${difference}\n`);
    if (differences.length > 0) same = false;
  }
  return same;
}

function toJson({ row, differences }: CheckedRow): object {
  const live = differences === undefined ? null : { same: differences.length === 0, differences };
  return { ...row, live };
}

function nameOf({ l2Bytes, pattern, backing, policy }: CountRow): string {
  return `L2 ${formatSize(l2Bytes)} ${pattern} ${backing} ${policy}`;
}

async function write(file: string, text: string): Promise<void> {
  try {
    await writeFile(file, text);
  } catch (error) {
    throw new CliError(`${file}: ${(error as NodeJS.ErrnoException).code ?? 'cannot be written'}`);
  }
}
