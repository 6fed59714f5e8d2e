// The head of a report: which devices are refused, why, and what to do, before any table. Text for a terminal.
import { mergeRanges } from '../base/ranges.ts';
import { hex } from '../base/check.ts';
import type { Verdict } from '../firmware/eligibility.ts';
import type { HostRegion } from '../firmware/region.ts';
import { isFirmwareMemory, regionRange } from '../firmware/region.ts';
import type { ReportDevice, RmrrReport } from '../firmware/report-types.ts';

const WIDTH = 110;
const ORDER: readonly Verdict[] = ['refused', 'unknown', 'relaxable', 'assignable'];
const TITLES: Readonly<Record<Verdict, string>> = {
  refused: 'REFUSED',
  unknown: 'NOT KNOWN',
  relaxable: 'ASSIGNABLE, THOUGH MEMORY IS RESERVED',
  assignable: 'ASSIGNABLE',
};
const MOST_NAMES = 24;

interface Block {
  readonly first: ReportDevice;
  readonly devices: ReportDevice[];
}

/** One paragraph per verdict and reason; with `named` devices only theirs, and a line that counts the others. */
export function summaryText(report: RmrrReport, named: readonly string[]): string {
  const asked = report.devices.filter((device) => named.includes(device.name));
  const shown = asked.length > 0 ? asked : report.devices.filter(isTold);
  const parts = blocksOf(shown).map(blockText);
  const others = report.devices.filter((device) => !shown.includes(device));
  if (others.length > 0) parts.push(othersText(others, asked.length > 0));
  parts.push(...lackText(report));
  return parts.length > 0
    ? parts.join('\n\n')
    : 'No source lists memory that firmware reserves for a device: nothing here refuses one.';
}

/** `refused (EINVAL) ~`: `~` where a version edge or the device class is not certain. */
export function verdictText(item: { verdict: Verdict; errno: string | undefined; approximate: boolean }): string {
  const errno = item.errno === undefined ? '' : ` (${item.errno})`;
  return `${item.verdict}${errno}${item.approximate ? ' ~' : ''}`;
}

/** Breaks text at blanks; further lines are indented by `indent`. */
export function wrap(text: string, indent: number): string {
  const lines: string[] = [''];
  for (const word of text.split(' ')) {
    const last = lines.length - 1;
    const room = WIDTH - indent;
    const line = lines[last] ?? '';
    if (line === '') lines[last] = word;
    else if (line.length + word.length < room) lines[last] = `${line} ${word}`;
    else lines.push(word);
  }
  return lines.join(`\n${' '.repeat(indent)}`);
}

/** A device that has nothing to do with reserved memory is only counted. */
function isTold({ eligibility, regions }: ReportDevice): boolean {
  return eligibility.verdict !== 'assignable' || eligibility.approximate || regions.some(isFirmwareMemory);
}

function blocksOf(devices: readonly ReportDevice[]): Block[] {
  const blocks = new Map<string, Block>();
  for (const device of devices) {
    const { verdict, errno, why, approximate } = device.eligibility;
    const key = JSON.stringify([verdict, errno, why, approximate]);
    const block = blocks.get(key);
    if (block === undefined) blocks.set(key, { first: device, devices: [device] });
    else block.devices.push(device);
  }
  const rank = ({ first }: Block): number => ORDER.indexOf(first.eligibility.verdict);
  return [...blocks.values()].sort((a, b) => rank(a) - rank(b));
}

function blockText({ first, devices }: Block): string {
  const { verdict, errno, approximate, why, message } = first.eligibility;
  const mark = `${errno === undefined ? '' : ` (${errno})`}${approximate ? ' ~' : ''}`;
  const lines = [`${TITLES[verdict]}${mark}: ${wrap(namesText(devices), 2)}`, `  why     ${wrap(why, 10)}`];
  const memory = memoryText(devices);
  if (memory !== '') lines.push(`  memory  ${wrap(memory, 10)}`);
  if (message !== undefined) {
    const line = devices.length === 1 ? message : message.replace(first.name, '<device>');
    lines.push(`  log     ${wrap(line, 10)}`);
  }
  for (const [i, remedy] of remediesOf(devices).entries()) {
    lines.push(`${i === 0 ? '  to do   ' : '          '}${wrap(`${i + 1}. ${remedy}`, 13)}`);
  }
  return lines.join('\n');
}

function namesText(devices: readonly ReportDevice[]): string {
  const names = devices.slice(0, MOST_NAMES).map(({ name }) => name);
  const left = devices.length - names.length;
  return names.join(', ') + (left > 0 ? ` and ${left} more` : '');
}

function memoryText(devices: readonly ReportDevice[]): string {
  const ranges = devices.flatMap(({ regions }) => regions.filter(isFirmwareMemory).map(regionRange));
  const merged = mergeRanges(ranges.filter((range) => range !== undefined));
  const shown = merged.slice(0, 8).map(({ start, end }) => `${hex(start)}-${hex(end)}`);
  return shown.join(', ') + (merged.length > shown.length ? ` and ${merged.length - shown.length} more` : '');
}

/** What holds for some devices of a block only says for which. */
function remediesOf(devices: readonly ReportDevice[]): string[] {
  const users = new Map<string, ReportDevice[]>();
  const longest = [...devices].sort((a, b) => b.remedies.length - a.remedies.length);
  for (const device of longest) {
    for (const remedy of device.remedies) {
      const known = users.get(remedy);
      if (known === undefined) users.set(remedy, [device]);
      else known.push(device);
    }
  }
  return [...users].map(([remedy, list]) =>
    list.length === devices.length
      ? remedy
      : `${remedy} [${namesText(list.slice(0, 4))}${list.length > 4 ? ', …' : ''}]`,
  );
}

function othersText(others: readonly ReportDevice[], askedFor: boolean): string {
  if (!askedFor) {
    const [only] = others.length === 1 ? others : [];
    return only === undefined
      ? `ASSIGNABLE: ${others.length} other devices: nothing is reserved for them`
      : `ASSIGNABLE: ${only.name}: nothing is reserved for it`;
  }
  const counts = ORDER.map((verdict) => {
    const count = others.filter(({ eligibility }) => eligibility.verdict === verdict).length;
    return count === 0 ? [] : [`${count} ${verdict}`];
  });
  return `Other devices: ${counts.flat().join(', ')}`;
}

/** What the sources do not tell. */
function lackText(report: RmrrReport): string[] {
  const parts: string[] = [];
  const isNameless = (region: HostRegion): boolean => region.devices.length === 0 && isFirmwareMemory(region);
  const nameless = report.regions.filter((region) => region.source === 'dmesg' && isNameless(region)).length;
  if (nameless > 0) {
    parts.push(
      `NOT KNOWN WHOSE: ${nameless} of ${report.regions.length} ranges name no device\n  ` +
        wrap('to do   give --dmar or --sysfs beside the log (its RMRR lines print ranges only)', 10),
    );
  }
  for (const { device, rule, line } of report.refusals) {
    if (device === undefined) {
      parts.push(
        `REFUSED (${rule === 'rmrr-locked' ? 'EPERM' : 'EINVAL'}): a device that line ${line} of the log does not name`,
      );
    }
  }
  return parts;
}
