// Where and when a benchmark ran: without this a figure means nothing.
import { availableParallelism, cpus, loadavg, release, totalmem } from 'node:os';

/** The machine and the run. */
export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryBytes: number;
  readonly kernel: string;
  readonly arch: string;
  readonly node: string;
  readonly v8: string;
  /** ISO 8601, UTC. */
  readonly date: string;
  readonly command: string;
  /** Mean number of runnable threads in the minute before the start: above 0.5 the figures are those of a busy machine. */
  readonly load: number;
}

/** Describes this machine; `args` as given on the command line. */
export function describeMachine(args: readonly string[]): Machine {
  return {
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    kernel: release(),
    arch: process.arch,
    node: process.version,
    v8: process.versions.v8,
    date: new Date().toISOString(),
    command: ['npm run bench', ...(args.length > 0 ? ['--', ...args] : [])].join(' '),
    load: loadavg()[0]!,
  };
}
