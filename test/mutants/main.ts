// Breaks the device in each of the ways of mutants.ts and shows which named test catches it. Exit status 1 if one survives.
// Each worker has a copy of the tree in a temporary folder; the project itself is not touched.
import { spawn } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Mutant } from './mutants.ts';
import { MUTANTS } from './mutants.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const COPIED = ['src', 'spec', 'test', 'package.json', 'tsconfig.json', 'vitest.config.ts'];
/**
 * Suites that run against a mutant that names none: the device's own tests and the vectors through the ring; the second ones,
 * which take longer, when the first do not catch it.
 */
const SUITES = [['src/iommu', 'src/wire', 'test/conformance.test.ts'], ['src/coalesce']];

/** A mutant that makes its suites run longer than this, an endless loop, is caught by that. */
const SECONDS = 150;
const ENDLESS = -1;

interface TestReport {
  readonly testResults: readonly {
    readonly assertionResults: readonly { readonly status: string; readonly fullName: string }[];
  }[];
}

class Worker {
  readonly folder = mkdtempSync(join(tmpdir(), 'viommu-mutant-'));

  constructor() {
    for (const name of COPIED) cpSync(join(ROOT, name), join(this.folder, name), { recursive: true });
    symlinkSync(join(ROOT, 'node_modules'), join(this.folder, 'node_modules'));
  }

  /** Name of the first test that fails with the mutant in place; undefined when all pass. */
  async catcher(mutant: Mutant | undefined, suites: readonly string[]): Promise<string | undefined> {
    const path = mutant === undefined ? undefined : join(this.folder, mutant.file);
    const original = path === undefined ? '' : readFileSync(path, 'utf8');
    if (path !== undefined) writeFileSync(path, mutate(mutant!, original));
    try {
      return await this.#failing(suites);
    } finally {
      if (path !== undefined) writeFileSync(path, original);
    }
  }

  async #failing(suites: readonly string[], bail = ['--bail=1']): Promise<string | undefined> {
    const output = join(this.folder, 'report.json');
    rmSync(output, { force: true });
    const args = [join('node_modules', 'vitest', 'vitest.mjs'), 'run', ...suites, ...bail];
    const status = await exitStatus(args.concat('--reporter=json', `--outputFile=${output}`), this.folder);
    if (status === 0) return undefined;
    if (status === ENDLESS) return `(its suites do not end within ${SECONDS} s)`;
    const report = JSON.parse(readFileSync(output, 'utf8')) as TestReport;
    const failed = report.testResults.flatMap((file) => file.assertionResults).find((test) => test.status === 'failed');
    // A test that fails while its file is cancelled after another one's failure is in no report.
    if (failed === undefined && bail.length > 0) return this.#failing(suites, []);
    if (failed === undefined) throw new Error('the suites failed, but no test did: the mutant does not load');
    return failed.fullName;
  }

  close(): void {
    rmSync(this.folder, { recursive: true });
  }
}

/** Groups of suites, one after the other. */
function stagesOf({ suites }: Mutant): readonly (readonly string[])[] {
  return suites === undefined ? SUITES : [suites];
}

async function caughtBy(worker: Worker, mutant: Mutant): Promise<string | undefined> {
  for (const suites of stagesOf(mutant)) {
    const name = await worker.catcher(mutant, suites);
    if (name !== undefined) return name;
  }
  return undefined;
}

function mutate(mutant: Mutant, original: string): string {
  const parts = original.split(mutant.find);
  if (parts.length !== 2) throw new Error(`"${mutant.find}" stands ${parts.length - 1} times in ${mutant.file}`);
  return parts.join(mutant.replace);
}

function exitStatus(args: readonly string[], cwd: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, args, { cwd, stdio: 'ignore', env: { ...process.env, CI: 'true' } });
    let endless = false;
    const timer = setTimeout(() => {
      endless = true;
      child.kill('SIGKILL');
    }, SECONDS * 1000);
    child.on('error', reject);
    child.on('exit', (code) => {
      clearTimeout(timer);
      resolve(endless ? ENDLESS : (code ?? 1));
    });
  });
}

async function main(): Promise<number> {
  const filter = process.argv[2];
  const mutants = MUTANTS.filter((mutant) => filter === undefined || mutant.id.includes(filter));
  const workers = Array.from({ length: Math.min(4, availableParallelism()) }, () => new Worker());
  let survivors = 0;
  try {
    const all = new Set(mutants.flatMap((mutant) => stagesOf(mutant).flat()));
    const broken = await workers[0]!.catcher(undefined, [...all]);
    if (broken !== undefined) throw new Error(`the unbroken device fails: ${broken}`);
    const queue = [...mutants];
    let done = 0;
    const work = async (worker: Worker): Promise<void> => {
      for (let mutant = queue.shift(); mutant !== undefined; mutant = queue.shift()) {
        const name = await caughtBy(worker, mutant);
        if (name === undefined) survivors++;
        done++;
        console.log(`${String(done).padStart(3)}/${mutants.length}  ${mutant.id.padEnd(50)}  ${name ?? 'SURVIVES'}`);
      }
    };
    await Promise.all(workers.map(work));
  } finally {
    for (const worker of workers) worker.close();
  }
  console.log(`mutants: ${mutants.length - survivors} caught, ${survivors} survived`);
  return survivors === 0 && mutants.length > 0 ? 0 : 1;
}

process.exitCode = await main();
