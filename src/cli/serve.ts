// `virtio-iommu serve`: the IOMMU and functions behind it for another VMM, over vfio-user. Thin: flags, signals, errors.
import { Command, InvalidArgumentError, Option } from 'commander';
import { isHostError } from '../base/errors.ts';
import { ENTROPY_NAMES } from '../devices/entropy.ts';
import { CliError } from './errors.ts';
import { takeOutputErrors } from './output-errors.ts';
import { policyOption } from './policy-option.ts';
import { DEVICE_KINDS } from './serve-config.ts';
import { ServeLog } from './serve-log.ts';
import { ServeMachine } from './serve-machine.ts';
import type { FunctionFlag, ReservedFlag, ServeFlags, ServeSettings } from './serve-options.ts';
import { serveSettings } from './serve-options.ts';
import { prepare, serve } from './serve-run.ts';
import { vfioUserServer } from './serve-server.ts';
import {
  parseHostFunction,
  parseLoopback,
  parsePciAddress,
  parseRange,
  parseReserved,
  parseU64,
} from './serve-values.ts';
import { integerArgument, parseSize } from './sizes.ts';

const KINDS_TEXT = DEVICE_KINDS.map((kind) => (kind === 'vfio' ? 'vfio:HOST' : kind)).join(' or ');

const EXAMPLES = `
Examples:
  $ virtio-iommu serve
  $ virtio-iommu serve --endpoint rng@3.0 --endpoint dma@5.0 --reserved 5.0=0x1000-0x1fff:reserved
  $ virtio-iommu serve --endpoint vfio:0000:04:00.0@3.0
  $ virtio-iommu serve --config vm.json --stats stats.sock --metrics 127.0.0.1:9464
  $ virtio-iommu serve --record boot.ndjson.gz --quiet
  $ virtio-iommu serve --dry-run

Prints the arguments that QEMU needs, writes the VIOT table for it, and says "ready" when every socket listens.
SIGINT and SIGTERM end it. Exit status: 0 ended by a signal, 1 it could not go on, 2 usage or configuration.`;

/** The command. */
export function serveCommand(): Command {
  const command = new Command('serve')
    .description('serve the IOMMU and devices behind it to QEMU (vfio-user), each function on a socket')
    .option('-c, --config <file>', 'JSON file with all that flags can say, and more; flags win')
    .option('--dir <folder>', 'where sockets and other files lie (default: the working directory)');
  for (const option of [...functionOptions(), ...deviceOptions(), ...outputOptions(), ...testOptions()])
    command.addOption(option);
  return command.addHelpText('after', EXAMPLES).action(run);
}

function functionOptions(): Option[] {
  return [
    new Option('--iommu <addr[=socket]>', 'the IOMMU (default 1.0=iommu.sock)').argParser(iommuFlag),
    new Option('--endpoint <device@addr[=socket]>', `${KINDS_TEXT}; repeatable (default rng@3.0)`).argParser(
      repeated(endpointFlag),
    ),
    new Option('--reserved <[addr=]start-end:kind>', 'reserved memory, kind reserved or msi; repeatable').argParser(
      repeated(reservedFlag),
    ),
    new Option('--msi <start-end>', 'MSI region of every endpoint, or none (default 0xfee00000-0xfeefffff)').argParser(
      (text) => (text === 'none' ? text : checked(parseRange)(text)),
    ),
  ];
}

function deviceOptions(): Option[] {
  return [
    policyOption(),
    new Option('--page-size-mask <mask>', 'page sizes, the lowest is the granule').argParser(checked(parseU64)),
    new Option('--input-range <start-end>', 'addresses that can be mapped (default 48 bits)').argParser(
      checked(parseRange),
    ),
    new Option('--bypass <on|off>', 'what endpoints reach before they are attached (default on)').choices([
      'on',
      'off',
    ]),
    new Option('--queue-size <n>', 'entries of the request queue (default 1024)').argParser(queueSize),
    new Option('--event-queue-size <n>', 'entries of the event queue (default 64)').argParser(queueSize),
    new Option('--packed', 'offer packed rings'),
  ];
}

function outputOptions(): Option[] {
  return [
    new Option('--viot <file>', 'where the VIOT table is written (default viot.bin)'),
    new Option('--qemu <command>', 'the command of the printed line (default qemu-system-x86_64)'),
    new Option('--memory <size>', 'RAM in the printed line (default 256M)').argParser(parseSize),
    new Option('--msg-timeout <ms>', 'how long QEMU waits for an answer (default 60000)').argParser(
      integerArgument(1, 0xffff_ffff),
    ),
    new Option(
      '--require-sealed',
      'refuse guest memory in files that can be shrunk (their owner could end this process)',
    ),
    new Option('--record <file>', 'write a trace for `virtio-iommu replay` (.gz: compressed)'),
    new Option('--stats <socket>', 'Unix socket that gives the state as one JSON document'),
    new Option('--metrics <host:port>', 'loopback port for Prometheus').argParser(checked(parseLoopback)),
    new Option('--interval <seconds>', 'between two looks at the state').argParser(seconds),
    new Option('--dry-run', 'check everything, write the VIOT table, print the command line, end'),
    new Option('--quiet', 'no status'),
    new Option('--json', 'one JSON object a line instead of text'),
  ];
}

/** Not for use: what tests of a guest need. */
function testOptions(): Option[] {
  return [
    new Option('--entropy <source>', 'for tests: bytes of the rng').choices(ENTROPY_NAMES),
    new Option('--no-translation', 'for tests: endpoints take every address for a guest-physical one'),
    new Option('--rng-probe-unmapped <iova>', 'for tests: one access of the rng before its first answer').argParser(
      checked(parseU64),
    ),
    new Option('--rng-probe-access <direction>', 'for tests: its direction').choices(['read', 'write']),
  ].map((option) => option.hideHelp());
}

async function run(flags: ServeFlags): Promise<void> {
  const settings = serveSettings(flags);
  const style = { json: flags.json === true, quiet: flags.quiet === true };
  if (flags.dryRun === true) {
    await tryOut(settings);
    prepare(settings, style, process.stdout);
    return;
  }
  const { stop, forget } = signals();
  // Whoever read what we print may end; a guest goes on.
  const giveBack = takeOutputErrors(() => undefined);
  try {
    await serve(settings, style, {
      stdout: process.stdout,
      stderr: process.stderr,
      stop,
      makeServer: vfioUserServer,
    });
  } catch (error) {
    throw isHostError(error) || isSystemError(error) ? new CliError(error.message, 1) : error;
  } finally {
    forget();
    giveBack();
  }
}

/** Makes everything but sockets, the trace and what is the host's, and drops it. @throws CliError for what does not go together. */
async function tryOut(settings: ServeSettings): Promise<void> {
  const endpoints = settings.endpoints.filter(({ device }) => device !== 'vfio');
  const log = new ServeLog((line) => process.stderr.write(`${line}\n`));
  await new ServeMachine({ ...settings, endpoints, record: undefined }, vfioUserServer, log).close();
}

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** Resolves at the first signal; a second one ends the process at once, as without us. */
function signals(): { readonly stop: Promise<void>; readonly forget: () => void } {
  let forget = (): void => undefined;
  const stop = new Promise<void>((resolve) => {
    const ended = (): void => {
      forget();
      resolve();
    };
    for (const signal of SIGNALS) process.once(signal, ended);
    forget = () => {
      for (const signal of SIGNALS) process.removeListener(signal, ended);
    };
  });
  return { stop, forget: () => forget() };
}

function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && 'syscall' in error && 'code' in error;
}

function iommuFlag(text: string): Omit<FunctionFlag, 'device' | 'host'> {
  const { head, tail } = split(text);
  return { addr: checked(parsePciAddress)(head), socket: tail };
}

function endpointFlag(text: string): FunctionFlag {
  const at = text.indexOf('@');
  const [kind = '', ...host] = text.slice(0, Math.max(at, 0)).split(':');
  const device = DEVICE_KINDS.find((each) => each === kind);
  if (device === undefined || (device === 'vfio') !== host.length > 0) {
    throw new InvalidArgumentError(`must be ${KINDS_TEXT} and @ADDR.`);
  }
  const place = iommuFlag(text.slice(at + 1));
  return device === 'vfio'
    ? { device, ...place, host: checked(parseHostFunction)(host.join(':')) }
    : { device, ...place };
}

function reservedFlag(text: string): ReservedFlag {
  const at = text.indexOf('=');
  const addr = at < 0 ? undefined : checked(parsePciAddress)(text.slice(0, at));
  return { addr, region: checked(parseReserved)(text.slice(at + 1)) };
}

/** `HEAD=TAIL`; without `=` there is no tail. */
function split(text: string): { readonly head: string; readonly tail: string | undefined } {
  const at = text.indexOf('=');
  if (at < 0) return { head: text, tail: undefined };
  if (at === text.length - 1) throw new InvalidArgumentError('names no socket.');
  return { head: text.slice(0, at), tail: text.slice(at + 1) };
}

function repeated<T>(parse: (text: string) => T): (text: string, before: readonly T[] | undefined) => T[] {
  return (text, before) => [...(before ?? []), parse(text)];
}

/** A parser whose RangeError becomes a usage error. */
function checked<T>(parse: (text: string) => T): (text: string) => T {
  return (text) => {
    try {
      return parse(text);
    } catch (error) {
      if (error instanceof RangeError) throw new InvalidArgumentError(error.message);
      throw error;
    }
  };
}

function queueSize(text: string): number {
  const size = integerArgument(1, 32_768)(text);
  if (Math.log2(size) % 1 !== 0) throw new InvalidArgumentError('must be a power of two in [1, 32768]');
  return size;
}

function seconds(text: string): number {
  const value = Number(text);
  if (!(value > 0 && value <= 86_400)) throw new InvalidArgumentError('must be a number of seconds up to 86400');
  return value;
}
