import { beforeEach, describe, expect, it } from 'vitest';
import { DriverQueue } from '../../testing/driver-queue.ts';
import { negotiate, runQueues } from '../../testing/driver-setup.ts';
import { EchoModel } from '../../testing/echo-model.ts';
import { MmioDriver } from '../../testing/mmio-driver.ts';
import { PackedDriverQueue } from '../../testing/packed-driver-queue.ts';
import { VirtioDevice } from '../device.ts';
import { Feature, Status } from '../features.ts';
import { GuestMemory } from '../memory.ts';
import { MmioRegister as Register } from './mmio-layout.ts';
import { VirtioMmioDevice } from './virtio-mmio-device.ts';

const FEATURES = Feature.version1 | Feature.ringReset;
const READABLE = [0x00, 0x04, 0x08, 0x0c, 0x10, 0x34, 0x44, 0x60, 0x70, 0xb0, 0xb4, 0xb8, 0xbc, 0xc0, 0xfc];

let memory: GuestMemory;
let model: EchoModel;
let device: VirtioDevice;
let mmio: VirtioMmioDevice;
let driver: MmioDriver;
let log: boolean[];

function make(of = new EchoModel(), vendorId?: number): void {
  log = [];
  memory = new GuestMemory();
  memory.addRegion({ gpa: 0n, size: 0x100000n });
  model = of;
  device = new VirtioDevice(model, {
    memory,
    interrupt: { queue: () => undefined, config: () => undefined },
    ringFeatures: ['indirect', 'eventIdx', 'ringReset', 'packed'],
  });
  model.device = device;
  const interrupt = (level: boolean): void => void log.push(level);
  mmio = new VirtioMmioDevice(device, { interrupt, ...(vendorId === undefined ? {} : { vendorId }) });
  driver = new MmioDriver(mmio);
}

function read(offset: number, size: number): number {
  const bytes = new Uint8Array(size).fill(0xcc);
  mmio.read(offset, bytes);
  return bytes.reduceRight((value, byte) => value * 256 + byte, 0);
}

function write(offset: number, size: number, value: number): void {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value), true);
  mmio.write(offset, bytes.slice(0, size));
}

function run(size = 8): DriverQueue {
  const queue = new DriverQueue(memory, { size, base: 0x1000n });
  negotiate(driver, FEATURES);
  runQueues(driver, [queue]);
  return queue;
}

function offer(queue: DriverQueue | PackedDriverQueue, ...values: number[]): void {
  queue.makeAvailable(...values.map((value) => queue.add({ readable: Uint8Array.of(value), writableLength: 1 })));
}

beforeEach(() => make());

describe('control registers', () => {
  it('say virt, version 2, and who is there [D-MMIO-1]', () => {
    expect([0, 4, 8, 12].map((offset) => read(offset, 4))).toEqual([0x7472_6976, 2, 63, 0x1af4]);
    make(new EchoModel(), 0x554d_4551);
    expect([read(12, 4), mmio.size]).toEqual([0x554d_4551, 0x1000]);
    make(new EchoModel([2], 0xf01));
    expect(mmio.size).toBe(0x2000);
  });

  it('show features in words, and nothing beyond bit 63', () => {
    const word = (select: number): number => {
      write(Register.deviceFeaturesSel, 4, select);
      return read(Register.deviceFeatures, 4);
    };
    const { offeredFeatures } = device;
    expect([0, 1, 2, 0xffff_ffff].map(word)).toEqual([
      Number(offeredFeatures & 0xffff_ffffn),
      Number(offeredFeatures >> 32n),
      0,
      0,
    ]);
    for (const [select, value] of [
      [0, 0x1234_5678],
      [1, 0x9abc_def0],
      [2, 0xffff_ffff],
      [0xffff_ffff, 0xffff_ffff],
    ] as const) {
      write(Register.driverFeaturesSel, 4, select);
      write(Register.driverFeatures, 4, value);
    }
    expect(device.driverFeatures).toBe(0x9abc_def0_1234_5678n);
  });

  it('take aligned 32-bit accesses only', () => {
    for (const size of [0, 1, 2, 3, 5, 8]) expect(read(0, size)).toBe(0);
    for (const offset of [1, 2, 3, 0.5, -4, NaN]) expect(read(offset, 4)).toBe(0);
    for (const size of [0, 1, 2, 3, 5, 8]) write(Register.status, size, 1);
    for (const offset of [0x6f, 0x71, 0x6e]) write(offset, 4, 0x0101_0101);
    expect(device.status).toBe(0);
    write(Register.status, 4, 1);
    expect([device.status, read(Register.status, 4)]).toEqual([1, 1]);
  });

  it('read 0 where nothing is to be read, and ignore writes where nothing is to be written', () => {
    run();
    const state = (): number[] => READABLE.map((offset) => read(offset, 4));
    const before = state();
    for (let offset = 0; offset < 0x100; offset += 4) {
      if (!READABLE.includes(offset)) expect(read(offset, 4), offset.toString(16)).toBe(0);
    }
    for (const offset of [0, 4, 8, 12, 0x10, 0x18, 0x34, 0x3c, 0x60, 0xac, 0xb0, 0xbc, 0xc4, 0xf8, 0xfc]) {
      write(offset, 4, 0xffff_ffff);
    }
    expect(state()).toEqual(before);
  });

  it('show no shared memory: length and base are all ones', () => {
    for (const id of [0, 1, 0xffff_ffff]) {
      write(Register.shmSel, 4, id);
      expect([0xb0, 0xb4, 0xb8, 0xbc].map((offset) => read(offset, 4))).toEqual(Array(4).fill(0xffff_ffff));
    }
  });
});

describe('queues', () => {
  it('are there up to the last one', () => {
    const seen = [0, 1, 2, 0xffff, 0xffff_ffff].map((select) => {
      write(Register.queueSel, 4, select);
      write(Register.queueReady, 4, 1);
      write(Register.queueReset, 4, 1);
      return [read(Register.queueSizeMax, 4), read(Register.queueReady, 4)];
    });
    expect(seen).toEqual([
      [16, 1],
      [8, 1],
      [0, 0],
      [0, 0],
      [0, 0],
    ]);
  });

  it('carry requests on split and packed rings', () => {
    const queue = run();
    offer(queue, 1, 2);
    driver.notify(0);
    expect(queue.poll().map(({ writable }) => writable[0])).toEqual([1, 2]);
    const packed = new PackedDriverQueue(memory, { size: 3, base: 0x1000n });
    negotiate(driver, FEATURES | Feature.ringPacked);
    runQueues(driver, [packed]);
    for (let i = 0; i < 8; i++) {
      offer(packed, i);
      driver.notify(0);
      expect(packed.poll().map(({ writable }) => writable[0])).toEqual([i]);
    }
    model.log.length = 0;
    for (const index of [1, 2, 0x1_0000, 0xffff_ffff]) driver.notify(index);
    expect(model.log).toEqual([]);
  });

  it('are not accessed while QueueReady is 0, and can be made ready again [D-MMIO-1]', () => {
    const queue = run();
    write(Register.queueSel, 4, 0);
    write(Register.queueReady, 4, 0);
    expect(read(Register.queueReady, 4)).toBe(0);
    offer(queue, 1);
    driver.notify(0);
    expect([queue.poll(), model.log.at(-1)]).toEqual([[], 'queueReset 0']);
    queue.reset();
    offer(queue, 2);
    write(Register.queueReady, 4, 2);
    expect(read(Register.queueReady, 4)).toBe(0);
    write(Register.queueReady, 4, 1);
    driver.notify(0);
    expect(queue.poll().map(({ writable }) => writable[0])).toEqual([2]);
  });

  it('keep their description while they are ready', () => {
    const queue = run();
    for (const offset of [Register.queueSize, Register.queueDescLow, Register.queueDeviceLow]) {
      write(offset, 4, 0x40);
    }
    write(Register.queueReady, 4, 0);
    queue.reset();
    offer(queue, 4);
    write(Register.queueReady, 4, 1);
    driver.notify(0);
    expect(queue.poll()).toHaveLength(1);
  });

  it('are reset by QueueReset when that is negotiated, and only then', () => {
    run();
    write(Register.queueReset, 4, 0);
    expect(read(Register.queueReady, 4)).toBe(1);
    write(Register.queueReset, 4, 1);
    expect([read(Register.queueReset, 4), read(Register.queueReady, 4)]).toEqual([0, 0]);
    negotiate(driver, Feature.version1);
    runQueues(driver, [new DriverQueue(memory, { size: 8, base: 0x1000n })]);
    write(Register.queueReset, 4, 1);
    expect(read(Register.queueReady, 4)).toBe(1);
  });

  it.each([0, 3, 17, 0x1_0008, 0xffff_ffff])('of size %i make the device ask for a reset', (size) => {
    const queue = new DriverQueue(memory, { size: 8, base: 0x1000n });
    negotiate(driver, FEATURES);
    const { desc, avail, used } = queue;
    runQueues(driver, [{ size, desc, avail, used }]);
    driver.notify(0);
    expect(driver.status & Status.needsReset).toBe(Status.needsReset);
  });
});

describe('interrupts', () => {
  it('stay until they are acknowledged, bit by bit [D-MMIO-1]', () => {
    const queue = run();
    expect(mmio.interruptLevel).toBe(false);
    offer(queue, 1);
    driver.notify(0);
    device.configChanged(true);
    expect([read(Register.interruptStatus, 4), log]).toEqual([3, [true]]);
    write(Register.interruptAck, 4, 0xffff_fffc);
    write(Register.interruptAck, 4, 1);
    expect([read(Register.interruptStatus, 4), mmio.interruptLevel]).toEqual([2, true]);
    write(Register.interruptAck, 4, 3);
    expect([read(Register.interruptStatus, 4), log]).toEqual([0, [true, false]]);
    device.configChanged(true);
    expect([driver.takeInterrupts(), log]).toEqual([2, [true, false, true, false]]);
  });

  it('are gone after a reset, as is QueueReady, whoever asked for it [D-MMIO-1]', () => {
    for (const reset of [() => driver.writeStatus(0), () => device.writeStatus(0)]) {
      run();
      device.configChanged(true);
      reset();
      expect([read(Register.interruptStatus, 4), log.at(-1), read(Register.status, 4)]).toEqual([0, false, 0]);
      expect(read(Register.queueReady, 4)).toBe(0);
    }
  });
});

describe('configuration space', () => {
  it('begins at 0x100 and takes any width [D-MMIO-1]', () => {
    expect(read(0x100, 1)).toBe(0x10);
    expect(read(0x101, 2)).toBe(0x1211);
    expect(read(0x102, 4)).toBe(0x1514_1312);
    expect(read(0x103, 3)).toBe(0x15_1413);
    expect(driver.readConfig(0, 8)).toBe(0x1716_1514_1312_1110n);
    expect([read(0x10b, 1), read(0x10b, 2), read(0x10b, 4), read(0x10c, 4), read(0x1000, 4)]).toEqual([
      0x1b, 0x1b, 0x1b, 0, 0,
    ]);
    write(0x10b, 1, 0x77);
    write(0x10b, 2, 0xffff);
    write(0x10c, 1, 1);
    driver.writeConfig(0, 8, 0x1122_3344_5566_7788n);
    expect([...model.config]).toEqual([0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x18, 0x19, 0x1a, 0x77]);
  });

  it('has a generation that changes with it [D-MMIO-1]', () => {
    const before = driver.configGeneration;
    expect(driver.configGeneration).toBe(before);
    device.configChanged(false);
    expect(driver.configGeneration).not.toBe(before);
  });
});

it('refuses wrong options before anything changes', () => {
  const other = new VirtioDevice(new EchoModel(), {
    memory,
    interrupt: { queue: () => undefined, config: () => undefined },
  });
  const interrupt = (): void => undefined;
  expect(() => new VirtioMmioDevice(other, {} as never)).toThrow(/interrupt/);
  expect(() => new VirtioMmioDevice(other, { interrupt, vendorId: 2 ** 32 })).toThrow(/vendorId/);
  expect(() => new VirtioMmioDevice(other, { interrupt, colour: 1 } as never)).toThrow(/colour/);
  expect(() => new VirtioMmioDevice(other, { interrupt })).not.toThrow();
  expect(() => new VirtioMmioDevice(other, { interrupt })).toThrow(/transport/);
});
