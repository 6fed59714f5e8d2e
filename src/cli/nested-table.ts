// The table of the main job: one aligned row per trace and per L2, with what was expected.
import Table from 'cli-table3';
import type { NestedResult } from '../testing/lab/nested-run.ts';
import type { ReplayResult } from '../testing/lab/replay.ts';
import { count } from './count-text.ts';

/** One row with its verdict. */
export interface Row {
  readonly name: string;
  readonly result: NestedResult | ReplayResult;
  readonly verdict: string;
  readonly good: boolean;
  /** Lines below the table: what did not hold. */
  readonly notes: readonly string[];
}

/** What a row has to come to. */
export interface Expected {
  /** Requests that the host refuses. */
  readonly refused: number;
  /** Most host entries. */
  readonly entriesMost: number;
}

/** Judges an L2 row. */
export function judgeL2(name: string, result: NestedResult, expected: Expected): Row {
  const notes = result.failedChecks.map((check) => `${name}: ${check}`);
  if (result.refused !== expected.refused) {
    notes.push(
      `${name}: refused ${count(result.refused)} of ${count(result.requests)} requests (expected ` +
        `${count(expected.refused)}); the host has ${count(result.limit)} entries, policy ${result.policy}`,
    );
  }
  const tooMany = result.hostEntriesPeak > expected.entriesMost;
  if (tooMany) {
    notes.push(
      `${name}: ${count(result.hostEntriesPeak)} host entries, at most ${count(expected.entriesMost)} expected`,
    );
  }
  const verdict = tooMany ? 'TOO MANY ENTRIES' : verdictOfL2(result, expected.refused);
  return { name, result, good: notes.length === 0, notes, verdict };
}

function verdictOfL2(result: NestedResult, expected: number): string {
  if (result.failedChecks.length > 0) return `FAILED: ${result.failedChecks.length} checks`;
  if (result.refused === 0) return 'ok, right bytes';
  const told = `${count(result.refused)} refused, fault records ${count(result.told['refusalRecords'] ?? 0)}`;
  return result.refused === expected ? `as expected: ${told}` : `REFUSED: ${told}`;
}

/** Judges a replayed trace: every status, translation and fault record must be as recorded. */
export function judgeTrace(result: ReplayResult): Row {
  const name = `trace ${result.trace}`;
  const good = result.differenceCount === 0 && result.leftInGuestTable === 0 && result.leftInHostTable === 0;
  return {
    name,
    result,
    good,
    verdict: good ? 'as recorded' : `${count(result.differenceCount)} differences`,
    notes: result.differences
      .slice(0, 5)
      .map((each) => `${name}: record ${each.record} ${each.op} ${each.what}: ${each.recorded}, seen ${each.seen}`),
  };
}

const COLUMNS = ['requests', 'kicks', 'host entries', 'map calls', 'unmap calls', 'limit', 'windows', 'left', 's'];

/** Prints the table and what follows from it. */
export function printRows(rows: readonly Row[], kernel: string): void {
  const table = new Table({
    head: ['run', 'policy', ...COLUMNS, 'result'],
    colAligns: ['left', 'left', ...COLUMNS.map(() => 'right' as const), 'left'],
    style: { head: [], border: [], compact: true },
  });
  for (const { name, result, verdict } of rows) {
    table.push([
      name,
      result.policy,
      count(result.requests),
      count(result.kicks),
      count(result.hostEntriesPeak),
      count(result.hostMapCalls),
      count(result.hostUnmapCalls),
      count(result.limit),
      count(result.windows),
      count(result.leftInGuestTable + result.leftInHostTable),
      result.seconds.toFixed(1),
      verdict,
    ]);
  }
  const lines = [
    `virtio-iommu on the simulated VFIO type1 host, guest model ${kernel}`,
    table.toString(),
    ...rows.flatMap((row) => row.notes),
    'host entries: most live at a time in one container. windows: times that a live mapping lost its access for a moment.',
    'left: mappings and entries after teardown.',
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
}
