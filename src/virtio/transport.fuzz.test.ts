// Random accesses to the registers of both transports, at all widths and places, with interrupts that access again:
// nothing throws, nothing is returned that is no byte, and after a reset a driver finds a device that works.
import { expect, it } from 'vitest';
import { DriverQueue } from '../testing/driver-queue.ts';
import type { DriverDevice } from '../testing/driver-setup.ts';
import { negotiate, runQueues } from '../testing/driver-setup.ts';
import { EchoModel } from '../testing/echo-model.ts';
import { MmioDriver } from '../testing/mmio-driver.ts';
import { PackedDriverQueue } from '../testing/packed-driver-queue.ts';
import { PciDriver } from '../testing/pci-driver.ts';
import { VirtioDevice } from './device.ts';
import { Feature } from './features.ts';
import { GuestMemory } from './memory.ts';
import { VirtioMmioDevice } from './mmio/virtio-mmio-device.ts';
import { VirtioPciFunction } from './pci/virtio-pci-function.ts';

const ACCESSES = 60_000;
const SEED = 0x5eed_70c1;
const WIDTHS = [1, 2, 4] as const;
/** Where something is, and the places around it. */
const PCI_EDGES = [0, 16, 22, 28, 32, 56, 64, 0x1000, 0x2000, 0x200c, 0x3000, 0x3008, 0x4000, 0x800, 0xfff];
const CONFIG_EDGES = [0, 4, 0x10, 0x14, 0x3c, 0x40, 0x84, 0x8c, 0x90, 0x94, 0x98, 0x9a, 0xa4, 0xff, 0x100];
const MMIO_EDGES = [0, 0x14, 0x20, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x80, 0xa4, 0xc0, 0xfc, 0x100, 0x10c];

type Random = (below: number) => number;

/** xorshift32: fast and the same everywhere. */
function generator(seed: number): Random {
  let state = seed;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

function place(edges: readonly number[], random: Random): number {
  const near = edges[random(edges.length)]! + random(9) - 4;
  return random(8) === 0 ? random(0x5000) : near;
}

function value(random: Random): number {
  const kind = random(4);
  if (kind === 0) return 1 << random(31);
  if (kind === 1) return random(16);
  return kind === 2 ? 0x1000 * random(64) : random(0xffff_ffff);
}

/** Bytes of a random length, mostly a width that hardware has. */
function bytes(random: Random): Uint8Array {
  const length = random(10) === 0 ? random(70) : [1, 2, 4, 8][random(4)]!;
  const data = new Uint8Array(length);
  const word = value(random);
  for (let i = 0; i < length; i++) data[i] = i < 4 ? (word >>> (8 * i)) & 0xff : random(256);
  return data;
}

function makeDevice(): { device: VirtioDevice; model: EchoModel; memory: GuestMemory } {
  const memory = new GuestMemory();
  memory.addRegion({ gpa: 0n, size: 0x40000n });
  const model = new EchoModel();
  const device = new VirtioDevice(model, {
    memory,
    interrupt: { queue: () => undefined, config: () => undefined },
    ringFeatures: ['indirect', 'eventIdx', 'ringReset', 'packed'],
  });
  model.device = device;
  return { device, model, memory };
}

/** A driver that comes after the storm can still use the device, on both ring formats. */
function expectWorks(driver: DriverDevice, memory: GuestMemory): void {
  for (const packed of [false, true]) {
    const init = { size: 4, base: 0x1000n };
    const queue = packed ? new PackedDriverQueue(memory, init) : new DriverQueue(memory, init);
    negotiate(driver, Feature.version1 | (packed ? Feature.ringPacked : 0n));
    runQueues(driver, [queue]);
    queue.makeAvailable(queue.add({ readable: Uint8Array.of(5), writableLength: 1 }));
    driver.notify(0);
    expect(queue.poll().map(({ writable }) => writable[0])).toEqual([5]);
  }
}

/** Brings the device up now and then, so that the storm hits one that runs. */
function start(driver: DriverDevice, memory: GuestMemory, random: Random): void {
  negotiate(driver, Feature.version1 | Feature.ringReset | (random(2) === 0 ? Feature.ringPacked : 0n));
  const queue = new DriverQueue(memory, { size: 4, base: 0x1000n });
  runQueues(driver, [queue]);
}

it(`PCI holds for ${ACCESSES} accesses from seed ${SEED}`, () => {
  const random = generator(SEED);
  const { device, model, memory } = makeDevice();
  let depth = 0;
  const seen = { msix: 0, intx: 0, masters: 0, moves: 0 };
  const interrupted = (kind: 'msix' | 'intx'): void => {
    seen[kind]++;
    if (depth++ < 3) access();
    depth--;
  };
  const pci = new VirtioPciFunction(device, {
    interrupts: { msix: () => interrupted('msix'), intx: () => interrupted('intx') },
    onBusMaster: () => seen.masters++,
    onBarsMoved: () => seen.moves++,
  });
  const access = (): void => {
    const data = bytes(random);
    const bar = random(20) === 0 ? random(8) - 1 : random(2);
    const kind = random(10);
    if (kind < 3) pci.writeBar(bar, place(PCI_EDGES, random), data);
    else if (kind < 6) {
      pci.readBar(bar, place(PCI_EDGES, random), data);
    } else if (kind < 8) {
      pci.writeConfig(place(CONFIG_EDGES, random), WIDTHS[random(3)]!, value(random));
    } else {
      const size = WIDTHS[random(3)]!;
      const read = pci.readConfig(place(CONFIG_EDGES, random), size);
      expect(Number.isInteger(read) && read >= 0 && read < 2 ** (8 * size)).toBe(true);
    }
    if (random(50) === 0) device.configChanged(true);
    if (random(100) === 0) pci.writeConfigBytes(random(260), data);
  };
  const drivers = (['msix', 'intx'] as const).map((interrupts) => new PciDriver(pci, { interrupts }));
  for (let i = 0; i < ACCESSES; i++) {
    if (i % 200 === 0) {
      pci.reset();
      const driver = drivers[random(2)]!;
      driver.probe();
      start(driver, memory, random);
    }
    access();
    // The queues that the storm describes may lie anywhere; the device reads them and must stay bounded.
    if (model.log.length > 100) model.log.length = 0;
  }
  expect(Math.min(seen.msix, seen.intx, seen.masters, seen.moves)).toBeGreaterThan(50);
  pci.reset();
  expectWorks(new PciDriver(pci), memory);
});

it(`MMIO holds for ${ACCESSES} accesses from seed ${SEED}`, () => {
  const random = generator(SEED + 1);
  const { device, memory } = makeDevice();
  let depth = 0;
  let interrupts = 0;
  const access = (): void => {
    const data = random(4) === 0 ? bytes(random) : bytes(random).slice(0, 4);
    if (random(2) === 0) mmio.write(place(MMIO_EDGES, random) & (random(3) === 0 ? ~0 : ~3), data);
    else mmio.read(place(MMIO_EDGES, random), data);
    if (random(50) === 0) device.configChanged(true);
  };
  const mmio = new VirtioMmioDevice(device, {
    interrupt: () => {
      interrupts++;
      if (depth++ < 3) access();
      depth--;
    },
  });
  const driver = new MmioDriver(mmio);
  for (let i = 0; i < ACCESSES; i++) {
    if (i % 200 === 0) start(driver, memory, random);
    access();
  }
  expect(interrupts).toBeGreaterThan(50);
  expectWorks(driver, memory);
});
