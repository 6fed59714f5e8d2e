// Makes a failing sequence small: fast-check's shrinking of the list of operations and of every value in them.
// The setup stays as it is. Not here: finding failures (run.ts).
import fc from 'fast-check';
import type { Op, Setup } from './sequence.ts';
import { U64 } from './sequence.ts';

const u32 = fc.integer({ min: 0, max: 0xffff_ffff });
const u64 = fc.bigInt({ min: 0n, max: U64 });

const OP: fc.Arbitrary<Op> = fc.oneof(
  fc.record({
    op: fc.constant('request' as const),
    type: fc.integer({ min: 0, max: 255 }),
    domain: u32,
    endpoint: u32,
    flags: u32,
    start: u64,
    end: u64,
    phys: u64,
    reserved: fc.integer({ min: -0x8000_0000, max: 0xffff_ffff }),
    headReserved: fc.integer({ min: 0, max: 0xff_ffff }),
    readableDelta: fc.integer({ min: -100, max: 100 }),
    writableDelta: fc.integer({ min: -100, max: 70_000 }),
    framing: u32,
    more: fc.boolean(),
  }),
  fc.record({
    op: fc.constant('access' as const),
    endpoint: u32,
    iova: u64,
    length: fc.integer({ min: 1, max: 0x10_0000 }),
    write: fc.boolean(),
  }),
  fc.record({
    op: fc.constant('reset' as const),
    system: fc.boolean(),
    accepted: fc.integer({ min: 0, max: 127 }),
  }),
  fc.record({
    op: fc.constant('config' as const),
    offset: fc.integer({ min: 0, max: 39 }),
    width: fc.constantFrom(1 as const, 2 as const, 4 as const, 8 as const),
    value: u64,
  }),
);
const OPS = fc.array(OP, { maxLength: 10_000 });

/** A smaller list of operations that fails as well, and how it fails. */
export interface Shrunk {
  readonly ops: readonly Op[];
  readonly difference: string;
  readonly runs: number;
}

/** `fails` runs a list on a fresh device and says how it fails, undefined when it does not. Bounded by `milliseconds`. */
export function shrink(
  setup: Setup,
  ops: readonly Op[],
  fails: (setup: Setup, ops: readonly Op[]) => string | undefined,
  milliseconds = 30_000,
): Shrunk {
  let best: Shrunk = { ops, difference: fails(setup, ops) ?? 'does not fail when it is run again', runs: 0 };
  let runs = 0;
  const deadline = Date.now() + milliseconds;
  const property = fc.property(OPS, (list) => {
    if (runs > 0 && Date.now() > deadline) return;
    runs++;
    const difference = fails(setup, list);
    if (difference === undefined) return;
    best = { ops: list, difference, runs };
    throw new Error(difference);
  });
  fc.check(property, { examples: [[[...ops]]], numRuns: 1, endOnFailure: false });
  return best;
}
