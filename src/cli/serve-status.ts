// How a person sees `virtio-iommu serve`: a table that is drawn again on a terminal, a line now and then elsewhere.
// Not here: the figures (serve-report.ts).
import Table from 'cli-table3';
import type { FunctionReport, ServeReport } from './serve-report.ts';
import { hostText } from './serve-vfio-report.ts';

/** Where text goes; a terminal says so. */
export interface Output {
  readonly isTTY?: boolean;
  /** Width of a terminal in characters. */
  readonly columns?: number;
  write(text: string): unknown;
}

/** A table at the bottom of a terminal, above which lines scroll. */
export class StatusTable {
  readonly #output: Output;
  #lines = 0;
  #text = '';

  constructor(output: Output) {
    this.#output = output;
  }

  /** Draws it again. */
  show(report: ServeReport): void {
    this.#text = `${statusTable(report)}\n`;
    this.#output.write(this.#clear() + this.#text);
    this.#lines = height(this.#text, this.#output.columns ?? Infinity);
  }

  /** Writes a line above the table. */
  line(text: string): void {
    this.#output.write(`${this.#clear()}${text}\n${this.#text}`);
  }

  #clear(): string {
    return this.#lines === 0 ? '' : `\x1b[${this.#lines}A\x1b[0J`;
  }
}

/** Rows that a text of whole lines takes on a screen, which breaks what is longer than it is wide. */
function height(text: string, columns: number): number {
  const lines = text.split('\n').slice(0, -1);
  return lines.reduce((rows, line) => rows + Math.max(1, Math.ceil(line.length / columns)), 0);
}

/** The state as a table. */
export function statusTable(report: ServeReport): string {
  const { iommu } = report;
  const table = new Table({
    head: ['function', 'client', 'memory', 'messages', 'state', 'faults'],
    style: { head: [], border: [], compact: true },
    colAligns: ['left', 'left', 'right', 'right', 'left', 'right'],
  });
  for (const row of report.functions) {
    table.push([
      `${row.name} ${row.addr}`,
      row.server.connected ? 'connected' : 'none',
      `${Math.floor(Number(row.server.mappedBytes) / 2 ** 20)} MiB`,
      row.server.messages,
      stateOf(row, report),
      row.translation === null ? (iommu.counters['faults'] ?? 0) : row.translation.faults,
    ]);
  }
  return table.toString();
}

function stateOf(row: FunctionReport, { iommu }: ServeReport): string {
  if (row.translation === null) {
    return `${total(iommu.requests)} requests, ${notOk(iommu.statuses)} not OK, ${iommu.mappings} mappings, ${iommu.domains} domains`;
  }
  const { domain, bypass, mappings } = row.translation;
  const where = domain === null ? 'no domain' : `domain ${domain}`;
  if (row.host !== null) return `${where}, ${bypass ? 'bypass' : `${mappings} mappings`}, ${hostText(row.host)}`;
  if (row.dma === null) return `${where}, NOT TRANSLATED (a test option)`;
  const how = bypass ? 'bypass' : domain === null ? 'blocked' : `${mappings} mappings`;
  return `${where}, ${how}, ${row.dma.accesses} accesses`;
}

/** The state in one line. */
export function statusLine(report: ServeReport): string {
  const { iommu } = report;
  const parts = [
    `${total(iommu.requests)} requests (${notOk(iommu.statuses)} not OK)`,
    `${iommu.mappings} mappings`,
    `${iommu.domains} domains`,
    `${iommu.counters['faults'] ?? 0} faults`,
    ...report.functions.map((row) => `${row.name} ${row.server.connected ? 'connected' : 'waits'}`),
  ];
  return `${Math.round(report.seconds)} s: ${parts.join(', ')}`;
}

function total(values: Readonly<Record<string, number>>): number {
  return Object.values(values).reduce((sum, value) => sum + value, 0);
}

function notOk(statuses: Readonly<Record<string, number>>): number {
  return total(statuses) - (statuses['OK'] ?? 0);
}
