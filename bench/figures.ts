// The figures that are asked for, each computed from the rows and compared with its limit. Nothing fails here: the machine
// decides whether a time is meaningful; the report says what was seen.
import { ringSuiteName } from './suite-ring.ts';
import type { Row } from './suite.ts';

/** One figure with its limit. */
export interface Figure {
  readonly name: string;
  /** Median, and the least sample: on a busy machine the latter is nearer to the truth. */
  readonly value: number;
  readonly least: number;
  /** Undefined for what is shown for comparison only. */
  readonly limit: number | undefined;
  readonly unit: string;
  readonly met: boolean;
  readonly note?: string;
}

const RING_PATH = ringSuiteName('no host');
const NULL_HOST = ringSuiteName('null host');
const KI = 2 ** 10;
const MI = 2 ** 20;
const EXACT = ringSuiteName('null host, exact');
/** What the planner of a host context may add to the ring path: 1:1, and joining on a quiet context. */
const PLANNER_NS = 300;
const EXACT_NS = 600;

interface Seen {
  readonly median: number;
  readonly min: number;
}

interface Wanted {
  readonly name: string;
  readonly limit: number | undefined;
  readonly unit: string;
  readonly value: Value;
  /** The limit is above the median of this. */
  readonly above?: Value;
}

type Value = (rows: readonly Row[]) => Seen | undefined;

/** The row with this suite, series and dimensions. */
function at(suite: string, series: string, dims: Readonly<Record<string, string | number>>): Value {
  return (rows) =>
    rows.find(
      (row) =>
        row.suite === suite &&
        row.series === series &&
        Object.entries(dims).every(([name, value]) => row.dims[name] === value),
    );
}

function ratio(upper: Value, lower: Value): Value {
  return (rows) => {
    const [above, below] = [upper(rows), lower(rows)];
    if (above === undefined || below === undefined) return undefined;
    return { median: above.median / below.median, min: above.min / below.min };
  };
}

/** Each operation of the ring path under one load: (b) against its limits, then (c) against what (b) leaves to the planner. */
function ringFigures(load: string): Wanted[] {
  return ['MAP', 'UNMAP'].flatMap((op) => {
    const b = (order: string, size: number): Value => at(RING_PATH, op, { load, order, size });
    const c = (order: string, size: number): Value => at(NULL_HOST, op, { load, order, size });
    const named = (what: string, order: string, size: number): string =>
      `${op} ${order}, ${what}, ${load} ${size === KI ? '1Ki' : '1Mi'}`;
    return [
      ...[KI, MI].map((size) => ({
        name: named('ring path (b)', 'sequential', size),
        limit: 300,
        unit: 'ns',
        value: b('sequential', size),
      })),
      {
        name: `${op} sequential, ring path (b), ${load}, 1Mi to 1Ki`,
        limit: 2,
        unit: 'x',
        value: ratio(b('sequential', MI), b('sequential', KI)),
      },
      { name: named('ring path (b)', 'shuffled', MI), limit: 1200, unit: 'ns', value: b('shuffled', MI) },
      ...[KI, MI].map((size) => ({
        name: named('null host (c)', 'sequential', size),
        limit: PLANNER_NS,
        unit: 'ns',
        value: c('sequential', size),
        above: b('sequential', size),
      })),
      ...[KI, MI].map((size) => ({
        name: named('quiet, exact (d)', 'sequential', size),
        limit: EXACT_NS,
        unit: 'ns',
        value: at(EXACT, op, { load, order: 'sequential', size }),
        above: b('sequential', size),
      })),
      // No figure is asked for: the host's entries are a second table of the same size, with misses of its own.
      {
        name: named('null host (c)', 'shuffled', MI),
        limit: undefined,
        unit: 'ns',
        value: c('shuffled', MI),
        above: b('shuffled', MI),
      },
    ];
  });
}

const WANTED: readonly Wanted[] = [
  ...ringFigures('live'),
  ...ringFigures('fill'),
  ...[
    ['sequential', 80],
    ['shuffled', 200],
  ].map(([order, limit]) => ({
    name: `translateInto ${order!}, 64Ki`,
    limit: Number(limit),
    unit: 'ns',
    value: at('translate', 'translateInto', { order: order!, size: 64 * KI }),
  })),
  {
    name: 'major collections in 1Mi requests',
    limit: 0,
    unit: '',
    value: at('memory', 'major collections', { backend: 'null host', what: '1Mi requests at 64Ki live' }),
  },
  ...['sequential', 'shuffled'].map((order) => ({
    name: `bytes per mapping, ${order}, 1Mi`,
    limit: 48,
    unit: 'B',
    value: at('memory', 'guest table', { order, size: MI }),
  })),
];

/** The figures that the rows allow. */
export function figures(rows: readonly Row[]): Figure[] {
  return WANTED.flatMap(({ name, limit, unit, value, above }) => {
    const seen = value(rows);
    const below = above?.(rows);
    if (seen === undefined || (above !== undefined && below === undefined)) return [];
    const most = limit === undefined ? undefined : limit + (below?.median ?? 0);
    const figure = { name, value: seen.median, least: seen.min, limit: most, unit };
    const met = most === undefined || seen.median <= most;
    return [
      {
        ...figure,
        met,
        ...(below === undefined ? {} : { note: `on top of b: ${(seen.median - below.median).toFixed(0)}` }),
      },
    ];
  });
}

/** Adds to each row of the ring path the ratio to the floor. */
export function withRatios(rows: readonly Row[]): Row[] {
  const floor = ringSuiteName('floor');
  return rows.map((row) => {
    const below = row.suite.startsWith('ring') ? at(floor, row.series, {})(rows)?.median : undefined;
    return below === undefined ? row : { ...row, toFloor: row.median / below };
  });
}
