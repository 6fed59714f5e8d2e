// Runs random sequences on the device and on the reference model, and makes a readable report of a failure.
// A sequence is known by its own 32-bit seed, so that it can be run again alone. Not here: processes (main.ts).
import type { ModelDevice } from '../../spec/model/device.ts';
import { Random } from '../../src/testing/random.ts';
import { Bench } from './bench.ts';
import { OpGenerator } from './generate-op.ts';
import { generateSetup } from './generate-setup.ts';
import type { Op, Setup } from './sequence.ts';
import { formatOp, formatSetup } from './sequence.ts';
import { shrink } from './shrink.ts';
import type { WorldCounts } from './world.ts';
import { World, emptyCounts } from './world.ts';

/** Mean number of kicks, resets and other operations of a sequence. */
const MEAN_STEPS = 7;
const MOST_OPS = 400;

/** A failing sequence. */
export interface SequenceFailure {
  readonly seed: number;
  readonly setup: Setup;
  readonly ops: readonly Op[];
  readonly difference: string;
  readonly alter: AlterModel | undefined;
}

/** Makes a model wrong on purpose, to see that differences are found. */
export type AlterModel = (model: ModelDevice) => void;

/** Seed of sequence `index` of a run: neighbours have nothing in common. */
export function sequenceSeed(runSeed: number, index: number): number {
  let x = (runSeed ^ Math.imul(index + 1, 0x9e37_79b1)) >>> 0;
  x = Math.imul(x ^ (x >>> 16), 0x21f0_aaad);
  x = Math.imul(x ^ (x >>> 15), 0x735a_2d97);
  return (x ^ (x >>> 15)) >>> 0;
}

/** Runs sequences one after the other in one memory. */
export class SequenceRunner {
  readonly counts: WorldCounts = emptyCounts();
  sequences = 0;
  readonly #bench = new Bench();

  /** Makes and runs the sequence of a seed. */
  run(seed: number, alter?: AlterModel): SequenceFailure | undefined {
    const random = new Random(seed);
    const setup = generateSetup(random);
    const ops: Op[] = [];
    this.sequences++;
    const difference = this.#guarded(setup, false, this.counts, (world) => {
      alter?.(world.model);
      let found = world.checkStart();
      const generator = new OpGenerator(random, setup, world.model);
      for (let steps = random.geometric(MEAN_STEPS); found === undefined && ops.length < MOST_OPS;) {
        if (generator.atKickStart && steps-- === 0) break;
        const op = generator.next();
        ops.push(op);
        found = world.apply(op);
      }
      return found ?? world.finish();
    });
    return difference === undefined ? undefined : { seed, setup, ops, difference, alter };
  }

  /** Runs a given list of operations; how it fails. */
  replay(setup: Setup, ops: readonly Op[], thorough = false, alter?: AlterModel): string | undefined {
    return this.#guarded(setup, thorough, emptyCounts(), (world) => {
      alter?.(world.model);
      let found = world.checkStart();
      for (let i = 0; i < ops.length && found === undefined; i++) found = world.apply(ops[i]!);
      return found ?? world.finish();
    });
  }

  /** The smallest list of operations found that still fails, and the report on it. */
  shrunk(failure: SequenceFailure): { readonly small: readonly Op[]; readonly text: string } {
    const { setup, ops, alter } = failure;
    // Looking everywhere after each kick keeps a failure visible while the list gets shorter.
    const thorough = this.replay(setup, ops, true, alter) !== undefined;
    const small = shrink(setup, ops, (_, list) => this.replay(setup, list, thorough, alter));
    const text = [
      `sequence seed ${failure.seed}: ${failure.difference}`,
      `shrunk from ${ops.length} to ${small.ops.length} operations in ${small.runs} runs:`,
      ...formatSetup(setup).map((line) => `  ${line}`),
      ...small.ops.map((op, i) => `  ${i + 1}. ${formatOp(op)}`),
      `  => ${small.difference}`,
    ].join('\n');
    return { small: small.ops, text };
  }

  /** The report of a failure, shrunk. */
  report(failure: SequenceFailure): string {
    return this.shrunk(failure).text;
  }

  /** An exception of the device is a difference like any other. */
  #guarded(
    setup: Setup,
    thorough: boolean,
    counts: WorldCounts,
    action: (world: World) => string | undefined,
  ): string | undefined {
    let world: World | undefined;
    try {
      world = new World(this.#bench, setup, counts, { thorough });
      return action(world);
    } catch (error) {
      return `exception: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`;
    } finally {
      world?.close();
    }
  }
}
