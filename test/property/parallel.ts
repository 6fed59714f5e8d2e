// Spreads numbered pieces of work over processes that run the same script, prints progress, and waits for the end.
// A process that says nothing for a long time is a device that hangs: that is a failure as well.
import type { ChildProcess } from 'node:child_process';
import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

/** What the command line asks for. */
export interface Task {
  /** Seed of the whole run. */
  readonly seed: number;
  /** Pieces of work, numbered from 0. */
  readonly total: number;
  readonly workers: number;
}

/** Part of one worker: pieces `first`, `first + step`, ... below `total`. */
export interface Share extends Task {
  readonly first: number;
  readonly step: number;
}

/** What a worker says now and then; numbers in `counts` are added up over all workers. */
export interface Report {
  readonly done: number;
  readonly counts: Readonly<Record<string, number>>;
  readonly failure?: string;
}

const SILENCE_MS = 120_000;
const PROGRESS_MS = 5_000;

/** Counts and the first failure of a run. */
export interface Outcome {
  readonly done: number;
  readonly counts: Record<string, number>;
  readonly failure: string | undefined;
  readonly seconds: number;
}

const SHARE = process.env['VIOMMU_TEST_SHARE'];

/** True in a worker: the script then calls {@link serveShare} only. */
export const isWorker = SHARE !== undefined;

/** In a worker: does its share; `run` does one piece and returns a failure, `counts` what to add up. */
export function serveShare(
  run: (piece: number, task: Task) => string | undefined,
  counts: () => Report['counts'],
): void {
  const share = JSON.parse(SHARE ?? '{}') as Share;
  let done = 0;
  let told = Date.now();
  const tell = (failure?: string): void =>
    void process.send?.({ done, counts: counts(), ...(failure === undefined ? {} : { failure }) } satisfies Report);
  for (let piece = share.first; piece < share.total; piece += share.step) {
    const failure = run(piece, share);
    done++;
    if (failure !== undefined) {
      tell(failure);
      process.disconnect();
      return;
    }
    if (Date.now() - told < 1000) continue;
    told = Date.now();
    tell();
  }
  tell();
  process.disconnect();
}

/** In the first process: runs `script` in others; `line` makes a progress line. The first failure ends the run. */
export async function runShares(
  script: URL,
  task: Task,
  line: (done: number, counts: Readonly<Record<string, number>>, seconds: number) => string,
): Promise<Outcome> {
  const start = Date.now();
  const reports: Report[] = Array.from({ length: task.workers }, () => ({ done: 0, counts: {} }));
  const seconds = (): number => (Date.now() - start) / 1000;
  let failure: string | undefined;
  let heard = Date.now();
  const workers: ChildProcess[] = [];
  const timer = setInterval(() => {
    const { done, counts } = sum(reports);
    console.log(`  ${line(done, counts, seconds())}`);
    if (Date.now() - heard < SILENCE_MS) return;
    failure ??= `no worker has said anything for ${SILENCE_MS / 1000} s: the device hangs`;
    for (const worker of workers) worker.kill('SIGKILL');
  }, PROGRESS_MS);
  await Promise.all(
    reports.map(async (_, i) => {
      const share: Share = { ...task, first: i, step: task.workers };
      const env = { ...process.env, VIOMMU_TEST_SHARE: JSON.stringify(share) };
      const worker = fork(fileURLToPath(script), [], { env });
      workers.push(worker);
      await new Promise<void>((resolve) => {
        worker.on('message', (report: Report) => {
          heard = Date.now();
          reports[i] = report;
          if (report.failure === undefined) return;
          failure ??= report.failure;
          for (const other of workers) other.kill('SIGKILL');
        });
        worker.on('error', (error) => {
          failure ??= `worker ${i}: ${error.stack ?? error.message}`;
          resolve();
        });
        worker.on('exit', (code) => {
          if (code !== 0) failure ??= `worker ${i} ended with code ${code ?? 'none'}`;
          resolve();
        });
      });
    }),
  );
  clearInterval(timer);
  return { ...sum(reports), failure, seconds: seconds() };
}

/** Adds up what all workers said last. */
function sum(reports: readonly Report[]): { done: number; counts: Record<string, number> } {
  const counts: Record<string, number> = {};
  let done = 0;
  for (const report of reports) {
    done += report.done;
    for (const [name, value] of Object.entries(report.counts)) counts[name] = (counts[name] ?? 0) + value;
  }
  return { done, counts };
}

/**
 * Reads `--NAME N` options (defaults from the environment, then from `defaults`), and `--seed N` or `--seed random`
 * (VIOMMU_SEED). Prints nothing.
 */
export function readOptions<Name extends string>(
  defaults: Readonly<Record<Name, { readonly env: string; readonly value: number }>>,
): Record<Name | 'seed' | 'replay' | 'workers', number> {
  const names = Object.keys(defaults) as Name[];
  const options = Object.fromEntries(
    [...names, 'seed', 'replay', 'workers'].map((name) => [name, { type: 'string' as const }]),
  );
  const { values } = parseArgs({ options });
  const number = (name: string, text: string | undefined, fallback: number): number => {
    if (text === undefined) return fallback;
    const value = Number(text);
    if (!Number.isInteger(value) || value < 0) throw new RangeError(`${name} must be a whole number, got ${text}`);
    return value;
  };
  const given = (name: string): string | undefined => values[name];
  const seedText = given('seed') ?? process.env['VIOMMU_SEED'];
  const seed = seedText === 'random' ? Math.floor(Math.random() * 0x1_0000_0000) : number('seed', seedText, 1);
  const counts = Object.fromEntries(
    names.map((name) => [name, number(name, given(name) ?? process.env[defaults[name].env], defaults[name].value)]),
  );
  return {
    ...(counts as Record<Name, number>),
    seed,
    replay: number('replay', given('replay'), -1),
    workers: number('workers', given('workers') ?? process.env['VIOMMU_WORKERS'], 2),
  };
}
