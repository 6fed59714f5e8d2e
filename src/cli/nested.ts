// `virtio-iommu nested`: the main job. Thin: runs rows of src/testing/lab and prints them.
import type { ReservedRegion } from '../base/reserved.ts';
import { Command, Option } from 'commander';
import { fileURLToPath } from 'node:url';
import type { Policy } from '../coalesce/planner.ts';
import type { GuestModelName } from '../testing/guest-model.ts';
import type { L2PageSize, L2Pattern } from '../testing/l2-memory.ts';
import type { NestedResult } from '../testing/lab/nested-run.ts';
import { runNested } from '../testing/lab/nested-run.ts';
import type { ReplayResult } from '../testing/lab/replay.ts';
import { replayTrace } from '../testing/lab/replay.ts';
import { readTraceFile } from '../testing/node/trace-file.ts';
import { CliError } from './errors.ts';
import type { L2Row } from './nested-rows.ts';
import { DEFAULT_LIMIT, DEFAULT_ROWS, SHIPPED_TRACES } from './nested-rows.ts';
import type { Row } from './nested-table.ts';
import { judgeL2, judgeTrace, printRows } from './nested-table.ts';
import { readReserved } from './nested-rmrr.ts';
import { policyOption } from './policy-option.ts';
import { Progress } from './progress.ts';
import { formatSize, integerArgument, parseSize } from './sizes.ts';

interface NestedOptions {
  readonly l2Ram?: number;
  readonly pattern?: L2Pattern;
  readonly page?: L2PageSize;
  readonly kernel: GuestModelName;
  readonly policy: Policy;
  readonly limit: number;
  readonly seed: number;
  readonly rmrr?: string;
  readonly relaxable: 'report' | 'omit';
  readonly mergeReserved?: true;
  readonly json?: true;
}

const EXAMPLES = `
Examples:
  $ virtio-iommu nested
  $ virtio-iommu nested --l2-ram 4G --pattern scattered --page 2m
  $ virtio-iommu nested --l2-ram 256M --pattern scattered --json
  $ virtio-iommu nested --l2-ram 4G --rmrr DMAR.aml

Exit status: 0 all well, 1 a refusal that was not expected or a check that failed, 2 usage.`;

/** The command. */
export function nestedCommand(): Command {
  return new Command('nested')
    .description('pass a device from a simulated host to an L1 guest and on to an L2, and check every byte')
    .addOption(new Option('--l2-ram <size>', 'bytes of L2 RAM, from guest-physical 0').argParser(parseSize))
    .addOption(
      new Option('--pattern <name>', "how L2's RAM lies in L1's memory").choices([
        'contiguous',
        'mix90',
        'mix75',
        'mean8',
        'scattered',
      ]),
    )
    .addOption(new Option('--page <size>', 'unit of the pattern; mix and mean8 need 4k').choices(['4k', '2m']))
    .addOption(new Option('--kernel <model>', "how L1's kernel sends requests").choices(['6.12', '4k']).default('6.12'))
    .addOption(policyOption())
    .addOption(
      new Option('--limit <entries>', 'most live entries per host container')
        .argParser(integerArgument(0, 2 ** 31))
        .default(DEFAULT_LIMIT),
    )
    .addOption(new Option('--seed <n>', 'seed of the layout').argParser(integerArgument(0, 2 ** 32 - 1)).default(1))
    .option(
      '--rmrr <file>',
      'reserved memory of the passed device: DMAR, IVRS or IORT table, reserved_regions, or kernel log',
    )
    .addOption(
      new Option('--relaxable <how>', 'what becomes of relaxable regions of --rmrr')
        .choices(['report', 'omit'])
        .default('report'),
    )
    .option('--merge-reserved', 'merge regions of --rmrr when a PROBE reply has no room for all')
    .option('--json', 'print JSON: {"rows": […]}, or one object for a single L2')
    .addHelpText('after', EXAMPLES)
    .action(async (options: NestedOptions) => {
      process.exitCode = await run(options);
    });
}

async function run(options: NestedOptions): Promise<number> {
  const single = options.l2Ram !== undefined || options.pattern !== undefined || options.page !== undefined;
  const reserved =
    options.rmrr === undefined
      ? undefined
      : await readReserved(options.rmrr, {
          relaxable: options.relaxable,
          overflow: options.mergeReserved === true ? 'merge' : 'throw',
        });
  const progress = new Progress(options.json !== true);
  const rows: Row[] = [];
  if (!single) for (const name of SHIPPED_TRACES) rows.push(await runTrace(name, options, progress));
  for (const row of single ? [singleRow(options)] : DEFAULT_ROWS) rows.push(runL2(row, options, progress, reserved));
  progress.clear();
  if (options.json !== true) printRows(rows, options.policy, options.kernel);
  else process.stdout.write(`${JSON.stringify(single ? toJson(rows[0]!) : { rows: rows.map(toJson) })}\n`);
  return rows.every((row) => row.good) ? 0 : 1;
}

/** All rows have the same keys first; those of an L2 are null for a trace. */
function toJson({ name, result, verdict, good }: Row): object {
  return { name, l2Bytes: null, pattern: null, page: null, kernel: null, ...result, verdict, good };
}

/** A row that was asked for expects nothing to be refused. */
function singleRow(options: NestedOptions): L2Row {
  const { l2Ram = 256 * 2 ** 20, pattern = 'contiguous', page = '4k' } = options;
  return { l2Bytes: l2Ram, pattern, page, refused: 0 };
}

function runL2(
  row: L2Row,
  options: NestedOptions,
  progress: Progress,
  reserved: readonly ReservedRegion[] | undefined,
): Row {
  const name = `L2 ${formatSize(row.l2Bytes)} ${row.pattern} ${row.page}`;
  let result: NestedResult;
  try {
    result = runNested({
      ...row,
      kernel: options.kernel,
      policy: options.policy,
      limit: options.limit,
      seed: options.seed,
      ...(reserved === undefined ? {} : { reserved }),
      progress: (step) => progress.show(`${name}: ${step}`),
      clock: () => performance.now(),
    });
  } catch (error) {
    throw error instanceof RangeError ? new CliError(error.message) : error;
  }
  const asPlanned = options.limit === DEFAULT_LIMIT && options.kernel === '6.12';
  // What is reserved needs no entry, so that fewer requests have to be refused.
  return judgeL2(name, result, asPlanned ? Math.max(0, row.refused - result.reservedPages) : 0);
}

async function runTrace(file: string, options: NestedOptions, progress: Progress): Promise<Row> {
  const path = fileURLToPath(new URL(`../../test/traces/${file}`, import.meta.url));
  const trace = await readTraceFile(path);
  const result: ReplayResult = replayTrace(trace, {
    policy: options.policy,
    limit: options.limit,
    progress: (done, total) => progress.show(`trace ${file}: ${done} of ${total}`),
    clock: () => performance.now(),
  });
  return judgeTrace(result);
}
