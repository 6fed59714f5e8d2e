// Teardown under the eyes of the device: L2's RAM is mapped while the device is quiet, so that it is gathered, and unmapped
// while the device is live. After every kick, and between any two host operations of one, the device's view is compared
// with what the guest still has. Units: 4 KiB pages; ranges are half-open.
import type { Policy } from '../../coalesce/settings.ts';
import { guestModel } from '../guest-model.ts';
import { Kick } from '../kick.ts';
import type { L2Layout, L2Pattern } from '../l2-memory.ts';
import { l2Layout } from '../l2-memory.ts';
import { PAGE_BYTES } from '../run-cursor.ts';
import { LabMachine } from './machine.ts';
import { hostPages } from './passed-check.ts';
import { Stamps } from './stamps.ts';

/** What is torn down. */
export interface TeardownOptions {
  /** Bytes of L2 RAM, at most 3 GiB: without the hole of a PC. */
  readonly l2Bytes: number;
  readonly pattern: L2Pattern;
  readonly policy: Policy;
  /** Size of the request queue. */
  readonly ring: number;
}

/** What the device saw. */
export interface TeardownResult {
  /** Entries, and gathered ones among them, when the device became live. */
  readonly entries: number;
  readonly gathered: number;
  /** Notifications with UNMAPs. */
  readonly kicks: number;
  readonly refused: number;
  readonly demotions: number;
  readonly windows: number;
  /** After a kick: pages that the guest still has and the device reaches not or wrongly, stamps that differ. */
  readonly wrongPages: number;
  readonly wrongBytes: number;
  /** After a kick: pages that were unmapped and can still be reached. */
  readonly stale: number;
  /** Between two host operations: pages that no request named and that could not be reached; and those further away. */
  readonly lost: number;
  readonly lostFar: number;
  readonly leftInHostTable: number;
}

/** Where L2's hole begins: below, a page's number is its index. */
const MOST_BYTES = 3 * 2 ** 30;
const ENDPOINT = 0x28;
const DOMAIN = 1;
/** Pages behind a kick's UNMAPs that are looked at between host operations: two windows. */
const NEAR = 1024;
/** After every so many kicks all pages are looked at; else those near the UNMAPs, on both sides. */
const ALL_EVERY = 16;
/** An entry that is cut ends before this many pages. */
const WINDOW = 576;

/** Maps quietly, unmaps live. @throws RangeError naming `l2Bytes`, and those of {@link l2Layout} and of the device. */
export function runTeardown(options: TeardownOptions): TeardownResult {
  const { l2Bytes, pattern, policy, ring } = options;
  if (l2Bytes > MOST_BYTES) throw new RangeError(`l2Bytes must be at most ${MOST_BYTES}, got ${l2Bytes}`);
  const layout = l2Layout({ bytes: l2Bytes, pattern, page: '4k' });
  const machine = new LabMachine({
    ram: layout.l1RamRanges,
    driverBase: 0x10_0000n,
    entryLimit: 65_535,
    endpoints: [{ id: ENDPOINT, passed: true }],
    requestQueueSize: ring,
    device: { policy },
  });
  const result = new Teardown(machine, layout).run();
  machine.close();
  return result;
}

class Teardown {
  readonly #machine: LabMachine;
  readonly #layout: L2Layout;
  readonly #stamps: Stamps;
  readonly #hostPage: (l1Page: number) => number;
  /** Pages below are unmapped or named by the requests at hand. */
  #gone = 0;
  #wrongPages = 0;
  #wrongBytes = 0;
  #stale = 0;
  #lost = 0;
  #lostFar = 0;

  constructor(machine: LabMachine, layout: L2Layout) {
    this.#machine = machine;
    this.#layout = layout;
    this.#stamps = new Stamps(layout);
    this.#hostPage = hostPages(machine);
  }

  run(): TeardownResult {
    const { driver, memory, iommu, host } = this.#machine;
    const model = guestModel('6.12', { pageSizeMask: iommu.core.state.geometry.pageSizeMask });
    this.#stamps.write(memory);
    driver.start();
    this.#machine.setBusMaster(ENDPOINT, false);
    driver.attach(DOMAIN, ENDPOINT);
    driver.send(model.mapL2(this.#layout, DOMAIN));
    this.#machine.setBusMaster(ENDPOINT, true);
    const { entries, gathered } = this.#stats();
    this.#compare(Infinity);
    const stop = host.onOperation(() => this.#lookAround());
    const kick = new Kick(driver.ringCapacity);
    const unmaps = model.unmapL2(this.#layout, DOMAIN);
    let kicks = 0;
    while (unmaps.next(kick)) {
      kicks++;
      const last = kick.count - 1;
      this.#gone = kick.iovaPage[last]! + kick.pages[last]!;
      driver.sendKick(kick);
      this.#compare(kicks % ALL_EVERY === 0 ? Infinity : NEAR);
    }
    this.#compare(Infinity);
    stop();
    const { demotions, windows } = this.#stats();
    return {
      entries,
      gathered,
      kicks,
      refused: driver.totals.refused,
      demotions,
      windows: windows.count,
      wrongPages: this.#wrongPages,
      wrongBytes: this.#wrongBytes,
      stale: this.#stale,
      lost: this.#lost,
      lostFar: this.#lostFar,
      leftInHostTable: this.#machine.entriesNow,
    };
  }

  #stats() {
    return this.#machine.iommu.core.stats().contexts[0]!;
  }

  /** At rest, up to `reach` pages away: what is unmapped is out of reach, and what is left is right. */
  #compare(reach: number): void {
    const prober = this.#machine.host.prober(ENDPOINT);
    const end = Math.min(this.#gone + reach, this.#layout.pages);
    for (let page = Math.max(0, this.#gone - reach); page < this.#gone; page++) {
      if (prober.physicalPageAt(page, false) >= 0) this.#stale++;
    }
    for (let page = this.#gone; page < end; page++) {
      if (prober.physicalPageAt(page, true) !== this.#hostPage(this.#layout.physPageOf(page))) this.#wrongPages++;
      if (!this.#stamps.has(page)) continue;
      if (!this.#stamps.matches(page, prober.read(BigInt(page) * BigInt(PAGE_BYTES), 8))) this.#wrongBytes++;
    }
  }

  /** Between two host operations: pages that no request names stay reachable, but for those of an entry that is cut. */
  #lookAround(): void {
    const prober = this.#machine.host.prober(ENDPOINT);
    const end = Math.min(this.#gone + NEAR, this.#layout.pages);
    for (let page = this.#gone; page < end; page++) {
      if (prober.physicalPageAt(page, true) >= 0) continue;
      this.#lost++;
      if (page >= this.#gone + WINDOW) this.#lostFar++;
    }
  }
}
