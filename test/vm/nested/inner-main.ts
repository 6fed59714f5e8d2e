// The program that runs in the L0 machine. Usage: node inner-main.js direct|nested; exit status 0 when every check held.
import { Reporter } from '../base/reporter.ts';
import type { Scenario } from '../host/guest-env.ts';
import { prepareEnv } from '../host/guest-env.ts';

const SCENARIOS: Readonly<Record<string, () => Promise<{ readonly run: Scenario }>>> = {
  direct: () => import('./direct.ts'),
  nested: () => import('./nested.ts'),
};

const report = new Reporter();
const kind = process.argv[2] ?? '';
const load = SCENARIOS[kind];
if (load === undefined) throw new Error(`no scenario of the name "${kind}"`);
const env = prepareEnv();
report.note(
  `L0: kernel ${env.kernel}, ${env.iommu}, Node ${process.version}, ${env.edu.name} in group ${env.edu.group}`,
);
const own = report.section(kind);
await own.check('runs to its end', async () => {
  const { run } = await load();
  await run(own, env);
});
process.exit(report.failed === 0 ? 0 : 1);
