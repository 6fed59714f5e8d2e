// Reader of Linux kernel logs: what they say of reserved memory (kernel-log-rules.ts has the words). A line that names a
// range only and a line that names a device and a range are joined by exact range; repeats at run time are counted once.
// Not a judge of devices. Limits are INCLUSIVE.
import type { AddressRange } from '../base/ranges.ts';
import type { DeviceRef } from './device-ref.ts';
import { formatDevice, parseDeviceName } from './device-ref.ts';
import type { E820Entry } from './e820.ts';
import { checkE820, e820Entry } from './e820.ts';
import type { LogFacts } from './kernel-log-rules.ts';
import { LOG_RULES } from './kernel-log-rules.ts';
import { IvmdFlag } from './ivrs.ts';
import type { KernelRecord } from './kernel-records.ts';
import { kernelRecords } from './kernel-records.ts';
import type { HostRegion, Platform } from './region.ts';
import { flagOverlaps, flagRange } from './region.ts';
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

const NAMES: Readonly<Record<Platform, string>> = { intel: 'RMRR', amd: 'IVMD', arm: 'RMR' };

type Mutable<T> = { -readonly [K in keyof T]: T[K] };
interface Joined {
  readonly region: Mutable<Omit<HostRegion, 'devices'>> & { readonly devices: DeviceRef[] };
  readonly names: Set<string>;
}

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
  for (const [key, pattern, act] of LOG_RULES) {
    if (!text.includes(key)) continue;
    for (const match of text.matchAll(pattern)) {
      act(state, match);
      found++;
    }
  }
  return found;
}

/** Facts gathered so far; one method per kind of record. */
class LogState implements LogFacts {
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
    else if (/RMRR base:|Setting identity map|bad RMRR|cover this RMRR|RMR descriptor\[|devid_start:/.test(text))
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
    this.#name(joined, ref);
    const { region } = joined;
    const isa = formatDevice(ref).endsWith(':00:1f.0') && region.base === 0n && region.limit === 0xff_ffffn;
    if (isa) region.pseudo = true;
  }

  /** `AMD-Vi: IVMD_TYPE…`, printed under amd_iommu_dump: addresses as Linux aligned them, an EXCLUSIVE end. */
  ivmd(m: RegExpMatchArray): void {
    const [, first = '', last = '', start = '', end = '', flags = ''] = m;
    const after = BigInt(`0x${end}`);
    if (after === 0n) return;
    const joined = this.#join(`0x${start}`, `0x${(after - 1n).toString(16)}`, 'amd');
    if (joined === undefined) return;
    if ((Number.parseInt(flags, 16) & IvmdFlag.exclusion) !== 0) joined.region.exclusion = true;
    const from = parseDeviceName(first.toLowerCase());
    const to = parseDeviceName(last.toLowerCase());
    if (from?.kind !== 'pci' || to?.kind !== 'pci') {
      this.odd(`${first} or ${last} is no PCI device`);
      return;
    }
    const { segment, rid } = from;
    this.#name(joined, rid === to.rid ? from : { kind: 'pci-range', segment, first: rid, last: to.rid });
  }

  /** `IORT: … RMR descriptor[…]`: printed only for odd ones, names no device, does not say whether it is relaxable. */
  rmr(m: RegExpMatchArray): void {
    const [, first = '', last = '', usedFirst = '', usedLast = ''] = m;
    const joined = this.#join(first, last, 'arm');
    if (joined === undefined) return;
    if (usedFirst === '') {
      this.odd(`the kernel says: ${m[0]}`);
      return;
    }
    const start = this.#address(usedFirst);
    const end = this.#address(usedLast);
    if (start === undefined || end === undefined || end < start) return;
    joined.region.effective = { start, end };
    this.odd(`the kernel calls RMR [${first}-${last}] not aligned to 64 KiB and uses [${usedFirst}-${usedLast}]`);
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
      flagRange(
        NAMES[region.platform ?? 'intel'],
        region.base,
        region.limit,
        region.where,
        this.#width,
        this.#warnings,
      );
      if (this.#e820.length > 0 && region.platform === 'intel') checkE820(region, this.#e820, this.#warnings);
    }
    const firmware = regions.filter((region) => region.pseudo !== true);
    flagOverlaps('reserved range', firmware, this.#warnings);
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

  #name({ region, names }: Joined, ref: DeviceRef): void {
    if (names.size === 0 && (ref.kind === 'pci' || ref.kind === 'pci-range')) region.segment = ref.segment;
    const name = formatDevice(ref);
    if (names.has(name) || !this.#room()) return;
    names.add(name);
    region.devices.push(ref);
  }

  #join(first: string, last: string, platform: Platform = 'intel'): Joined | undefined {
    const base = this.#address(first);
    const limit = this.#address(last);
    if (base === undefined || limit === undefined) return undefined;
    this.#known++;
    const key = keyOf(base, limit);
    const known = this.#regions.get(key);
    if (known !== undefined) return known;
    if (!this.#room()) return undefined;
    const where = this.#where;
    const region: Joined['region'] = { source: 'dmesg', base, limit, segment: 0, type: 'direct', devices: [], where };
    region.platform = platform;
    const joined: Joined = { region, names: new Set() };
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
