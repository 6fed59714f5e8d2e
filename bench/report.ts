// Text of a run: an aligned table of rows, and the figures that are asked for with their limits.
import type { Figure } from './figures.ts';
import type { Machine } from './machine.ts';
import type { Row } from './suite.ts';
import { caseName } from './suite.ts';

/** One line on the machine. */
export function machineText(machine: Machine): string {
  const { cpu, cores, memoryBytes, node, kernel, date, load } = machine;
  const busy = load > 0.5 ? ` (busy machine: load ${load.toFixed(2)}, times are too high)` : '';
  return `${cpu}, ${cores} cores, ${(memoryBytes / 2 ** 30).toFixed(1)} GiB, Linux ${kernel}, Node ${node}, ${date}${busy}`;
}

/** What the figures of the ring path are, in words. */
export const HOW_TO_READ = [
  'How to read MAP and UNMAP: nanoseconds of device time per request, 4 KiB, 128 requests per notification.',
  '  (a) floor: a bare loop that pops and completes the same chains, checks and decodes nothing.',
  "  (b) ring path: pop, walk, decode, the device's tables, reply, push; an endpoint without a host context.",
  '  (c) null host: the same with a host context that costs nothing, so c - b is its planner (policy forward).',
  '  (d) quiet, exact: as (c), with the devices known to be off and policy exact: everything is joined or gathered.',
  'The limit of 300 ns is held against (b); (c) may cost 300 ns more and (d) 600 ns more, for the planner.',
].join('\n');

/** One row per case and series. */
export function rowsText(rows: readonly Row[]): string {
  const lines = rows.map((row) => [
    caseName(row.suite, row.dims),
    row.series,
    number(row.median),
    row.samples > 1 ? number(row.min) : '',
    row.samples > 1 ? `${number(row.p25)} .. ${number(row.p75)}` : '',
    row.unit,
    row.toFloor === undefined ? '' : `${row.toFloor.toFixed(1)}x`,
  ]);
  return aligned([['case', 'series', 'median', 'least', 'p25 .. p75', 'unit', 'to floor'], ...lines], [0, 1]);
}

/** One line per figure. */
export function figuresText(figures: readonly Figure[]): string {
  const lines = figures.map(({ name, value, least, limit, unit, met, note }) => [
    name,
    `${number(value)} ${unit}`,
    `${number(least)} ${unit}`,
    limit === undefined ? '' : `<= ${number(limit)} ${unit}`,
    limit === undefined ? '' : met ? 'met' : 'MISSED',
    note ?? '',
  ]);
  return aligned([['figure', 'median', 'least', 'limit', '', ''], ...lines], [0, 4, 5]);
}

function number(value: number): string {
  if (Number.isInteger(value)) return String(value);
  return value >= 100 ? value.toFixed(0) : value.toFixed(value >= 10 ? 1 : 2);
}

function aligned(lines: readonly (readonly string[])[], left: readonly number[]): string {
  const widths = lines[0]!.map((_, column) => Math.max(...lines.map((line) => line[column]!.length)));
  return lines
    .map((line) =>
      line
        .map((cell, column) => (left.includes(column) ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!)))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}
