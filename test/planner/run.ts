// Runs lists of steps: makes one from a seed on a first run without failures, then repeats it with a refusal at every host
// operation in turn. A list is known by its seed. Not here: processes (main.ts), making a failure small (shrink.ts).
import { Errno } from '../../src/base/errors.ts';
import { Random } from '../../src/testing/random.ts';
import type { Wishes } from './generate-setup.ts';
import { chance, generateSetup, pick } from './generate-setup.ts';
import { StepGenerator } from './generate-step.ts';
import type { Failure, Setup, Step } from './setup.ts';
import { countOperations } from './setup.ts';
import type { Reached } from './trial.ts';
import { REACHED_NOTHING, Trial } from './trial.ts';

/** Mean number of requests and other steps of a list. */
const MEAN_OPERATIONS = 13;
const MOST_OPERATIONS = 160;
/** One list in so many is repeated with failures; a repetition costs less than making and running a new list. */
const INJECT_EVERY = 3;
const MOST_INJECTED = 120;

const ERRNOS = [Errno.ENOSPC, Errno.ENOMEM, Errno.EINVAL, Errno.EFAULT, Errno.EEXIST];

const NAMES = Object.keys(REACHED_NOTHING) as (keyof Reached)[];

/** A run that failed. */
export interface RunFailure {
  readonly seed: number;
  readonly setup: Setup;
  readonly steps: readonly Step[];
  readonly failures: readonly Failure[];
  readonly difference: string;
}

export interface RunCounts extends Reached {
  runs: number;
  lists: number;
  operations: number;
  hostOperations: number;
}

/** Seed of list `index` of a run: neighbours have nothing in common. */
export function listSeed(runSeed: number, index: number): number {
  let x = (runSeed ^ Math.imul(index + 1, 0x9e37_79b1)) >>> 0;
  x = Math.imul(x ^ (x >>> 16), 0x21f0_aaad);
  x = Math.imul(x ^ (x >>> 15), 0x735a_2d97);
  return (x ^ (x >>> 15)) >>> 0;
}

export class Runner {
  readonly counts: RunCounts = { ...REACHED_NOTHING, runs: 0, lists: 0, operations: 0, hostOperations: 0 };
  readonly #wishes: Wishes;

  constructor(wishes: Wishes = {}) {
    this.#wishes = wishes;
  }

  /** Makes and runs the list of a seed, and, for some, repeats it with failures; at most `most` runs. */
  run(seed: number, most = Infinity, inject = seed % INJECT_EVERY === 0): RunFailure | undefined {
    const random = new Random(seed);
    const setup = generateSetup(random, this.#wishes);
    const steps: Step[] = [];
    let hostOperations = 0;
    this.counts.lists++;
    const difference = this.#guarded(setup, [], (trial) => {
      let wrong = trial.start();
      const generator = new StepGenerator(random, setup, trial.engine, this.#wishes.policy);
      const length = Math.min(MOST_OPERATIONS, 4 + random.geometric(MEAN_OPERATIONS));
      for (let done = 0; wrong === undefined && done < length; done = countOperations(steps)) {
        const step = generator.next();
        steps.push(step);
        wrong = trial.step(step);
      }
      hostOperations = trial.operations;
      return wrong ?? trial.finish();
    });
    this.#count(steps, hostOperations);
    if (difference !== undefined) return { seed, setup, steps, failures: [], difference };
    if (!inject) return undefined;
    const last = Math.min(hostOperations, MOST_INJECTED, most - 1);
    for (let at = 1; at <= last; at++) {
      const failures = injection(random, at);
      const found = this.replay(setup, steps, failures);
      this.#count(steps, hostOperations);
      if (found !== undefined) return { seed, setup, steps, failures, difference: found };
    }
    return undefined;
  }

  /** Runs a given list; how it fails. */
  replay(setup: Setup, steps: readonly Step[], failures: readonly Failure[]): string | undefined {
    return this.#guarded(setup, failures, (trial) => {
      let wrong = trial.start();
      for (let i = 0; i < steps.length && wrong === undefined; i++) {
        wrong = trial.step(steps[i]!);
        if (wrong !== undefined) wrong = `${wrong} at step ${i + 1}`;
      }
      return wrong ?? trial.finish();
    });
  }

  #count(steps: readonly Step[], hostOperations: number): void {
    this.counts.runs++;
    this.counts.operations += countOperations(steps);
    this.counts.hostOperations += hostOperations;
  }

  /** An exception of the device is a difference like any other. */
  #guarded(
    setup: Setup,
    failures: readonly Failure[],
    action: (trial: Trial) => string | undefined,
  ): string | undefined {
    try {
      const trial = new Trial(setup, failures);
      const difference = action(trial);
      for (const name of NAMES) this.counts[name] += trial.reached[name];
      return difference;
    } catch (error) {
      return `exception: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`;
    }
  }
}

/** Mostly one refusal; sometimes the undo that follows is refused as well, or everything is from then on. */
function injection(random: Random, at: number): Failure[] {
  const errno = pick(random, ERRNOS);
  if (chance(random, 80)) return [{ at, errno, times: 1 }];
  if (chance(random, 50)) return [{ at, errno, times: 2 + random.below(3) }];
  if (chance(random, 20)) return [{ at, errno, times: Infinity }];
  return [
    { at, errno, times: 1 },
    { at: at + 1 + random.below(3), errno: pick(random, ERRNOS), times: 1 },
  ];
}
