// The table of the main job: one aligned row per trace and per L2, with what was expected.
import Table from 'cli-table3';
import type { NestedResult } from '../testing/lab/nested-run.ts';
import type { ReplayResult } from '../testing/lab/replay.ts';

/** One row with its verdict. */
export interface Row {
  readonly name: string;
  readonly result: NestedResult | ReplayResult;
  readonly verdict: string;
  readonly good: boolean;
  /** Lines below the table: what did not hold. */
  readonly notes: readonly string[];
}

/** Judges an L2 row; `expected` requests have to be refused. */
export function judgeL2(name: string, result: NestedResult, expected: number): Row {
  const good = result.failedChecks.length === 0 && result.refused === expected;
  const notes = result.failedChecks.map((check) => `${name}: ${check}`);
  if (result.refused !== expected) {
    notes.push(
      `${name}: refused ${count(result.refused)} of ${count(result.requests)} requests (expected ${count(expected)}); ` +
        `the host has ${count(result.limit)} entries, policy ${result.policy}`,
    );
  }
  return { name, result, good, notes, verdict: verdictOfL2(result, expected) };
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

/** Prints the table and what follows from it. */
export function printRows(rows: readonly Row[], policy: string, kernel: string): void {
  const table = new Table({
    head: ['run', 'requests', 'kicks', 'host entries', 'map calls', 'unmap calls', 'limit', 'left', 's', 'result'],
    colAligns: ['left', 'right', 'right', 'right', 'right', 'right', 'right', 'right', 'right', 'left'],
    style: { head: [], border: [], compact: true },
  });
  for (const { name, result, verdict } of rows) {
    table.push([
      name,
      count(result.requests),
      count(result.kicks),
      count(result.hostEntriesPeak),
      count(result.hostMapCalls),
      count(result.hostUnmapCalls),
      count(result.limit),
      count(result.leftInGuestTable + result.leftInHostTable),
      result.seconds.toFixed(1),
      verdict,
    ]);
  }
  const lines = [
    `virtio-iommu on the simulated VFIO type1 host, policy ${policy}, guest model ${kernel}`,
    table.toString(),
    ...rows.flatMap((row) => row.notes),
    'host entries: most live at a time in one container. left: mappings and entries after teardown.',
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
}

function count(value: number): string {
  return value.toLocaleString('en-US');
}
