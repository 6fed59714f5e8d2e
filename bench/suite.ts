// What a benchmark is: a suite of cases, each of which gives one figure per series with every sample.
// Not here: measuring (measure.ts), the list of suites (suites.ts). Times are nanoseconds, memory is bytes.

/** Names and sizes that tell the cases of a suite apart; they become columns of the JSON and axes of a chart. */
export type Dims = Readonly<Record<string, string | number>>;

/** A case that was set up. */
export interface OpenCase {
  /** Does the work once and writes one figure per series into `into`. */
  sample(into: Float64Array): void | Promise<void>;
  /** Releases what the case holds. */
  close?(): void;
}

/** One thing to measure; set up only when it runs. */
export interface BenchCase {
  readonly dims: Dims;
  /** What one sample measures; the first is the main figure. */
  readonly series: readonly string[];
  /** Unit of all series. */
  readonly unit: string;
  /** Fixed number of samples, for work of seconds or figures without noise; omitted: as many as the time allows. */
  readonly samples?: number;
  open(): OpenCase;
}

/** Draws rows of one suite or of several: one line per `color` over `x`, one panel per `column`. */
export interface Chart {
  /** Base name of the SVG file. */
  readonly file: string;
  readonly title: string;
  /** Picks the rows. */
  readonly select: (row: Row) => boolean;
  readonly x: string;
  readonly color: (row: Row) => string;
  readonly column?: (row: Row) => string;
}

/** Cases that run together in one process of their own, in order, small sizes first. */
export interface Suite {
  readonly name: string;
  /**
   * Suites with the same group have a process each and measure cases of the same dimensions side by side, a short round each
   * in turn: whatever else the machine does meets all of them, and what one costs more than another can be read off.
   */
  readonly group?: string;
  cases(quick: boolean): readonly BenchCase[];
  readonly charts?: readonly Chart[];
}

/** One figure: the distribution of one series of one case. */
export interface Row {
  readonly suite: string;
  readonly series: string;
  readonly dims: Dims;
  readonly unit: string;
  readonly median: number;
  readonly min: number;
  readonly p25: number;
  readonly p75: number;
  readonly max: number;
  /** Number of samples that count. */
  readonly samples: number;
  /** Median divided by that of the floor; absent where there is none to compare with. */
  readonly toFloor?: number;
}

/** Name of a case for the table and for --filter: the suite and the values of the dimensions. */
export function caseName(suite: string, dims: Dims): string {
  return [suite, ...Object.values(dims).map((value) => (typeof value === 'number' ? sizeName(value) : value))].join(
    '/',
  );
}

/** 1024 as 1Ki, 1048576 as 1Mi. */
export function sizeName(size: number): string {
  if (size >= 2 ** 20 && size % 2 ** 20 === 0) return `${size / 2 ** 20}Mi`;
  return size >= 2 ** 10 && size % 2 ** 10 === 0 ? `${size / 2 ** 10}Ki` : String(size);
}

/** Live mappings at which everything is measured. */
export function liveSizes(quick: boolean): readonly number[] {
  return quick ? [2 ** 10, 2 ** 16] : [2 ** 10, 2 ** 14, 2 ** 16, 2 ** 20];
}

/** Orders in which pages are visited. */
export const ORDERS = ['sequential', 'shuffled'] as const;
export type Order = (typeof ORDERS)[number];
