// Runs many random sequences of requests on the device and on the reference model, in several processes.
//   tsx test/property/main.ts [--sequences N] [--seed N|random] [--workers N] | --replay SEQUENCE_SEED
// VIOMMU_PROPERTY_RUNS, VIOMMU_SEED and VIOMMU_WORKERS set the defaults. Exit code 1 after a difference, which is printed
// with the smallest list of requests that shows it.
import { isWorker, readOptions, runShares, serveShare } from './parallel.ts';
import { SequenceRunner, sequenceSeed } from './run.ts';

const runner = new SequenceRunner();

function one(seed: number): string | undefined {
  const failure = runner.run(seed);
  if (failure === undefined) return undefined;
  return `${runner.report(failure)}\nagain: npx tsx test/property/main.ts --replay ${seed}`;
}

function flatCounts(): Record<string, number> {
  const { statuses, ...counts } = runner.counts;
  return { ...counts, ...Object.fromEntries(Object.entries(statuses).map(([name, n]) => [`status ${name}`, n])) };
}

async function main(): Promise<number> {
  const { sequences, seed, replay, workers } = readOptions({
    sequences: { env: 'VIOMMU_PROPERTY_RUNS', value: 50_000 },
  });
  if (replay >= 0) {
    const failure = one(replay);
    console.log(failure ?? `property: sequence ${replay} shows no difference`);
    return failure === undefined ? 0 : 1;
  }
  console.log(`property: ${sequences} sequences with seed ${seed} on ${workers} workers`);
  const task = { seed, total: sequences, workers };
  const outcome = await runShares(new URL(import.meta.url), task, (done, counts, seconds) => {
    const rate = Math.round((counts['requests'] ?? 0) / seconds);
    return `${done} of ${sequences} sequences, ${counts['requests'] ?? 0} requests, ${rate} requests/s`;
  });
  const { counts, done, failure, seconds } = outcome;
  const statuses = Object.entries(counts).filter(([name]) => name.startsWith('status '));
  console.log(`  answers: ${statuses.map(([name, n]) => `${name.slice(7)} ${n}`).join(', ')}`);
  if (failure !== undefined) console.log(failure);
  console.log(
    `property: ${failure === undefined ? 'ok' : 'FAILED'}, seed ${seed}, ${done} sequences, ${counts['requests'] ?? 0} requests ` +
      `(mean ${((counts['requests'] ?? 0) / Math.max(done, 1)).toFixed(1)}) in ${counts['kicks'] ?? 0} kicks, ` +
      `${counts['probes'] ?? 0} translations, ${counts['events'] ?? 0} event buffers, ${counts['mirrorChecks'] ?? 0} host checks, ` +
      `${seconds.toFixed(1)} s`,
  );
  return failure === undefined ? 0 : 1;
}

if (isWorker) serveShare((piece, task) => one(sequenceSeed(task.seed, piece)), flatCounts);
else process.exitCode = await main();
