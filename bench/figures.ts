// The figures that are asked for, each computed from the rows and compared with its limit. Nothing fails here: the machine
// decides whether a time is meaningful; the report says what was seen.
import { ringSuiteName } from './suite-ring.ts';
import type { Row } from './suite.ts';

/** One figure with its limit. */
export interface Figure {
  readonly name: string;
  readonly value: number;
  readonly limit: number;
  readonly unit: string;
  readonly met: boolean;
}

const NULL_HOST = ringSuiteName('null host');
const KI = 2 ** 10;
const MI = 2 ** 20;

type Wanted = { readonly name: string; readonly limit: number; readonly unit: string; readonly value: Value };
type Value = (rows: readonly Row[]) => number | undefined;

/** Median of the row with this suite, series and dimensions. */
function at(suite: string, series: string, dims: Readonly<Record<string, string | number>>): Value {
  return (rows) =>
    rows.find(
      (row) =>
        row.suite === suite &&
        row.series === series &&
        Object.entries(dims).every(([name, value]) => row.dims[name] === value),
    )?.median;
}

function ring(op: string, load: string, order: string, size: number): Value {
  return at(NULL_HOST, op, { load, order, size });
}

function ratio(above: Value, below: Value): Value {
  return (rows) => {
    const [upper, lower] = [above(rows), below(rows)];
    return upper === undefined || lower === undefined ? undefined : upper / lower;
  };
}

/** Ring path: each operation under both loads. */
function ringFigures(load: string): Wanted[] {
  return ['MAP', 'UNMAP'].flatMap((op) => [
    ...[KI, MI].map((size) => ({
      name: `${op} sequential, null host, ${load} ${size === KI ? '1Ki' : '1Mi'}`,
      limit: 300,
      unit: 'ns',
      value: ring(op, load, 'sequential', size),
    })),
    {
      name: `${op} sequential, null host, ${load}, 1Mi to 1Ki`,
      limit: 2,
      unit: 'x',
      value: ratio(ring(op, load, 'sequential', MI), ring(op, load, 'sequential', KI)),
    },
    {
      name: `${op} shuffled, null host, ${load} 1Mi`,
      limit: 1200,
      unit: 'ns',
      value: ring(op, load, 'shuffled', MI),
    },
  ]);
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
  return WANTED.flatMap(({ name, limit, unit, value }) => {
    const seen = value(rows);
    return seen === undefined ? [] : [{ name, value: seen, limit, unit, met: seen <= limit }];
  });
}

/** Adds to each row of the ring path the ratio to the floor. */
export function withRatios(rows: readonly Row[]): Row[] {
  const floor = ringSuiteName('floor');
  return rows.map((row) => {
    const below = row.suite.startsWith('ring') ? at(floor, row.series, {})(rows) : undefined;
    return below === undefined ? row : { ...row, toFloor: row.median / below };
  });
}
