// Runs the ring fuzzer in several processes, then the double-fetch test.
//   tsx test/fuzz/main.ts [--cases N] [--requests N] [--seed N|random] [--workers N] | --replay BLOCK_SEED
// VIOMMU_FUZZ_CASES, VIOMMU_DOUBLE_FETCH_REQUESTS, VIOMMU_SEED and VIOMMU_WORKERS set the defaults. Exit code 1 after a
// failure; a block of 1,000 cases can be run again alone and then prints its last cases.
import { isWorker, readOptions, runShares, serveShare } from '../property/parallel.ts';
import { sequenceSeed } from '../property/run.ts';
import { runDoubleFetch } from './double-fetch.ts';
import { FuzzMemory } from './fuzz-memory.ts';
import { CASES_PER_BLOCK, emptyFuzzCounts, runBlock } from './ring-fuzz.ts';

const TRACE_LINES = 25;

function replayed(seed: number): string | undefined {
  const trace: string[] = [];
  const failure = runBlock(new FuzzMemory(), seed, emptyFuzzCounts(), trace);
  return failure === undefined
    ? undefined
    : `block seed ${seed}, ${failure}\nlast cases:\n  ${trace.slice(-TRACE_LINES).join('\n  ')}\nagain: npx tsx test/fuzz/main.ts --replay ${seed}`;
}

function work(): void {
  const memory = new FuzzMemory();
  const counts = emptyFuzzCounts();
  serveShare(
    (piece, task) => {
      const seed = sequenceSeed(task.seed, piece);
      const failure = runBlock(memory, seed, counts);
      return failure === undefined ? undefined : (replayed(seed) ?? `block seed ${seed} (only once), ${failure}`);
    },
    () => {
      const { statuses, kinds, ...plain } = counts;
      const named = (prefix: string, list: Record<string, number>): Record<string, number> =>
        Object.fromEntries(Object.entries(list).map(([name, n]) => [`${prefix} ${name}`, n]));
      return { ...plain, ...named('status', statuses), ...named('kind', kinds) };
    },
  );
}

async function fuzzRings(cases: number, seed: number, workers: number): Promise<boolean> {
  const blocks = Math.ceil(cases / CASES_PER_BLOCK);
  console.log(
    `ring fuzz: ${blocks * CASES_PER_BLOCK} cases on ${blocks} devices with seed ${seed} on ${workers} workers`,
  );
  const outcome = await runShares(
    new URL(import.meta.url),
    { seed, total: blocks, workers },
    (done, counts, seconds) => {
      const n = counts['cases'] ?? 0;
      return `${n} cases, ${done} of ${blocks} devices, ${Math.round(n / seconds)} cases/s`;
    },
  );
  const { counts, failure, seconds } = outcome;
  const list = (prefix: string): string =>
    Object.entries(counts)
      .filter(([name]) => name.startsWith(prefix))
      .map(([name, n]) => `${name.slice(prefix.length + 1)} ${n}`)
      .join(', ');
  console.log(`  cases: ${list('kind')}\n  answers: ${list('status')}`);
  if (failure !== undefined) console.log(failure);
  console.log(
    `ring fuzz: ${failure === undefined ? 'ok' : 'FAILED'}, seed ${seed}, ${counts['cases'] ?? 0} cases on ${counts['blocks'] ?? 0} devices, ` +
      `${counts['served'] ?? 0} chains answered, ${counts['broken'] ?? 0} broken rings, ${counts['ambiguous'] ?? 0} without one right outcome, ` +
      `${counts['accesses'] ?? 0} translations, ${counts['mirrorChecks'] ?? 0} host checks, ${seconds.toFixed(1)} s`,
  );
  return failure === undefined;
}

async function fuzzDoubleFetch(requests: number, seed: number): Promise<boolean> {
  console.log(`double fetch: ${requests} requests with seed ${seed}`);
  const start = Date.now();
  let told = 0;
  const result = await runDoubleFetch({
    requests,
    chaosKicks: Math.ceil(requests / 10),
    seed,
    progress: (done, kicks) => {
      if (Date.now() - told < 5000) return;
      told = Date.now();
      console.log(`  ${done} of ${requests} requests, ${kicks} kicks on random bytes`);
    },
  });
  let outcomes = 0;
  for (const counts of result.seen.values()) outcomes += counts.size;
  const { failure, oneSided } = result;
  if (failure !== undefined) console.log(`  ${failure}`);
  // Without both readings of a byte nothing has been flipped while the device looked.
  const blind = failure === undefined && requests >= 100_000 && oneSided.length > 0;
  if (blind) console.log(`  never seen in all their outcomes: ${oneSided.join('; ')}`);
  console.log(
    `double fetch: ${failure === undefined && !blind ? 'ok' : 'FAILED'}, seed ${seed}, ${result.requests} requests in ${result.seen.size} ` +
      `scenarios with ${outcomes} outcomes, ${result.chaosKicks} kicks on random bytes with ${result.needsReset} resets, ` +
      `${((Date.now() - start) / 1000).toFixed(1)} s`,
  );
  return failure === undefined && !blind;
}

async function main(): Promise<number> {
  const { cases, requests, seed, replay, workers } = readOptions({
    cases: { env: 'VIOMMU_FUZZ_CASES', value: 1_000_000 },
    requests: { env: 'VIOMMU_DOUBLE_FETCH_REQUESTS', value: 1_000_000 },
  });
  if (replay >= 0) {
    const failure = replayed(replay);
    console.log(failure ?? `ring fuzz: block ${replay} shows nothing`);
    return failure === undefined ? 0 : 1;
  }
  const rings = await fuzzRings(cases, seed, workers);
  const fetches = await fuzzDoubleFetch(requests, seed);
  console.log(`fuzz: ${rings && fetches ? 'ok' : 'FAILED'}`);
  return rings && fetches ? 0 : 1;
}

if (isWorker) work();
else process.exitCode = await main();
