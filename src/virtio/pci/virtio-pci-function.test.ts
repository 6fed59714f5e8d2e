import { beforeEach, describe, expect, it } from 'vitest';
import { DriverQueue } from '../../testing/driver-queue.ts';
import { negotiate, runQueues } from '../../testing/driver-setup.ts';
import { EchoModel } from '../../testing/echo-model.ts';
import { PackedDriverQueue } from '../../testing/packed-driver-queue.ts';
import { PciDriver } from '../../testing/pci-driver.ts';
import { VirtioDevice } from '../device.ts';
import { Feature, Status } from '../features.ts';
import { GuestMemory } from '../memory.ts';
import { Common } from './pci-layout.ts';
import type { VirtioPciOptions } from './virtio-pci-function.ts';
import { PCI_CONFIG_BYTES, VirtioPciFunction } from './virtio-pci-function.ts';

const COMMAND = 4;
const [MEMORY, MASTER, INTX_OFF] = [2, 4, 0x400];
const NOTIFY = 0x3000;
const NO_VECTOR = 0xffff;
const FEATURES = Feature.version1 | Feature.ringReset;

let memory: GuestMemory;
let model: EchoModel;
let device: VirtioDevice;
let pci: VirtioPciFunction;
let log: string[];
let onInterrupt: (() => void) | undefined;

function make(options: Partial<VirtioPciOptions> = {}, of = new EchoModel()): void {
  log = [];
  onInterrupt = undefined;
  memory = new GuestMemory();
  memory.addRegion({ gpa: 0n, size: 0x100000n });
  model = of;
  device = new VirtioDevice(model, {
    memory,
    interrupt: { queue: () => undefined, config: () => undefined },
    ringFeatures: ['indirect', 'eventIdx', 'ringReset', 'packed'],
  });
  model.device = device;
  const tell = (what: string): void => {
    log.push(what);
    onInterrupt?.();
  };
  const interrupts = {
    msix: (vector: number) => tell(`msix ${vector}`),
    intx: (level: boolean) => tell(`intx ${level}`),
  };
  pci = new VirtioPciFunction(device, { interrupts, ...options });
}

/** Memory space and bus mastering on, nothing else done. */
function enable(): void {
  pci.writeConfig(COMMAND, 2, MEMORY | MASTER);
}

function readBar(bar: number, offset: number, size: number): number {
  const bytes = new Uint8Array(size);
  pci.readBar(bar, offset, bytes);
  return bytes.reduceRight((value, byte) => value * 256 + byte, 0);
}

function writeBar(bar: number, offset: number, size: number, value: number): void {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value), true);
  pci.writeBar(bar, offset, bytes.slice(0, size));
}

const common = (field: number, size: number): number => readBar(0, field, size);
const setCommon = (field: number, size: number, value: number): void => writeBar(0, field, size, value);

/** A running device with one queue of a driver that found everything by itself. */
function run(interrupts: 'msix' | 'intx' = 'msix'): { driver: PciDriver; queue: DriverQueue } {
  const driver = new PciDriver(pci, { interrupts });
  const queue = new DriverQueue(memory, { size: 8, base: 0x1000n });
  negotiate(driver, FEATURES);
  runQueues(driver, [queue]);
  log.length = 0;
  return { driver, queue };
}

function offer(queue: DriverQueue | PackedDriverQueue, ...values: number[]): void {
  queue.makeAvailable(...values.map((value) => queue.add({ readable: Uint8Array.of(value), writableLength: 1 })));
}

beforeEach(() => make());

describe('configuration header', () => {
  it('names a modern virtio function', () => {
    expect(pci.readConfig(0, 4)).toBe(0x107f_1af4);
    expect(pci.readConfig(6, 2)).toBe(0x10);
    expect(pci.readConfig(8, 4)).toBe(0xff_0000_01);
    expect(pci.readConfig(0x0e, 1)).toBe(0);
    expect(pci.readConfig(0x2c, 4)).toBe(0x1100_1af4);
    expect(pci.readConfig(0x3d, 1)).toBe(1);
    make({ classCode: 0x08_0600, subsystemVendorId: 0x1234, subsystemId: 0x40, interrupts: { msix: () => undefined } });
    expect([pci.readConfig(8, 4), pci.readConfig(0x2c, 4)]).toEqual([0x08_0600_01, 0x40_1234]);
    expect(pci.readConfig(0x3d, 1)).toBe(0);
  });

  it('has only the bits of the command register that mean something, and no writable identity', () => {
    pci.writeConfig(COMMAND, 2, 0xffff);
    expect(pci.readConfig(COMMAND, 2)).toBe(0x0546);
    const before = new Uint8Array(64);
    pci.readConfigBytes(0, before);
    for (const [at, size] of [
      [0, 4],
      [6, 2],
      [8, 4],
      [0x0d, 1],
      [0x0e, 1],
      [0x28, 4],
      [0x2c, 4],
      [0x30, 4],
      [0x34, 1],
      [0x3d, 1],
    ] as const) {
      pci.writeConfig(at, size, 0xffff_ffff);
    }
    const after = new Uint8Array(64);
    pci.readConfigBytes(0, after);
    expect(after).toEqual(before);
    pci.writeConfig(0x3c, 1, 11);
    pci.writeConfig(0x0c, 1, 16);
    expect([pci.readConfig(0x3c, 1), pci.readConfig(0x0c, 1)]).toEqual([11, 16]);
  });

  it('answers any width at any place, and ends at 256 bytes', () => {
    expect(pci.readConfig(1, 2)).toBe(0x7f1a);
    expect(pci.readConfig(3, 4)).toBe(0x1000_0010);
    expect(pci.readConfig(PCI_CONFIG_BYTES - 1, 1)).toBe(0);
    expect(pci.readConfig(PCI_CONFIG_BYTES - 1, 2)).toBe(0xff00);
    expect(pci.readConfig(PCI_CONFIG_BYTES, 4)).toBe(0xffff_ffff);
    pci.writeConfig(PCI_CONFIG_BYTES - 1, 4, 0xffff_ffff);
    expect(pci.readConfig(PCI_CONFIG_BYTES - 1, 1)).toBe(0);
    const whole = new Uint8Array(300);
    pci.readConfigBytes(0, whole);
    expect([...whole.subarray(254, 258)]).toEqual([0, 0, 0xff, 0xff]);
    pci.writeConfigBytes(3, Uint8Array.of(0xff, MEMORY));
    expect(pci.readConfig(COMMAND, 2)).toBe(MEMORY);
    pci.writeConfig(COMMAND + 1, 1, INTX_OFF >> 8);
    expect(pci.readConfig(COMMAND, 2)).toBe(MEMORY | INTX_OFF);
  });
});

describe('BARs', () => {
  it.each([
    ['32', 32, 0x4000, 1, 0x1000],
    ['64', 64, 0x4000, 2, 0x1000],
  ] as const)('of %s bits tell their size and take an address', (_, barWidth, size, msixBar, msixSize) => {
    make({ barWidth });
    expect(pci.bars).toEqual([
      { index: 0, size, width: barWidth },
      { index: msixBar, size: msixSize, width: barWidth },
    ]);
    const flag = barWidth === 64 ? 4 : 0;
    for (const [bar, bytes] of [
      [0, size],
      [msixBar, msixSize],
    ] as const) {
      expect(pci.readConfig(0x10 + 4 * bar, 4)).toBe(flag);
      pci.writeConfig(0x10 + 4 * bar, 4, 0xffff_ffff);
      expect(pci.readConfig(0x10 + 4 * bar, 4)).toBe((-bytes >>> 0) + flag);
      if (barWidth === 64) {
        pci.writeConfig(0x14 + 4 * bar, 4, 0xffff_ffff);
        expect(pci.readConfig(0x14 + 4 * bar, 4)).toBe(0xffff_ffff);
      }
    }
    for (const bar of [0, 1, 2, 3, 4, 5].filter((each) => each > msixBar + (barWidth === 64 ? 1 : 0))) {
      pci.writeConfig(0x10 + 4 * bar, 4, 0xffff_ffff);
      expect(pci.readConfig(0x10 + 4 * bar, 4)).toBe(0);
    }
    pci.writeConfig(0x10, 4, 0xe000_3fff);
    if (barWidth === 64) pci.writeConfig(0x14, 4, 0x12);
    pci.writeConfig(COMMAND, 2, MEMORY);
    expect(pci.barAddress(0)).toBe(barWidth === 64 ? 0x12_e000_0000n : 0xe000_0000n);
    expect([pci.barAddress(1 + (msixBar % 2) * 4), pci.barAddress(6), pci.barAddress(-1)]).toEqual(
      Array(3).fill(undefined),
    );
    pci.writeConfig(COMMAND, 2, 0);
    expect(pci.barAddress(0)).toBeUndefined();
  });

  it('tell when they may have moved', () => {
    let moves = 0;
    make({ onBarsMoved: () => moves++ });
    pci.writeConfig(0x10, 4, 0xe000_0000);
    pci.writeConfig(COMMAND, 2, MASTER);
    expect(moves).toBe(0);
    pci.writeConfig(COMMAND, 2, MEMORY);
    pci.writeConfig(0x10, 4, 0xe001_0000);
    pci.writeConfig(0x27, 1, 0);
    pci.writeConfig(0x28, 4, 0);
    expect([moves, pci.barAddress(0)]).toEqual([3, 0xe001_0000n]);
    pci.reset();
    expect([moves, pci.barAddress(0)]).toEqual([4, undefined]);
  });

  it('do not answer while memory space is off', () => {
    expect(common(Common.numQueues, 2)).toBe(0xffff);
    setCommon(Common.deviceStatus, 1, 1);
    enable();
    expect([common(Common.numQueues, 2), common(Common.deviceStatus, 1)]).toEqual([2, 0]);
  });

  it('read as zero between the registers and as ones behind the end', () => {
    enable();
    expect([readBar(0, 64, 4), readBar(0, 0x1004, 4), readBar(0, 0x2000 + 12, 4), readBar(0, NOTIFY, 4)]).toEqual(
      Array(4).fill(0),
    );
    expect([readBar(0, 0x3fff, 1), readBar(0, 0x3fff, 2), readBar(0, 0x4000, 1)]).toEqual([0, 0xff00, 0xff]);
    expect([
      readBar(1, 0xfff, 2),
      readBar(1, 0x1000, 1),
      readBar(2, 0, 1),
      readBar(6, 0, 1),
      readBar(-1, 0, 1),
    ]).toEqual([0xff00, 0xff, 0xff, 0xff, 0xff]);
    for (const offset of [-1, -8, NaN, Infinity, 2 ** 53, 0.5]) {
      readBar(0, offset, 4);
      writeBar(0, offset, 4, 1);
    }
    const all = new Uint8Array(0x5000);
    pci.readBar(0, 0, all);
    expect([all[Common.numQueues], all[0x2000], all[0x3fff], all[0x4000]]).toEqual([2, 0x10, 0, 0xff]);
  });
});

describe('capabilities', () => {
  /** [offset, bytes] of every capability, in the order of the list. */
  function list(): [number, Uint8Array][] {
    const found: [number, Uint8Array][] = [];
    for (let at = pci.readConfig(0x34, 1); at !== 0 && found.length < 48; at = pci.readConfig(at + 1, 1)) {
      const bytes = new Uint8Array(20);
      pci.readConfigBytes(at, bytes);
      found.push([at, bytes]);
    }
    return found;
  }

  it('are the five of virtio and MSI-X, where Linux and QEMU were seen to take them', () => {
    expect(list().map(([at, bytes]) => [at, bytes[0], bytes[0] === 9 ? bytes[3] : 0])).toEqual([
      [0x40, 9, 1],
      [0x50, 9, 2],
      [0x64, 9, 3],
      [0x74, 9, 4],
      [0x84, 9, 5],
      [0x98, 0x11, 0],
    ]);
    const regions = list()
      .slice(0, 4)
      .map(([at]) => [
        pci.readConfig(at + 2, 1),
        pci.readConfig(at + 4, 1),
        pci.readConfig(at + 8, 4),
        pci.readConfig(at + 12, 4),
      ]);
    expect(regions).toEqual([
      [16, 0, 0, 64],
      [20, 0, NOTIFY, 8],
      [16, 0, 0x1000, 4],
      [16, 0, 0x2000, 12],
    ]);
    expect(pci.readConfig(0x50 + 16, 4)).toBe(4);
    expect([pci.readConfig(0x9a, 2), pci.readConfig(0x9c, 4), pci.readConfig(0xa0, 4)]).toEqual([2, 1, 0x801]);
  });

  it('leave out what the device does not have', () => {
    make({ vectors: 0 }, new EchoModel([8], 0));
    expect(list().map(([, bytes]) => bytes[3])).toEqual([1, 2, 3, 5]);
    expect(pci.bars).toHaveLength(1);
    expect(pci.readConfig(0x14, 4)).toBe(0);
    enable();
    setCommon(Common.configMsixVector, 2, 0);
    expect(common(Common.configMsixVector, 2)).toBe(NO_VECTOR);
    const { queue, driver } = run();
    offer(queue, 5);
    driver.notify(0);
    expect(log).toEqual(['intx true']);
  });

  it.each([1, 2, 128, 129, 2047, 2048])('have a table and pending bits for %i vectors', (vectors) => {
    make({ vectors });
    const [at] = list().at(-1)!;
    const [control, table, pba] = [pci.readConfig(at + 2, 2), pci.readConfig(at + 4, 4), pci.readConfig(at + 8, 4)];
    expect([control, table & 7, pba & 7, pci.vectors]).toEqual([vectors - 1, 1, 1, vectors]);
    const bar = pci.bars[1]!;
    expect((pba & ~7) - (table & ~7)).toBeGreaterThanOrEqual(16 * vectors);
    expect((pba & ~7) + Math.ceil(vectors / 64) * 8).toBeLessThanOrEqual(bar.size);
    enable();
    const last = 16 * (vectors - 1);
    expect([readBar(1, last + 12, 4), readBar(1, last + 16, 4)]).toEqual([1, 0]);
    writeBar(1, last, 8, 0x1_fee0_0000);
    writeBar(1, last + 8, 4, 0x4321);
    writeBar(1, last + 12, 4, 0xffff_fffe);
    writeBar(1, last + 16, 4, 0xffff_ffff);
    expect(pci.msixMessage(vectors - 1)).toEqual({ address: 0x1_fee0_0000n, data: 0x4321, masked: true });
    expect([readBar(1, last + 12, 4), readBar(1, last + 16, 4)]).toEqual([0, 0]);
    expect(() => pci.msixMessage(vectors)).toThrow(/vector/);
  });

  it('make room for many queues', () => {
    make({ notifyMultiplier: 4096 }, new EchoModel(Array<number>(40).fill(2)));
    expect(pci.bars[0]!.size).toBe(0x40000);
    const driver = new PciDriver(pci);
    negotiate(driver, FEATURES);
    const queue = new DriverQueue(memory, { size: 2, base: 0x1000n });
    driver.setupQueue(39, queue);
    driver.enableQueue(39);
    driver.writeStatus(device.status | Status.driverOk);
    model.log.length = 0;
    driver.notify(39);
    driver.notify(40);
    expect(model.log).toEqual(['kick 39']);
  });
});

describe('common configuration', () => {
  beforeEach(() => {
    enable();
    setCommon(Common.deviceStatus, 1, 3);
  });

  it('shows features in words, and nothing beyond bit 63', () => {
    const word = (select: number): number => {
      setCommon(Common.deviceFeatureSelect, 4, select);
      return common(Common.deviceFeature, 4);
    };
    expect([0, 1, 2, 3, 0xffff_ffff].map(word)).toEqual([
      Number(device.offeredFeatures & 0xffff_ffffn),
      Number(device.offeredFeatures >> 32n),
      0,
      0,
      0,
    ]);
    for (const [select, value] of [
      [0, 0x1234_5678],
      [1, 0x9abc_def0],
      [2, 0xffff_ffff],
      [0xffff_ffff, 0xffff_ffff],
    ] as const) {
      setCommon(Common.driverFeatureSelect, 4, select);
      setCommon(Common.driverFeature, 4, value);
      expect(common(Common.driverFeature, 4)).toBe(select > 1 ? 0 : value);
    }
    expect(device.driverFeatures).toBe(0x9abc_def0_1234_5678n);
  });

  it('lets both halves of a 64-bit field be written and read on their own [D-PCI-1]', () => {
    for (const field of [Common.queueDesc, Common.queueDriver, Common.queueDevice]) {
      setCommon(field + 4, 4, 0x8765_4321);
      expect([common(field, 4), common(field + 4, 4)]).toEqual([0, 0x8765_4321]);
      setCommon(field, 4, 0xfedc_ba98);
      expect([common(field, 4), common(field + 4, 4)]).toEqual([0xfedc_ba98, 0x8765_4321]);
      writeBar(0, field, 8, 0x1_0000_2000);
      expect([common(field, 4), common(field + 4, 4)]).toEqual([0x2000, 1]);
    }
  });

  it('lets both halves of a 64-bit device field be accessed on their own [D-PCI-1]', () => {
    writeBar(0, 0x2004, 4, 0xaabb_ccdd);
    expect([readBar(0, 0x2000, 4), readBar(0, 0x2004, 4)]).toEqual([0x1312_1110, 0xaabb_ccdd]);
    expect(readBar(0, 0x2003, 2)).toBe(0xdd13);
    expect(readBar(0, 0x2000 + 11, 3)).toBe(0x1b);
    pci.writeBar(0, 0x2000 + 10, Uint8Array.of(1, 2, 3));
    expect([model.config[9], model.config[10], model.config[11]]).toEqual([0x19, 1, 2]);
    writeBar(0, 0x2000 + 12, 4, 7);
    writeBar(0, 0x2000 + 9, 1, 0x77);
    expect([model.config[9], readBar(0, 0x2000 + 12, 1)]).toEqual([0x77, 0]);
  });

  it('resolves any width to the fields that it covers', () => {
    setCommon(Common.queueSize, 2, 8);
    expect(common(Common.queueSelect, 4)).toBe(0x0008_0000);
    expect(common(Common.queueSelect + 1, 2)).toBe(0x0800);
    expect(common(Common.numQueues, 4)).toBe(0x0003_0002);
    setCommon(Common.queueDesc + 1, 1, 0x20);
    setCommon(Common.queueDesc + 6, 2, 0x1234);
    expect(common(Common.queueDesc, 4)).toBe(0x2000);
    expect(common(Common.queueDesc + 4, 4)).toBe(0x1234_0000);
    setCommon(Common.deviceStatus, 4, 0x0001_000b);
    expect([common(Common.deviceStatus, 1), common(Common.queueSelect, 2)]).toEqual([3, 1]);
    setCommon(Common.queueEnable, 1, 1);
    expect(common(Common.queueEnable, 4)).toBe(0x0001_0001);
    expect([common(62, 2), common(63, 1), common(63, 2), common(64, 1)]).toEqual([0, 0, 0, 0]);
    setCommon(63, 4, 0xffff_ffff);
    setCommon(64, 4, 0xffff_ffff);
  });

  it('does not write what is read-only', () => {
    const before = new Uint8Array(64);
    const after = new Uint8Array(64);
    pci.readBar(0, 0, before);
    for (const [field, size] of [
      [4, 4],
      [18, 2],
      [21, 1],
      [30, 2],
      [56, 2],
      [60, 2],
      [62, 2],
    ] as const) {
      setCommon(field, size, 0xffff_ffff);
    }
    pci.readBar(0, 0, after);
    expect(after).toEqual(before);
  });

  it('knows no queue behind the last one', () => {
    const seen = [0, 1, 2, 3, 0xffff].map((select) => {
      setCommon(Common.queueSelect, 2, select);
      setCommon(Common.queueMsixVector, 2, 1);
      setCommon(Common.queueDesc, 4, 0x1000);
      setCommon(Common.queueEnable, 2, 1);
      return [common(24, 2), common(26, 2), common(28, 2), common(30, 2), common(32, 4)];
    });
    expect(seen).toEqual([
      [16, 1, 1, 0, 0x1000],
      [8, 1, 1, 1, 0x1000],
      [0, NO_VECTOR, 0, 0, 0],
      [0, NO_VECTOR, 0, 0, 0],
      [0, NO_VECTOR, 0, 0, 0],
    ]);
    setCommon(Common.queueReset, 2, 1);
  });

  it('shows 0 or a power of two as the size, any size up to the largest with packed rings', () => {
    const sizes = [1, 2, 3, 15, 16, 17, 32, 0x8000, 0xffff, 0];
    const written = (): number[] =>
      sizes.map((size) => {
        setCommon(Common.queueSize, 2, size);
        return common(Common.queueSize, 2);
      });
    expect(written()).toEqual([1, 2, 0, 0, 16, 0, 0, 0, 0, 0]);
    device.setDriverFeatures(FEATURES | Feature.ringPacked);
    expect(written()).toEqual([1, 2, 0, 0, 16, 0, 0, 0, 0, 0]);
    setCommon(Common.deviceStatus, 1, 0x0b);
    expect(written()).toEqual([1, 2, 3, 15, 16, 0, 0, 0, 0, 0]);
  });

  it('keeps the description of an enabled queue, and never disables one by queue_enable', () => {
    setCommon(Common.queueSize, 2, 4);
    setCommon(Common.queueEnable, 2, 2);
    expect(common(Common.queueEnable, 2)).toBe(0);
    setCommon(Common.queueEnable, 2, 1);
    setCommon(Common.queueSize, 2, 8);
    setCommon(Common.queueDesc, 4, 0x5000);
    setCommon(Common.queueEnable, 2, 0);
    expect([common(Common.queueEnable, 2), common(Common.queueSize, 2), common(Common.queueDesc, 4)]).toEqual([
      1, 4, 0,
    ]);
  });

  it('assigns the vectors that there are, and shows NO_VECTOR for others', () => {
    for (const field of [Common.configMsixVector, Common.queueMsixVector]) {
      const seen = [0, 2, 3, 0x7ff, 0x800, 0xfffe, NO_VECTOR].map((vector) => {
        setCommon(field, 2, vector);
        return common(field, 2);
      });
      expect(seen).toEqual([0, 2, ...Array<number>(5).fill(NO_VECTOR)]);
    }
  });

  it('resets one queue when that is negotiated, and only then', () => {
    const setUp = (): void => {
      setCommon(Common.queueSize, 2, 4);
      setCommon(Common.queueMsixVector, 2, 1);
      setCommon(Common.queueDesc, 4, 0x5000);
      setCommon(Common.queueEnable, 2, 1);
      setCommon(Common.queueReset, 2, 1);
    };
    setUp();
    expect(common(Common.queueEnable, 2)).toBe(1);
    setCommon(Common.deviceStatus, 1, 0);
    device.setDriverFeatures(FEATURES);
    setCommon(Common.deviceStatus, 1, 0x0b);
    setUp();
    expect([24, 26, 28, 32, 58].map((field) => common(field, 2))).toEqual([16, NO_VECTOR, 0, 0, 0]);
    setCommon(Common.queueEnable, 2, 1);
    setCommon(Common.queueReset, 2, 0);
    setCommon(Common.queueReset, 2, 2);
    expect(common(Common.queueEnable, 2)).toBe(1);
  });

  it('changes its generation after a read of what has changed, once for many changes', () => {
    const generation = (): number => common(Common.configGeneration, 1);
    readBar(0, 0x2000, 4);
    expect(generation()).toBe(0);
    for (let i = 0; i < 256; i++) device.configChanged(false);
    expect(generation()).toBe(0);
    readBar(0, 0x2000, 1);
    expect(generation()).toBe(1);
    readBar(0, 0x2000, 4);
    expect(generation()).toBe(1);
    for (let i = 0; i < 256; i++) {
      device.configChanged(false);
      readBar(0, 0x2004, 4);
    }
    expect(generation()).toBe(1);
  });

  it('is as at first after a reset of the device, whoever asked for it', () => {
    const before = new Uint8Array(64);
    const after = new Uint8Array(64);
    for (const reset of [() => setCommon(Common.deviceStatus, 1, 0), () => device.writeStatus(0)]) {
      setCommon(Common.deviceStatus, 1, 0);
      pci.readBar(0, 0, before);
      setCommon(Common.deviceStatus, 1, 3);
      for (const [field, size, value] of [
        [0, 4, 1],
        [8, 4, 1],
        [12, 4, 1],
        [16, 2, 1],
        [22, 2, 1],
        [24, 2, 2],
        [26, 2, 2],
        [32, 4, 4096],
        [28, 2, 1],
      ] as const) {
        setCommon(field, size, value);
      }
      reset();
      pci.readBar(0, 0, after);
      expect(after).toEqual(before);
    }
  });
});

describe('doorbells', () => {
  it.each([
    [2, 2],
    [4, 4],
    [64, 64],
  ])('stand %i bytes apart', (notifyMultiplier, distance) => {
    make({ notifyMultiplier });
    const { driver } = run();
    driver.setupQueue(1, new DriverQueue(memory, { size: 4, base: 0x40000n }));
    driver.enableQueue(1);
    model.log.length = 0;
    for (const size of [1, 2, 4, 8]) writeBar(0, NOTIFY, size, 99);
    writeBar(0, NOTIFY + distance - 1, 1, 0);
    writeBar(0, NOTIFY + distance, 2, 0);
    writeBar(0, NOTIFY + 2 * distance, 2, 0);
    writeBar(0, NOTIFY - 1, 1, 0);
    pci.writeBar(0, NOTIFY, new Uint8Array(0));
    expect(model.log).toEqual([...Array<string>(5).fill('kick 0'), 'kick 1', 'kick 0']);
  });

  it('is one for all with multiplier 0: the value names the queue', () => {
    make({ notifyMultiplier: 0 });
    const { driver } = run();
    driver.setupQueue(1, new DriverQueue(memory, { size: 4, base: 0x40000n }));
    driver.enableQueue(1);
    model.log.length = 0;
    driver.notify(1);
    driver.notify(0);
    driver.notify(2);
    writeBar(0, NOTIFY, 4, 0x1_0001);
    writeBar(0, NOTIFY, 1, 1);
    writeBar(0, NOTIFY + 2, 2, 1);
    expect(model.log).toEqual(['kick 1', 'kick 0', 'kick 1', 'kick 1']);
  });
});

describe('INTA', () => {
  it('rises with ISR status and falls when that is read', () => {
    const { driver, queue } = run('intx');
    offer(queue, 1);
    driver.notify(0);
    expect([log, pci.readConfig(6, 2), pci.intxLevel]).toEqual([['intx true'], 0x18, true]);
    device.configChanged(true);
    expect(driver.readIsr()).toBe(3);
    expect([log, pci.readConfig(6, 2), driver.readIsr()]).toEqual([['intx true', 'intx false'], 0x10, 0]);
    device.configChanged(true);
    // Only the byte itself clears.
    expect([readBar(0, 0x1001, 2), readBar(0, 0x0ffe, 2), pci.intxLevel]).toEqual([0, 0, true]);
    expect([readBar(0, 0x0ffe, 4), pci.intxLevel]).toEqual([0x2_0000, false]);
  });

  it('obeys Interrupt Disable, which the status bit does not', () => {
    const { driver, queue } = run('intx');
    pci.writeConfig(COMMAND, 2, MEMORY | MASTER | INTX_OFF);
    offer(queue, 1);
    driver.notify(0);
    expect([log, pci.readConfig(6, 2)]).toEqual([[], 0x18]);
    pci.writeConfig(COMMAND, 2, MEMORY | MASTER);
    pci.writeConfig(COMMAND, 2, MEMORY | MASTER | INTX_OFF);
    expect(log).toEqual(['intx true', 'intx false']);
  });

  it('rests while MSI-X is enabled, and ends with a reset', () => {
    const { driver } = run('intx');
    device.configChanged(true);
    pci.writeConfig(0x9a, 2, 0x8000);
    expect([log, pci.readConfig(6, 2), pci.msixEnabled]).toEqual([['intx true', 'intx false'], 0x10, true]);
    pci.writeConfig(0x9a, 2, 0);
    expect(log.at(-1)).toBe('intx true');
    driver.writeStatus(0);
    expect([log.at(-1), driver.readIsr()]).toEqual(['intx false', 0]);
  });
});

describe('MSI-X', () => {
  /** Pending bits of the first 64 vectors, low half. */
  const pending = (): number => readBar(1, 0x800, 4);

  it('sends the vector of the queue and of the configuration', () => {
    const { driver, queue } = run();
    offer(queue, 1);
    driver.notify(0);
    device.configChanged(true);
    expect(log).toEqual(['msix 1', 'msix 0']);
    expect(driver.readIsr()).toBe(2);
    expect(pci.msixMessage(1)).toEqual({ address: 0xfee0_0000n, data: 1, masked: false });
  });

  it('sends nothing for NO_VECTOR', () => {
    const { driver, queue } = run();
    setCommon(Common.queueSelect, 2, 0);
    setCommon(Common.queueMsixVector, 2, NO_VECTOR);
    setCommon(Common.configMsixVector, 2, 3);
    offer(queue, 1);
    driver.notify(0);
    device.configChanged(true);
    expect([log, pending(), pci.intxLevel]).toEqual([[], 0, false]);
  });

  it('keeps one message pending behind the mask of its vector', () => {
    const { driver } = run();
    driver.maskVector(0, true);
    device.configChanged(true);
    device.configChanged(true);
    expect([log, pending(), pci.msixMessage(0).masked]).toEqual([[], 1, true]);
    driver.maskVector(1, false);
    expect(log).toEqual([]);
    writeBar(1, 0x800, 4, 0);
    expect(pending()).toBe(1);
    driver.maskVector(0, false);
    expect([log, pending()]).toEqual([['msix 0'], 0]);
  });

  it('keeps messages pending behind the mask of the function, in order of their vectors', () => {
    const { driver, queue } = run();
    pci.writeConfig(0x9a, 2, 0xc000);
    offer(queue, 1);
    driver.notify(0);
    device.configChanged(true);
    expect([log, pending()]).toEqual([[], 3]);
    driver.maskVector(0, true);
    pci.writeConfig(0x9a, 2, 0x8000);
    expect([log, pending()]).toEqual([['msix 1'], 1]);
  });

  it('forgets what is pending at a device reset', () => {
    const { driver } = run();
    driver.maskVector(0, true);
    device.configChanged(true);
    driver.writeStatus(0);
    driver.maskVector(0, false);
    expect([log, pending()]).toEqual([[], 0]);
  });

  it('survives a receiver that masks, unmasks and raises again', () => {
    const { driver } = run();
    pci.writeConfig(0x9a, 2, 0xc000);
    device.configChanged(true);
    let depth = 0;
    onInterrupt = () => {
      if (++depth > 3) return;
      driver.maskVector(0, true);
      device.configChanged(true);
      driver.maskVector(0, false);
    };
    pci.writeConfig(0x9a, 2, 0x8000);
    expect([log, pending()]).toEqual([Array(4).fill('msix 0'), 0]);
  });

  it('keeps what its receiver raises behind a mask', () => {
    const { driver } = run();
    driver.maskVector(0, true);
    device.configChanged(true);
    onInterrupt = () => {
      onInterrupt = undefined;
      driver.maskVector(0, true);
      device.configChanged(true);
    };
    driver.maskVector(0, false);
    expect([log, pending()]).toEqual([['msix 0'], 1]);
    driver.maskVector(0, false);
    expect([log, pending()]).toEqual([['msix 0', 'msix 0'], 0]);
  });

  it('takes table accesses of any width, and keeps the mask bit alone of the control word', () => {
    enable();
    pci.writeBar(
      1,
      0,
      Uint8Array.from({ length: 48 }, () => 0xff),
    );
    expect([readBar(1, 12, 4), readBar(1, 8, 4), readBar(1, 44, 4)]).toEqual([1, 0xffff_ffff, 1]);
    writeBar(1, 13, 1, 0xff);
    writeBar(1, 12, 1, 0);
    writeBar(1, 5, 2, 0);
    expect([readBar(1, 12, 4), readBar(1, 4, 4)]).toEqual([0, 0xff00_00ff]);
    expect(readBar(1, 47, 4)).toBe(0);
  });

  it('leaves masks to the VMM that keeps the table', () => {
    make({ msixTable: 'vmm' });
    const { driver, queue } = run();
    driver.maskVector(1, true);
    pci.writeConfig(0x9a, 2, 0xc000);
    offer(queue, 1);
    driver.notify(0);
    expect(log).toEqual(['msix 1']);
  });
});

describe('bus mastering', () => {
  it('lets the device at its rings, and is told', () => {
    const told: string[] = [];
    make({ onBusMaster: (on) => told.push(`${on} ${pci.busMaster}`) });
    const { driver, queue } = run();
    pci.writeConfig(COMMAND, 2, MEMORY);
    offer(queue, 1);
    driver.notify(0);
    device.configChanged(true);
    expect([queue.poll(), log, driver.status & Status.driverOk]).toEqual([[], [], Status.driverOk]);
    pci.writeConfig(COMMAND, 2, MEMORY);
    pci.writeConfig(COMMAND, 1, MEMORY | MASTER);
    expect(queue.poll()).toHaveLength(1);
    expect(log).toEqual(['msix 0', 'msix 1']);
    expect(told).toEqual(['true true', 'false false', 'true true']);
    pci.reset();
    expect(told.at(-1)).toBe('false false');
  });

  it('is off at first: DRIVER_OK waits', () => {
    const driver = new PciDriver(pci);
    pci.writeConfig(COMMAND, 2, MEMORY);
    const queue = new DriverQueue(memory, { size: 8, base: 0x1000n });
    negotiate(driver, FEATURES);
    runQueues(driver, [queue]);
    offer(queue, 9);
    driver.notify(0);
    expect(model.log).not.toContain('ready');
    enable();
    expect(queue.poll().map(({ writable }) => writable[0])).toEqual([9]);
  });

  it('obeys a callback that takes it away again', () => {
    make({ onBusMaster: (on) => (on ? pci.writeConfig(COMMAND, 2, MEMORY) : undefined) });
    pci.writeConfig(COMMAND, 2, MEMORY | MASTER);
    expect(pci.busMaster).toBe(false);
    const queue = new DriverQueue(memory, { size: 8, base: 0x1000n });
    negotiate(device, FEATURES);
    runQueues(device, [queue]);
    expect(model.log).not.toContain('ready');
  });
});

describe('PCI configuration access', () => {
  const CAP = 0x84;
  function aim(bar: number, offset: number, length: number): void {
    pci.writeConfig(CAP + 4, 1, bar);
    pci.writeConfig(CAP + 8, 4, offset);
    pci.writeConfig(CAP + 12, 4, length);
  }

  it('reads and writes registers without memory space', () => {
    aim(0, Common.numQueues, 2);
    expect(pci.readConfig(CAP + 16, 2)).toBe(2);
    aim(0, Common.deviceStatus, 1);
    pci.writeConfig(CAP + 16, 4, 0xffff_ff03);
    expect([device.status, pci.readConfig(CAP + 16, 1)]).toEqual([3, 3]);
    aim(0, 0x2004, 4);
    pci.writeConfig(CAP + 16, 4, 0x0102_0304);
    expect([...model.config.subarray(4, 8)]).toEqual([4, 3, 2, 1]);
    expect(pci.readConfig(CAP + 16, 4)).toBe(0x0102_0304);
    aim(1, 12, 4);
    expect(pci.readConfig(CAP + 16, 4)).toBe(1);
    aim(5, 0, 4);
    expect(pci.readConfig(CAP + 16, 4)).toBe(0xffff_ffff);
  });

  it('kicks, and clears ISR status', () => {
    const { queue } = run('intx');
    offer(queue, 1);
    aim(0, NOTIFY, 2);
    pci.writeConfig(CAP + 16, 2, 0);
    expect(queue.poll()).toHaveLength(1);
    aim(0, 0x1000, 1);
    expect([pci.readConfig(CAP + 16, 1), pci.intxLevel]).toEqual([1, false]);
  });

  it.each([
    [0, 0],
    [0, 3],
    [0, 8],
    [1, 2],
    [2, 4],
    [-1, 2],
    [-2, 4],
    [0, 0xffff_ffff],
  ])('does nothing for offset %i and length %i', (offset, length) => {
    run('intx');
    device.configChanged(true);
    aim(0, 0x1000 + offset, length);
    pci.readConfig(CAP + 16, 4);
    pci.writeConfig(CAP + 16, 4, 0);
    expect([pci.intxLevel, device.status]).toEqual([true, 15]);
  });

  it('touches nothing but on pci_cfg_data, and keeps the rest of the capability', () => {
    run('intx');
    device.configChanged(true);
    aim(0, 0x1000, 1);
    pci.readConfig(CAP + 12, 4);
    pci.readConfig(CAP + 20, 4);
    expect(pci.intxLevel).toBe(true);
    pci.writeConfig(CAP, 4, 0xffff_ffff);
    pci.writeConfig(CAP + 5, 1, 0xff);
    expect([pci.readConfig(CAP, 4), pci.readConfig(CAP + 4, 4)]).toEqual([0x0514_9809, 0]);
    pci.readConfig(CAP + 15, 2);
    expect(pci.intxLevel).toBe(false);
  });
});

describe('the function', () => {
  it('carries requests on packed rings', () => {
    const driver = new PciDriver(pci);
    const queue = new PackedDriverQueue(memory, { size: 5, base: 0x1000n });
    negotiate(driver, FEATURES | Feature.ringPacked);
    runQueues(driver, [queue]);
    for (let i = 0; i < 12; i++) {
      offer(queue, i);
      driver.notify(0);
      expect(queue.poll().map(({ writable }) => writable[0])).toEqual([i]);
    }
  });

  it('is as after power-on after a reset, and works again', () => {
    const fresh = new Uint8Array(256);
    const after = new Uint8Array(256);
    pci.readConfigBytes(0, fresh);
    const { driver } = run();
    pci.writeConfig(0x3c, 1, 9);
    pci.reset();
    pci.readConfigBytes(0, after);
    expect(after).toEqual(fresh);
    expect([device.status, pci.msixEnabled, pci.memorySpace, pci.busMaster]).toEqual([0, false, false, false]);
    driver.probe();
    const queue = new DriverQueue(memory, { size: 8, base: 0x1000n });
    negotiate(driver, FEATURES);
    runQueues(driver, [queue]);
    offer(queue, 3);
    driver.notify(0);
    expect(queue.poll()).toHaveLength(1);
    expect(driver.resetQueue(0)).toBe(true);
    expect(driver.driverFeatures).toBe(FEATURES);
  });

  it.each<[string, unknown]>([
    ['interrupts', { interrupts: undefined }],
    ['interrupts', { interrupts: {} }],
    ['intx', { interrupts: { msix: () => undefined, intx: 1 } }],
    ['classCode', { classCode: 0x100_0000 }],
    ['subsystemId', { subsystemId: 0x1_0000 }],
    ['subsystemVendorId', { subsystemVendorId: -1 }],
    ['vectors', { vectors: 2049 }],
    ['vectors', { vectors: -1 }],
    ['barWidth', { barWidth: 16 }],
    ['notifyMultiplier', { notifyMultiplier: 1 }],
    ['notifyMultiplier', { notifyMultiplier: 6 }],
    ['notifyMultiplier', { notifyMultiplier: 8192 }],
    ['msixTable', { msixTable: 'none' }],
    ['onBusMaster', { onBusMaster: 1 }],
    ['onBarsMoved', { onBarsMoved: 1 }],
    ['colour', { colour: 1 }],
  ])('refuses a wrong %s before anything changes', (name, change) => {
    const other = new VirtioDevice(new EchoModel(), {
      memory,
      interrupt: { queue: () => undefined, config: () => undefined },
    });
    const options = { interrupts: { msix: () => undefined }, ...(change as object) };
    expect(() => new VirtioPciFunction(other, options)).toThrow(new RegExp(name));
    expect(() => new VirtioPciFunction(other, { interrupts: { msix: () => undefined } })).not.toThrow();
    expect(() => new VirtioPciFunction(other, { interrupts: { msix: () => undefined } })).toThrow(/transport/);
  });
});
