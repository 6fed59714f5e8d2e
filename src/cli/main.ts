#!/usr/bin/env node
// `npx virtio-iommu`: the process around program.ts.
import { runCli } from './program.ts';

// A closed pipe (`| head`) is no error of ours.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
});

process.exitCode = await runCli(process.argv.slice(2));
