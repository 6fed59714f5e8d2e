// Runs the cases of one suite in this process: warm-up, then sampling by mitata, then quantiles.
// mitata keeps the time budget and the loop; each sample returns its own time, so that set-up and the driver's share
// inside a sample are not counted.
import { do_not_optimize, measure } from 'mitata';
import type { BenchCase, Row, Suite } from './suite.ts';
import { caseName } from './suite.ts';

/** How long a case may take. */
export interface Effort {
  readonly quick: boolean;
  readonly filter: RegExp | undefined;
}

const WARM_UP_MS = { quick: 60, full: 250 };
const SAMPLING_NS = { quick: 60e6, full: 350e6 };
const MIN_SAMPLES = { quick: 5, full: 15 };

/** True when some case of the suite passes the filter. */
export function hasCases(suite: Suite, effort: Effort): boolean {
  return suite.cases(effort.quick).some((each) => passes(suite, each, effort));
}

/** Measures the cases that pass the filter; `done` hears of each. */
export async function runSuite(suite: Suite, effort: Effort, done: (row: Row) => void): Promise<void> {
  for (const each of suite.cases(effort.quick)) {
    if (!passes(suite, each, effort)) continue;
    for (const row of await runCase(suite, each, effort)) done(row);
  }
}

function passes(suite: Suite, each: BenchCase, { filter }: Effort): boolean {
  return filter === undefined || filter.test(caseName(suite.name, each.dims));
}

async function runCase(suite: Suite, each: BenchCase, { quick }: Effort): Promise<Row[]> {
  const mode = quick ? 'quick' : 'full';
  const open = each.open();
  const values = new Float64Array(each.series.length);
  let taken: Float64Array[] = [];
  const sample = (): number | Promise<number> => {
    const keep = (): number => {
      taken.push(values.slice());
      return values[0]!;
    };
    const pending = open.sample(values);
    return pending === undefined ? keep() : pending.then(keep);
  };
  if (each.samples === undefined) await warmUp(sample, WARM_UP_MS[mode]);
  const options = {
    manual: true, // the sample's return value counts; missing in mitata's types
    min_samples: each.samples ?? MIN_SAMPLES[mode],
    max_samples: each.samples ?? 10_000,
    min_cpu_time: SAMPLING_NS[mode],
    // Called once, right before the first sample that counts: what came before was mitata's own warm-up.
    gc: () => {
      taken = [];
      globalThis.gc?.();
    },
  };
  if (each.samples === undefined) do_not_optimize(await measure(sample, options));
  else await takeExactly(sample, each.samples);
  open.close?.();
  return each.series.map((series, i) => ({
    suite: suite.name,
    series,
    dims: each.dims,
    unit: each.unit,
    ...quantiles(taken.map((row) => row[i]!)),
  }));
}

async function warmUp(sample: () => number | Promise<number>, milliseconds: number): Promise<void> {
  const end = performance.now() + milliseconds;
  while (performance.now() < end) await sample();
}

/** Long samples: mitata would add one of warm-up to each case, which takes longer than what it is for. */
async function takeExactly(sample: () => number | Promise<number>, count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    globalThis.gc?.();
    await sample();
  }
}

function quantiles(values: number[]): Pick<Row, 'median' | 'min' | 'p25' | 'p75' | 'max' | 'samples'> {
  const sorted = values.sort((a, b) => a - b);
  const at = (part: number): number => sorted[Math.round(part * (sorted.length - 1))]!;
  return { median: at(0.5), min: at(0), p25: at(0.25), p75: at(0.75), max: at(1), samples: sorted.length };
}
