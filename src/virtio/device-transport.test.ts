// What VirtioDevice does for its transport: connection, the gate of DMA, packed rings.
import { beforeEach, describe, expect, it } from 'vitest';
import type { RingFeatureName } from './device.ts';
import { DriverQueue } from '../testing/driver-queue.ts';
import { negotiate, runQueues } from '../testing/driver-setup.ts';
import type { DriverVirtqueue } from '../testing/driver-virtqueue.ts';
import { EchoModel } from '../testing/echo-model.ts';
import { PackedDriverQueue } from '../testing/packed-driver-queue.ts';
import { VirtioDevice } from './device.ts';
import { Feature, Status } from './features.ts';
import { GuestMemory } from './memory.ts';
import { PackedQueue } from './packed-queue.ts';
import { SplitQueue } from './split-queue.ts';

let memory: GuestMemory;
let model: EchoModel;
let device: VirtioDevice;
let log: string[];

function make(ringFeatures?: readonly RingFeatureName[]): void {
  model = new EchoModel();
  device = new VirtioDevice(model, {
    memory,
    interrupt: { queue: (index) => log.push(`old queue ${index}`), config: () => log.push('old config') },
    ...(ringFeatures === undefined ? {} : { ringFeatures }),
  });
  model.device = device;
}

function connect(): void {
  device.connect({
    queue: (index) => log.push(`queue ${index}`),
    config: () => log.push('config'),
    reset: () => log.push('reset'),
  });
}

function offer(driver: DriverVirtqueue, ...values: number[]): void {
  driver.makeAvailable(...values.map((value) => driver.add({ readable: Uint8Array.of(value), writableLength: 1 })));
}

function answers(driver: DriverVirtqueue): number[] {
  return driver.poll().map(({ writable }) => writable[0]!);
}

beforeEach(() => {
  memory = new GuestMemory();
  memory.addRegion({ gpa: 0n, size: 0x100000n });
  log = [];
  make();
});

describe('a connected transport', () => {
  it('has the interrupts, hears of every reset, and is the only one', () => {
    const driver = new DriverQueue(memory, { size: 8, base: 0x1000n });
    negotiate(device, Feature.version1);
    runQueues(device, [driver]);
    offer(driver, 1);
    device.notify(0);
    expect(log).toEqual(['old queue 0']);
    connect();
    log.length = 0;
    offer(driver, 2);
    device.notify(0);
    device.configChanged(true);
    device.writeStatus(0);
    expect(log).toEqual(['queue 0', 'config', 'reset']);
    expect(() => connect()).toThrow(/transport already/);
    expect([device.deviceId, device.configLength, device.queueCount]).toEqual([63, 12, 2]);
  });

  it('hears of a reset when the queues are idle and the model has not heard of it', () => {
    model.log.length = 0;
    device.connect({
      queue: () => undefined,
      config: () => undefined,
      reset: () => log.push(`${device.status} ${device.queueEnabled(0)} ${model.log.length}`),
    });
    negotiate(device, Feature.version1);
    device.enableQueue(0);
    model.log.length = 0;
    log.length = 0;
    device.writeStatus(0);
    expect(log).toEqual(['0 false 0']);
    expect(model.log).toEqual(['reset']);
  });
});

describe.each(['split', 'packed'] as const)('the gate of DMA, %s ring', (ring) => {
  let driver: DriverVirtqueue;
  const features = Feature.version1 | Feature.eventIdx | (ring === 'packed' ? Feature.ringPacked : 0n);

  beforeEach(() => {
    make(['eventIdx', 'packed']);
    const init = { size: 8, base: 0x1000n, eventIdx: true };
    driver = ring === 'packed' ? new PackedDriverQueue(memory, init) : new DriverQueue(memory, init);
  });

  it('keeps a kick until it opens, and touches nothing meanwhile', () => {
    negotiate(device, features);
    runQueues(device, [driver]);
    device.setDmaAllowed(false);
    offer(driver, 1, 2);
    // Where the device would say for which chain it wants a kick, in either format.
    for (const at of [0, 4 + 8 * 8]) memory.storeU16(Number(driver.used) + at, 0x5555);
    const before = new Uint8Array(0x1000);
    const after = new Uint8Array(0x1000);
    memory.read(0x1000, before, 0, 0x1000);
    device.notify(0);
    expect(device.queue(0).available()).toBe(0);
    expect(device.queue(0).armNotification()).toBe(false);
    memory.read(0x1000, after, 0, 0x1000);
    expect(after).toEqual(before);
    expect([model.served, device.status & Status.driverOk]).toEqual([0, Status.driverOk]);
    memory.write(Number(driver.used), new Uint8Array(4), 0, 4);
    device.setDmaAllowed(true);
    expect(answers(driver)).toEqual([1, 2]);
    device.setDmaAllowed(true);
    expect(model.log.filter((line) => line === 'kick 0')).toHaveLength(1);
  });

  it('looks at every enabled queue when it opens, kicked or not', () => {
    negotiate(device, features);
    runQueues(device, [driver]);
    device.setDmaAllowed(false);
    offer(driver, 1);
    device.setDmaAllowed(true);
    expect(answers(driver)).toEqual([1]);
    expect(model.log).not.toContain('kick 1');
  });

  it('keeps DRIVER_OK until it opens; a reset before forgets it', () => {
    device.setDmaAllowed(false);
    negotiate(device, features);
    model.log.length = 0;
    runQueues(device, [driver]);
    offer(driver, 1);
    device.notify(0);
    expect([model.log, device.queue(0).ready]).toEqual([[], false]);
    device.setDmaAllowed(true);
    expect(answers(driver)).toEqual([1]);
    device.setDmaAllowed(false);
    device.writeStatus(0);
    model.log.length = 0;
    device.setDmaAllowed(true);
    expect(model.log).toEqual([]);
  });

  it('that closes in an interrupt ends the pass, and gives back what was taken', () => {
    negotiate(device, features);
    runQueues(device, [driver]);
    device.connect({
      queue: () => device.setDmaAllowed(false),
      config: () => undefined,
      reset: () => undefined,
    });
    driver.armInterrupt();
    offer(driver, 1);
    device.notify(0);
    expect(answers(driver)).toEqual([1]);
    offer(driver, 2);
    device.notify(0);
    expect(answers(driver)).toEqual([]);
    device.setDmaAllowed(true);
    expect(answers(driver)).toEqual([2]);
  });
});

describe('packed rings', () => {
  it('are offered by name only, and used when negotiated', () => {
    expect(device.offeredFeatures & Feature.ringPacked).toBe(0n);
    make(['packed']);
    expect(device.offeredFeatures & Feature.ringPacked).toBe(Feature.ringPacked);
    expect(device.queue(0)).toBeInstanceOf(SplitQueue);
    device.setDriverFeatures(Feature.version1 | Feature.ringPacked);
    expect(device.queue(0)).toBeInstanceOf(SplitQueue);
    negotiate(device, Feature.version1 | Feature.ringPacked);
    const packed = device.queue(0);
    expect(packed).toBeInstanceOf(PackedQueue);
    expect([packed.index, packed.maxSize]).toEqual([0, 16]);
    device.writeStatus(0);
    expect(device.queue(0)).toBeInstanceOf(SplitQueue);
    negotiate(device, Feature.version1 | Feature.ringPacked);
    expect(device.queue(0)).toBe(packed);
    negotiate(device, Feature.version1);
    expect(device.queue(0)).toBeInstanceOf(SplitQueue);
  });

  it('carry requests, and damage asks for a reset [D-RING-8]', () => {
    make(['packed', 'indirect']);
    const driver = new PackedDriverQueue(memory, { size: 5, base: 0x1000n });
    const features = Feature.version1 | Feature.ringPacked | Feature.indirectDesc;
    negotiate(device, features);
    runQueues(device, [driver]);
    for (let i = 0; i < 20; i++) {
      offer(driver, i);
      device.notify(0);
      expect(answers(driver)).toEqual([i]);
    }
    const id = driver.add({ readable: Uint8Array.of(1), writableLength: 1 });
    driver.makeAvailable(id);
    const [position] = driver.descriptorsOf(id);
    driver.writeDescriptor(position!, { ...driver.readDescriptor(position!), addr: 1n << 60n });
    device.notify(0);
    expect(device.status & Status.needsReset).toBe(Status.needsReset);
    driver.reset();
    negotiate(device, features);
    runQueues(device, [driver]);
    offer(driver, 7);
    device.notify(0);
    expect(answers(driver)).toEqual([7]);
  });

  it('may have a size that is no power of two; split ones not', () => {
    make(['packed', 'ringReset']);
    const driver = new PackedDriverQueue(memory, { size: 3, base: 0x1000n });
    negotiate(device, Feature.version1 | Feature.ringPacked | Feature.ringReset);
    runQueues(device, [driver]);
    expect([device.queue(0).size, device.queue(0).ready]).toEqual([3, true]);
    device.resetQueue(0);
    expect(model.log.at(-1)).toBe('queueReset 0');
    expect(device.queue(0)).toMatchObject({ ready: false, size: 16 });
    negotiate(device, Feature.version1);
    runQueues(device, [driver]);
    device.notify(0);
    expect(device.status & Status.needsReset).toBe(Status.needsReset);
  });
});

describe('ACCESS_PLATFORM', () => {
  it('is offered when asked for, and then a driver has to accept it', () => {
    expect(device.offeredFeatures & Feature.accessPlatform).toBe(0n);
    make(['accessPlatform']);
    const status = Status.acknowledge | Status.driver | Status.featuresOk;
    const accepted = (features: bigint): boolean => {
      device.writeStatus(0);
      device.writeStatus(Status.acknowledge | Status.driver);
      device.setDriverFeatures(features);
      device.writeStatus(status);
      return (device.status & Status.featuresOk) !== 0;
    };
    expect(accepted(Feature.version1)).toBe(false);
    expect(accepted(Feature.version1 | Feature.accessPlatform)).toBe(true);
  });
});
