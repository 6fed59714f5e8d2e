// `virtio-iommu serve` as a process of its own, as an administrator runs it. Not here: the guest (machine.ts).
import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterAll } from 'vitest';
import type { ServeReport } from '../../../src/cli/serve-report.ts';
import { readTraceFile } from '../../../src/testing/node/trace-file.ts';
import type { Trace } from '../../../src/testing/trace.ts';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const READY_SECONDS = 60;
const STATS_SECONDS = 20;

/** Configuration file of `serve`; what is left out is its default. Numbers of 64 bits are texts like `0x1000`. */
export interface ServeConfig {
  readonly iommu?: {
    readonly addr?: string;
    readonly requestQueueSize?: number;
    readonly packed?: boolean;
    readonly pageSizeMask?: string;
    readonly inputRange?: string;
    readonly bypass?: boolean;
    readonly policy?: string;
  };
  readonly endpoints?: readonly {
    readonly device: 'rng' | 'dma';
    readonly addr: string;
    /** `START-END:reserved` or `START-END:msi`, ends INCLUSIVE. */
    readonly reserved?: readonly string[];
    readonly queueSize?: number;
    readonly packed?: boolean;
    readonly entropy?: 'crypto' | 'counter';
    readonly translate?: boolean;
    readonly probeUnmapped?: string;
    readonly probeAccess?: 'read' | 'write';
  }[];
  readonly msi?: string;
  readonly record?: string;
  readonly qemu?: { readonly memory?: string };
}

/** A line of `serve --json`. */
type ServeLine =
  | { readonly event: 'configured'; readonly viot: string; readonly qemu: readonly string[] }
  | { readonly event: 'ready'; readonly pid: number }
  | ({ readonly event: 'status' | 'stopped' } & ServeReport);

const children = new Set<ChildProcess>();
const folders = new Set<string>();

/** Nothing stays when the tests of a file are over; a worker that ends by itself tells nobody. */
afterAll(() => {
  for (const child of children) child.kill('SIGKILL');
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

function newFolder(): string {
  return removedLater(mkdtempSync(join(tmpdir(), 'viommu-')));
}

/** Has a folder removed when the tests of the file are over; returns it. */
export function removedLater(folder: string): string {
  folders.add(folder);
  return folder;
}

/** A running `serve`; its folder goes when the tests of the file are over. */
export class Backend {
  /** What serve printed for QEMU, without the command itself. */
  readonly qemuArgs: readonly string[];
  /** Folder with the sockets and the trace. */
  readonly folder: string;
  readonly #child: ChildProcess;
  readonly #ended: Promise<Ended>;
  readonly #said: Said;

  private constructor(folder: string, child: ChildProcess, ended: Promise<Ended>, said: Said) {
    this.folder = folder;
    this.#child = child;
    this.#ended = ended;
    this.#said = said;
    const line = said.lines.find((each) => each.event === 'configured');
    if (line === undefined) throw new Error(`serve printed no arguments for QEMU: ${said.stderr}`);
    this.qemuArgs = line.qemu.slice(1);
  }

  /** Starts serve in a new folder, or in that of one before, and waits until its sockets listen. */
  static async start(config: ServeConfig, folder = newFolder()): Promise<Backend> {
    const file = join(folder, 'serve.json');
    writeFileSync(file, JSON.stringify({ dir: folder, stats: 'stats.sock', ...config }));
    const child = spawn(process.execPath, [...program(), 'serve', '--config', file, '--json', '--quiet'], {
      cwd: ROOT,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    children.add(child);
    const said: Said = { lines: [], stderr: '' };
    const ended = new Promise<Ended>((resolve, reject) => {
      child.on('error', reject);
      child.on('close', (code, signal) => {
        children.delete(child);
        resolve({ code, signal });
      });
    });
    await ready(child, ended, said);
    return new Backend(folder, child, ended, said);
  }

  /** Process id. */
  get pid(): number {
    return this.#child.pid!;
  }

  /** What serve wrote for a person: events, refused connections. */
  get log(): string {
    return this.#said.stderr;
  }

  /** Path of a file of this run. */
  path(name: string): string {
    return join(this.folder, name);
  }

  /** Asks for the state on the socket of `--stats`. */
  stats(): Promise<ServeReport> {
    return new Promise((resolve, reject) => {
      const socket = createConnection(this.path('stats.sock'));
      socket.setTimeout(STATS_SECONDS * 1000, () => socket.destroy(new Error('serve does not answer')));
      let text = '';
      socket.setEncoding('utf8').on('data', (part: string) => (text += part));
      socket.on('error', reject);
      socket.on('end', () => {
        socket.destroy();
        resolve(JSON.parse(text) as ServeReport);
      });
    });
  }

  /** Ends serve as an administrator does. @throws Error when it does not end well. Resolves to its last report. */
  async stop(): Promise<ServeReport> {
    this.#child.kill('SIGTERM');
    const { code, signal } = await this.#ended;
    const last = this.#said.lines.find((line) => line.event === 'stopped');
    if (code !== 0 || last?.event !== 'stopped')
      throw new Error(`serve ended with ${String(code ?? signal)}: ${this.#said.stderr}`);
    return last;
  }

  /** Ends serve without giving it a chance; its sockets stay behind. */
  async kill(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#ended;
  }
}

interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

interface Said {
  readonly lines: ServeLine[];
  stderr: string;
}

/** Resolves at the line `ready`. @throws Error with what serve said when it ends before, or takes too long. */
function ready(child: ChildProcess, ended: Promise<Ended>, said: Said): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (what: string): void => reject(new Error(`serve ${what}: ${said.stderr}`));
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      fail(`was not ready after ${READY_SECONDS} s`);
    }, READY_SECONDS * 1000);
    void ended.then(({ code, signal }) => {
      clearTimeout(timer);
      fail(`ended with ${String(code ?? signal)}`);
    }, reject);
    child.stderr!.setEncoding('utf8').on('data', (text: string) => (said.stderr += text));
    createInterface({ input: child.stdout! }).on('line', (line) => {
      const value = JSON.parse(line) as ServeLine;
      said.lines.push(value);
      if (value.event !== 'ready') return;
      clearTimeout(timer);
      resolve();
    });
  });
}

/** The built program where it is newer than every source, else the sources. */
export function program(): string[] {
  const built = join(ROOT, 'dist/cli/main.js');
  const sources = readdirSync(join(ROOT, 'src'), { recursive: true, encoding: 'utf8' });
  const newest = Math.max(...sources.map((name) => statSync(join(ROOT, 'src', name)).mtimeMs));
  if (existsSync(built) && statSync(built).mtimeMs > newest) return [built];
  return ['--import', 'tsx', join(ROOT, 'src/cli/main.ts')];
}

/** Runs another command of the project and returns what it prints. @throws Error with its words when it fails. */
export function runProgram(...args: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [...program(), ...args], { cwd: ROOT, stdio: ['ignore', 'pipe', 'pipe'] });
    const said = { stdout: '', stderr: '' };
    child.stdout.setEncoding('utf8').on('data', (text: string) => (said.stdout += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (said.stderr += text));
    child.on('error', reject);
    child.on('close', (code) => resolve({ code: code ?? -1, ...said }));
  });
}

/** The trace that serve recorded into `trace.ndjson`. */
export function readTrace(backend: Backend): Promise<Trace> {
  return readTraceFile(backend.path('trace.ndjson'));
}
