// Reader of Linux kernel logs: what they say of RMRRs, in the words of Linux 3.x to today. A line that names a range only
// and a line that names a device and a range are joined by exact range; repeats at run time are counted once.
// Not a judge of devices. Limits are INCLUSIVE, as the kernel prints them.
import type { AddressRange } from '../base/ranges.ts';
import type { DeviceRef } from './device-ref.ts';
import { formatDevice, parseDeviceName } from './device-ref.ts';
import { checkE820, e820Entry } from './e820.ts';
import type { E820Entry } from './e820.ts';
import type { KernelRecord } from './kernel-records.ts';
import { kernelRecords } from './kernel-records.ts';
import type { HostRegion } from './region.ts';
import { flagRange } from './region.ts';
import type { Warning } from './warnings.ts';
import { WarningList } from './warnings.ts';

/** A device that the kernel refused. */
export interface Refusal {
  /** Undefined where the line is a fragment without a device. */
  readonly device: string | undefined;
  readonly driver: string | undefined;
  /** `rmrr-locked`: 3.17 to 6.5, EPERM. `require-direct`: 6.6 and later, EINVAL. */
  readonly rule: 'rmrr-locked' | 'require-direct';
  readonly line: number;
}

/** What a kernel log says of reserved memory. */
export interface KernelLog {
  /** One region per distinct range, in order of appearance; `devices` empty where only ranges are printed. */
  readonly regions: readonly HostRegion[];
  /** Ranges of `RMRR base` lines. */
  readonly rmrrBase: readonly AddressRange[];
  readonly notCovered: readonly AddressRange[];
  readonly badRmrr: readonly AddressRange[];
  /** Devices of one-hop scopes that Linux took literally. */
  readonly brokenScope: readonly string[];
  readonly refusals: readonly Refusal[];
  readonly lpcWorkaround: boolean;
  /** The out-of-tree patch says that it relaxes all RMRRs. */
  readonly relaxAllRmrr: boolean;
  /** `relax_rmrr` stands on the kernel command line (which alone proves nothing: a vanilla kernel ignores it). */
  readonly relaxRequested: boolean;
  readonly noRmrr: boolean;
  /** `6.12.107` as in the `Linux version` line. */
  readonly kernel: string | undefined;
  readonly hostAddressWidth: number | undefined;
  readonly bios: { readonly vendor: string; readonly version: string; readonly product: string } | undefined;
  /** IOMMU group of a device, from `Adding to iommu group` lines. */
  readonly groups: ReadonlyMap<string, string>;
  readonly e820: readonly E820Entry[];
  /** Number of lines that a rule of this reader knew. */
  readonly knownLines: number;
  readonly warnings: readonly Warning[];
}

/** Most distinct ranges and most devices that are kept from one log. */
export const MAX_LOG_FACTS = 1 << 14;

/** Real memory maps have some tens of entries. */
const MAX_E820 = 1024;

type Mutable<T> = { -readonly [K in keyof T]: T[K] };
interface Joined {
  readonly region: Mutable<Omit<HostRegion, 'devices'>> & { readonly devices: DeviceRef[] };
  readonly names: Set<string>;
}

const DEVICE = String.raw`([0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])`;
const RANGE = String.raw`\[(0x[0-9a-f]{1,20}) ?- ?(0x[0-9a-f]{1,20})\]`;
const OLD_REFUSAL = 'Device is ineligible for IOMMU';
const NEW_REFUSAL = 'Firmware has requested this device have a 1:1';

type Rule = readonly [key: string, pattern: RegExp, apply: (log: LogState, match: RegExpMatchArray) => void];

/** `key` is a plain string that must occur: most records are left after a few substring searches. */
const RULES: readonly Rule[] = [
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

/**
 * Reads a kernel log: `dmesg` of any form, journal, syslog, mail. No content throws; odd values are taken literally and
 * flagged with their line.
 * @throws TypeError when `text` is not a string.
 */
export function parseKernelLog(text: string): KernelLog {
  if (typeof text !== 'string') throw new TypeError('text must be a string');
  const warnings = new WarningList();
  const state = new LogState(warnings);
  for (const record of kernelRecords(text, warnings)) {
    state.begin(record);
    if (apply(state, record.text) === 0 && record.glued !== undefined) apply(state, record.glued);
    state.end();
  }
  return state.finish();
}

function apply(state: LogState, text: string): number {
  let found = 0;
  for (const [key, pattern, act] of RULES) {
    if (!text.includes(key)) continue;
    for (const match of text.matchAll(pattern)) {
      act(state, match);
      found++;
    }
  }
  return found;
}

/** Facts gathered so far; one method per kind of record. */
class LogState {
  readonly #warnings: WarningList;
  readonly #regions = new Map<string, Joined>();
  readonly #flags = { lpcWorkaround: false, noRmrr: false, relaxAllRmrr: false, relaxRequested: false };
  readonly #ranges = {
    rmrrBase: new Map<string, AddressRange>(),
    notCovered: new Map<string, AddressRange>(),
    badRmrr: new Map<string, AddressRange>(),
  };
  readonly #broken = new Set<string>();
  readonly #refusals = new Map<string, Refusal>();
  readonly #groups = new Map<string, string>();
  readonly #e820: E820Entry[] = [];
  #bios: KernelLog['bios'];
  #kernel: string | undefined;
  #width: number | undefined;
  #record: KernelRecord = { line: 0, text: '', glued: undefined, last: false };
  #known = 0;
  #before = 0;
  #facts = 0;
  #cut = false;

  constructor(warnings: WarningList) {
    this.#warnings = warnings;
  }

  begin(record: KernelRecord): void {
    this.#record = record;
    this.#cut = false;
    this.#before = this.#known;
  }

  /** A record that starts like a known one and was not understood is flagged, most likely it was cut off. */
  end(): void {
    const { text } = this.#record;
    if (this.#known > this.#before) return;
    if (this.#cut) this.odd('RMRR line is cut off inside its limit, not read');
    else if (/RMRR base:|Setting identity map|bad RMRR|cover this RMRR/.test(text))
      this.odd('record is cut off or damaged, not read');
  }

  set(flag: 'lpcWorkaround' | 'noRmrr' | 'relaxAllRmrr' | 'relaxRequested'): void {
    this.#known++;
    this.#flags[flag] = true;
  }

  odd(what: string): void {
    if (what.startsWith('the kernel')) this.#known++;
    this.#warnings.add(this.#where, what);
  }

  base(m: RegExpMatchArray): void {
    const [whole, first = '', last = ''] = m;
    if (last.length < first.length && this.#record.text.endsWith(whole) && BigInt(last) < BigInt(first)) {
      this.#cut = true;
      return;
    }
    const region = this.#join(first, last)?.region;
    if (region === undefined) return;
    this.#ranges.rmrrBase.set(keyOf(region.base, region.limit), { start: region.base, end: region.limit });
  }

  identity(m: RegExpMatchArray): void {
    const [, device = '', first = '', last = ''] = m;
    const joined = this.#join(first, last);
    const ref = parseDeviceName(device.toLowerCase());
    if (joined === undefined) return;
    if (ref === undefined) {
      this.odd(`${device} is no PCI device`);
      return;
    }
    const { region, names } = joined;
    if (names.size === 0 && ref.kind === 'pci') region.segment = ref.segment;
    const name = formatDevice(ref);
    if (names.has(name) || !this.#room()) return;
    names.add(name);
    region.devices.push(ref);
    const isa = name.endsWith(':00:1f.0') && region.base === 0n && region.limit === 0xff_ffffn;
    if (isa) region.pseudo = true;
  }

  range(kind: 'notCovered' | 'badRmrr', m: RegExpMatchArray): void {
    const [, first = '', last = ''] = m;
    const start = this.#address(first);
    const end = this.#address(last);
    if (start === undefined || end === undefined) return;
    this.#known++;
    const key = keyOf(start, end);
    if (this.#ranges[kind].has(key) || !this.#room()) return;
    this.#ranges[kind].set(key, { start, end });
    const what = kind === 'badRmrr' ? 'bad' : 'not covered by one firmware reserved region';
    this.odd(`the kernel calls RMRR [${first}-${last}] ${what}`);
  }

  vendor(m: RegExpMatchArray): void {
    this.#known++;
    this.#bios ??= { vendor: m[1] ?? '', version: (m[2] ?? '').trim(), product: (m[3] ?? '').trim() };
  }

  broken(m: RegExpMatchArray): void {
    this.#known++;
    const name = `0000:${(m[1] ?? '').toLowerCase()}`;
    if (this.#broken.has(name) || !this.#room()) return;
    this.#broken.add(name);
    this.odd(`the kernel calls the RMRR scope of ${name} broken and takes its one hop literally`);
  }

  refused(m: RegExpMatchArray, rule: Refusal['rule']): void {
    this.#known++;
    const [, driver, name] = m;
    const device = name?.toLowerCase();
    const key = `${rule} ${device ?? this.#record.line}`;
    if (this.#refusals.has(key) || !this.#room()) return;
    this.#refusals.set(key, { device, driver: driver?.replace(/^.*\]/, ''), rule, line: this.#record.line });
    if (device === undefined) this.odd('a refusal that names no device');
  }

  group(m: RegExpMatchArray): void {
    this.#known++;
    if (this.#room()) this.#groups.set((m[1] ?? '').toLowerCase(), m[2] ?? '');
  }

  version(m: RegExpMatchArray): void {
    this.#known++;
    this.#kernel ??= m[1];
  }

  width(m: RegExpMatchArray): void {
    this.#known++;
    this.#width ??= Number(m[1]);
  }

  e820Line(m: RegExpMatchArray): void {
    const entry = e820Entry(m[0]);
    if (entry === undefined || this.#e820.length >= MAX_E820) return;
    this.#known++;
    this.#e820.push(entry);
  }

  finish(): KernelLog {
    const regions = [...this.#regions.values()].map((joined) => joined.region);
    for (const region of regions) {
      if (this.#warnings.full) break;
      if (region.pseudo === true) continue;
      flagRange('RMRR', region.base, region.limit, region.where, this.#width, this.#warnings);
      if (this.#e820.length > 0) checkE820(region, this.#e820, this.#warnings);
    }
    return {
      regions,
      rmrrBase: [...this.#ranges.rmrrBase.values()],
      notCovered: [...this.#ranges.notCovered.values()],
      badRmrr: [...this.#ranges.badRmrr.values()],
      brokenScope: [...this.#broken],
      refusals: [...this.#refusals.values()],
      ...this.#flags,
      kernel: this.#kernel,
      hostAddressWidth: this.#width,
      bios: this.#bios,
      groups: this.#groups,
      e820: this.#e820,
      knownLines: this.#known,
      warnings: this.#warnings.list(),
    };
  }

  get #where(): string {
    return `line ${this.#record.line}`;
  }

  #join(first: string, last: string): Joined | undefined {
    const base = this.#address(first);
    const limit = this.#address(last);
    if (base === undefined || limit === undefined) return undefined;
    this.#known++;
    const key = keyOf(base, limit);
    const known = this.#regions.get(key);
    if (known !== undefined) return known;
    if (!this.#room()) return undefined;
    const joined: Joined = {
      region: {
        source: 'dmesg',
        base,
        limit,
        segment: 0,
        type: 'direct',
        devices: [],
        where: this.#where,
        platform: 'intel',
      },
      names: new Set(),
    };
    this.#regions.set(key, joined);
    return joined;
  }

  #address(text: string): bigint | undefined {
    if (text.length <= 18) return BigInt(text);
    this.#warnings.add(this.#where, `${text} has more than 16 hex digits, not read`);
    return undefined;
  }

  #room(): boolean {
    this.#facts++;
    if (this.#facts === MAX_LOG_FACTS + 1)
      this.#warnings.add(this.#where, `more than ${MAX_LOG_FACTS} facts; further ones are not kept`);
    return this.#facts <= MAX_LOG_FACTS;
  }
}

function keyOf(base: bigint, limit: bigint): string {
  return `${base.toString(16)}-${limit.toString(16)}`;
}
