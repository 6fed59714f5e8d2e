// The main job: an L1 guest passes a device to an L2. L1 boots in bypass, probes, attaches, maps L2's RAM through the
// ring; the passed device does DMA through the simulated host, an emulated device through the IOMMU; then all is undone.
// Every step is checked, by bytes where bytes move.
import type { GatherMode, Policy } from '../../coalesce/settings.ts';
import type { ContextStats } from '../../iommu/stats.ts';
import type { GuestModel, GuestModelName } from '../guest-model.ts';
import { guestModel } from '../guest-model.ts';
import type { IommuDriver } from '../iommu-driver.ts';
import type { KickSource } from '../kick.ts';
import { Kick } from '../kick.ts';
import type { L2Layout, L2PageSize, L2Pattern } from '../l2-memory.ts';
import { l2Layout } from '../l2-memory.ts';
import type { ReservedRegion } from '../../base/reserved.ts';
import { Checks } from './checks.ts';
import { checkEmulatedDevice } from './emulated-check.ts';
import type { LabBacking } from './machine.ts';
import { LabMachine, PC_MSI } from './machine.ts';
import { checkBypass, checkLiveDevice, checkReadOnly, probeAllPages } from './passed-check.ts';
import type { PageHole } from './reserved-holes.ts';
import { freePages, holesOf, runsAround } from './reserved-holes.ts';
import { Stamps } from './stamps.ts';
import type { RunCursor } from '../run-cursor.ts';

/** Endpoint ids: PCI 00:05.0 is passed through, 00:03.0 is emulated. */
export const PASSED = 0x28;
export const EMULATED = 0x18;

/** Domains in the order in which Linux uses them. */
export const DOMAIN = { passedDefault: 0, emulated: 1, blocking: 2, l2: 3 } as const;

/** What a run does. */
export interface NestedRunOptions {
  /** Bytes of L2 RAM, from guest-physical 0, with the hole of a PC at 3-4 GiB. */
  readonly l2Bytes: number;
  /** How L2's RAM lies in L1's memory. */
  readonly pattern: L2Pattern;
  /** Unit of the pattern. */
  readonly page: L2PageSize;
  /** How L1's kernel sends requests. */
  readonly kernel: GuestModelName;
  readonly policy: Policy;
  /** Most live entries per host container. */
  readonly limit: number;
  readonly seed: number;
  /** Reserved regions of the passed endpoint (RMRR and MSI); default the MSI window of a PC. L2 has no memory there. */
  readonly reserved?: readonly ReservedRegion[];
  /** When scattered memory is gathered; default that of the device. */
  readonly gather?: GatherMode;
  /** Largest entry that joining makes, in bytes; default that of the device. */
  readonly maxEntryBytes?: number;
  /** What L1's RAM is made of; default memfd. */
  readonly backing?: LabBacking;
  /** Where it lies in the host's memory; default contiguous. */
  readonly physical?: 'contiguous' | 'scattered';
  /** True: the device's bus-master bit is set while L2 is mapped (default: clear, as a Linux driver leaves it). */
  readonly liveMap?: boolean;
  /** The same while L2 is unmapped. */
  readonly liveUnmap?: boolean;
  /** Size of the request queue; default 1024. */
  readonly ring?: number;
  /** Called now and then with what is being done. */
  readonly progress?: (step: string) => void;
  /** Milliseconds; for `seconds` only. */
  readonly clock: () => number;
}

/** What a run saw. */
export interface NestedResult {
  readonly l2Bytes: number;
  readonly pattern: L2Pattern;
  readonly page: L2PageSize;
  readonly kernel: GuestModelName;
  readonly policy: Policy;
  readonly limit: number;
  readonly requests: number;
  readonly kicks: number;
  /** Most live entries in one container, with the device live and every page read through the prober. */
  readonly hostEntriesPeak: number;
  readonly hostMapCalls: number;
  readonly hostUnmapCalls: number;
  /** Entries, map calls and IOPTEs that L2's RAM alone took, counted when the device is live. */
  readonly l2: L2Cost;
  /** Virtual windows that gathered scattered pages into one entry. */
  readonly gatherWindows: number;
  /** Requests that were refused. */
  readonly refused: number;
  /** Moments in which a live mapping that no request touched had no access. */
  readonly windows: number;
  /** Pages that L2's VMM left out because they are reserved for the passed device. */
  readonly reservedPages: number;
  /** Pages of L2 RAM that the device could not reach: exactly those whose MAP was refused, or a check fails. */
  readonly unreachablePages: number;
  readonly leftInGuestTable: number;
  readonly leftInHostTable: number;
  readonly seconds: number;
  /** How the guest and the embedder were told of refusals. */
  readonly told: Readonly<Record<string, number>>;
  /** What did not hold; empty when all is well (refusals are not checks). */
  readonly failedChecks: readonly string[];
  /** Statistics of the host contexts: L2 mapped and the device quiet unless asked otherwise, then live, and at the end. */
  readonly contexts: Readonly<Record<'mapped' | 'live' | 'end', readonly ContextStats[]>>;
}

/** What L2's RAM costs the host. */
export interface L2Cost {
  readonly entries: number;
  readonly mapCalls: number;
  /** IOPTEs by size in bytes. */
  readonly ioptes: ReadonlyMap<bigint, number>;
}

/**
 * Runs the job once.
 * @throws RangeError or TypeError of {@link l2Layout} for an impossible size or pattern, or of the device for a size of a
 * ring or of an entry.
 */
export function runNested(options: NestedRunOptions): NestedResult {
  const started = options.clock();
  const { l2Bytes, pattern, page, seed } = options;
  const layout = l2Layout({ bytes: l2Bytes, pattern, page, seed });
  const machine = new LabMachine({
    ram: layout.l1RamRanges,
    driverBase: 0x10_0000n,
    entryLimit: options.limit,
    endpoints: [
      { id: PASSED, passed: true, reserved: options.reserved ?? [PC_MSI] },
      { id: EMULATED, passed: false },
    ],
    ...(options.backing === undefined ? {} : { backing: options.backing }),
    ...(options.physical === undefined ? {} : { physical: options.physical }),
    ...(options.ring === undefined ? {} : { requestQueueSize: options.ring }),
    device: {
      policy: options.policy,
      ...(options.gather === undefined ? {} : { gather: options.gather }),
      ...(options.maxEntryBytes === undefined ? {} : { maxEntryBytes: options.maxEntryBytes }),
    },
  });
  const checks = new Checks();
  const run = new NestedRun(machine, layout, options, checks);
  run.boot();
  run.mapL2();
  run.useDevices();
  run.tearDown();
  const seconds = (options.clock() - started) / 1000;
  return run.result(seconds);
}

const COUNTS = ['requests', 'kicks', 'map', 'unmap'] as const;
type JobCounts = Record<(typeof COUNTS)[number], number>;

class NestedRun {
  readonly #machine: LabMachine;
  readonly #layout: L2Layout;
  readonly #options: NestedRunOptions;
  readonly #checks: Checks;
  readonly #model: GuestModel;
  readonly #stamps: Stamps;
  readonly #holes: readonly PageHole[];
  #refusedPages = 0;
  #reserved = 0;
  #unreachable = 0;
  #leftInHostTable = 0;
  #leftInGuestTable = 0;
  #peak = 0;
  #l2: L2Cost = { entries: 0, mapCalls: 0, ioptes: new Map() };
  readonly #contexts: Record<'mapped' | 'live' | 'end', readonly ContextStats[]> = { mapped: [], live: [], end: [] };
  readonly #records = { refusalRecords: 0, faultRecords: 0 };
  readonly #besides: JobCounts = { requests: 0, kicks: 0, map: 0, unmap: 0 };

  constructor(machine: LabMachine, layout: L2Layout, options: NestedRunOptions, checks: Checks) {
    this.#machine = machine;
    this.#layout = layout;
    this.#options = options;
    this.#checks = checks;
    const { pageSizeMask } = machine.iommu.core.state.geometry;
    this.#model = guestModel(options.kernel, { pageSizeMask });
    this.#stamps = new Stamps(layout);
    this.#holes = holesOf(machine.iommu.core.reservedRegions(PASSED));
  }

  /** Firmware in bypass, then L1's kernel finds both endpoints. */
  boot(): void {
    this.#say('boot');
    checkBypass(this.#machine, PASSED, this.#holes, this.#checks);
    const { driver } = this.#machine;
    driver.start();
    driver.send(this.#model.bringUp({ endpoint: PASSED, domain: DOMAIN.passedDefault }));
    driver.send(this.#model.bringUp({ endpoint: EMULATED, domain: DOMAIN.emulated }));
    const { regions } = driver.probe(PASSED).properties;
    const reported = this.#machine.iommu.core.reservedRegions(PASSED);
    this.#checks.that('PROBE reports the reserved regions', regions.length === reported.length);
    this.#machine.setBusMaster(PASSED, false);
  }

  /** L1's VFIO opens the device, maps L2's RAM at IOVA = L2 guest-physical address, and its driver enables bus mastering. */
  mapL2(): void {
    this.#say('map L2');
    const { driver, memory } = this.#machine;
    this.#stamps.write(memory);
    const { blocking: blockingDomain, l2: domain } = DOMAIN;
    const testPage = freePages(this.#holes, 2);
    driver.send(this.#model.openVfio({ endpoint: PASSED, domain, blockingDomain, scratchPage: 0x300, testPage }));
    const calls = this.#machine.hostCalls.map;
    this.#machine.setBusMaster(PASSED, this.#options.liveMap === true);
    this.#refusedPages = sendCountingRefusedPages(driver, this.#model.mapRuns(this.#runs(), domain));
    this.#note('mapped');
    this.#machine.setBusMaster(PASSED, true);
    this.#note('live');
    const { entries, ioptes } = this.#machine.contexts.get(PASSED)!.stats();
    this.#l2 = { entries, ioptes, mapCalls: this.#machine.hostCalls.map - calls };
  }

  /** The device is live: every page is read through the prober; the emulated device works beside it. */
  useDevices(): void {
    this.#say('probe every page');
    const machine = this.#machine;
    const seen = probeAllPages(machine, PASSED, this.#layout, this.#stamps, this.#holes);
    this.#reserved = seen.reserved;
    this.#unreachable = seen.unreachable;
    this.#checks.that('no reserved page can be reached', seen.reservedReached === 0, `${seen.reservedReached} can`);
    this.#checks.that('every reachable page is the right one', seen.wrong === 0, `${seen.wrong} pages differ`);
    this.#checks.that('right bytes on stamped pages', seen.wrongBytes === 0, `${seen.wrongBytes} of ${seen.stamped}`);
    this.#checks.that(
      'only refused pages are unreachable',
      seen.unreachable === this.#refusedPages,
      `${seen.unreachable} unreachable, ${this.#refusedPages} refused`,
    );
    const [context] = machine.iommu.core.stats().contexts;
    this.#peak = context?.domainEntriesPeak ?? 0;
    this.#checks.that('device and host count the same entries', context?.entries === machine.entriesNow);
    this.#readEvents();
    checkLiveDevice(machine, PASSED, this.#layout, this.#checks);
    this.#aside(() => checkEmulatedDevice(machine, EMULATED, DOMAIN.emulated, this.#checks));
    this.#readEvents();
  }

  /** L2's memory goes, read-only rights are tried, the device returns to its default domain. */
  tearDown(): void {
    this.#say('tear down');
    const { driver, iommu } = this.#machine;
    this.#machine.setBusMaster(PASSED, this.#options.liveUnmap === true);
    driver.send(this.#model.unmapRuns(this.#runs(), DOMAIN.l2));
    this.#machine.setBusMaster(PASSED, true);
    this.#aside(() => checkReadOnly(this.#machine, PASSED, DOMAIN.l2, this.#checks));
    this.#machine.setBusMaster(PASSED, false);
    this.#leftInGuestTable = iommu.core.stats().mappings;
    this.#leftInHostTable = this.#machine.entriesNow;
    this.#checks.that('the guest table is empty', this.#leftInGuestTable === 0, `${this.#leftInGuestTable} left`);
    this.#checks.that('the host table is empty', this.#leftInHostTable === 0, `${this.#leftInHostTable} left`);
    const { blocking: blockingDomain, passedDefault: defaultDomain } = DOMAIN;
    driver.send(this.#model.closeVfio({ endpoint: PASSED, blockingDomain, defaultDomain }));
    this.#readEvents();
    this.#note('end');
  }

  result(seconds: number): NestedResult {
    const { l2Bytes, pattern, page, kernel, policy, limit } = this.#options;
    const counts = this.#counts();
    const [context] = this.#machine.iommu.core.stats().contexts;
    const result: NestedResult = {
      l2Bytes,
      pattern,
      page,
      kernel,
      policy,
      limit,
      requests: counts.requests - this.#besides.requests,
      kicks: counts.kicks - this.#besides.kicks,
      hostEntriesPeak: this.#peak,
      hostMapCalls: counts.map - this.#besides.map,
      hostUnmapCalls: counts.unmap - this.#besides.unmap,
      l2: this.#l2,
      gatherWindows: context?.gathersMade ?? 0,
      refused: this.#machine.driver.totals.refused,
      windows: context?.windows.count ?? 0,
      reservedPages: this.#reserved,
      unreachablePages: this.#unreachable,
      leftInGuestTable: this.#leftInGuestTable,
      leftInHostTable: this.#leftInHostTable,
      seconds,
      told: { ...this.#records, events: this.#machine.eventCounts.get('host-refusal') ?? 0 },
      failedChecks: this.#checks.failed,
      contexts: this.#contexts,
    };
    this.#machine.close();
    return result;
  }

  #note(when: 'mapped' | 'live' | 'end'): void {
    this.#contexts[when] = this.#machine.iommu.core.stats().contexts;
  }

  /** L2's memory as its VMM gives it to VFIO: without what is reserved for the device. */
  #runs(): RunCursor {
    return runsAround(this.#layout.runs(), this.#holes);
  }

  /** Runs checks whose requests and host calls are not part of the job's figures. */
  #aside(action: () => void): void {
    const before = this.#counts();
    action();
    const after = this.#counts();
    for (const key of COUNTS) this.#besides[key] += after[key] - before[key];
  }

  #counts(): JobCounts {
    const { requests, counters } = this.#machine.iommu.core.stats();
    const sum = Object.values(requests).reduce((total, count) => total + count, 0);
    return { requests: sum, kicks: counters['kicks'] ?? 0, ...this.#machine.hostCalls };
  }

  #readEvents(): void {
    for (const { reason } of this.#machine.driver.events()) {
      this.#records[reason === 0 ? 'refusalRecords' : 'faultRecords']++;
    }
  }

  #say(step: string): void {
    this.#options.progress?.(step);
  }
}

/** Sends MAP requests and returns how many pages were refused. */
function sendCountingRefusedPages(driver: IommuDriver, source: KickSource): number {
  const kick = new Kick(driver.ringCapacity);
  const statuses = new Uint8Array(kick.capacity);
  let pages = 0;
  while (source.next(kick)) {
    if (driver.sendKick(kick, statuses) === 0) continue;
    for (let i = 0; i < kick.count; i++) if (statuses[i] !== 0) pages += kick.pages[i]!;
  }
  return pages;
}
