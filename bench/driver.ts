// The bench driver: `npm run bench [-- --quick] [-- --filter REGEX] [-- --json]`. What is measured and how the figures are to
// be read: README.md.
// Runs each suite in a process of its own, groups of suites side by side, writes out/results.json and one SVG per chart, and
// prints a table, the ratios to the floor and the figures that are asked for. It runs compiled code (tsc -p bench/tsconfig.json
// compiles bench/ with the sources it imports into out/js): a loader that compiles on the fly made the same code several
// times slower, and dist/ may be older than the sources.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { chartSvg } from './chart.ts';
import { figures, withRatios } from './figures.ts';
import { describeMachine } from './machine.ts';
import type { Effort } from './measure.ts';
import { ROUNDS_IN_TURN } from './measure.ts';
import { figuresText, HOW_TO_READ, machineText, rowsText } from './report.ts';
import type { Row, Suite } from './suite.ts';
import { casesOf, obey, SuiteProcess } from './suite-process.ts';
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
else obey(suiteNamed(args.suite), effort);

function suiteNamed(name: string): Suite {
  const suite = suites.find((each) => each.name === name);
  if (suite === undefined) throw new RangeError(`suite must be one of ${suites.map((each) => each.name).join(', ')}`);
  return suite;
}

async function runAll(): Promise<void> {
  const machine = describeMachine(process.argv.slice(2));
  const started = performance.now();
  const progress = (what: string): void => {
    console.error(`${((performance.now() - started) / 1000).toFixed(0).padStart(4)} s  ${what}`);
  };
  const raw: Row[] = [];
  for (const group of groups()) raw.push(...(await runGroup(group, progress)));
  const rows = withRatios(raw);
  const results = { machine, seconds: (performance.now() - started) / 1000, figures: figures(rows), rows };
  mkdirSync(OUT, { recursive: true });
  writeFileSync(join(OUT, 'results.json'), `${JSON.stringify(results, null, 2)}\n`);
  const charts = await writeCharts(rows);
  if (args.json) {
    console.log(JSON.stringify(results, null, 2));
    return;
  }
  console.log(`${machineText(machine)}\n\n${rowsText(rows)}\n\n${HOW_TO_READ}\n\n${figuresText(results.figures)}\n`);
  console.log(`${results.seconds.toFixed(0)} s; written: ${['results.json', ...charts].join(', ')} in bench/out`);
}

/** Suites with something to do, those of one group together. */
function groups(): Suite[][] {
  const found = new Map<string, Suite[]>();
  for (const suite of suites) {
    if (casesOf(suite, effort).size === 0) continue;
    const name = suite.group ?? suite.name;
    found.set(name, [...(found.get(name) ?? []), suite]);
  }
  return [...found.values()];
}

/** Measures all cases of a group, those with the same name in turns. */
async function runGroup(group: readonly Suite[], progress: (what: string) => void): Promise<Row[]> {
  const rest = [...(args.quick ? ['--quick'] : []), ...(args.filter === undefined ? [] : ['--filter', args.filter])];
  const script = fileURLToPath(import.meta.url);
  const processes = group.map((suite) => new SuiteProcess(suite, effort, script, rest));
  const names = new Set(processes.flatMap(({ cases }) => [...cases.keys()]));
  const rows: Row[] = [];
  for (const name of names) {
    const turns = processes.filter(({ cases }) => cases.has(name));
    progress(`${turns.map(({ suite }) => suite.name).join(' | ')}  ${name.slice(1)}`);
    const rounds = turns.length > 1 ? ROUNDS_IN_TURN : 1;
    for (const each of turns) await each.tell({ do: 'open', case: name });
    for (let round = 0; round < rounds; round++) for (const each of turns) await each.tell({ do: 'round', rounds });
    for (const each of turns) rows.push(...(await each.tell({ do: 'close' })));
  }
  for (const each of processes) await each.stop();
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
