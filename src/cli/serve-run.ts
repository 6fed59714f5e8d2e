// Runs what `virtio-iommu serve` was asked for until a signal ends it: listens, says that it is ready, shows the state.
// Not here: settings (serve-options.ts), functions (serve-machine.ts).
import { writeFileSync } from 'node:fs';
import { CliError } from './errors.ts';
import { ServeLog } from './serve-log.ts';
import type { FunctionServer, FunctionServerOptions } from './serve-machine.ts';
import { ServeMachine } from './serve-machine.ts';
import type { ServeSettings } from './serve-options.ts';
import { qemuArguments, shellText, viotBody } from './serve-qemu.ts';
import { toPrometheus } from './serve-prometheus.ts';
import { serveReport, toJson } from './serve-report.ts';
import type { Listening } from './serve-sockets.ts';
import { serveDocument, serveMetrics } from './serve-sockets.ts';
import type { Output } from './serve-status.ts';
import { StatusTable, statusLine } from './serve-status.ts';
import type { HostAccess } from './serve-vfio.ts';
import { ServeHosts } from './serve-vfio.ts';

/** How it talks. */
export interface ServeStyle {
  readonly json: boolean;
  readonly quiet: boolean;
}

/** What it needs of its process. */
export interface ServeProcess {
  readonly stdout: Output;
  readonly stderr: Output;
  /** Resolves when it shall end. */
  readonly stop: Promise<void>;
  readonly makeServer: (options: FunctionServerOptions) => FunctionServer;
  /** How functions of the host are opened; default: as they are. */
  readonly hosts?: HostAccess;
}

/** Seconds between two looks at the state, on a terminal and elsewhere. */
const TABLE_INTERVAL = 1;
const LINE_INTERVAL = 10;

/** Writes the VIOT file and tells how QEMU is started. */
export function prepare(settings: ServeSettings, style: ServeStyle, stdout: Output): void {
  try {
    writeFileSync(settings.viot, viotBody(settings));
  } catch (error) {
    throw new CliError(`${settings.viot}: ${(error as Error).message.split(',')[0]!}`, 1);
  }
  const qemu = qemuArguments(settings);
  if (style.json) {
    const functions = [
      { name: 'iommu', device: 'iommu', addr: settings.iommu.addr.text, endpoint: null, socket: settings.iommu.socket },
      ...settings.endpoints.map((each) => ({
        name: each.name,
        device: each.device,
        addr: each.addr.text,
        endpoint: each.addr.bdf,
        socket: each.socket,
      })),
    ];
    stdout.write(`${toJson({ event: 'configured', functions, viot: settings.viot, qemu })}\n`);
    return;
  }
  stdout.write(`Start QEMU (10.1 or later) with these arguments, and add what the guest boots from:\n\n`);
  stdout.write(`${shellText(qemu)}\n\n`);
}

/** Serves until `stop` resolves. @throws CliError and what the addon throws; every socket is closed then. */
export async function serve(settings: ServeSettings, style: ServeStyle, host: ServeProcess): Promise<void> {
  const { stdout, stderr } = host;
  const live = !style.json && !style.quiet && stdout.isTTY === true;
  const table = live ? new StatusTable(stdout) : undefined;
  const log = new ServeLog((line) => (table === undefined ? stderr.write(`${line}\n`) : table.line(line)));
  const started = Date.now();
  const machine = makeMachine(settings, host, log);
  const report = (): ReturnType<typeof serveReport> =>
    serveReport(machine, (Date.now() - started) / 1000, log.suppressed);
  const others: Listening[] = [];
  let timer: NodeJS.Timeout | undefined;
  try {
    await machine.listen();
    prepare(settings, style, stdout); // not before the sockets are ours: the table of another process stays as it is
    if (settings.stats !== undefined) others.push(await serveDocument(settings.stats, () => toJson(report())));
    if (settings.metrics !== undefined) others.push(await serveMetrics(settings.metrics, () => toPrometheus(report())));
    announce(style, stdout, others);
    if (!style.quiet) {
      const show = (): void => {
        if (style.json) stdout.write(`${toJson({ event: 'status', ...report() })}\n`);
        else if (table === undefined) stdout.write(`${statusLine(report())}\n`);
        else table.show(report());
      };
      table?.show(report());
      timer = setInterval(show, 1000 * (settings.interval ?? (table === undefined ? LINE_INTERVAL : TABLE_INTERVAL)));
    }
    await host.stop;
  } finally {
    clearInterval(timer);
    await Promise.all(others.map((each) => each.close()));
    await machine.close();
  }
  if (style.json) stdout.write(`${toJson({ event: 'stopped', ...report() })}\n`);
  else if (!style.quiet) stdout.write(`stopped after ${statusLine(report())}\n`);
}

/** The machine, with the groups of its passed-through functions open. */
function makeMachine(settings: ServeSettings, { makeServer, hosts }: ServeProcess, log: ServeLog): ServeMachine {
  const opened = new ServeHosts(settings.endpoints, log, hosts);
  try {
    return new ServeMachine(settings, makeServer, log, undefined, opened);
  } catch (error) {
    opened.close();
    throw error;
  }
}

function announce(style: ServeStyle, stdout: Output, others: readonly Listening[]): void {
  const places = others.map(({ place }) => place);
  if (style.json) {
    stdout.write(`${toJson({ event: 'ready', pid: process.pid, also: places })}\n`);
    return;
  }
  if (!style.quiet) for (const place of places) stdout.write(`state at ${place}\n`);
  stdout.write('ready\n');
}
