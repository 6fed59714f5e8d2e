// Measures one case in this process: warm-up, then rounds of sampling by mitata, then quantiles over all rounds.
// mitata keeps the time budget and the loop; each sample returns its own time, so that set-up and the driver's share
// inside a sample are not counted.
import { do_not_optimize, measure } from 'mitata';
import type { BenchCase, OpenCase, Row } from './suite.ts';
import { caseName } from './suite.ts';

/** How long a case may take, and which cases run. */
export interface Effort {
  readonly quick: boolean;
  readonly filter: RegExp | undefined;
}

const WARM_UP_MS = { quick: 60, full: 200 };
/** The first case of a process takes so much longer to warm up: it is the one for which everything is compiled. */
const FIRST_TIMES = 6;
const SAMPLING_NS = { quick: 60e6, full: 330e6 };
const MIN_SAMPLES = { quick: 6, full: 15 };

/** Rounds of a case that is measured side by side with others; one alone has one. */
export const ROUNDS_IN_TURN = 3;

/** True when a case passes the filter. */
export function passes(suite: string, each: BenchCase, { filter }: Effort): boolean {
  return filter === undefined || filter.test(caseName(suite, each.dims));
}

/** One case that is set up, and what was measured of it. */
export class CaseRun {
  readonly #suite: string;
  readonly #case: BenchCase;
  readonly #mode: 'quick' | 'full';
  readonly #open: OpenCase;
  readonly #values: Float64Array;
  #taken: Float64Array[] = [];
  static #first = true;

  private constructor(suite: string, each: BenchCase, quick: boolean) {
    this.#suite = suite;
    this.#case = each;
    this.#mode = quick ? 'quick' : 'full';
    this.#open = each.open();
    this.#values = new Float64Array(each.series.length);
  }

  /** Sets a case up and warms it up. */
  static async open(suite: string, each: BenchCase, quick: boolean): Promise<CaseRun> {
    const run = new CaseRun(suite, each, quick);
    const end = performance.now() + WARM_UP_MS[run.#mode] * (CaseRun.#first ? FIRST_TIMES : 1);
    CaseRun.#first = false;
    // A fixed number of samples is for work of seconds, or without noise: there is nothing to warm.
    while (each.samples === undefined && performance.now() < end) await run.#sample();
    run.#taken = [];
    return run;
  }

  /** Takes the samples of one of `rounds` rounds. */
  async round(rounds: number): Promise<void> {
    const { samples } = this.#case;
    if (samples !== undefined) {
      await this.#takeExactly(samples);
      return;
    }
    const before = this.#taken.length;
    const options = {
      manual: true, // the sample's return value counts; missing in mitata's types
      min_samples: Math.ceil(MIN_SAMPLES[this.#mode] / rounds),
      max_samples: 10_000,
      min_cpu_time: SAMPLING_NS[this.#mode] / rounds,
      // Called once, right before the first sample that counts: what came before was mitata's own warm-up.
      gc: () => {
        this.#taken.length = before;
        globalThis.gc?.();
      },
    };
    do_not_optimize(await measure(() => this.#sample(), options));
  }

  /** Releases the case and returns a row per series. */
  close(): Row[] {
    this.#open.close?.();
    return this.#case.series.map((series, i) => ({
      suite: this.#suite,
      series,
      dims: this.#case.dims,
      unit: this.#case.unit,
      ...quantiles(this.#taken.map((row) => row[i]!)),
    }));
  }

  #sample(): number | Promise<number> {
    const keep = (): number => {
      this.#taken.push(this.#values.slice());
      return this.#values[0]!;
    };
    const pending = this.#open.sample(this.#values);
    return pending === undefined ? keep() : pending.then(keep);
  }

  /** Long samples: mitata would add one of warm-up to each case, which takes longer than what it is for. Once, not per round. */
  async #takeExactly(count: number): Promise<void> {
    while (this.#taken.length < count) {
      globalThis.gc?.();
      await this.#sample();
    }
  }
}

function quantiles(values: number[]): Pick<Row, 'median' | 'min' | 'p25' | 'p75' | 'max' | 'samples'> {
  const sorted = values.sort((a, b) => a - b);
  const at = (part: number): number => sorted[Math.round(part * (sorted.length - 1))]!;
  return { median: at(0.5), min: at(0), p25: at(0.25), p75: at(0.75), max: at(1), samples: sorted.length };
}
