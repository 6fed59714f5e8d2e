// The bench driver: `npm run bench [-- --quick] [-- --filter REGEX] [-- --json]`.
// Runs each suite in a process of its own, one after the other, writes out/results.json and one SVG per chart, and prints a
// table, the ratios to the floor and the figures that are asked for. It runs compiled code (tsc -p bench/tsconfig.json
// compiles bench/ with the sources it imports into out/js): a loader that compiles on the fly made the same code several
// times slower, and dist/ may be older than the sources.
import { spawn } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { chartSvg } from './chart.ts';
import { figures, withRatios } from './figures.ts';
import { describeMachine } from './machine.ts';
import type { Effort } from './measure.ts';
import { hasCases, runSuite } from './measure.ts';
import { figuresText, machineText, rowsText } from './report.ts';
import type { Row, Suite } from './suite.ts';
import { suites } from './suites.ts';

// This file runs as bench/out/js/bench/driver.js.
const OUT = fileURLToPath(new URL('../../', import.meta.url));

const { values: args } = parseArgs({
  options: {
    filter: { type: 'string' },
    json: { type: 'boolean', default: false },
    quick: { type: 'boolean', default: false },
    // Set by the driver itself for the process of one suite.
    suite: { type: 'string' },
  },
});
const effort: Effort = {
  quick: args.quick,
  filter: args.filter === undefined ? undefined : new RegExp(args.filter),
};

if (args.suite === undefined) await runAll();
else await runOne(args.suite);

/** In the process of one suite: measures, and sends each row to the parent. */
async function runOne(name: string): Promise<void> {
  const suite = suites.find((each) => each.name === name);
  if (suite === undefined) throw new RangeError(`suite must be one of ${suites.map((each) => each.name).join(', ')}`);
  await runSuite(suite, effort, (row) => process.send?.(row));
}

async function runAll(): Promise<void> {
  const machine = describeMachine(process.argv.slice(2));
  const started = performance.now();
  const raw: Row[] = [];
  for (const suite of suites) {
    if (!hasCases(suite, effort)) continue;
    console.error(`${((performance.now() - started) / 1000).toFixed(0).padStart(4)} s  ${suite.name}`);
    raw.push(...(await inOwnProcess(suite)));
  }
  const rows = withRatios(raw);
  const results = { machine, seconds: (performance.now() - started) / 1000, figures: figures(rows), rows };
  mkdirSync(OUT, { recursive: true });
  writeFileSync(join(OUT, 'results.json'), `${JSON.stringify(results, null, 2)}\n`);
  const charts = await writeCharts(rows);
  if (args.json) {
    console.log(JSON.stringify(results, null, 2));
    return;
  }
  console.log(`${machineText(machine)}\n\n${rowsText(rows)}\n\n${figuresText(results.figures)}\n`);
  console.log(`${results.seconds.toFixed(0)} s; written: ${['results.json', ...charts].join(', ')} in bench/out`);
}

async function inOwnProcess(suite: Suite): Promise<Row[]> {
  const argv = ['--expose-gc', fileURLToPath(import.meta.url), '--suite', suite.name];
  if (args.quick) argv.push('--quick');
  if (args.filter !== undefined) argv.push('--filter', args.filter);
  const child = spawn(process.execPath, argv, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  const rows: Row[] = [];
  child.on('message', (row) => rows.push(row as Row));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', resolve);
  });
  if (code !== 0) throw new Error(`suite ${suite.name} ended with code ${String(code)}`);
  return rows;
}

async function writeCharts(rows: readonly Row[]): Promise<string[]> {
  const written: string[] = [];
  for (const chart of suites.flatMap((suite) => suite.charts ?? [])) {
    const svg = await chartSvg(chart, rows);
    if (svg === undefined) continue;
    writeFileSync(join(OUT, `${chart.file}.svg`), svg);
    written.push(`${chart.file}.svg`);
  }
  return written;
}
