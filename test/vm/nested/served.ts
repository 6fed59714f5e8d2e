// `virtio-iommu serve` as a process of its own in the L0 machine. Not here: what it serves.
import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { ServeReport } from '../../../src/cli/serve-report.ts';

/** Where the compiled command is in the machine (base/product.ts). */
const PROGRAM = '/app/src/cli/main.js';

/** How a process ended, and what it said to a person. */
export interface Ended {
  readonly code: number | null;
  readonly stderr: string;
}

type Line = { readonly event: 'configured'; readonly qemu: readonly string[] } | { readonly event: string };

/** A running `serve`. */
export class Served {
  /** What it printed for QEMU, without the command itself. */
  readonly qemuArgs: readonly string[];
  readonly folder: string;
  readonly #child: ChildProcess;
  readonly #ended: Promise<Ended>;

  private constructor(folder: string, child: ChildProcess, ended: Promise<Ended>, qemu: readonly string[]) {
    this.folder = folder;
    this.#child = child;
    this.#ended = ended;
    this.qemuArgs = qemu.slice(1);
  }

  /** Starts it and waits until its sockets listen. @throws Error with what it said when it ends before. */
  static async start(folder: string, ...flags: readonly string[]): Promise<Served> {
    const { child, ended } = started(folder, flags);
    let qemu: readonly string[] | undefined;
    const ready = new Promise<void>((resolve) => {
      createInterface({ input: child.stdout! }).on('line', (text) => {
        const line = JSON.parse(text) as Line;
        if ('qemu' in line) ({ qemu } = line);
        else if (line.event === 'ready') resolve();
      });
    });
    const early = ended.then(({ code, stderr }) => {
      throw new Error(`serve ended with ${String(code)}: ${stderr}`);
    });
    await Promise.race([ready, early]);
    early.catch(() => undefined);
    if (qemu === undefined) throw new Error('serve printed no arguments for QEMU');
    return new Served(folder, child, ended, qemu);
  }

  /** Runs it to its end, which must come by itself. */
  static fails(folder: string, ...flags: readonly string[]): Promise<Ended> {
    const { child, ended } = started(folder, flags);
    child.stdout!.resume();
    return ended;
  }

  /** Path of one of its sockets. */
  path(name: string): string {
    return join(this.folder, name);
  }

  /** Asks for its state. */
  stats(): Promise<ServeReport> {
    return new Promise((resolve, reject) => {
      const socket = createConnection(this.path('stats.sock'));
      let text = '';
      socket.setEncoding('utf8').on('data', (part: string) => (text += part));
      socket.on('error', reject);
      socket.on('end', () => resolve(JSON.parse(text) as ServeReport));
    });
  }

  /** Pages that the kernel has locked for its DMA: what its containers hold. */
  lockedPages(): number {
    const text = readFileSync(`/proc/${this.#child.pid!}/status`, 'utf8');
    return Number(/^VmLck:\s*(\d+) kB/m.exec(text)?.[1]) / 4;
  }

  /** Ends it as an administrator does. */
  stop(): Promise<Ended> {
    this.#child.kill('SIGTERM');
    return this.#ended;
  }
}

function started(folder: string, flags: readonly string[]): { child: ChildProcess; ended: Promise<Ended> } {
  const args = [PROGRAM, 'serve', '--dir', folder, '--stats', 'stats.sock', '--json', '--quiet', ...flags];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  const ended = new Promise<Ended>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, stderr }));
  });
  return { child, ended };
}
