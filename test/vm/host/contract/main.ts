// The contract suite on a real kernel: the cases of the simulated host, and what only a real one can say.
import type { Reporter } from '../../base/reporter.ts';
import type { GuestEnv, Scenario } from '../guest-env.ts';
import { run as badInput } from './bad-input.ts';
import { run as cycles } from './cycles.ts';
import { run as gather } from './gather.ts';
import { run as interrupts } from './interrupts.ts';
import { run as differential } from './differential.ts';
import { run as reset } from './reset.ts';
import { run as type1 } from './type1.ts';

const SECTIONS: Readonly<Record<string, Scenario>> = {
  'contract of type1': type1,
  'contract of gathers': gather,
  'kernel and simulation side by side': differential,
  interrupts,
  reset,
  'bad input': badInput,
  cycles,
};

export async function run(report: Reporter, env: GuestEnv): Promise<void> {
  for (const [name, section] of Object.entries(SECTIONS)) {
    const own = report.section(name);
    const begin = performance.now();
    await section(own, env);
    own.note(`${((performance.now() - begin) / 1000).toFixed(1)} s`);
  }
}
