// The physical edu device of the L0 machine, passed through by `serve` to a client that is a test: the way of each byte that a
// guest's VFIO would move, in one level of emulation. The guest's RAM is a memfd, its virtio-iommu driver runs here.
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { EventCounter } from '../../../src/host/event-counter.ts';
import { GuestRam } from '../../../src/host/guest-ram.ts';
import { VfioType1Context } from '../../../src/host/vfio-type1.ts';
import { IommuDriver } from '../../../src/testing/iommu-driver.ts';
import { PciDriver } from '../../../src/testing/pci-driver.ts';
import { IrqIndex } from '../../../src/vfio-user/abi.ts';
import { GuestMemory } from '../../../src/virtio/memory.ts';
import type { VirtioPciFunction } from '../../../src/virtio/pci/virtio-pci-function.ts';
import type { HostReport } from '../../../src/cli/serve-vfio-report.ts';
import type { Reporter } from '../base/reporter.ts';
import { Edu } from '../host/edu.ts';
import type { GuestEnv } from '../host/guest-env.ts';
import { dmarFaults } from './dmar-faults.ts';
import { CONFIG_REGION, Remote } from './remote.ts';
import { Served } from './served.ts';

const PAGE = 4096;
const RAM_BYTES = 64n * 1024n * 1024n;
const RAM_PAGES = Number(RAM_BYTES) / PAGE;
/** Endpoint id of a function at 4.0, and a domain for it. */
const ENDPOINT = 0x20;
const DOMAIN = 1;
/** Guest-physical pages of the test; not neighbours. */
const FROM = 0x80_0000;
const TO = 0x90_0000;
/** I/O virtual addresses, far from the physical ones and from each other. */
const FROM_IOVA = 0x1000_0000n;
const TO_IOVA = 0x2000_0000n;
const NOWHERE = 0x3000_0000n;
/** Neighbours by address, two pages apart in memory. */
const SCATTERED_IOVA = 0x4000_0000n;
const SCATTERED = 0xa0_0000;
const SCATTERED_PAGES = 64;
const MIDDLE = 31;
const MAP_READ = 1;
const COMMAND_REGISTER = 4;
const MEMORY_SPACE = 2;
const RAISE = 0x60;
const ACKNOWLEDGE = 0x64;
const INTERRUPT_MS = 10_000;

/** The guest: memory, drivers, device. */
class Guest {
  readonly ram = GuestRam.create({ size: RAM_BYTES });
  readonly iommu: Remote;
  readonly passed: Remote;
  readonly driver: IommuDriver;
  readonly edu: Edu;

  constructor(served: Served) {
    this.iommu = new Remote(served.path('iommu.sock'));
    this.passed = new Remote(served.path('vfio.sock'));
    for (const each of [this.iommu, this.passed]) assert.equal(each.map(this.ram), 0);
    const memory = new GuestMemory();
    memory.addRegion(this.ram.region(0n));
    const remote = this.iommu.function as unknown as VirtioPciFunction;
    this.driver = new IommuDriver({ device: new PciDriver(remote), memory, base: 0x100_0000n, requestQueueSize: 64 });
    this.driver.start();
    this.edu = new Edu(this.passed.asDevice());
  }

  bytes(gpa: number, length = PAGE): Uint8Array {
    return new Uint8Array(this.ram.windows[0]!, gpa, length);
  }

  map(iova: bigint, gpa: number, flags?: number): number {
    return this.driver.map(DOMAIN, iova, iova + BigInt(PAGE) - 1n, BigInt(gpa), flags).status;
  }

  unmap(iova: bigint): number {
    return this.driver.unmap(DOMAIN, iova, iova + BigInt(PAGE) - 1n).status;
  }

  /** Writes a register of 32 bits. */
  store(register: number, value: number): void {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, value, true);
    this.passed.function.writeBar(0, register, bytes);
  }

  close(): void {
    this.iommu.close();
    this.passed.close();
    this.ram.close();
  }
}

export async function run(report: Reporter, env: GuestEnv): Promise<void> {
  await refusals(report, env);
  const folder = '/tmp/direct';
  mkdirSync(folder);
  const begin = performance.now();
  const served = await Served.start(folder, '--endpoint', `vfio:${env.edu.name}@4.0`);
  report.note(`serve ready after ${((performance.now() - begin) / 1000).toFixed(1)} s`);
  const guest = new Guest(served);
  await registers(report, guest);
  await translation(report, guest, served);
  await scattered(report, guest, served);
  await interrupts(report, guest);
  await ending(report, guest, served, env);
}

async function refusals(report: Reporter, env: GuestEnv): Promise<void> {
  const folder = '/tmp/refused';
  mkdirSync(folder);
  const fails = async (name: string, host: string, words: RegExp): Promise<void> => {
    await report.check(name, async () => {
      const { code, stderr } = await Served.fails(folder, '--endpoint', `vfio:${host}@4.0`);
      report.note(`${name}: ${stderr.trim()}`);
      assert.equal(code, 1);
      assert.match(stderr, words);
      assert.equal(stderr.trim().split('\n').length, 1);
    });
  };
  await fails('a function that is not there ends serve with a message', '0000:00:1e.7', /0000:00:1e\.7/);
  await fails('a function with a host driver, too', '0000:00:1f.3', /vfio-pci/);
  await report.check('a group that another process has open, too', async () => {
    const context = VfioType1Context.open({ group: env.edu.group });
    try {
      const { code, stderr } = await Served.fails(folder, '--endpoint', `vfio:${env.edu.name}@4.0`);
      report.note(stderr.trim());
      assert.equal(code, 1);
      assert.match(stderr, /in use|EBUSY|busy/i);
    } finally {
      context.close();
    }
  });
}

async function registers(report: Reporter, { passed, edu }: Guest): Promise<void> {
  await report.check('configuration space, BAR and interrupts are those of the device', () => {
    assert.equal(passed.function.readConfig(0, 4), 0x11e8_1234);
    assert.equal(passed.regionSize(CONFIG_REGION), 256);
    assert.equal(passed.regionSize(0), 0x10_0000);
    assert.deepEqual([passed.irqs(IrqIndex.intx).count, passed.irqs(IrqIndex.msi).count], [1, 1]);
  });
  await report.check('registers cannot be reached while memory space is off, and answer when it is on', () => {
    const bytes = new Uint8Array(4);
    const command = passed.function.readConfig(COMMAND_REGISTER, 2);
    passed.function.writeConfig(COMMAND_REGISTER, 2, command & ~MEMORY_SPACE);
    passed.function.readBar(0, 0, bytes);
    assert.deepEqual([...bytes], [255, 255, 255, 255]);
    edu.start(false);
  });
}

async function translation(report: Reporter, guest: Guest, served: Served): Promise<void> {
  const { driver, edu } = guest;
  const pattern = Uint8Array.from({ length: PAGE }, (_, i) => (i * 7 + (i >> 8) + 1) & 0xff);
  const host = (): Promise<HostReport> => hostOf(served);
  await report.check('before it is attached all memory is in the container, for bypass', async () => {
    assert.equal((await host()).state, 'bypass');
    assert.equal(served.lockedPages(), RAM_PAGES);
  });
  await report.check('PROBE tells the reserved regions of the host', () => {
    const { regions } = driver.probe(ENDPOINT).properties;
    const found = regions.map(({ kind, start, end }) => ({ kind, start, end }));
    assert.deepEqual(found, [{ kind: 'msi', start: 0xfee0_0000n, end: 0xfeef_ffffn }]);
  });
  await report.check('ATTACH to a domain without mappings empties the container', async () => {
    assert.equal(driver.attach(DOMAIN, ENDPOINT).status, 0);
    assert.deepEqual([(await host()).entries, served.lockedPages()], [0, 0]);
  });
  await report.check('mappings that come while bus master is off are in the container when it is on', async () => {
    guest.bytes(FROM).set(pattern);
    assert.deepEqual([guest.map(FROM_IOVA, FROM), guest.map(TO_IOVA, TO)], [0, 0]);
    assert.equal((await host()).quiet, true);
    edu.start(true);
    const { state, entries, quiet } = await host();
    assert.deepEqual([state, entries, quiet, served.lockedPages()], ['domain', 2, false, 2]);
  });
  await report.check('DMA by IOVA reads and writes the guest memory, and nothing beside', async () => {
    await edu.copy(FROM_IOVA, TO_IOVA, PAGE);
    assert.deepEqual(guest.bytes(TO), pattern);
    assert.ok(guest.bytes(TO - PAGE).every((byte) => byte === 0) && guest.bytes(TO + PAGE).every((byte) => byte === 0));
  });
  await report.check('an address that is not mapped reaches nothing, and the host IOMMU says so', async () => {
    const before = dmarFaults();
    guest.bytes(TO).fill(0);
    await edu.store(NOWHERE, 64);
    await edu.store(BigInt(TO), 64);
    assert.ok(guest.bytes(TO).every((byte) => byte === 0));
    assert.ok(dmarFaults() > before, 'no DMAR fault in the kernel log');
  });
  await report.check('a page that is mapped for reading cannot be written', async () => {
    assert.deepEqual([guest.unmap(TO_IOVA), guest.map(TO_IOVA, TO, MAP_READ)], [0, 0]);
    await edu.store(TO_IOVA, 64);
    assert.ok(guest.bytes(TO).every((byte) => byte === 0));
  });
  await report.check('UNMAP while bus master is on takes effect at once', async () => {
    assert.equal(guest.unmap(TO_IOVA), 0);
    assert.deepEqual([(await host()).entries, served.lockedPages()], [1, 1]);
    assert.equal(guest.map(TO_IOVA, TO), 0);
    await edu.store(TO_IOVA, 64);
    assert.deepEqual(guest.bytes(TO, 64), pattern.slice(0, 64));
    assert.equal(guest.unmap(TO_IOVA), 0);
    guest.bytes(TO).fill(0);
    await edu.store(TO_IOVA, 64);
    assert.ok(guest.bytes(TO).every((byte) => byte === 0));
    assert.equal(guest.map(TO_IOVA, TO), 0);
  });
}

async function scattered(report: Reporter, guest: Guest, served: Served): Promise<void> {
  const { edu } = guest;
  const iova = (i: number): bigint => SCATTERED_IOVA + BigInt(i * PAGE);
  const gpa = (i: number): number => SCATTERED + 2 * i * PAGE;
  const pages = Array.from({ length: SCATTERED_PAGES }, (_, i) => i);
  await report.check('64 scattered pages that come while bus master is off become one host entry', async () => {
    edu.start(false);
    for (const i of pages) {
      guest.bytes(gpa(i)).fill(i + 1);
      assert.equal(guest.map(iova(i), gpa(i)), 0);
    }
    edu.start(true);
    assert.deepEqual([(await hostOf(served)).entries, served.lockedPages()], [2 + 1, 2 + SCATTERED_PAGES]);
  });
  await report.check('the device reaches each of them by its own address', async () => {
    for (const i of [0, MIDDLE, SCATTERED_PAGES - 1]) {
      await edu.copy(iova(i), TO_IOVA, 64);
      assert.ok(guest.bytes(TO, 64).every((byte) => byte === i + 1));
    }
  });
  await report.check('UNMAP of one in the middle takes this one away, and no other', async () => {
    assert.equal(guest.unmap(iova(MIDDLE)), 0);
    assert.equal(served.lockedPages(), 2 + SCATTERED_PAGES - 1);
    guest.bytes(FROM, 64).fill(0x77);
    await edu.load(FROM_IOVA, 64);
    for (const i of [MIDDLE - 1, MIDDLE, MIDDLE + 1]) await edu.store(iova(i), 64);
    const first = [MIDDLE - 1, MIDDLE, MIDDLE + 1].map((i) => guest.bytes(gpa(i), 64).every((byte) => byte === 0x77));
    assert.deepEqual(first, [true, false, true]);
    assert.ok(guest.bytes(gpa(MIDDLE)).every((byte) => byte === MIDDLE + 1));
  });
  await report.check('UNMAP of all of them leaves the others', async () => {
    for (const i of pages) if (i !== MIDDLE) assert.equal(guest.unmap(iova(i)), 0);
    assert.deepEqual([(await hostOf(served)).entries, served.lockedPages()], [2, 2]);
  });
}

async function hostOf(served: Served): Promise<HostReport> {
  return (await served.stats()).functions[1]!.host!;
}

async function interrupts(report: Reporter, guest: Guest): Promise<void> {
  for (const kind of ['msi', 'intx'] as const) {
    await report.check(`an ${kind} interrupt of the device is signalled to the client's eventfd`, async () => {
      const counter = new EventCounter();
      assert.equal(guest.passed.wire(IrqIndex[kind], [counter.fd]), 0);
      for (let round = 0; round < 2; round++) {
        guest.store(RAISE, 1);
        await signalled(counter);
        guest.store(ACKNOWLEDGE, 1);
        if (kind === 'intx') assert.equal(guest.passed.unmask(IrqIndex.intx), 0);
      }
      assert.equal(guest.passed.wire(IrqIndex[kind], []), 0);
      counter.close();
    });
  }
}

async function ending(report: Reporter, guest: Guest, served: Served, env: GuestEnv): Promise<void> {
  const config = (): number => readFileSync(`/sys/bus/pci/devices/${env.edu.name}/config`).readUInt16LE(4);
  await report.check('without bus master nothing is written, and the context is quiet', async () => {
    guest.bytes(TO).fill(0);
    guest.edu.start(false);
    await guest.edu.store(TO_IOVA, 64);
    assert.ok(guest.bytes(TO).every((byte) => byte === 0));
    assert.equal((await served.stats()).functions[1]!.host!.quiet, true);
    guest.edu.start(true);
  });
  await report.check('when the client is gone, so are bus master and all entries', async () => {
    assert.equal(config() & 4, 4);
    guest.close();
    await until(async () => (await served.stats()).functions.every(({ server }) => !server.connected));
    assert.equal(config() & 7, 0);
    assert.deepEqual([(await served.stats()).functions[1]!.host!.entries, served.lockedPages()], [0, 0]);
  });
  await report.check('the next client finds the device as the first one did', async () => {
    const next = new Guest(served);
    next.edu.start();
    assert.equal(served.lockedPages(), RAM_PAGES);
    next.bytes(FROM).fill(0x5a);
    await next.edu.copy(BigInt(FROM), BigInt(TO), PAGE);
    assert.ok(
      next.bytes(TO).every((byte) => byte === 0x5a),
      'in bypass an address is a guest-physical one',
    );
    next.close();
  });
  await report.check('SIGTERM ends serve, and the group is free', async () => {
    const { code, stderr } = await served.stop();
    report.note(stderr.trim());
    assert.equal(code, 0);
    VfioType1Context.open({ group: env.edu.group }).close();
  });
}

async function signalled(counter: EventCounter): Promise<void> {
  await until(() => counter.take() > 0n);
}

async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  const end = performance.now() + INTERRUPT_MS;
  while (!(await holds())) {
    assert.ok(performance.now() < end, 'it does not come');
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
