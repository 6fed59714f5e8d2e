// One suite in a process of its own, driven case by case: both ends of the conversation.
// Processes are apart because compiled code is: a process that has seen one kind of host runs code made for that kind.
import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Effort } from './measure.ts';
import { CaseRun, passes } from './measure.ts';
import type { BenchCase, Row, Suite } from './suite.ts';
import { caseName } from './suite.ts';

type Command =
  | { readonly do: 'open'; readonly case: string }
  | { readonly do: 'round'; readonly rounds: number }
  | { readonly do: 'close' };

/** Cases of a suite that pass the filter, by the name that they have without their suite. */
export function casesOf(suite: Suite, effort: Effort): Map<string, BenchCase> {
  const cases = suite.cases(effort.quick).filter((each) => passes(suite.name, each, effort));
  return new Map(cases.map((each) => [caseName('', each.dims), each]));
}

/** The child's end: obeys until the parent disconnects. */
export function obey(suite: Suite, effort: Effort): void {
  const cases = casesOf(suite, effort);
  let run: CaseRun | undefined;
  const carryOut = async (command: Command): Promise<Row[]> => {
    if (command.do === 'open') run = await CaseRun.open(suite.name, cases.get(command.case)!, effort.quick);
    else if (command.do === 'round') await run!.round(command.rounds);
    else {
      // Kept until the next case is open: V8 forgets the shapes of classes without an instance when it collects garbage,
      // and after the fourth time of learning them anew all accesses are several times slower, for good.
      return run!.close();
    }
    return [];
  };
  process.on('message', (command: Command) => {
    void carryOut(command).then((rows) => process.send!(rows));
  });
}

/** The parent's end. */
export class SuiteProcess {
  readonly suite: Suite;
  readonly cases: ReadonlyMap<string, BenchCase>;
  readonly #child: ChildProcess;

  /** Starts `script` with `args` for `suite`. */
  constructor(suite: Suite, effort: Effort, script: string, args: readonly string[]) {
    this.suite = suite;
    this.cases = casesOf(suite, effort);
    const argv = ['--expose-gc', script, '--suite', suite.name, ...args];
    this.#child = spawn(process.execPath, argv, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  }

  /** Has a command carried out; Error when the process ends instead. */
  async tell(command: Command): Promise<Row[]> {
    const end = new AbortController();
    const gone = once(this.#child, 'exit', { signal: end.signal }).then(([code]) => {
      throw new Error(`suite ${this.suite.name} ended with code ${String(code)}`);
    });
    gone.catch(() => undefined);
    const answer = once(this.#child, 'message', { signal: end.signal });
    this.#child.send(command);
    try {
      const [rows] = (await Promise.race([answer, gone])) as [Row[]];
      return rows;
    } finally {
      end.abort();
      answer.catch(() => undefined);
    }
  }

  /** Ends the process. */
  async stop(): Promise<void> {
    const gone = once(this.#child, 'exit');
    this.#child.disconnect();
    await gone;
  }
}
