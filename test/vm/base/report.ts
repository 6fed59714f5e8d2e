// The language of a machine's serial line: `@@ {json}`. In the machine a Reporter writes it, outside it becomes results,
// and those become tests. `{name, ok, detail?}` is a result, `{note}` is something to read, `{exit}` is the script's status.
import { expect, test } from 'vitest';
import type { Boot } from './machine.ts';
import type { Result } from './reporter.ts';

/** What a machine reported. */
export interface Report {
  readonly results: readonly Result[];
  readonly notes: readonly string[];
}

/** Reads the reports among the lines of a machine. */
export function readReport(lines: readonly string[]): Report {
  const results: Result[] = [];
  const notes: string[] = [];
  for (const line of lines) {
    const at = line.indexOf('@@ {');
    if (at < 0) continue;
    const value = parsed(line.slice(at + 3));
    if (value === undefined) {
      results.push({ name: 'every line of the report can be read', ok: false, detail: line });
    } else if (typeof value['name'] === 'string') {
      const { name, ok, detail } = value;
      results.push({ name, ok: ok === true, ...(typeof detail === 'string' ? { detail } : {}) });
    } else if (typeof value['note'] === 'string') notes.push(value['note']);
  }
  return { results, notes };
}

/**
 * Declares a test for each result of a machine, and one for the machine itself: that its script passed and that each of
 * `sections` (the first word group of a name, up to ` > `) has at least one result.
 */
export function declareTests(boot: Boot, sections: readonly string[]): void {
  const { results, notes } = readReport(boot.lines);
  for (const note of notes) console.log(note);
  for (const { name, ok, detail = 'failed' } of results) {
    test(name, () => {
      if (!ok) throw new Error(detail);
    });
  }
  test(`the machine ran to its end (${boot.seconds.toFixed(1)} s)`, () => {
    const seen = new Set(results.map(({ name }) => name.split(' > ')[0]));
    expect(sections.filter((section) => !seen.has(section))).toEqual([]);
    const failed = results.some(({ ok }) => !ok);
    if (boot.exit === 'pass' || (boot.exit === 'fail' && failed)) return;
    throw new Error(`the machine ended with ${boot.exit}:\n${boot.lines.slice(-60).join('\n')}`);
  });
}

function parsed(text: string): Record<string, unknown> | undefined {
  try {
    return JSON.parse(text) as Record<string, unknown>;
  } catch {
    return undefined;
  }
}
