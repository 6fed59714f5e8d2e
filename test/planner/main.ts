// Runs many random lists of steps on the whole device over simulated hosts, with a refusal at every host operation in turn,
// in several processes, and checks the invariants of the host plan after every single host operation.
//   tsx test/planner/main.ts [--runs N] [--seed N|random] [--workers N] [--policy NAME] [--tight] [--cuts] [--share] | --replay LIST_SEED
// VIOMMU_PLANNER_RUNS, VIOMMU_SEED and VIOMMU_WORKERS set the defaults. --tight: hosts with 0, 1 or 2 entries;
// --cuts: only hosts that cut entries; --share: only contexts that can share their address spaces.
// Exit code 1 after a broken invariant, which is printed with the smallest list of steps that shows it.
import { isWorker, readOptions, runShares, serveShare } from '../property/parallel.ts';
import { POLICIES } from '../../src/coalesce/settings.ts';
import { policyOf } from './options.ts';
import type { Wishes } from './generate-setup.ts';
import { Runner, listSeed } from './run.ts';
import { describeFailure, shrink } from './shrink.ts';
import { REACHED_NOTHING } from './trial.ts';

/** What is no number on the command line reaches the workers through the environment. */
const WISHES = 'VIOMMU_PLANNER_WISHES';

function takeWishes(): Wishes {
  const args = process.argv;
  const wishes: { policy?: string; limits?: number[]; cuts?: boolean; share?: boolean } = {};
  const at = args.indexOf('--policy');
  if (at >= 0) {
    const [, policy] = args.splice(at, 2);
    wishes.policy = policyOf(policy ?? 'nothing');
  }
  const tight = args.indexOf('--tight');
  if (tight >= 0) {
    args.splice(tight, 1);
    wishes.limits = [0, 1, 2];
  }
  const cuts = args.indexOf('--cuts');
  if (cuts >= 0) {
    args.splice(cuts, 1);
    wishes.cuts = true;
  }
  const share = args.indexOf('--share');
  if (share >= 0) {
    args.splice(share, 1);
    wishes.share = true;
  }
  return wishes;
}

/** The wishes as they stand on the command line: they are part of what a seed makes. */
function flags(): string {
  const { policy, limits, cuts, share } = JSON.parse(process.env[WISHES] ?? '{}') as Wishes;
  const given = [
    policy === undefined ? '' : ` --policy ${policy}`,
    limits === undefined ? '' : ' --tight',
    cuts === true ? ' --cuts' : '',
    share === true ? ' --share' : '',
  ];
  return given.join('');
}

function one(runner: Runner, seed: number, most?: number): string | undefined {
  const failure = most === undefined ? runner.run(seed, Infinity, true) : runner.run(seed, most);
  if (failure === undefined) return undefined;
  const small = describeFailure(shrink(runner, failure));
  return `${small}\nagain: npx tsx test/planner/main.ts --replay ${seed}${flags()}`;
}

async function main(): Promise<number> {
  const wishes = takeWishes();
  process.env[WISHES] = JSON.stringify(wishes);
  const { runs, seed, replay, workers } = readOptions({ runs: { env: 'VIOMMU_PLANNER_RUNS', value: 200_000 } });
  if (replay >= 0) {
    const failure = one(new Runner(wishes), replay);
    console.log(failure ?? `planner: list ${replay} breaks nothing`);
    return failure === undefined ? 0 : 1;
  }
  const policies = wishes.policy ?? POLICIES.join(', ');
  console.log(`planner: ${runs} runs with seed ${seed} on ${workers} workers, policies ${policies}`);
  const task = { seed, total: runs, workers };
  const outcome = await runShares(new URL(import.meta.url), task, (_, counts, seconds) => {
    const done = counts['runs'] ?? 0;
    return `${done} of ${runs} runs, ${counts['hostOperations'] ?? 0} host operations, ${Math.round(done / seconds)} runs/s`;
  });
  const { counts, failure, seconds } = outcome;
  const count = (name: string): number => counts[name] ?? 0;
  if (failure !== undefined) console.log(failure);
  const reached = Object.keys(REACHED_NOTHING).map((name) => `${name} ${count(name)}`);
  console.log(`  reached: ${reached.join(', ')}`);
  console.log(
    `planner: ${failure === undefined ? 'ok' : 'FAILED'}, seed ${seed}, ${count('runs')} runs of ${count('lists')} lists, ` +
      `mean ${(count('operations') / Math.max(1, count('runs'))).toFixed(1)} operations, ` +
      `${count('hostOperations')} host operations, ${seconds.toFixed(1)} s`,
  );
  return failure === undefined ? 0 : 1;
}

if (isWorker) {
  const runner = new Runner(JSON.parse(process.env[WISHES] ?? '{}') as Wishes);
  // Each list is several runs: a worker stops making lists when it has done its share of runs.
  serveShare(
    (piece, task) => {
      const left = Math.ceil(task.total / task.workers) - runner.counts.runs;
      return left <= 0 ? undefined : one(runner, listSeed(task.seed, piece), left);
    },
    () => ({ ...runner.counts }),
  );
} else process.exitCode = await main();
