// An L1 machine on the real host: RAM in a memfd, this package's device in front of a VFIO container, the driver that L1's
// kernel would be, and the edu device for DMA. What src/testing/lab is on the simulated host. Runs in the virtual machine.
// Units: L2 pages (4 KiB), which are IOVA pages as well; addresses are bigint bytes.
import assert from 'node:assert/strict';
import { GuestRam } from '../../../src/host/guest-ram.ts';
import { passthroughEndpoint } from '../../../src/host/reserved.ts';
import type { VfioDevice } from '../../../src/host/vfio-device.ts';
import { VfioType1Context } from '../../../src/host/vfio-type1.ts';
import type { IommuEvent } from '../../../src/iommu/events.ts';
import type { IommuOptions } from '../../../src/iommu/options.ts';
import type { ContextStats } from '../../../src/iommu/stats.ts';
import { statusName } from '../../../src/iommu/status.ts';
import { VirtioIommu } from '../../../src/iommu/virtio-iommu.ts';
import { guestModel } from '../../../src/testing/guest-model.ts';
import type { GuestModel, GuestModelName } from '../../../src/testing/guest-model.ts';
import { IommuDriver } from '../../../src/testing/iommu-driver.ts';
import { GuestMemory } from '../../../src/virtio/memory.ts';
import type { MemoryRegion } from '../../../src/virtio/memory.ts';
import { Edu } from './edu.ts';
import type { GuestEnv } from './guest-env.ts';
import { withEntryLimit } from './guest-env.ts';

const PAGE = 4096;
/** Length of all windows of a GuestRam but the last one. */
const WINDOW_BYTES = 2 ** 30;
/** L1's memory for its rings. */
const DRIVER_BASE = 0x10_0000n;
/** Pages of L1 memory that nobody but the tests use. */
const SCRATCH_GPA = 0x80_0000;
/** Where {@link RealMachine.mapScratch} shows them: in the hole of L2's memory, below 4 GiB (see edu.ts). */
export const SCRATCH_IOVA = 0xd000_0000n;
const SCRATCH_PAGES = 16;
/** Bytes of a page that carry its stamp, and what one pass through the device's buffer holds. */
const STAMP = 64;
const STAMP_WORDS = STAMP / 4;
const STAMPS_PER_PASS = PAGE / STAMP;

/** Domains in the order in which Linux uses them. */
export const DOMAIN = { standard: 0, blocking: 1, l2: 2 } as const;

/** What a machine is built of. */
export interface RealMachineOptions {
  /** Bytes of L1 RAM from address 0. */
  readonly ramBytes: bigint;
  readonly hugePages?: '2M';
  /** dma_entry_limit; default that of the kernel. */
  readonly limit?: number;
  /** How L1's kernel sends requests; default Linux 6.12. */
  readonly kernel?: GuestModelName;
  readonly device?: IommuOptions;
}

/** One machine, booted as far as its firmware: in bypass, with bus master off. */
export class RealMachine {
  readonly ram: GuestRam;
  readonly memory = new GuestMemory();
  readonly region: MemoryRegion;
  readonly context: VfioType1Context;
  readonly passed: VfioDevice;
  readonly edu: Edu;
  readonly iommu: VirtioIommu;
  readonly driver: IommuDriver;
  readonly model: GuestModel;
  readonly events: IommuEvent[] = [];
  /** PCI device and function of the passed device. */
  readonly endpoint: number;
  readonly #words: readonly Uint32Array[];

  private constructor(env: GuestEnv, options: RealMachineOptions, context: VfioType1Context) {
    const { ramBytes, hugePages, kernel = '6.12', device } = options;
    this.context = context;
    this.ram = GuestRam.create({ size: ramBytes, ...(hugePages === undefined ? {} : { hugePages }) });
    this.region = this.memory.addRegion(this.ram.region(0n));
    this.#words = this.ram.windows.map((window) => new Uint32Array(window));
    this.passed = context.devices[0]!;
    this.edu = new Edu(this.passed);
    this.edu.start(false);
    const [, , slot = '0', fn = '0'] = /:(..):(..)\.(.)$/.exec(env.edu.name) ?? [];
    this.endpoint = (Number.parseInt(slot, 16) << 3) | Number(fn);
    this.iommu = new VirtioIommu({
      ...device,
      memory: this.memory,
      endpoints: [passthroughEndpoint({ context, device: env.edu.name, id: this.endpoint })],
    });
    this.iommu.core.onEvent((event) => this.events.push(event));
    this.driver = new IommuDriver({ device: this.iommu.transport, memory: this.memory, base: DRIVER_BASE });
    this.model = guestModel(kernel, { pageSizeMask: this.iommu.core.state.geometry.pageSizeMask });
  }

  /** Opens the group of the edu device and builds the machine. */
  static async open(env: GuestEnv, options: RealMachineOptions): Promise<RealMachine> {
    const open = (): VfioType1Context => VfioType1Context.open({ group: env.edu.group });
    const context = options.limit === undefined ? open() : await withEntryLimit(options.limit, open);
    try {
      return new RealMachine(env, options, context);
    } catch (error) {
      context.close();
      throw error;
    }
  }

  /** Runs `use` on a machine and ends it. */
  static async with(
    env: GuestEnv,
    options: RealMachineOptions,
    use: (machine: RealMachine) => void | Promise<void>,
  ): Promise<void> {
    const machine = await RealMachine.open(env, options);
    try {
      await use(machine);
    } finally {
      machine.close();
    }
  }

  /** L1's kernel finds the device, then its VFIO opens it for L2: DOMAIN.l2 without mappings. */
  boot(): void {
    const { driver, model, endpoint } = this;
    driver.start();
    assert.equal(driver.send(model.bringUp({ endpoint, domain: DOMAIN.standard })), 0);
    const open = { endpoint, domain: DOMAIN.l2, blockingDomain: DOMAIN.blocking, scratchPage: SCRATCH_GPA / PAGE };
    assert.equal(driver.send(model.openVfio(open)), 0);
  }

  /** As a VMM does it: the device model hears first of a 0 to 1 write, and last of a 1 to 0 write. */
  setBusMaster(on: boolean): void {
    if (on) this.iommu.core.setBusMaster(this.endpoint, true);
    assert.equal(this.passed.setBusMaster(on), 0);
    if (!on) this.iommu.core.setBusMaster(this.endpoint, false);
  }

  /** MAP of pages; answers the status by name. */
  map(iovaPage: number, pages: number, gpaPage: number, flags = 3): string {
    const start = BigInt(iovaPage) * 4096n;
    const end = start + BigInt(pages) * 4096n - 1n;
    const { status } = this.driver.map(DOMAIN.l2, start, end, BigInt(gpaPage) * 4096n, flags);
    return statusName(status);
  }

  /** UNMAP of pages; answers the status by name. */
  unmap(iovaPage: number, pages: number): string {
    const start = BigInt(iovaPage) * 4096n;
    const { status } = this.driver.unmap(DOMAIN.l2, start, start + BigInt(pages) * 4096n - 1n);
    return statusName(status);
  }

  /** Maps the tests' own pages at {@link SCRATCH_IOVA}: one host entry. */
  mapScratch(): void {
    assert.equal(this.map(Number(SCRATCH_IOVA) / PAGE, SCRATCH_PAGES, SCRATCH_GPA / PAGE), 'OK');
  }

  /** Bytes of L1 RAM; they do not cross a multiple of 1 GiB. */
  bytes(gpa: number, length: number): Uint8Array {
    return new Uint8Array(this.ram.windows[Math.floor(gpa / WINDOW_BYTES)]!, gpa % WINDOW_BYTES, length);
  }

  /** Gives an L1 page a stamp that no other page has. */
  stamp(gpaPage: number): void {
    const gpa = gpaPage * PAGE;
    const words = this.#words[Math.floor(gpa / WINDOW_BYTES)]!;
    const first = (gpa % WINDOW_BYTES) / 4;
    for (let i = 0; i < STAMP_WORDS; i++) words[first + i] = stampWord(gpaPage, i);
  }

  /**
   * Has the device read the stamps of IOVA pages and write them to the scratch pages, and compares them with those of the L1
   * pages that should be there.
   */
  async readBack(pairs: readonly (readonly [iovaPage: number, gpaPage: number])[]): Promise<void> {
    const wrong: string[] = [];
    for (let first = 0; first < pairs.length; first += STAMPS_PER_PASS) {
      const pass = pairs.slice(first, first + STAMPS_PER_PASS);
      for (const [i, [iovaPage]] of pass.entries()) await this.edu.load(BigInt(iovaPage) * 4096n, STAMP, i * STAMP);
      this.bytes(SCRATCH_GPA, PAGE).fill(0xee);
      await this.edu.store(SCRATCH_IOVA, pass.length * STAMP);
      for (const [i, [iovaPage, gpaPage]] of pass.entries()) {
        const seen = new Uint32Array(this.ram.windows[0]!, SCRATCH_GPA + i * STAMP, STAMP_WORDS);
        const bad = seen.findIndex((word, at) => word !== stampWord(gpaPage, at));
        if (bad >= 0) wrong.push(`page ${iovaPage}: ${hexOf(seen[bad]!)}, not ${hexOf(stampWord(gpaPage, bad))}`);
      }
    }
    assert.deepEqual(wrong, []);
  }

  /** Has the device write to an IOVA page; true when that changed the L1 page, with exactly the bytes that it has. */
  async writes(iovaPage: number, gpaPage: number): Promise<boolean> {
    const marks = this.bytes(SCRATCH_GPA + PAGE, STAMP);
    for (let i = 0; i < STAMP; i++) marks[i] = (iovaPage * 31 + i * 7 + 1) & 0xff;
    const target = this.bytes(gpaPage * PAGE + 2048, STAMP).fill(0);
    await this.edu.load(SCRATCH_IOVA + BigInt(PAGE), STAMP);
    await this.edu.store(BigInt(iovaPage) * 4096n + 2048n, STAMP);
    if (target.every((byte) => byte === 0)) return false;
    assert.deepEqual(target, marks);
    return true;
  }

  /** Statistics of the host context. */
  get stats(): ContextStats {
    return this.iommu.core.stats().contexts[0]!;
  }

  /** Entries that the kernel says are taken. */
  get kernelEntries(): number {
    return this.context.limits.entryLimit - this.context.entriesLeft();
  }

  close(): void {
    this.iommu.close();
    this.context.close();
    this.memory.removeRegion(this.region);
    this.ram.close();
  }
}

/** Word `index` of the stamp of an L1 page. */
function stampWord(gpaPage: number, index: number): number {
  return Math.imul(gpaPage * STAMP_WORDS + index + 1, 0x9e37_79b1) >>> 0;
}

function hexOf(word: number): string {
  return `0x${word.toString(16)}`;
}
