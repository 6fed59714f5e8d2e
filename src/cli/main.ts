#!/usr/bin/env node
// `npx virtio-iommu`: the process around program.ts.
import { watchOutput } from './output-errors.ts';
import { runCli } from './program.ts';

watchOutput();
process.exitCode = await runCli(process.argv.slice(2));
