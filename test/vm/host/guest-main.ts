// The program that runs in the machine: the scenarios of one kind of machine, in order, in one process.
// Usage: node guest-main.js KIND; exit status 0 when every check held.
import { Reporter } from '../base/reporter.ts';
import type { Scenario } from './guest-env.ts';
import { prepareEnv } from './guest-env.ts';
import { SCENARIOS } from './scenarios.ts';

const report = new Reporter();
const kind = process.argv[2] ?? '';
await main(kind);
process.exitCode = report.failed === 0 ? 0 : 1;

async function main(name: string): Promise<void> {
  const files = SCENARIOS[name];
  if (files === undefined) throw new Error(`no scenarios of the name "${name}"`);
  const env = prepareEnv();
  report.note(`kernel ${env.kernel}, ${env.iommu}, Node ${process.version}, ${env.edu.name} in group ${env.edu.group}`);
  for (const [section, load] of Object.entries(files)) {
    const own = report.section(section);
    const begin = performance.now();
    await own.check('runs to its end', async () => {
      const { run }: { run: Scenario } = await load();
      await run(own, env);
    });
    own.note(`${((performance.now() - begin) / 1000).toFixed(1)} s`);
  }
}
