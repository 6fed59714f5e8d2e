// The scenarios of iommufd on a real kernel, in order. Runs in the machine.
import type { Reporter } from '../base/reporter.ts';
import type { GuestEnv } from '../host/guest-env.ts';
import { run as cut } from './cut.ts';
import { run as dma } from './dma.ts';
import { interrupts, reserved } from './firmware.ts';
import { run as many } from './many.ts';
import { run as memory } from './memory.ts';
import { run as random } from './random.ts';
import { run as refusals } from './refusals.ts';
import { run as registers } from './registers.ts';
import { run as sharedDevice } from './shared-device.ts';
import { run as shared } from './shared.ts';

/** By the name that the command line gives. */
export const SCENARIOS: Readonly<Record<string, (report: Reporter, env: GuestEnv) => Promise<void>>> = {
  dma,
  cut,
  many,
  memory,
  random,
  registers,
  refusals,
  shared,
  'shared-device': sharedDevice,
  interrupts,
  reserved,
};
