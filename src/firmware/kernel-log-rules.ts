// The words of Linux kernel logs that carry facts on reserved memory, from 3.x to today, as data. Not their meaning
// (kernel-log.ts). No quantifier of a pattern is nested, and each is bounded: hostile lines cost linear time.

/** What a rule may report; one method per kind of record. */
export interface LogFacts {
  base(m: RegExpMatchArray): void;
  identity(m: RegExpMatchArray): void;
  ivmd(m: RegExpMatchArray): void;
  rmr(m: RegExpMatchArray): void;
  range(kind: 'notCovered' | 'badRmrr', m: RegExpMatchArray): void;
  vendor(m: RegExpMatchArray): void;
  broken(m: RegExpMatchArray): void;
  refused(m: RegExpMatchArray, rule: 'rmrr-locked' | 'require-direct'): void;
  group(m: RegExpMatchArray): void;
  version(m: RegExpMatchArray): void;
  width(m: RegExpMatchArray): void;
  e820Line(m: RegExpMatchArray): void;
  set(flag: 'lpcWorkaround' | 'noRmrr' | 'relaxAllRmrr' | 'relaxRequested'): void;
  odd(what: string): void;
}

/** A plain string that must occur (most records are left after a few substring searches), the pattern, what to do. */
export type LogRule = readonly [key: string, pattern: RegExp, apply: (log: LogFacts, match: RegExpMatchArray) => void];

const BDF = String.raw`(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]`;
const DEVICE = String.raw`([0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])`;
const RANGE = String.raw`\[(0x[0-9a-f]{1,20}) ?- ?(0x[0-9a-f]{1,20})\]`;
const OLD_REFUSAL = 'Device is ineligible for IOMMU';
const NEW_REFUSAL = 'Firmware has requested this device have a 1:1';

/** All rules. */
export const LOG_RULES: readonly LogRule[] = [
  ['RMRR base:', /RMRR base:\s*(0x[0-9a-f]{1,20}) +end:\s*(0x[0-9a-f]{1,20})/gi, (log, m) => log.base(m)],
  [
    'identity map for',
    new RegExp(String.raw`identity map for (?:HW passthrough )?device ${DEVICE} ?${RANGE}`, 'gi'),
    (log, m) => log.identity(m),
  ],
  [
    'identity map',
    new RegExp(
      String.raw`${DEVICE}: (?:DMAR: )?(?:Setting|Ignoring) identity map (?:for HW passthrough )?${RANGE}`,
      'gi',
    ),
    (log, m) => log.identity(m),
  ],
  [
    'devid_start:',
    new RegExp(
      String.raw`devid_start:\s{0,4}(${BDF})\s{1,4}devid_end:\s{0,4}(${BDF})\s{1,4}range_start:\s{0,4}([0-9a-f]{1,16})\s{1,4}range_end:\s{0,4}([0-9a-f]{1,16})\s{1,4}flags:\s{0,4}([0-9a-f]{1,2})`,
      'gi',
    ),
    (log, m) => log.ivmd(m),
  ],
  [
    'RMR descriptor[',
    new RegExp(`RMR descriptor${RANGE} (?:not aligned to 64K, continue with ${RANGE}|overlaps with .{1,80})`, 'gi'),
    (log, m) => log.rmr(m),
  ],
  [
    'RMR descriptor[',
    /RMR descriptor\[0x[0-9a-f]{1,16}\] with zero length/gi,
    (log, m) => log.odd(`the kernel says: ${m[0]}`),
  ],
  ['0-16MiB', /Prepare 0-16MiB unity mapping for LPC/g, (log) => log.set('lpcWorkaround')],
  ['No RMRR found', /No RMRR found/g, (log) => log.set('noRmrr')],
  [
    'can cover this',
    new RegExp(`No firmware reserved region can cover this RMRR ${RANGE}`, 'gi'),
    (log, m) => log.range('notCovered', m),
  ],
  ['bad RMRR', new RegExp(`Your BIOS is broken; bad RMRR ${RANGE}`, 'gi'), (log, m) => log.range('badRmrr', m)],
  [
    'BIOS vendor:',
    /BIOS vendor: ([^;]{0,100}); ?Ver: ([^;]{0,100}); ?Product Version: (.{0,100})/g,
    (log, m) => log.vendor(m),
  ],
  ['is broken', /RMRR entry for device ([0-9a-f]{2}:[0-9a-f]{2}\.[0-7]) is broken/gi, (log, m) => log.broken(m)],
  ['ends before', /RMRR ends before it starts/g, (log) => log.odd('the kernel says: RMRR ends before it starts')],
  [
    'permitted address width',
    /RMRR exceeds permitted address width \((\d{1,3}) bits\)/g,
    (log, m) => log.odd(`the kernel says: ${m[0]}`),
  ],
  [
    'ineligible',
    new RegExp(`(?:(\\S{1,64}) ${DEVICE}: (?:DMAR: )?)?${OLD_REFUSAL}`, 'gi'),
    (log, m) => log.refused(m, 'rmrr-locked'),
  ],
  [
    'Firmware has requested',
    new RegExp(`(?:(\\S{1,64}) ${DEVICE}: )?${NEW_REFUSAL}`, 'gi'),
    (log, m) => log.refused(m, 'require-direct'),
  ],
  ['iommu group', new RegExp(`${DEVICE}: Adding to iommu group (\\d{1,9})`, 'gi'), (log, m) => log.group(m)],
  ['Adding device', new RegExp(`Adding device ${DEVICE} to group (\\d{1,9})`, 'gi'), (log, m) => log.group(m)],
  [
    'iommu group',
    /Failed to add to iommu group (\d{1,9}): (-?\d{1,5})/g,
    (log, m) => log.odd(`the kernel says: ${m[0]}`),
  ],
  ['relaxable', /assuming all RMRRs are relaxable/g, (log) => log.set('relaxAllRmrr')],
  ['relax_rmrr', /[Cc]ommand line:.{0,2000}\bintel_iommu=\S{0,200}relax_rmrr/g, (log) => log.set('relaxRequested')],
  ['Linux version', /Linux version (\d{1,3}\.\d{1,4}\S{0,60})/g, (log, m) => log.version(m)],
  ['Host address width', /Host address width (\d{1,3})/g, (log, m) => log.width(m)],
  ['e820:', /e820: .{1,200}/g, (log, m) => log.e820Line(m)],
];
