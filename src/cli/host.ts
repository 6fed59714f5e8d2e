// `virtio-iommu host`: what this machine offers for passed-through devices, and whether one device can be passed through.
// Thin: reads files, calls the survey, prints. Opens no device, needs no addon, changes nothing.
import { statSync } from 'node:fs';
import { Argument, Command, InvalidArgumentError, Option } from 'commander';
import { formatDevice, parseDeviceName } from '../firmware/device-ref.ts';
import type { Backend } from '../host/open-host-rules.ts';
import { howToTurnOn } from '../host/survey-checks-device.ts';
import { judgeDevice } from '../host/survey-judge.ts';
import { surveyHost } from '../host/survey.ts';
import type { HostRoots } from '../host/sysfs.ts';
import { CliError } from './errors.ts';
import { deviceJson, overviewJson } from './host-json.ts';
import { deviceText, overviewText } from './host-text.ts';
import { oneOf } from './list-option.ts';
import { parseSize } from './sizes.ts';

/** Where the command writes; the process by default. */
export interface HostIo {
  readonly write: (text: string) => void;
  readonly setExitCode: (code: number) => void;
  /** Width of the text; default that of the terminal, else 100. */
  readonly columns?: number;
}

const PROCESS: HostIo = {
  write: (text) => void process.stdout.write(text),
  setExitCode: (code) => {
    process.exitCode = code;
  },
};

const HELP = `
Examples:
  $ virtio-iommu host                                   groups, functions, drivers, limits
  $ virtio-iommu host 0000:01:00.0 --ram 16G            can it be passed to a guest of 16 GiB, and how
  $ virtio-iommu host 01:00.0 --json | jq .commands
  $ virtio-iommu host --sysfs copy/sys --proc copy/proc --dev copy/dev

It reads files only. Root sees more: ACPI tables and the kernel log, which tell of interrupt remapping and reserved memory.
With --sysfs, --proc or --dev the parts that are not given count as not told, since they would be of another machine.
Exit status: 0 when the device can be passed through, now or after the commands shown, and without a device; 1 when it
cannot (firmware, boot options or hardware are in the way, or a risk must be accepted); 2 for usage errors.`;

/** A root that holds nothing. */
const NOTHING = '/dev/null/nothing';
const LEAST_COLUMNS = 60;
const MOST_COLUMNS = 160;
const COLUMNS = 100;

interface HostOptions {
  readonly sysfs?: string;
  readonly proc?: string;
  readonly dev?: string;
  readonly ram?: number;
  readonly backend?: 'auto' | Backend;
  readonly json?: boolean;
}

/** The `host` command. */
export function hostCommand(io: HostIo = PROCESS): Command {
  return new Command('host')
    .description(
      'what this host offers for passed-through devices; with a device: whether and how it can be passed through',
    )
    .addArgument(new Argument('[device]', 'PCI function, e.g. 0000:01:00.0 or 01:00.0').argParser(deviceName))
    .option('--ram <size>', 'RAM of the guest, e.g. 16G: judges locked memory and free memory', parseSize)
    .addOption(
      new Option('--backend <name>', 'judge for this backend: auto (default), type1 or iommufd').argParser(
        oneOf(['auto', 'type1', 'iommufd'] as const),
      ),
    )
    .option('--sysfs <dir>', 'a copy of /sys')
    .option('--proc <dir>', 'a copy of /proc')
    .option('--dev <dir>', 'a copy of /dev')
    .option('--json', 'print JSON')
    .addHelpText('after', HELP)
    .action((device: string | undefined, options: HostOptions) => {
      runHost(device, options, io);
    });
}

function runHost(device: string | undefined, options: HostOptions, io: HostIo): void {
  const survey = surveyHost(rootsOf(options));
  const columns = columnsOf(io);
  if (device === undefined) {
    const toDo = survey.facts.snapshot.groups.length === 0 ? howToTurnOn(survey) : [];
    const overview = overviewJson(survey, toDo);
    io.write(options.json === true ? jsonText(overview) : overviewText(overview, columns));
    return;
  }
  const backend = options.backend === 'auto' ? undefined : options.backend;
  const judgement = deviceJson(judgeDevice(survey, device, { ram: options.ram, backend }));
  io.write(options.json === true ? jsonText(judgement) : deviceText(judgement, columns));
  io.setExitCode(judgement.canPass ? 0 : 1);
}

function jsonText(value: unknown): string {
  return `${JSON.stringify(value, undefined, 2)}\n`;
}

function columnsOf(io: HostIo): number {
  const columns = io.columns ?? (io === PROCESS ? process.stdout.columns : undefined) ?? COLUMNS;
  return Math.min(MOST_COLUMNS, Math.max(LEAST_COLUMNS, columns));
}

/** The live host, or copies; never a mixture that nobody asked for. */
function rootsOf({ sysfs, proc, dev }: HostOptions): HostRoots {
  if (sysfs === undefined && proc === undefined && dev === undefined) return {};
  for (const [option, path] of Object.entries({ sysfs, proc, dev })) {
    if (path !== undefined && !isDirectory(path)) throw new CliError(`--${option} ${path}: is no directory`);
  }
  return { sys: sysfs ?? NOTHING, proc: proc ?? NOTHING, dev: dev ?? NOTHING };
}

function isDirectory(path: string): boolean {
  try {
    return statSync(path).isDirectory();
  } catch {
    return false;
  }
}

function deviceName(text: string): string {
  const device = parseDeviceName(text);
  if (device?.kind !== 'pci') throw new InvalidArgumentError(`"${text}" is no PCI function such as 0000:01:00.0`);
  return formatDevice(device);
}
