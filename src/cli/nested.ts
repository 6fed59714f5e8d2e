// `virtio-iommu nested`: the main job. Thin: runs rows of src/testing/lab and prints them.
import type { ReservedRegion } from '../base/reserved.ts';
import { Command, InvalidArgumentError, Option } from 'commander';
import { fileURLToPath } from 'node:url';
import type { GatherMode, Policy } from '../coalesce/settings.ts';
import { GATHER_MODES } from '../coalesce/settings.ts';
import type { GuestModelName } from '../testing/guest-model.ts';
import type { L2PageSize, L2Pattern } from '../testing/l2-memory.ts';
import { L2_PATTERNS } from '../testing/l2-memory.ts';
import type { LabBacking } from '../testing/lab/machine.ts';
import type { NestedResult } from '../testing/lab/nested-run.ts';
import { runNested } from '../testing/lab/nested-run.ts';
import type { ReplayResult } from '../testing/lab/replay.ts';
import { replayTrace } from '../testing/lab/replay.ts';
import { readTraceFile } from '../testing/node/trace-file.ts';
import { CliError } from './errors.ts';
import type { L2Row } from './nested-rows.ts';
import { explanationOf, printExplanation } from './nested-explain.ts';
import { DEFAULT_LIMIT, DEFAULT_POLICY, SHIPPED_TRACES, jobRows, oneToOne } from './nested-rows.ts';
import type { Expected, Row } from './nested-table.ts';
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
  readonly policy?: Policy;
  readonly limit: number;
  readonly seed: number;
  readonly gather?: GatherMode;
  readonly maxEntry?: number;
  readonly backing: LabBacking;
  readonly liveMap?: true;
  readonly liveUnmap?: true;
  readonly ring?: number;
  readonly explain?: true;
  readonly rmrr?: string;
  readonly relaxable: 'report' | 'omit';
  readonly mergeReserved?: true;
  readonly json?: true;
}

/** A gathered entry has at least so many bytes, where larger ones are allowed. */
const GATHERED_BYTES = 2 ** 21;

const EXAMPLES = `
Examples:
  $ virtio-iommu nested
  $ virtio-iommu nested --l2-ram 4G --pattern scattered --page 2m
  $ virtio-iommu nested --l2-ram 256M --pattern scattered --json
  $ virtio-iommu nested --l2-ram 256M --pattern scattered --explain
  $ virtio-iommu nested --l2-ram 256M --pattern scattered --live-unmap --ring 256 --explain
  $ virtio-iommu nested --l2-ram 4G --rmrr DMAR.aml

Exit status: 0 all well, 1 a refusal that was not expected or a check that failed, 2 usage.`;

/** The command. */
export function nestedCommand(): Command {
  return new Command('nested')
    .description('pass a device from a simulated host to an L1 guest and on to an L2, and check every byte')
    .addOption(new Option('--l2-ram <size>', 'bytes of L2 RAM, from guest-physical 0').argParser(parseSize))
    .addOption(new Option('--pattern <name>', "how L2's RAM lies in L1's memory").choices(L2_PATTERNS))
    .addOption(new Option('--page <size>', 'unit of the pattern; mix and mean8 need 4k').choices(['4k', '2m']))
    .addOption(new Option('--kernel <model>', "how L1's kernel sends requests").choices(['6.12', '4k']).default('6.12'))
    .addOption(policyOption())
    .addOption(new Option('--gather <mode>', 'when scattered memory is gathered').choices(GATHER_MODES))
    .addOption(new Option('--max-entry <size>', 'largest entry that joining makes').argParser(parseSize))
    .addOption(
      new Option('--backing <kind>', "what L1's RAM is made of")
        .choices(['memfd', 'hugetlb', 'anonymous'])
        .default('memfd'),
    )
    .option(
      '--live-map',
      "the device's bus master is on while L2 is mapped, so that every mapping is installed at once",
    )
    .option('--live-unmap', 'the same while L2 is unmapped')
    .addOption(new Option('--ring <size>', 'size of the request queue, a power of two').argParser(ringSize))
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
    .option('--explain', 'print what the plan of each host context did')
    .option('--json', 'print JSON: {"rows": […]}, or one object for a single L2')
    .addHelpText('after', EXAMPLES)
    .action(async (options: NestedOptions) => {
      process.exitCode = await run(options);
    });
}

/** Splits of a ring: powers of two up to what a virtqueue may have. */
function ringSize(text: string): number {
  const size = integerArgument(2, 32_768)(text);
  if (Math.log2(size) % 1 !== 0) throw new InvalidArgumentError('must be a power of two in [2, 32768]');
  return size;
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
  const l2Rows = single ? [singleRow(options)] : jobRows(options.policy);
  for (const row of l2Rows) rows.push(runL2(row, options, progress, reserved));
  progress.clear();
  if (options.json === true) printJson(rows, single, options.explain === true);
  else {
    printRows(rows, options.kernel);
    if (options.explain === true)
      for (const { name, result } of rows) if ('contexts' in result) printExplanation(name, result);
  }
  return rows.every((row) => row.good) ? 0 : 1;
}

function printJson(rows: readonly Row[], single: boolean, explain: boolean): void {
  const list = rows.map((row) => toJson(row, explain));
  process.stdout.write(`${JSON.stringify(single ? list[0] : { rows: list })}\n`);
}

/** All rows have the same keys first; those of an L2 are null for a trace. */
function toJson({ name, result, verdict, good }: Row, explain: boolean): object {
  const head = { name, l2Bytes: null, pattern: null, page: null, kernel: null };
  if (!('contexts' in result)) return { ...head, ...result, verdict, good };
  const { l2, ...rest } = result;
  const ioptes = Object.fromEntries([...l2.ioptes].map(([size, count]) => [String(size), count]));
  const contexts = explain ? explanationOf(result) : undefined;
  return { ...head, ...rest, l2: { ...l2, ioptes }, contexts, verdict, good };
}

/** A row that was asked for expects nothing to be refused. */
function singleRow(options: NestedOptions): L2Row {
  const { l2Ram = 256 * 2 ** 20, pattern = 'contiguous', page = '4k', policy = DEFAULT_POLICY } = options;
  return { l2Bytes: l2Ram, pattern, page, policy, refused: 0, entriesMost: Infinity };
}

function runL2(
  row: L2Row,
  options: NestedOptions,
  progress: Progress,
  reserved: readonly ReservedRegion[] | undefined,
): Row {
  const name = `L2 ${formatSize(row.l2Bytes)} ${row.pattern} ${row.page}`;
  const { gather, maxEntry, ring } = options;
  let result: NestedResult;
  try {
    result = runNested({
      ...row,
      kernel: options.kernel,
      limit: options.limit,
      seed: options.seed,
      backing: options.backing,
      liveMap: options.liveMap === true,
      liveUnmap: options.liveUnmap === true,
      ...(gather === undefined ? {} : { gather }),
      ...(maxEntry === undefined ? {} : { maxEntryBytes: maxEntry }),
      ...(ring === undefined ? {} : { ring }),
      ...(reserved === undefined ? {} : { reserved }),
      progress: (step) => progress.show(`${name}, policy ${row.policy}: ${step}`),
      clock: () => performance.now(),
    });
  } catch (error) {
    throw error instanceof RangeError ? new CliError(error.message) : error;
  }
  return judgeL2(name, result, expectedOf(row, options, result));
}

/** What holds of a row of the job as it is planned; with other options nothing may be refused, whatever the entries. */
function expectedOf(row: L2Row, options: NestedOptions, { reservedPages }: NestedResult): Expected {
  const { limit, kernel, maxEntry = GATHERED_BYTES } = options;
  const asPlanned = limit === DEFAULT_LIMIT && row.entriesMost !== Infinity && maxEntry >= GATHERED_BYTES;
  if (!asPlanned) return { refused: 0, entriesMost: Infinity };
  const live = options.liveMap === true;
  const apart = row.policy === 'forward' || options.backing !== 'memfd' || live || options.gather === 'never';
  const { refused, entriesMost } = apart && !(live && row.policy === 'lossy') ? oneToOne(row, kernel) : row;
  // What is reserved needs no entry, so that fewer requests have to be refused, but may cut entries in two.
  const cut = reservedPages > 0 || live;
  return { refused: Math.max(0, refused - reservedPages), entriesMost: cut ? DEFAULT_LIMIT : entriesMost };
}

async function runTrace(file: string, options: NestedOptions, progress: Progress): Promise<Row> {
  const path = fileURLToPath(new URL(`../../test/traces/${file}`, import.meta.url));
  const trace = await readTraceFile(path);
  const result: ReplayResult = replayTrace(trace, {
    policy: options.policy ?? DEFAULT_POLICY,
    limit: options.limit,
    progress: (done, total) => progress.show(`trace ${file}: ${done} of ${total}`),
    clock: () => performance.now(),
  });
  return judgeTrace(result);
}
