// `virtio-iommu rmrr`: reserved host memory, from firmware tables, sysfs, kernel logs or the live host. Thin: reads, calls
// the report, prints. Exit status 1 when a named device is not assignable, 2 (CliError) for usage and input errors.
import { writeFileSync } from 'node:fs';
import { Command } from 'commander';
import { hex } from '../base/check.ts';
import { graphSvg } from '../firmware/graph-svg.ts';
import type { HotAdd } from '../firmware/holes.ts';
import { checkHotAdd } from '../firmware/holes.ts';
import { diffRegions } from '../firmware/region-diff.ts';
import type { Json } from '../firmware/report-json.ts';
import { diffJson, holesJson, layoutJson, reportJson } from '../firmware/report-json.ts';
import { buildReport } from '../firmware/report.ts';
import type { RmrrReport } from '../firmware/report-types.ts';
import type { HostRoots } from '../host/sysfs.ts';
import { CliError } from './errors.ts';
import type { RmrrOptions } from './rmrr-options.ts';
import { addRmrrOptions, readRmrrOptions } from './rmrr-options.ts';
import { loadSources } from './rmrr-sources.ts';
import { diffText, graphText, holesText, reportText } from './rmrr-text.ts';

/** Where a command writes; the process by default. */
export interface RmrrIo {
  readonly write: (text: string) => void;
  readonly setExitCode: (code: number) => void;
  readonly roots?: HostRoots;
}

const PROCESS: RmrrIo = {
  write: (text) => void process.stdout.write(text),
  setExitCode: (code) => {
    process.exitCode = code;
  },
};

const HELP = `
Examples:
  $ virtio-iommu rmrr                                        the live host (root for its ACPI tables and log)
  $ virtio-iommu rmrr report --dmar DMAR.aml --device 00:1d.0 --class 00:1d.0=0x0c0320
  $ virtio-iommu rmrr report --dmesg boot.log --kernel 6.12 --json
  $ dmesg | virtio-iommu rmrr report --dmesg - --sysfs /sys --dmar /sys/firmware/acpi/tables/DMAR
  $ virtio-iommu rmrr diff --dmar DMAR.aml --sysfs copy-of-sys --dmesg boot.log
  $ virtio-iommu rmrr holes --dmar DMAR.aml --ram 8G --device 0000:00/01.1/00.0
  $ virtio-iommu rmrr graph --dmar DMAR.aml --svg ties.svg

The host's tables are /sys/firmware/acpi/tables/{DMAR,IVRS,IORT}.
Devices are written ssss:bb:dd.f, or as a scope path 0000:00/1c.7/00.0 (segment, start bus, one /device.function per
hop) where bridges cannot be resolved; ranges of functions as first-last. Limits and ends are inclusive.
Exit status: 0 (for diff also where the sources differ); 1 when a device named by --device is refused, or cannot be told
from these sources; 2 for usage errors and for files that cannot be read or are not what the option says.`;

/** The `rmrr` command with its subcommands `report` (default), `diff`, `holes`, `graph`. */
export function rmrrCommand(io: RmrrIo = PROCESS): Command {
  const rmrr = new Command('rmrr').description(
    'reserved host memory (RMRR, IVMD, RMR): who is bound, who shares, what the guest must leave free',
  );
  rmrr.addHelpText('after', HELP);
  subcommand(rmrr, 'report', 'regions, verdict per device, sharing, RESV_MEM, holes', io, runReport, {
    isDefault: true,
  });
  subcommand(rmrr, 'diff', 'compare table, sysfs and log', io, runDiff);
  subcommand(rmrr, 'holes', 'ranges that guest RAM must leave free, and what is left of it', io, runHoles);
  subcommand(rmrr, 'graph', 'devices tied by shared memory, as table or SVG', io, runGraph);
  return rmrr;
}

type Run = (report: RmrrReport, options: RmrrOptions) => { readonly text: () => string; readonly json: () => Json };

function subcommand(
  parent: Command,
  name: string,
  about: string,
  io: RmrrIo,
  run: Run,
  more?: { isDefault: boolean },
): Command {
  const command = parent.command(name, { isDefault: more?.isDefault ?? false }).description(about);
  addRmrrOptions(command).option('--svg <file>', 'write the picture of tied devices there, - for stdout');
  command.addHelpText('after', HELP);
  return command.action((raw: unknown) => {
    const options = readRmrrOptions(raw);
    const onlyNamed = name === 'holes' && options.devices.length > 0;
    const report = buildReport({
      ...loadSources(options, io.roots),
      ...(onlyNamed ? { holesFor: options.devices } : {}),
    });
    const { text, json } = run(report, options);
    if (options.svg !== undefined) writeSvg(report, options.svg, io);
    if (options.json) io.write(`${JSON.stringify(json(), undefined, 2)}\n`);
    else if (options.svg !== '-') io.write(text());
    io.setExitCode(exitCode(report, options));
  });
}

const runReport: Run = (report, options) => ({
  text: () => reportText(report, options.devices),
  json: () => reportJson(report),
});

const runDiff: Run = (report) => {
  const diff = diffRegions(report.regions, [...report.sources]);
  return { text: () => diffText(diff), json: () => ({ ...reportJson(report), diff: diffJson(diff) }) };
};

const runHoles: Run = (report, options) => {
  const { layout } = report;
  const reserved = report.devices
    .filter((device) => options.devices.includes(device.name))
    .flatMap((device) => device.resv?.reserved ?? []);
  const hotAdd: HotAdd | undefined =
    options.ram === undefined || options.devices.length === 0
      ? undefined
      : checkHotAdd(reserved, options.ram, options.mode);
  return {
    text: () => holesText(report, hotAdd),
    json: () => ({
      mode: report.mode,
      holes: holesJson(report.holes),
      relaxableCost: hex(report.relaxableCost),
      ...(layout === undefined ? {} : layoutJson(layout)),
      ...(hotAdd === undefined ? {} : { hotAdd: { allowed: hotAdd.allowed, rule: hotAdd.rule } }),
      warnings: report.warnings.map(({ where, what }) => ({ where, what })),
    }),
  };
};

const runGraph: Run = (report) => ({ text: () => graphText(report), json: () => reportJson(report) });

function writeSvg(report: RmrrReport, file: string, io: RmrrIo): void {
  const svg = graphSvg(report);
  if (file === '-') {
    io.write(svg);
    return;
  }
  try {
    writeFileSync(file, svg);
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : String(error);
    throw new CliError(`--svg ${file}: cannot be written (${code})`);
  }
}

function exitCode(report: RmrrReport, options: RmrrOptions): number {
  const verdicts = report.devices
    .filter((device) => options.devices.includes(device.name))
    .map((device) => device.eligibility.verdict);
  return verdicts.some((verdict) => verdict === 'refused' || verdict === 'unknown') ? 1 : 0;
}
