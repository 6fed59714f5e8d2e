// What a report on reserved host memory takes and gives. Plain data; report.ts computes it, report-json.ts spells it.
import type { AddressRange } from '../base/ranges.ts';
import type { Component, SharedPair } from './entanglement.ts';
import type { Eligibility, Verdict } from './eligibility.ts';
import type { GuestMode, Hole, RamLayout } from './holes.ts';
import type { Refusal } from './kernel-log.ts';
import type { KernelVersion } from './kernel-version.ts';
import type { HostRegion, RegionSource } from './region.ts';
import type { ResvMem, ResvMemOptions } from './resv-mem.ts';
import type { SysfsSnapshot } from './sysfs.ts';
import type { Warning } from './warnings.ts';

/** One source that was read. */
export interface ReportSource {
  readonly kind: RegionSource;
  /** File name or `live host`; stands before the place in warnings. */
  readonly name: string;
  readonly regions: readonly HostRegion[];
  readonly warnings: readonly Warning[];
}

/** Everything a report is made of. */
export interface ReportInput {
  readonly sources: readonly ReportSource[];
  /** PCI topology, classes and groups, when a /sys is at hand. */
  readonly snapshot?: SysfsSnapshot | undefined;
  /** The newest kernel known when undefined. */
  readonly kernel?: KernelVersion | undefined;
  /** True when `kernel` is only what the wording of a log tells. */
  readonly kernelFromWording?: boolean;
  /** `active`: the log proves it; `requested`: only the command line has it; `unknown`: nothing says so. */
  readonly relaxRmrr?: 'active' | 'requested' | 'unknown';
  /** Group of a device, from a log; a snapshot's groups come first. */
  readonly groups?: ReadonlyMap<string, string>;
  readonly refusals?: readonly Refusal[];
  /** Devices that some RMRR names although its range is not known, from a log. */
  readonly bound?: readonly string[];
  /** Class codes by device name, for offline sources. */
  readonly classes?: ReadonlyMap<string, number>;
  /** Devices that must be judged even if no source names them. */
  readonly named?: readonly string[];
  /** `arch` is found out from the sources when undefined. */
  readonly resv?: ResvMemOptions;
  /** Devices whose regions make the holes; all, and regions without a device, by default. */
  readonly holesFor?: readonly string[];
  /** For the holes; `bypass` by default. */
  readonly mode?: GuestMode;
  /** Guest RAM that the holes are cut out of. */
  readonly ram?: readonly AddressRange[] | undefined;
}

/** One device of a report. */
export interface ReportDevice {
  readonly name: string;
  readonly classCode: number | undefined;
  readonly group: string | undefined;
  /** Other members of its group. */
  readonly mates: readonly string[];
  readonly regions: readonly HostRegion[];
  readonly eligibility: Eligibility;
  /** The verdict in every era of Linux. */
  readonly byKernel: readonly {
    readonly kernels: string;
    readonly verdict: Verdict;
    readonly errno: string | undefined;
    readonly approximate: boolean;
  }[];
  /** What its endpoint would report; undefined when nothing can be reported (see the warnings). */
  readonly resv: ResvMem | undefined;
  readonly remedies: readonly string[];
}

/** The report. */
export interface RmrrReport {
  readonly kernel: KernelVersion;
  readonly relaxRmrr: 'active' | 'requested' | 'unknown';
  readonly arch: 'x86' | 'arm';
  /** Kinds of sources that were read, also those that list nothing. */
  readonly sources: readonly RegionSource[];
  readonly regions: readonly HostRegion[];
  readonly warnings: readonly Warning[];
  readonly devices: readonly ReportDevice[];
  readonly components: readonly Component[];
  readonly shared: readonly SharedPair[];
  readonly mode: GuestMode;
  readonly holes: readonly Hole[];
  /**
   * What the holes lose only because relaxable regions are reported, in bytes: guest RAM where its layout is known, else
   * addresses.
   */
  readonly relaxableCost: bigint;
  /** What the holes leave of the guest's RAM; undefined without a layout. */
  readonly layout: RamLayout | undefined;
  /** What the kernel refused in the logs. */
  readonly refusals: readonly Refusal[];
  readonly notes: readonly string[];
}
