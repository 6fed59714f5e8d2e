// The program that runs in the machine. Usage: node guest-main.js contract [PAGES] | SCENARIO...; exit status 0 when every
// check held. PAGES: the limit of locked memory that the process was started with, for the cases that want it.
import { Reporter } from '../base/reporter.ts';
import { prepareEnv } from '../host/guest-env.ts';
import { runCases } from './contract.ts';
import { SCENARIOS } from './scenarios.ts';

const report = new Reporter();
const [first = '', ...rest] = process.argv.slice(2);
const env = prepareEnv();
if (first === 'contract')
  await section('contract', (own) => runCases(own, env, rest[0] === undefined ? undefined : Number(rest[0])));
else {
  report.note(`kernel ${env.kernel}, ${env.iommu}, Node ${process.version}, ${env.edu.name} in group ${env.edu.group}`);
  for (const name of [first, ...rest]) {
    const run = SCENARIOS[name];
    if (run === undefined) throw new Error(`no scenario of the name "${name}"`);
    await section(name, (own) => run(own, env));
  }
}
process.exitCode = report.failed === 0 ? 0 : 1;

async function section(name: string, run: (own: Reporter) => void | Promise<void>): Promise<void> {
  const own = report.section(name);
  const begin = performance.now();
  try {
    await run(own);
  } catch (error) {
    const detail = error instanceof Error ? (error.stack ?? '') : String(error);
    own.result({ name: 'runs to its end', ok: false, detail });
  }
  own.note(`${((performance.now() - begin) / 1000).toFixed(1)} s`);
}
