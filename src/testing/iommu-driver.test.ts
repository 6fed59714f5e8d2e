import { beforeEach, expect, test } from 'vitest';
import type { IommuDriverOptions } from './iommu-driver.ts';
import type { VirtioDeviceModel } from '../virtio/device-model.ts';
import type { Virtqueue } from '../virtio/virtqueue.ts';
import { DescriptorChain } from '../virtio/chain.ts';
import { VirtioDevice } from '../virtio/device.ts';
import { GuestMemory } from '../virtio/memory.ts';
import { PopResult } from '../virtio/virtqueue.ts';
import { encodeConfig } from '../wire/config.ts';
import { encodeProperties } from '../wire/reply.ts';
import { LINUX_DRIVER_FEATURES } from './driver-setup.ts';
import { guestModel } from './guest-model.ts';
import { IommuDriver } from './iommu-driver.ts';
import { MAX_KEPT_REFUSALS, NO_STATUS } from './kick-totals.ts';
import { Kick } from './kick.ts';
import { l2Layout } from './l2-memory.ts';

const PROBE_SIZE = 64;

/** A device that notes requests and answers what `answer` says: bytes to write, or undefined for used length 0. */
class StubModel implements VirtioDeviceModel {
  readonly deviceId = 23;
  deviceFeatures = 0x7fn;
  readonly queueMaxSizes = [64, 16];
  readonly configLength = 40;
  readonly requests: string[] = [];
  readonly perKick: number[] = [];
  eventKicks = 0;
  accept = true;
  limit = Infinity;
  device: VirtioDevice | undefined;
  bypass = 1;
  answer: (request: Uint8Array, writable: number) => Uint8Array | undefined = (_request, writable) =>
    new Uint8Array(writable);
  #queues: readonly Virtqueue[] = [];
  readonly #chain = new DescriptorChain();

  readConfig(into: Uint8Array): void {
    encodeConfig(
      {
        pageSizeMask: 0x1000n,
        inputRange: { start: 0x1000n, end: 2n ** 63n },
        domainRange: { start: 1, end: 99 },
        probeSize: PROBE_SIZE,
        bypass: this.bypass,
      },
      into,
    );
  }

  writeConfig(offset: number, bytes: Uint8Array): void {
    if (offset === 36) this.bypass = bytes[0]!;
  }

  featuresNegotiated(): boolean {
    return this.accept;
  }

  driverReady(queues: readonly Virtqueue[]): void {
    this.#queues = queues;
  }

  notified(index: number): void {
    if (index === 1) {
      this.eventKicks++;
      return;
    }
    this.serve(this.limit);
  }

  serve(limit: number): void {
    const queue = this.#queues[0]!;
    let served = 0;
    for (; served < limit && queue.pop(this.#chain) === PopResult.chain; served++) {
      const readable = new Uint8Array(this.#chain.readableLength);
      this.#chain.copyReadable(0, readable, readable.length);
      this.requests.push(Buffer.from(readable).toString('hex'));
      const reply = this.answer(readable, this.#chain.writableLength);
      if (reply !== undefined) this.#chain.write(0, reply, reply.length);
      queue.push(this.#chain.head, reply?.length ?? 0);
    }
    this.perKick.push(served);
    queue.publish();
    queue.armNotification();
  }

  sendEvent(bytes: Uint8Array, length: number): boolean {
    const queue = this.#queues[1]!;
    if (queue.pop(this.#chain) !== PopResult.chain) return false;
    expect(this.#chain.writableLength).toBe(24);
    this.#chain.write(0, bytes, Math.min(length, 24));
    queue.push(this.#chain.head, length);
    queue.publish();
    return true;
  }

  reset(): void {
    this.#queues = [];
  }

  queueReset(): void {
    this.#queues = [];
  }
}

let model: StubModel;

beforeEach(() => {
  model = new StubModel();
});

function makeDriver(
  options: Partial<IommuDriverOptions> = {},
  ringFeatures: readonly ('indirect' | 'eventIdx')[] = ['indirect', 'eventIdx'],
): IommuDriver {
  const memory = new GuestMemory();
  memory.addRegion({ gpa: 0x10_0000n, size: 0x10_0000n });
  const device = new VirtioDevice(model, {
    memory,
    interrupt: { queue: () => undefined, config: () => undefined },
    ringFeatures,
  });
  model.device = device;
  return new IommuDriver({ device, memory, base: 0x10_0000n, ...options });
}

function startDriver(...args: Parameters<typeof makeDriver>): IommuDriver {
  const driver = makeDriver(...args);
  driver.start();
  return driver;
}

/** A reply of `length` bytes whose last four are the tail. */
function tail(status: number, length = 4): Uint8Array {
  const bytes = new Uint8Array(length);
  bytes[length - 4] = status;
  return bytes;
}

test('bring-up as Linux: features, configuration, event buffers without a notification', () => {
  const driver = startDriver({}, ['indirect']);
  expect(LINUX_DRIVER_FEATURES).toBe(0x1_3000_0077n);
  expect(driver.features).toBe(0x1_1000_0077n);
  expect(model.device!.status).toBe(15);
  expect(driver.config).toEqual({
    pageSizeMask: 0x1000n,
    inputRange: { start: 0x1000n, end: 2n ** 63n },
    domainRange: { start: 1, end: 99 },
    probeSize: PROBE_SIZE,
    bypass: true,
  });
  expect(model.device!.queue(1).available()).toBe(16);
  expect(model.eventKicks).toBe(0);
  expect(driver.requestQueue.size).toBe(64);
  expect(driver.ringCapacity).toBe(64);
  expect(driver.needsReset).toBe(false);
});

test('a field without its feature has the value of the standard', () => {
  model.deviceFeatures = 4n;
  expect(startDriver().config).toEqual({
    pageSizeMask: 0x1000n,
    inputRange: { start: 0n, end: 2n ** 64n - 1n },
    domainRange: { start: 0, end: 0xffff_ffff },
    probeSize: 0,
    bypass: undefined,
  });
});

test('refused features are an error and leave the device in FAILED; a later start works', () => {
  const driver = makeDriver();
  expect(() => driver.config).toThrow('not started');
  expect(() => driver.map(1, 0n, 0xfffn, 0n)).toThrow('not started');
  model.accept = false;
  expect(() => driver.start()).toThrow('refused the features 0x130000077');
  expect(model.device!.status & 128).toBe(128);
  model.accept = true;
  driver.start();
  expect(driver.map(1, 0n, 0xfffn, 0n).status).toBe(0);
  model.device!.needsReset();
  expect(driver.needsReset).toBe(true);
  expect(driver.map(1, 0n, 0xfffn, 0n)).toEqual({ status: NO_STATUS, usedLength: -1, linuxStatus: NO_STATUS });
  driver.start();
  expect(driver.attach(1, 2)).toEqual({ status: 0, usedLength: 4, linuxStatus: 0 });
});

test('each method sends one request of its own notification', () => {
  const driver = startDriver();
  driver.attach(1, 40, 1);
  driver.detach(1, 40);
  driver.map(1, 0n, 0xfffn, 0x2000n);
  driver.map(1, 0n, 0xfffn, 0x2000n, 4);
  driver.unmap(1, 0n, 0xfffn);
  expect(model.perKick).toEqual([1, 1, 1, 1, 1]);
  expect(model.requests).toEqual([
    '0100000001000000280000000100000000000000',
    '0200000001000000280000000000000000000000',
    '03000000010000000000000000000000ff0f000000000000002000000000000003000000',
    '03000000010000000000000000000000ff0f000000000000002000000000000004000000',
    '04000000010000000000000000000000ff0f00000000000000000000',
  ]);
});

test('what Linux makes of an answer: only the exact used length brings the status', () => {
  const driver = startDriver();
  model.answer = () => tail(4);
  expect(driver.unmap(1, 0n, 0n)).toEqual({ status: 4, usedLength: 4, linuxStatus: 4 });
  model.answer = () => undefined;
  expect(driver.unmap(1, 0n, 0n)).toEqual({ status: NO_STATUS, usedLength: 0, linuxStatus: 0 });
  model.answer = () => Uint8Array.of(4, 0, 0);
  expect(driver.unmap(1, 0n, 0n)).toEqual({ status: NO_STATUS, usedLength: 3, linuxStatus: 0 });
});

test('PROBE returns the properties that Linux takes', () => {
  const driver = startDriver();
  const region = { start: 0xfee0_0000n, end: 0xfeef_ffffn, kind: 'msi' } as const;
  const reply = new Uint8Array(PROBE_SIZE + 4);
  reply.set(encodeProperties([region], PROBE_SIZE));
  model.answer = (_request, writable) => reply.slice(0, writable);
  expect(driver.probe(40)).toEqual({
    status: 0,
    usedLength: PROBE_SIZE + 4,
    linuxStatus: 0,
    properties: { regions: [{ ...region, subtype: 1 }], unknownTypes: [], error: undefined },
  });
  model.answer = () => reply.slice(0, PROBE_SIZE);
  expect(driver.probe(40)).toMatchObject({ status: NO_STATUS, linuxStatus: 0, properties: { regions: [] } });
  reply[PROBE_SIZE] = 6;
  model.answer = () => reply;
  expect(driver.probe(40)).toMatchObject({ status: 6, properties: { regions: [] } });
});

test.each([['indirect', ['indirect', 'eventIdx']] as const, ['direct', []] as const])(
  'a batch is one notification, answers in its order: %s descriptors',
  (_name, ringFeatures) => {
    const driver = startDriver({ requestQueueSize: 8 }, ringFeatures);
    const capacity = ringFeatures.length > 0 ? 8 : 4;
    expect(driver.ringCapacity).toBe(capacity);
    model.answer = (request, writable) => tail(request[4]! % 9, writable);
    for (let round = 0; round < 5; round++) {
      const commands = Array.from({ length: capacity }, (_, i) => ({ op: 'attach', domain: i, endpoint: 1 }) as const);
      expect(driver.batch(commands).map((reply) => reply.status)).toEqual(commands.map(({ domain }) => domain));
    }
    expect(model.perKick).toEqual(Array(5).fill(capacity));
    const tooMany = Array.from({ length: capacity + 1 }, () => ({ op: 'probe', endpoint: 1 }) as const);
    expect(() => driver.batch(tooMany)).toThrow(RangeError);
    expect(driver.batch([])).toEqual([]);
    expect(driver.batch([{ op: 'probe', endpoint: 8 }])[0]).toMatchObject({ usedLength: PROBE_SIZE + 4, status: 8 });
  },
);

test('raw requests of any size come back as they are', () => {
  const driver = startDriver();
  model.answer = (_request, writable) => (writable >= 2 ? Uint8Array.of(7, 7) : undefined);
  expect(driver.raw(Uint8Array.of(99), 3)).toMatchObject({ usedLength: 2, writable: Uint8Array.of(7, 7, 0xa5) });
  expect(driver.raw(Uint8Array.of(99, 1), 1)).toMatchObject({ usedLength: 0, writable: Uint8Array.of(0xa5) });
  expect(model.requests).toEqual(['63', '6301']);
});

test.each([['indirect', ['indirect', 'eventIdx']] as const, ['direct', []] as const])(
  'kicks: statuses by entry, totals, first refusals: %s descriptors',
  (_name, ringFeatures) => {
    const driver = startDriver({}, ringFeatures);
    model.answer = (request) => (request[4] === 7 ? undefined : tail(request[4]!));
    const kick = new Kick(driver.ringCapacity);
    const statuses = new Uint8Array(kick.capacity).fill(1);
    for (let round = 0; round < 3; round++) {
      kick.clear();
      kick.pushMap(0, 1, 2, 3, 3);
      kick.pushUnmap(8, 0x10_0000, 5);
      kick.pushAttach(0, 40, 0);
      kick.pushMap(7, 9, 9, 1, 3);
      kick.pushMap(200, 9, 9, 1, 3);
      expect(driver.sendKick(kick, statuses)).toBe(3);
      expect([...statuses.subarray(0, 6)]).toEqual([0, 8, 0, NO_STATUS, 200, 1]);
    }
    expect(driver.totals).toMatchObject({
      kicks: 3,
      requests: 15,
      ok: 6,
      refused: 9,
      refusedPages: 6,
      withoutStatus: 6,
    });
    expect([...driver.totals.byStatus]).toEqual([6, 0, 0, 0, 0, 0, 0, 0, 3]);
    expect(driver.totals.firstRefusals[0]).toEqual({
      status: 8,
      type: 4,
      domain: 8,
      endpoint: 0,
      iovaPage: 0x10_0000,
      pages: 5,
      physPage: 0,
    });
    for (let i = 0; i < 10; i++) driver.sendKick(kick);
    expect(driver.totals.firstRefusals).toHaveLength(MAX_KEPT_REFUSALS);
  },
);

test('a kick with a PROBE keeps the order of its requests', () => {
  const driver = startDriver();
  const kick = new Kick(4);
  const statuses = new Uint8Array(4);
  kick.pushAttach(1, 2, 0);
  kick.pushProbe(5);
  kick.pushUnmap(3, 0, 1);
  model.answer = (request, writable) => tail(request[0]!, writable);
  expect(driver.sendKick(kick, statuses)).toBe(3);
  expect([...statuses]).toEqual([1, 5, 4, 0]);
  expect(model.requests.map((request) => request.slice(0, 2))).toEqual(['01', '05', '04']);
  expect(driver.send(guestModel('6.12', { pageSizeMask: 0x1000n }).bringUp({ endpoint: 1, domain: 0 }))).toBe(2);
});

test('kicks that do not fit are refused before anything is sent', () => {
  const driver = startDriver({ requestQueueSize: 4 });
  const kick = new Kick(5);
  for (let i = 0; i < 5; i++) kick.pushUnmap(0, i, 1);
  expect(() => driver.sendKick(kick)).toThrow(/^kick/);
  kick.count = 4;
  expect(() => driver.sendKick(kick, new Uint8Array(3))).toThrow(/^statuses/);
  expect(model.requests).toEqual([]);
  expect(driver.totals.kicks).toBe(0);
  expect(driver.sendKick(kick)).toBe(0);
});

test('work that the device puts off is waited for; without patience answers are missing, then late ones are dropped', () => {
  model.limit = 2;
  const patient = startDriver({ wait: () => (model.serve(1), true) });
  const kick = new Kick(8);
  for (let i = 0; i < 5; i++) kick.pushUnmap(0, i, 1);
  expect(patient.sendKick(kick)).toBe(0);
  expect(patient.batch([0, 1, 2, 3].map((domain) => ({ op: 'attach', domain, endpoint: 1 })))).toHaveLength(4);
  expect(model.perKick).toEqual([2, 1, 1, 1, 2, 1, 1]);

  const hasty = startDriver({});
  const statuses = new Uint8Array(8);
  expect(hasty.sendKick(kick, statuses)).toBe(3);
  expect([...statuses.subarray(0, 5)]).toEqual([0, 0, NO_STATUS, NO_STATUS, NO_STATUS]);
  expect(hasty.batch([{ op: 'probe', endpoint: 1 }])[0]!.usedLength).toBe(-1);
  model.serve(9);
  model.limit = Infinity;
  expect(hasty.sendKick(kick, statuses)).toBe(0);
  expect(hasty.probe(1).status).toBe(0);
  expect(hasty.totals).toMatchObject({ requests: 10, ok: 7, withoutStatus: 3 });
});

test('fault records are read, their buffers given back; what Linux ignores is counted', () => {
  const driver = startDriver();
  expect(driver.events()).toEqual([]);
  const record = new Uint8Array(24);
  const view = new DataView(record.buffer);
  view.setUint32(0, 2, true);
  view.setUint32(4, 0x101, true);
  view.setUint32(8, 40, true);
  view.setBigUint64(16, 2n ** 63n, true);
  for (let i = 0; i < 40; i++) {
    expect(model.sendEvent(record, 24)).toBe(true);
    expect(driver.events()).toEqual([{ reason: 2, flags: 0x101, endpoint: 40, address: 2n ** 63n, usedLength: 24 }]);
  }
  record[1] = 1;
  model.sendEvent(record, 24);
  model.sendEvent(record.fill(0), 24);
  expect(driver.events()).toHaveLength(1);
  expect(driver.ignoredEvents).toBe(1);
  expect(model.device!.queue(1).available()).toBe(16);
  for (let i = 0; i < 16; i++) expect(model.sendEvent(record, 24)).toBe(true);
  expect(model.sendEvent(record, 24)).toBe(false);
  expect(driver.events()).toHaveLength(16);
});

test('config.bypass is written byte-wise', () => {
  const driver = startDriver();
  driver.setBypass(0);
  expect(model.bypass).toBe(0);
  expect(() => driver.setBypass(256)).toThrow(/^value/);
});

test('mistakes of the caller are refused by name', () => {
  expect(() => makeDriver({ requestQueueSize: 128 })).toThrow(/^requestQueueSize/);
  expect(() => makeDriver({ eventQueueSize: 0 })).toThrow(/^eventQueueSize/);
  expect(() => makeDriver({ features: -1n })).toThrow(/^features/);
  expect(() => makeDriver({ base: 0 as unknown as bigint })).toThrow(/^base/);
  expect(() => startDriver({ base: 0x20_0000n })).toThrow(/^base/);
  expect(() => startDriver({ requestQueueSize: 3 })).toThrow(/^size/);
});

test('a driver needs no more memory than it says', () => {
  const size = IommuDriver.byteLength(64, 16, PROBE_SIZE);
  expect(size).toBeLessThan(0x10_0000);
  const memory = new GuestMemory();
  memory.addRegion({ gpa: 0n, size: BigInt(Math.ceil(size / 4096)) * 4096n });
  const interrupt = { queue: () => undefined, config: () => undefined };
  const driver = new IommuDriver({ device: new VirtioDevice(model, { memory, interrupt }), memory, base: 0n });
  driver.start();
  const probes = Array.from({ length: 64 }, (_, i) => ({ op: 'probe', endpoint: i }) as const);
  expect(driver.batch(probes).every((reply) => reply.status === 0)).toBe(true);
  const layout = l2Layout({ bytes: 4 * 2 ** 20, pattern: 'scattered', page: '4k' });
  const guest = guestModel('4k', { pageSizeMask: 0x1000n });
  expect(driver.send(guest.mapL2(layout, 1)) + driver.send(guest.unmapL2(layout, 1))).toBe(0);
  expect(driver.totals.requests).toBe(2048);
});
