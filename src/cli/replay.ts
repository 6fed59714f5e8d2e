// `virtio-iommu replay`: sends a recorded trace through the device and says what went otherwise.
import Table from 'cli-table3';
import { Command, Option } from 'commander';
import type { Policy } from '../coalesce/settings.ts';
import type { ReplayResult } from '../testing/lab/replay.ts';
import { replayTrace } from '../testing/lab/replay.ts';
import { TraceFileError, readTraceFile } from '../testing/node/trace-file.ts';
import type { Trace } from '../testing/trace.ts';
import { CliError } from './errors.ts';
import { DEFAULT_LIMIT, DEFAULT_POLICY } from './nested-rows.ts';
import { policyOption } from './policy-option.ts';
import { Progress } from './progress.ts';
import { integerArgument } from './sizes.ts';

interface ReplayCliOptions {
  readonly policy?: Policy;
  readonly limit: number;
  readonly json?: true;
}

/** Differences that the table lists; --json has more. */
const SHOWN = 20;

const EXAMPLES = `
Examples:
  $ virtio-iommu replay test/traces/l2-boot.ndjson.gz
  $ virtio-iommu replay test/traces/vfio-user-blk.ndjson.gz --policy forward
  $ virtio-iommu replay trace.ndjson --limit 16 --json

Exit status: 0 all as recorded, 1 something differs, 2 usage or an unreadable trace.`;

/** The command. */
export function replayCommand(): Command {
  return new Command('replay')
    .description('replay a recorded request trace (viommu-trace/1, also gzipped) against the device')
    .argument('<trace>', 'file')
    .addOption(policyOption())
    .addOption(
      new Option('--limit <entries>', 'most live entries per host container')
        .argParser(integerArgument(0, 2 ** 31))
        .default(DEFAULT_LIMIT),
    )
    .option('--json', 'print one JSON object')
    .addHelpText('after', EXAMPLES)
    .action(async (file: string, options: ReplayCliOptions) => {
      const result = replay(await readTrace(file), file, options);
      if (options.json === true) process.stdout.write(`${JSON.stringify(result)}\n`);
      else print(result);
      process.exitCode = result.differenceCount === 0 ? 0 : 1;
    });
}

async function readTrace(file: string): Promise<Trace> {
  try {
    return await readTraceFile(file);
  } catch (error) {
    throw error instanceof TraceFileError ? new CliError(error.message) : error;
  }
}

function replay(trace: Trace, file: string, options: ReplayCliOptions): ReplayResult {
  const progress = new Progress(options.json !== true);
  try {
    return replayTrace(trace, {
      policy: options.policy ?? DEFAULT_POLICY,
      limit: options.limit,
      progress: (done, total) => progress.show(`${file}: ${done} of ${total}`),
      clock: () => performance.now(),
    });
  } catch (error) {
    // A header may ask for a device that cannot be: no page size, an empty input range.
    throw error instanceof RangeError ? new CliError(`${file}: ${error.message}`) : error;
  } finally {
    progress.clear();
  }
}

function print(result: ReplayResult): void {
  const table = new Table({ style: { head: [], border: [], compact: true } });
  const statuses = Object.entries(result.statuses)
    .map(([name, count]) => `${name} ${count}`)
    .join(', ');
  table.push(
    ['trace', result.trace],
    ['requests', result.requests],
    ['kicks', result.kicks],
    ['statuses', statuses],
    ['differences', result.differenceCount],
    ['host entries', `${result.hostEntriesPeak} at most, limit ${result.limit}`],
    ['host calls', `${result.hostMapCalls} map, ${result.hostUnmapCalls} unmap`],
    ['policy', result.policy],
    ['gathered', `${result.gatherWindows} entries`],
    ['windows', `${result.windows}, in which a live mapping lost its access`],
    ['live at the end', result.liveAtEnd],
    ['left after reset', `${result.leftInGuestTable} guest, ${result.leftInHostTable} host`],
    ['seconds', result.seconds.toFixed(2)],
  );
  process.stdout.write(`${table.toString()}\n`);
  if (result.differences.length === 0) return;
  const list = new Table({
    head: ['record', 'op', 'what', 'recorded', 'seen'],
    style: { head: [], border: [], compact: true },
  });
  const shown = result.differences.slice(0, SHOWN);
  for (const each of shown) list.push([each.record, each.op, each.what, each.recorded, each.seen]);
  process.stdout.write(`${list.toString()}\n`);
  const hidden = result.differenceCount - shown.length;
  if (hidden > 0) process.stdout.write(`… and ${hidden} more\n`);
}
