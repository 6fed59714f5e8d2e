// The chart of entry counts as SVG, by vega-lite and without a DOM. Both packages are optional: whoever wants a chart
// installs them.
import type { TopLevelSpec } from 'vega-lite';
import { POLICIES } from '../coalesce/settings.ts';
import type { CountRow } from '../testing/lab/count-matrix.ts';
import { count } from './count-text.ts';
import { CliError } from './errors.ts';
import { formatSize } from './sizes.ts';

/** The two packages. */
export interface Vega {
  readonly vega: typeof import('vega');
  readonly lite: typeof import('vega-lite');
}

/** Loads what draws; a CliError that says what to install when it is not there. */
export async function loadVega(
  load: () => Promise<Vega> = async () => ({ vega: await import('vega'), lite: await import('vega-lite') }),
): Promise<Vega> {
  try {
    return await load();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_MODULE_NOT_FOUND') throw error;
    throw new CliError('--svg needs two packages that are not installed: npm install vega@6.4.0 vega-lite@6.4.3');
  }
}

/** SVG of the rows: columns are patterns; lines are policies and backings. */
export async function countsChart(rows: readonly CountRow[], limit: number, { vega, lite }: Vega): Promise<string> {
  const { spec } = lite.compile(specOf(rows, limit));
  const svg = await new vega.View(vega.parse(spec), { renderer: 'none', logLevel: vega.Warn }).toSVG();
  return `${svg}\n`;
}

/** One point of one panel. */
interface Point {
  readonly size: string;
  readonly pattern: string;
  readonly line: string;
  readonly backing: string;
  readonly entries: number;
  readonly calls: number;
  readonly ioptes: number;
  readonly large: number;
  readonly outcome: 'all accepted' | 'MAPs refused';
}

const OUTCOMES = ['all accepted', 'MAPs refused'] as const;

/** A part of a specification; compile() checks it, since no type of vega-lite can be inferred from its layers. */
type SpecPart = Readonly<Record<string, unknown>>;

function specOf(rows: readonly CountRow[], limit: number): TopLevelSpec {
  const points = pointsOf(rows);
  const sizes = [...new Set(points.map(({ size }) => size))];
  const patterns = [...new Set(points.map(({ pattern }) => pattern))];
  const row = (spec: SpecPart): SpecPart => ({
    facet: { column: { field: 'pattern', type: 'nominal', title: null, sort: patterns } },
    spec: { width: 190, ...spec },
  });
  const spec: SpecPart = {
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    title: `Host entries, host calls and IOPTEs for the RAM of one L2 (VFIO type1, limit ${count(limit)})`,
    background: 'white',
    // Descriptions for screen readers stand at every mark: most of the file.
    config: { aria: false },
    data: { values: points },
    vconcat: [
      row({ height: 170, layer: [...lines('entries', 'entries + MAPs refused', sizes), ...limitLine(limit)] }),
      row({ height: 90, layer: lines('calls', 'host map calls', sizes) }),
      row({ height: 90, layer: lines('ioptes', 'IOPTEs', sizes) }),
      row({ height: 90, layer: lines('large', '% of RAM in 2M', sizes) }),
    ],
  };
  return spec as unknown as TopLevelSpec;
}

const LABEL =
  "datum.value >= 1e6 ? datum.value / 1e6 + 'M' : datum.value >= 1e3 ? datum.value / 1e3 + 'k' : datum.value";

/** Lines and points of `field` over L2 RAM; shares are linear, everything else is logarithmic. */
function lines(field: keyof Point, title: string, sizes: readonly string[]): SpecPart[] {
  const logarithmic = {
    scale: { type: 'symlog', constant: 1 },
    axis: { values: [1, 100, 1e4, 1e6], labelExpr: LABEL },
  };
  const linear = { scale: { domain: [0, 100] }, axis: { values: [0, 50, 100] } };
  const x = { field: 'size', type: 'ordinal', sort: sizes, title: null, axis: { labelAngle: 0 } };
  const y = { field, type: 'quantitative', title, ...(field === 'large' ? linear : logarithmic) };
  const color = { field: 'line', type: 'nominal', title: 'policy', sort: null };
  const strokeDash = { field: 'backing', type: 'nominal', title: "L1's RAM", sort: null };
  const shapes = { domain: OUTCOMES, range: ['circle', 'cross'] };
  const shape = { field: 'outcome', type: 'nominal', title: null, scale: shapes };
  return [
    { mark: { type: 'line', opacity: 0.7 }, encoding: { x, y, color, strokeDash } },
    { mark: { type: 'point', size: 40, filled: true }, encoding: { x, y, color, shape } },
  ];
}

function limitLine(limit: number): SpecPart[] {
  const y = { datum: limit };
  const data = { values: [{}] }; // once, not at every point
  return [
    { data, mark: { type: 'rule', color: 'black' }, encoding: { y } },
    {
      data,
      mark: { type: 'text', align: 'left', x: 4, dy: -6, fontSize: 9 },
      encoding: { y, text: { value: 'limit' } },
    },
  ];
}

/** Policies that come to the same everywhere are one line. */
function pointsOf(rows: readonly CountRow[]): Point[] {
  const lines = new Map<string, string[]>();
  for (const policy of POLICIES) {
    const own = rows.filter((row) => row.policy === policy);
    const figures = JSON.stringify(own.map((row) => ({ ...row, policy: '' })));
    if (own.length > 0) lines.set(figures, [...(lines.get(figures) ?? []), policy]);
  }
  return [...lines.values()].flatMap((policies) =>
    rows
      .filter((row) => row.policy === policies[0])
      .map((row) => ({
        size: formatSize(row.l2Bytes).replace('iB', ''),
        pattern: row.pattern,
        line: policies.join(', '),
        backing: row.backing,
        entries: row.hostEntriesPeak + row.refused,
        calls: row.hostMapCalls,
        ioptes: row.ioptes,
        large: row.largeShare * 100,
        outcome: OUTCOMES[row.refused === 0 ? 0 : 1],
      })),
  );
}
