// A physical device of the host, through this package, to an unmodified guest: an emulated host (L0) in which `serve` and a QEMU
// boot L1, whose own VFIO drives L0's edu device. Minutes, as everything in L1 is emulated twice.
// Usage: tsx test/vm/nested/main.ts [--only direct|nested] [--lines]
// `--lines` prints all that the machines say. Exit status 1 when a check failed.
import { parseArgs } from 'node:util';
import type { Boot } from '../base/machine.ts';
import { readReport } from '../base/report.ts';
import { bootDirect, bootNested } from './machine.ts';

const MACHINES = { direct: bootDirect, nested: bootNested } as const;

const { values } = parseArgs({ options: { only: { type: 'string' }, lines: { type: 'boolean', default: false } } });
process.exitCode = await main(values.only, values.lines);

async function main(only: string | undefined, lines: boolean): Promise<number> {
  const wanted = Object.entries(MACHINES).filter(([name]) => only === undefined || name === only);
  if (wanted.length === 0) throw new RangeError(`--only must be ${Object.keys(MACHINES).join(' or ')}`);
  const totals = { passed: 0, failed: 0 };
  for (const [name, start] of wanted) {
    console.log(`== ${name}`);
    const machine = await start(lines ? console.log : undefined);
    const { passed, failed } = summary(machine, name);
    totals.passed += passed;
    totals.failed += failed;
  }
  console.log(`${totals.passed} passed, ${totals.failed} failed`);
  return totals.failed === 0 ? 0 : 1;
}

function summary(machine: Boot, name: string): { readonly passed: number; readonly failed: number } {
  const { results, notes } = readReport(machine.lines);
  for (const note of notes) console.log(`  ${note}`);
  for (const { name: what, ok, detail } of results)
    console.log(`  ${ok ? 'ok  ' : 'FAIL'} ${what}${ok ? '' : `: ${detail ?? ''}`}`);
  const bad = results.filter(({ ok }) => !ok).length;
  const ended = machine.exit === 'pass' && results.some(({ name: what }) => what.startsWith(name));
  console.log(`  the machine ended with ${machine.exit} after ${machine.seconds.toFixed(0)} s`);
  if (!ended && bad === 0) console.log(machine.lines.slice(-60).join('\n'));
  return { passed: results.length - bad, failed: bad + (ended || bad > 0 ? 0 : 1) };
}
