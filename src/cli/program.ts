// The command line as a function: registers the commands, turns errors into one line and an exit status.
import { Command, CommanderError } from 'commander';
import { createRequire } from 'node:module';
import { conformanceCommand } from './conformance.ts';
import { countsCommand } from './counts.ts';
import { CliError } from './errors.ts';
import { hostCommand } from './host.ts';
import { nestedCommand } from './nested.ts';
import { replayCommand } from './replay.ts';
import { rmrrCommand } from './rmrr.ts';
import { serveCommand } from './serve.ts';

const EXAMPLES = `
Examples:
  $ virtio-iommu serve --dir run --endpoint rng@3.0
  $ virtio-iommu host 0000:00:04.0
  $ virtio-iommu nested
  $ virtio-iommu nested --l2-ram 16G --pattern contiguous --json
  $ virtio-iommu replay trace.ndjson.gz
  $ virtio-iommu counts --l2-ram 16G --policy forward,exact
  $ virtio-iommu conformance vectors/*.json
  $ virtio-iommu rmrr report --dmar DMAR.aml

Exit status: 0 well, 1 not, 2 usage or unreadable input.`;

const USAGE = 2;

/** Runs one command line (without node and script) and returns its exit status. Bugs are thrown. */
export async function runCli(args: readonly string[]): Promise<number> {
  process.exitCode = undefined;
  try {
    await program().parseAsync([...args], { from: 'user' });
  } catch (error) {
    return exitStatusOf(error);
  }
  return exitCode();
}

/** What the command left in process.exitCode. */
function exitCode(): number {
  return Number(process.exitCode ?? 0);
}

function program(): Command {
  const { version } = createRequire(import.meta.url)('../../package.json') as { version: string };
  const command = new Command('virtio-iommu')
    .description('A virtio-iommu device: served to a VMM, or in a laboratory on a simulated VFIO host')
    .version(version)
    .addHelpText('after', EXAMPLES);
  const laboratory = [nestedCommand(), replayCommand(), countsCommand(), conformanceCommand()];
  for (const each of [serveCommand(), hostCommand(), ...laboratory, rmrrCommand()]) command.addCommand(each);
  for (const each of withSubcommands(command)) each.exitOverride();
  return command;
}

function withSubcommands(command: Command): Command[] {
  return [command, ...command.commands.flatMap(withSubcommands)];
}

function exitStatusOf(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : USAGE; // commander has printed it
  if (!(error instanceof CliError)) throw error;
  process.stderr.write(`error: ${error.message}\n`);
  return error.exitCode;
}
