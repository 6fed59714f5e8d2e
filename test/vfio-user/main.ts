// Fuzzes the vfio-user server: nine messages of ten go to the message handler, one goes over a real socket.
//   tsx test/vfio-user/main.ts [--messages N] [--seed N|random]
// Two processes, each with half of it and a seed of its own. Exit code 1 after a failure, with the seed that shows it again.
import type { ChildProcess } from 'node:child_process';
import { fork } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { readdirSync, readlinkSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { FuzzFiles } from './fuzz/files.ts';
import type { FuzzCounts } from './fuzz/handler.ts';
import { fuzzHandler } from './fuzz/handler.ts';
import { fuzzStream } from './fuzz/stream.ts';

const PROCESSES = 2;
/** Part of the messages that goes over a socket. */
const STREAM_PART = 0.1;
const MIB = 2 ** 20;
/** A process that says nothing for so long hangs. */
const SILENCE_MS = 120_000;
/** Memory that a process may have more at its end than after a tenth of its work. */
const GROWTH = 96 * MIB;

/** What a process tells its parent. */
interface Told {
  readonly done: number;
  readonly counts: FuzzCounts;
  readonly failure?: string;
  readonly over?: boolean;
}

/** Descriptors of this process that a message could have brought. */
function descriptors(): number {
  return readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return /socket|memfd|eventfd/.test(readlinkSync(`/proc/self/fd/${fd}`));
    } catch {
      return false;
    }
  }).length;
}

async function work(messages: number, seed: number): Promise<void> {
  const counts: FuzzCounts = { messages: 0, ended: 0, refused: 0, mapped: 0, checks: 0 };
  const files = new FuzzFiles();
  const before = descriptors();
  let early = 0;
  const tell = (failure?: string, over = false): void =>
    void process.send?.({
      done: counts.messages,
      counts,
      over,
      ...(failure === undefined ? {} : { failure }),
    } satisfies Told);
  const progress = (): void => {
    if (early === 0 && counts.messages > messages / 10) early = process.memoryUsage().rss;
    tell();
  };
  const streamed = Math.floor(messages * STREAM_PART);
  const failure =
    (await fuzzHandler(messages - streamed, seed, files, counts, progress)) ??
    (await fuzzStream(streamed, seed, files, counts, progress));
  for (let i = 0; i < 20; i++) await new Promise((resolve) => setTimeout(resolve, 5));
  const left = descriptors() - before;
  const grown = process.memoryUsage().rss - early;
  files.close();
  if (failure !== undefined) tell(failure, true);
  else if (left !== 0) tell(`${left} descriptors are left`, true);
  else if (early > 0 && grown > GROWTH) tell(`the process has grown by ${Math.round(grown / MIB)} MiB`, true);
  else tell(undefined, true);
  process.disconnect();
}

/** Starts a process for a share; resolves with its failure. */
function share(messages: number, seed: number, told: (message: Told) => void): Promise<string | undefined> {
  const child: ChildProcess = fork(fileURLToPath(import.meta.url), [
    '--share',
    '--messages',
    String(messages),
    '--seed',
    String(seed),
  ]);
  return new Promise((resolve) => {
    let last: Told | undefined;
    const silence = setTimeout(() => child.kill('SIGKILL'), SILENCE_MS);
    child.on('message', (message: Told) => {
      silence.refresh();
      last = message;
      told(message);
    });
    child.on('exit', (code, signal) => {
      clearTimeout(silence);
      const died = last?.over === true && code === 0 ? undefined : `the process ended with ${signal ?? String(code)}`;
      const failure = last?.failure ?? died;
      resolve(failure === undefined ? undefined : `seed ${seed}, ${messages} messages: ${failure}`);
    });
  });
}

async function main(messages: number, seed: number): Promise<void> {
  console.log(`vfio-user fuzz: ${messages} messages with seed ${seed} on ${PROCESSES} processes`);
  const begin = Date.now();
  const seconds = (): number => (Date.now() - begin) / 1000;
  const states: (Told | undefined)[] = [];
  let shown = 0;
  const failures = await Promise.all(
    Array.from({ length: PROCESSES }, (_, i) =>
      share(Math.ceil(messages / PROCESSES), (seed + i) >>> 0, (told) => {
        states[i] = told;
        const done = states.reduce((sum, state) => sum + (state?.done ?? 0), 0);
        if (seconds() - shown < 5) return;
        shown = seconds();
        console.log(`  ${done} messages, ${Math.round(done / seconds())}/s`);
      }),
    ),
  );
  const total = (name: keyof FuzzCounts): number => states.reduce((sum, state) => sum + (state?.counts[name] ?? 0), 0);
  for (const failure of failures) if (failure !== undefined) console.log(failure);
  const good = failures.every((failure) => failure === undefined);
  console.log(
    `vfio-user fuzz: ${good ? 'ok' : 'FAILED'}, seed ${seed}, ${total('messages')} messages, ${total('ended')} connections ` +
      `ended, ${total('refused')} requests refused, ${total('mapped')} mappings, ${total('checks')} looks at memory, ` +
      `${seconds().toFixed(1)} s`,
  );
  process.exitCode = good ? 0 : 1;
}

const { values } = parseArgs({
  options: {
    messages: { type: 'string', default: '1000000' },
    seed: { type: 'string', default: '1' },
    share: { type: 'boolean', default: false },
  },
});
const seed = values.seed === 'random' ? randomInt(2 ** 32 - 1) : Number(values.seed);
if (values.share) await work(Number(values.messages), seed);
else await main(Number(values.messages), seed);
