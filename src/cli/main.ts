#!/usr/bin/env node
// `npx virtio-iommu`: registers the commands, prints errors as one line, sets exit statuses (0 well, 1 not, 2 usage).
import { Command, CommanderError } from 'commander';
import { createRequire } from 'node:module';
import { CliError } from './errors.ts';
import { nestedCommand } from './nested.ts';
import { replayCommand } from './replay.ts';
import { rmrrCommand } from './rmrr.ts';

const EXAMPLES = `
Examples:
  $ virtio-iommu nested
  $ virtio-iommu nested --l2-ram 16G --pattern contiguous --json
  $ virtio-iommu replay trace.ndjson.gz
  $ virtio-iommu conformance vectors/*.json
  $ virtio-iommu rmrr report --dmar DMAR.aml`;

const USAGE = 2;

function program(): Command {
  const { version } = createRequire(import.meta.url)('../../package.json') as { version: string };
  const command = new Command('virtio-iommu')
    .description('A virtio-iommu device model, and a laboratory for it on a simulated VFIO host')
    .version(version)
    .addHelpText('after', EXAMPLES)
    .showSuggestionAfterError();
  for (const each of [nestedCommand(), replayCommand(), rmrrCommand()]) command.addCommand(each);
  for (const each of withSubcommands(command)) each.exitOverride();
  return command;
}

function withSubcommands(command: Command): Command[] {
  return [command, ...command.commands.flatMap(withSubcommands)];
}

function exitStatusOf(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : USAGE; // commander has printed it
  if (error instanceof CliError) {
    process.stderr.write(`error: ${error.message}\n`);
    return error.exitCode;
  }
  throw error;
}

// A closed pipe (`| head`) is no error of ours.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
});

try {
  await program().parseAsync();
} catch (error) {
  process.exitCode = exitStatusOf(error);
}
