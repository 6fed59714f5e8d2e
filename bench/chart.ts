// Charts of a run as SVG, by vega-lite and without a DOM.
import { Warn, View, parse } from 'vega';
import type { TopLevelSpec } from 'vega-lite';
import { compile } from 'vega-lite';
import type { Chart, Row } from './suite.ts';

/** SVG of a chart; undefined when no row belongs to it. */
export async function chartSvg(chart: Chart, rows: readonly Row[]): Promise<string | undefined> {
  const values = rows.filter(chart.select).map((row) => ({
    x: row.dims[chart.x],
    median: row.median,
    low: row.p25,
    high: row.p75,
    color: chart.color(row),
    column: chart.column?.(row) ?? '',
  }));
  if (values.length === 0) return undefined;
  const { spec } = compile(specOf(chart, values));
  return new View(parse(spec), { renderer: 'none', logLevel: Warn }).toSVG();
}

function specOf(chart: Chart, values: object[]): TopLevelSpec {
  const x = { field: 'x', type: 'quantitative', scale: { type: 'log', base: 2 }, title: 'live mappings' } as const;
  const color = { field: 'color', type: 'nominal', title: null } as const;
  const y = (field: string) => ({ field, type: 'quantitative', title: 'ns, median and quartiles' }) as const;
  return {
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    title: chart.title,
    background: 'white',
    data: { values: values as Record<string, unknown>[] },
    facet: { column: { field: 'column', type: 'nominal', title: null, sort: null } },
    spec: {
      width: 320,
      height: 260,
      layer: [
        { mark: { type: 'area', opacity: 0.2 }, encoding: { x, color, y: y('low'), y2: { field: 'high' } } },
        { mark: { type: 'line', point: true }, encoding: { x, color, y: y('median') } },
      ],
    },
  };
}
