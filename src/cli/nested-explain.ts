// `nested --explain`: what the plan of each host context did, figure by figure, each with a sentence.
import Table from 'cli-table3';
import type { ContextStats } from '../iommu/stats.ts';
import type { NestedResult } from '../testing/lab/nested-run.ts';
import { count } from './count-text.ts';

interface Figure {
  readonly name: string;
  readonly of: (context: ContextStats) => number;
  readonly meaning: string;
}

const FIGURES: readonly Figure[] = [
  { name: 'guest mappings', of: (c) => c.guestMappings, meaning: 'Mappings of the domain that the context shows.' },
  { name: 'entries', of: (c) => c.entries, meaning: 'Live entries of the host for them.' },
  { name: 'most entries', of: (c) => c.domainEntriesPeak, meaning: 'Most entries that were live at a time.' },
  { name: 'joined', of: (c) => c.joined, meaning: 'Live entries that put neighbours in host memory together.' },
  { name: 'gathered', of: (c) => c.gathered, meaning: 'Live entries that show scattered pages side by side.' },
  { name: 'joins made', of: (c) => c.joinsMade, meaning: 'Joined entries that were ever made.' },
  { name: 'gathers made', of: (c) => c.gathersMade, meaning: 'Gathered entries that were ever made.' },
  { name: 'planned', of: (c) => c.planned, meaning: 'Stretches that go to the host when the device wakes.' },
  { name: 'revoked', of: (c) => c.revoked, meaning: 'Stretches without access until entries come free.' },
  { name: 'demotions', of: (c) => c.demotions, meaning: 'Entries that an UNMAP of a part took apart.' },
  { name: 'windows', of: (c) => c.windows.count, meaning: 'Times that a live mapping lost its access.' },
  { name: 'longest, ms', of: (c) => c.windows.longestMs, meaning: 'Longest of these windows, in milliseconds.' },
  { name: 'low water', of: (c) => c.lowWaterHits, meaning: 'Times that entries began to run short.' },
  { name: 'compactions', of: (c) => c.compactions, meaning: 'Times that entries were put together to make room.' },
  { name: 'calls saved', of: (c) => c.callsSaved, meaning: 'Host calls that 1:1 forwarding would have made besides.' },
];

const MOMENTS = ['mapped', 'live', 'end'] as const;

/** Prints a table for each context of the run. */
export function printExplanation(name: string, result: NestedResult): void {
  result.contexts.end.forEach((context, i) => {
    const table = new Table({
      head: ['', 'L2 mapped', 'device live', 'at the end', ''],
      colAligns: ['left', 'right', 'right', 'right', 'left'],
      style: { head: [], border: [], compact: true },
    });
    for (const { name: figure, of, meaning } of FIGURES) {
      table.push([figure, ...MOMENTS.map((moment) => number(of(result.contexts[moment][i]!))), meaning]);
    }
    process.stdout.write(`${name}, policy ${result.policy}: host context ${context.name}\n${table.toString()}\n`);
  });
}

/** The figures for JSON. */
export function explanationOf(result: NestedResult): object {
  return Object.fromEntries(MOMENTS.map((moment) => [moment, result.contexts[moment].map(plain)]));
}

/** JSON has no Infinity, which stands for a host without a limit. */
function plain(context: ContextStats): object {
  return { ...context, limit: Number.isFinite(context.limit) ? context.limit : null };
}

function number(value: number): string {
  return Number.isInteger(value) ? count(value) : value.toFixed(1);
}
