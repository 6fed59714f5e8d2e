// Boots a kernel with an initial file system under QEMU's software emulation, and reads its serial line.
// Not here: what the lines mean (report.ts).
import { spawn } from 'node:child_process';
import type { KernelTree, QemuTree } from './packages.ts';

/** A machine to boot. */
export interface BootOptions {
  readonly qemu: QemuTree;
  readonly kernel: KernelTree;
  /** Path of the initial file system (initramfs.ts). */
  readonly initrd: string;
  /** Added to the kernel command line. */
  readonly append?: string;
  /** Devices and memory; by default q35, one processor, 512 MiB, no device. */
  readonly args: readonly string[];
  /** Time-out. */
  readonly seconds: number;
  /** Called for each line as it comes. */
  readonly onLine?: (line: string) => void;
}

/** How a machine ended. */
export interface Boot {
  /** `pass` and `fail`: the script's status; `crash`: the guest was gone before it; `timeout`: it was stopped. */
  readonly exit: 'pass' | 'fail' | 'crash' | 'timeout';
  /** The script's exit status, -1 without one. */
  readonly code: number;
  /** The serial line, of the last attempt. */
  readonly lines: readonly string[];
  readonly seconds: number;
  /** 2 after a crash. */
  readonly attempts: number;
}

const MACHINE = ['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-serial', 'stdio'];
const BOARD = ['-machine', 'q35', '-accel', 'tcg', '-cpu', 'max', '-smp', '1', '-m', '512'];
/** Printed by `leave` before it switches the machine off; a machine that ends without it has crashed. */
const MARK = /@@ \{"exit":(\d+)\}/;
/** Kernel messages below "critical" stay out of the line, where they would tear reports; `dmesg` still has them. */
const QUIET = 'console=ttyS0 quiet loglevel=2 panic=-1';
/** The kernel counts the timer's interrupts in a loop when it starts; an emulator that had to wait for a processor fails. */
const APPEND = `${QUIET} no_timer_check`;

/**
 * Runs a machine to its end; once more when its guest crashed (software emulation does that now and then).
 * @throws Error with QEMU's words when it did not start.
 */
export async function boot(options: BootOptions): Promise<Boot> {
  const first = await run(options, 1);
  if (first.exit !== 'crash') return first;
  console.log(`the guest crashed and is started once more; its last lines:\n${first.lines.slice(-30).join('\n')}`);
  return run(options, 2);
}

function run(options: BootOptions, attempts: number): Promise<Boot> {
  const { qemu, kernel, initrd, append = '', args, seconds, onLine } = options;
  const [program = '', ...rest] = qemu.command;
  const image = ['-kernel', kernel.vmlinuz, '-initrd', initrd, '-append', `${APPEND} ${append}`];
  const begin = performance.now();
  const child = spawn(program, [...rest, ...MACHINE, ...BOARD, ...image, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const kill = (): void => void child.kill('SIGKILL');
  process.once('exit', kill);
  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    kill();
  }, seconds * 1000);
  const lines: string[] = [];
  let partial = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    const parts = (partial + text).split(/\r*\n/);
    partial = parts.pop() ?? '';
    for (const line of parts) {
      lines.push(line);
      onLine?.(line);
    }
  });
  let words = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (words += text));
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => {
      clearTimeout(timer);
      process.off('exit', kill);
      if (partial !== '') lines.push(partial);
      if (code !== 0 && !timedOut) reject(new Error(`QEMU ended with status ${String(code)}: ${words.trim()}`));
      const status = lines.map((line) => MARK.exec(line)?.[1]).findLast((found) => found !== undefined);
      const exit = timedOut ? 'timeout' : status === undefined ? 'crash' : status === '0' ? 'pass' : 'fail';
      resolve({ exit, code: Number(status ?? -1), lines, seconds: (performance.now() - begin) / 1000, attempts });
    });
  });
}
