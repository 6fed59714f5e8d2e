// Runs a command line in this process: starting one takes longer than most commands.
import { vi } from 'vitest';
import { runCli } from '../src/cli/program.ts';

/** What a command line came to. */
export interface Outcome {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs `virtio-iommu ...args`. */
export async function run(...args: string[]): Promise<Outcome> {
  const seen = { stdout: '', stderr: '' };
  const spies = (['stdout', 'stderr'] as const).map((name) =>
    vi.spyOn(process[name], 'write').mockImplementation((text) => {
      seen[name] += String(text);
      return true;
    }),
  );
  try {
    const status = await runCli(args);
    return { status, ...seen };
  } finally {
    for (const spy of spies) spy.mockRestore();
    process.exitCode = undefined;
  }
}
