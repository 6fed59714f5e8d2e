// The table of entry counts: one row for each L2, layout, backing and policy; policies that come to the same share a row.
import Table from 'cli-table3';
import type { CountRow } from '../testing/lab/count-matrix.ts';
import { count, percent } from './count-text.ts';
import { formatSize } from './sizes.ts';

/** A counted row and what the device live came to: undefined when it was not run. */
export interface CheckedRow {
  readonly row: CountRow;
  readonly differences: readonly string[] | undefined;
}

/** Cells of a bar up to the limit, and behind it. */
const BAR = { limit: 16, past: 8 } as const;

/** Prints the table, and below it what it means. */
export function printCounts(rows: readonly CheckedRow[], limit: number): void {
  const live = rows.some(({ differences }) => differences !== undefined);
  const table = new Table({
    head: [
      ...['L2 RAM', 'pattern', "L1's RAM", 'policy', 'MAPs', 'host entries', 'map calls', 'refused', 'IOPTEs', '2M'],
      `${`1 … ${count(limit)}`.padEnd(BAR.limit)}┃ more`,
      ...(live ? ['live'] : []),
    ],
    colAligns: ['right', 'left', 'left', 'left', 'right', 'right', 'right', 'right', 'right', 'right', 'left', 'left'],
    style: { head: [], border: [], compact: true },
  });
  for (const group of grouped(rows)) {
    const { row } = group[0]!;
    table.push([
      formatSize(row.l2Bytes),
      row.pattern,
      row.backing,
      group.map((each) => each.row.policy).join(', '),
      count(row.maps),
      count(row.hostEntriesPeak),
      count(row.hostMapCalls),
      count(row.refused),
      count(row.ioptes),
      percent(row.largeShare),
      bar(row.hostEntriesPeak + row.refused, limit),
      ...(live ? [liveText(group)] : []),
    ]);
  }
  const lines = [
    `Host entries for the RAM of one L2, limit ${count(limit)} entries per container (simulated VFIO type1, guest model 6.12)`,
    table.toString(),
    'host entries: most live at a time. map calls: refused ones included. refused: MAPs of the guest that the host has no',
    "entry for. 2M: share of L2's RAM behind 2 MiB IOPTEs. bar: entries and refused MAPs, logarithmic, ┃ is the limit.",
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
}

/** Neighbours that differ in nothing but the policy. */
function grouped(rows: readonly CheckedRow[]): CheckedRow[][] {
  const groups: CheckedRow[][] = [];
  for (const row of rows) {
    const last = groups.at(-1);
    if (last !== undefined && figuresOf(last[0]!) === figuresOf(row)) last.push(row);
    else groups.push([row]);
  }
  return groups;
}

function figuresOf({ row, differences }: CheckedRow): string {
  return JSON.stringify([{ ...row, policy: '' }, differences]);
}

function bar(entries: number, limit: number): string {
  const share = entries === 0 ? 0 : Math.log2(entries + 1) / Math.log2(Math.max(limit, 1) + 1);
  const cells = Math.min(BAR.limit + BAR.past, Math.max(entries > limit ? BAR.limit + 1 : 0, share * BAR.limit));
  const inside = '█'.repeat(Math.min(BAR.limit, Math.round(cells))).padEnd(BAR.limit);
  return `${inside}┃${'█'.repeat(Math.max(0, Math.round(cells) - BAR.limit))}`;
}

function liveText(group: readonly CheckedRow[]): string {
  const { differences } = group[0]!;
  if (differences === undefined) return 'not run';
  return differences.length === 0 ? 'same' : 'DIFFERS';
}
