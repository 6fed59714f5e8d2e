// Kernel log text into records: prefixes recognised, mail quoting removed, records wrapped in the middle joined again.
// Not a reader of what the records say (kernel-log.ts). Line numbers count physical lines from 1.
import type { WarningList } from './warnings.ts';

/** One log record, without mail quoting but with its prefix. */
export interface KernelRecord {
  readonly line: number;
  readonly text: string;
  /** The record's physical lines glued without a space: for terminals that wrap inside a word. */
  readonly glued: string | undefined;
  /** True when the record is the end of the text and no line end follows. */
  readonly last: boolean;
}

/** Most physical lines that are read. */
export const MAX_LOG_LINES = 1 << 20;

const MAX_LINE = 2048;
/** A record of the kernel is seldom wrapped into more lines than this. */
const MAX_WRAPS = 4;

/** What `dmesg --color` puts around its columns. */
const COLOUR = /\u001b\[[0-9;]{0,16}m/g;
const QUOTE = /^[ \t]*(?:[>|][ \t]?)+/;
const PREFIXES: readonly RegExp[] = [
  /^(?:<\d{1,3}>)?\[[ <+]*\d+[.,]\d+>?\]/, // [    1.234567], [  +0,000002], <6>[ 1.2]
  /^\[(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)\b/, // dmesg -T
  /^(?:kern|user|daemon|syslog)\s*:\s*[a-z]+\s*:/, // dmesg -x
  /^[A-Z][a-z]{2} +\d{1,2} +\d{2}:\d{2}:\d{2}/, // syslog
  /^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}/, // ISO time
  /^<\d{1,3}>/,
];
const STARTS: readonly RegExp[] = [
  /^(?:DMAR|DMAR-IR|IOMMU|AMD-Vi|ACPI|Linux version|Command line|BIOS-e820|PCI-DMA)\b/,
  /^\S+ [0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]:/,
  /RMRR base:|Setting identity map|Setting RMRR|No RMRR found|Prepare 0-16MiB|No firmware reserved region/,
  /Your BIOS is broken|RMRR entry for device|Device is ineligible|Firmware has requested|Ignoring identity map/,
  /BIOS-e820:|assuming all RMRRs|Adding to iommu group|Failed to add to iommu group|RMRR e(?:nds|xceeds)/,
  /^IVMD_TYPE|RMR descriptor\[|Adding device \S+ to group/,
];

/** Splits a log into records. */
export function kernelRecords(text: string, warnings: WarningList): KernelRecord[] {
  const lines = text.split('\n', MAX_LOG_LINES + 1);
  if (lines.length > MAX_LOG_LINES) warnings.add(`line ${MAX_LOG_LINES + 1}`, 'the rest of the log is not read');
  const count = Math.min(lines.length, MAX_LOG_LINES);
  const records: KernelRecord[] = [];
  let i = 0;
  while (i < count) {
    const first = i;
    const parts = [clean(lines[i++]!)];
    if (parts[0] === '') continue;
    while (i < count && parts.length <= MAX_WRAPS) {
      const next = clean(lines[i]!);
      if (next === '' || startsRecord(next)) break;
      parts.push(next);
      i++;
    }
    const text = join(parts);
    const glued = parts.length > 1 ? parts.map((part) => part.trim()).join('') : undefined;
    records.push({ line: first + 1, text, glued, last: i >= lines.length });
  }
  return records;
}

function clean(line: string): string {
  const cut = line.length > MAX_LINE ? line.slice(0, MAX_LINE) : line;
  const plain = cut.includes('\u001b') ? cut.replace(COLOUR, '') : cut;
  return plain.replace(QUOTE, '').trimEnd();
}

function startsRecord(indented: string): boolean {
  const line = indented.trimStart();
  return PREFIXES.some((prefix) => prefix.test(line)) || STARTS.some((start) => start.test(line));
}

/** Joins wrapped lines with a space, except where the break splits a hexadecimal number. */
function join(parts: readonly string[]): string {
  let text = parts[0]!;
  for (const part of parts.slice(1)) {
    const next = part.trimStart();
    const number = /0x([0-9a-f]{0,15})$/i.exec(text);
    const rest = /^[0-9a-f]+(?=\s|\]|,|$)/i.exec(next);
    const split =
      number !== null && rest !== null && number[1]!.length + rest[0].length <= 16 && !next.startsWith('end');
    text += split ? next : ` ${next}`;
  }
  return text;
}
