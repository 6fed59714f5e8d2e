// The virtio-iommu in front of two groups that the guest puts into one domain: they use one address space, ATTACH of the second
// maps and pins nothing, and what the guest asks for holds for both. Runs in the machine. Unit: 4 KiB pages.
import assert from 'node:assert/strict';
import { GuestRam } from '../../../src/host/guest-ram.ts';
import { IommufdContext } from '../../../src/host/iommufd.ts';
import { passthroughEndpoint } from '../../../src/host/reserved.ts';
import type { IommuEvent } from '../../../src/iommu/events.ts';
import { statusName } from '../../../src/iommu/status.ts';
import { VirtioIommu } from '../../../src/iommu/virtio-iommu.ts';
import { IommuDriver } from '../../../src/testing/iommu-driver.ts';
import { GuestMemory } from '../../../src/virtio/memory.ts';
import type { Reporter } from '../base/reporter.ts';
import { Edu } from '../host/edu.ts';
import type { GuestEnv } from '../host/guest-env.ts';
import { bindToVfio, groupOf } from '../host/guest-env.ts';
import { PEER, iommufdFiles } from './peer.ts';
import { pinnedPages } from './process.ts';

const K4 = 4096n;
const RAM_PAGES = 1024;
const RINGS = 0x100n * K4;
/** Guest page of what goes through the devices, and the I/O page that shows it. */
const OUT = 0x200;
/** I/O page and guest page of the mapping under test. */
const IOVA = 0x1000;
const TARGET = 0x300;
const FIRST = 0x20;
const SECOND = 0x28;
const TROUBLE = ['host-refusal', 'context-blocked', 'ring-broken'];

export async function run(report: Reporter, env: GuestEnv): Promise<void> {
  for (const mode of ['large', 'cut'] as const) {
    const pins = pinnedPages();
    const machine = new Machine(env, mode);
    try {
      await sharing(report, mode, machine);
    } finally {
      machine.close();
    }
    await report.check(`device, ${mode}: nothing is left`, () => {
      assert.deepEqual([pinnedPages(), iommufdFiles(), machine.trouble], [pins, 0, []]);
    });
  }
}

async function sharing(report: Reporter, mode: string, machine: Machine): Promise<void> {
  const { first, second } = machine;
  const check = (title: string, step: () => Promise<void>): Promise<boolean> =>
    report.check(`device, ${mode}: ${title}`, step);
  await check('in bypass both reach guest RAM, which is pinned once', async () => {
    machine.driver.start();
    assert.deepEqual(
      [await machine.copies(first, OUT, OUT, TARGET, TARGET), pinnedPages() - machine.pins],
      [true, RAM_PAGES],
    );
    assert.ok(await machine.copies(second, OUT, OUT, TARGET, TARGET));
  });
  await check('ATTACH of the second maps and pins nothing', async () => {
    assert.equal(machine.attach(1, FIRST), 'OK');
    assert.deepEqual([machine.map(1, OUT, 1, OUT), machine.map(1, IOVA, 64, TARGET)], ['OK', 'OK']);
    const areas = machine.ioasOf(first).areaCount;
    assert.equal(machine.attach(1, SECOND), 'OK');
    assert.deepEqual([machine.ioasOf(second) === machine.ioasOf(first), pinnedPages() - machine.pins], [true, 65]);
    assert.equal(machine.ioasOf(second).areaCount, areas);
    for (const edu of [first, second]) {
      for (const at of [0, 63]) assert.ok(await machine.copies(edu, OUT, OUT, IOVA + at, TARGET + at));
    }
  });
  await check('MAP and UNMAP hold for both', async () => {
    assert.equal(machine.map(1, IOVA + 64, 8, TARGET + 64), 'OK');
    assert.equal(pinnedPages() - machine.pins, 73);
    assert.ok(await machine.copies(second, OUT, OUT, IOVA + 71, TARGET + 71));
    assert.equal(machine.unmap(1, IOVA, 64), 'OK');
    for (const edu of [first, second]) {
      assert.equal(await machine.copies(edu, OUT, OUT, IOVA + 5, TARGET + 5), false);
      assert.ok(await machine.copies(edu, OUT, OUT, IOVA + 64, TARGET + 64));
    }
  });
  await check('the first goes to another domain, and the second keeps all', async () => {
    assert.equal(machine.attach(2, FIRST), 'OK');
    assert.notEqual(machine.ioasOf(second), machine.ioasOf(first));
    assert.ok(await machine.copies(second, OUT, OUT, IOVA + 64, TARGET + 64));
    assert.equal(machine.map(2, OUT, 1, OUT), 'OK');
    assert.equal(await machine.copies(first, OUT, OUT, IOVA + 64, TARGET + 64), false);
    assert.equal(machine.map(2, IOVA, 1, TARGET + 9), 'OK');
    assert.ok(await machine.copies(first, OUT, OUT, IOVA, TARGET + 9));
    assert.equal(await machine.copies(second, OUT, OUT, IOVA, TARGET + 9), false);
  });
  await check('the second follows, and back', async () => {
    assert.equal(machine.attach(2, SECOND), 'OK');
    assert.ok(await machine.copies(second, OUT, OUT, IOVA, TARGET + 9));
    assert.equal(machine.attach(3, FIRST), 'OK');
    assert.equal(await machine.copies(first, OUT, OUT, IOVA, TARGET + 9), false);
    assert.ok(await machine.copies(second, OUT, OUT, IOVA, TARGET + 9));
  });
  await check('a system reset gives both bypass again', async () => {
    machine.iommu.systemReset();
    machine.driver.start();
    for (const edu of [first, second]) assert.ok(await machine.copies(edu, OUT, OUT, TARGET, TARGET));
    assert.equal(pinnedPages() - machine.pins, RAM_PAGES);
  });
}

class Machine {
  /** Pinned pages before it. */
  readonly pins = pinnedPages();
  readonly ram = GuestRam.create({ size: BigInt(RAM_PAGES) * K4, preallocate: true });
  readonly memory = new GuestMemory();
  readonly iommu: VirtioIommu;
  readonly driver: IommuDriver;
  readonly first: Edu;
  readonly second: Edu;
  /** Types of the events that tell of trouble with a host. */
  readonly trouble: string[] = [];
  readonly #contexts: ReadonlyMap<Edu, IommufdContext>;
  readonly #words: Uint32Array;

  constructor(env: GuestEnv, mode: 'large' | 'cut') {
    this.memory.addRegion(this.ram.region(0n));
    this.#words = new Uint32Array(this.ram.windows[0]!);
    bindToVfio(PEER);
    const passed = [
      { device: env.edu.name, id: FIRST },
      { device: PEER, id: SECOND },
    ].map((each) => ({ ...each, context: IommufdContext.open({ group: groupOf(each.device), mode }) }));
    const [first, second] = passed.map(({ context }) => new Edu(context.devices[0]!)) as [Edu, Edu];
    [this.first, this.second] = [first, second];
    this.#contexts = new Map([
      [first, passed[0]!.context],
      [second, passed[1]!.context],
    ]);
    for (const edu of [first, second]) edu.start();
    this.iommu = new VirtioIommu({ memory: this.memory, endpoints: passed.map((each) => passthroughEndpoint(each)) });
    this.iommu.core.onEvent((event: IommuEvent) => {
      if (TROUBLE.includes(event.type)) this.trouble.push(event.type);
    });
    this.driver = new IommuDriver({ device: this.iommu.transport, memory: this.memory, base: RINGS });
  }

  ioasOf(edu: Edu): IommufdContext['ioas'] {
    return this.#contexts.get(edu)!.ioas;
  }

  attach(domain: number, endpoint: number): string {
    return statusName(this.driver.attach(domain, endpoint).status);
  }

  map(domain: number, iova: number, pages: number, target: number): string {
    const end = BigInt(iova + pages) * K4 - 1n;
    return statusName(this.driver.map(domain, BigInt(iova) * K4, end, BigInt(target) * K4, 3).status);
  }

  unmap(domain: number, iova: number, pages: number): string {
    return statusName(this.driver.unmap(domain, BigInt(iova) * K4, BigInt(iova + pages) * K4 - 1n).status);
  }

  /** True when the device copies a fresh word from one I/O page, which shows `from`, to another, which shows `to`. */
  async copies(edu: Edu, source: number, from: number, target: number, to: number): Promise<boolean> {
    const word = 0x4000_0000 | ((target + this.#words[from * 1024]!) & 0xff_ffff);
    this.#words[from * 1024] = word;
    this.#words[to * 1024] = 0;
    await edu.copy(BigInt(source) * K4, BigInt(target) * K4, 4);
    return this.#words[to * 1024] === word;
  }

  close(): void {
    this.iommu.close();
    for (const context of this.#contexts.values()) context.close();
    this.ram.close();
  }
}
