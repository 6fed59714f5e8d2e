// The device as a whole: features and configuration, resets, the serving of kicks (defer, budget, pause, close), callbacks
// that re-enter, damaged rings, options, and host limits that reach the guest.
import { describe, expect, it } from 'vitest';
import { PAGE, RINGS, Rig } from '../../test/iommu/rig.ts';
import { SimulatedHost } from '../host/simulated.ts';
import { Feature } from '../virtio/features.ts';
import { GuestMemory } from '../virtio/memory.ts';
import { IommuCore } from './core.ts';
import type { IommuOptions } from './options.ts';
import type { VirtioIommuOptions } from './virtio-iommu.ts';
import { VirtioIommu } from './virtio-iommu.ts';

const U64 = (1n << 64n) - 1n;
const bits = (...numbers: number[]): bigint =>
  numbers.reduce((mask, bit) => mask | (1n << BigInt(bit)), Feature.version1 | Feature.indirectDesc);
const interrupt = { queue: () => undefined, config: () => undefined };

describe('features and configuration', () => {
  it('offers everything but the old BYPASS [D-FEAT-1, D-FEAT-2, D-FEAT-3]', () => {
    const { transport } = new Rig({ emulated: [1] }).iommu;
    expect(transport.offeredFeatures & 0xff_ffffn).toBe(0x77n);
    expect(() => new IommuCore(new GuestMemory(), { features: ['bypass', 'bypassConfig'] })).toThrow(
      /features must not hold both/,
    );
    expect(new IommuCore(new GuestMemory(), { features: ['bypass'] }).state.options.features).toBe(8n);
  });

  it('shows 40 bytes of configuration, before FEATURES_OK too [T-CFG-0, D-CFG-1, D-CFG-2, D-CFG-3, D-VIO-1]', () => {
    const rig = new Rig({
      emulated: [1],
      cold: true,
      device: {
        inputRange: { start: 0x1000n, end: 0xff_ffff_ffffn },
        domainRange: { start: 3, end: 0xfffe },
        probeSize: 72,
      },
    });
    const { transport } = rig.iommu;
    const u32 = (offset: number): number => Number(transport.readConfig(offset, 4));
    expect([0, 8, 16].map((offset) => transport.readConfig(offset, 8))).toEqual([
      0x4020_1000n,
      0x1000n,
      0xff_ffff_ffffn,
    ]);
    expect([24, 28, 32, 36, 40].map(u32)).toEqual([3, 0xfffe, 72, 1, 0]);
    const bare = new Rig({ emulated: [1], cold: true, device: { features: ['mapUnmap'] } }).iommu.transport;
    expect([8, 16].map((offset) => bare.readConfig(offset, 8))).toEqual([0n, U64]);
    expect([24, 28, 32, 36].map((offset) => Number(bare.readConfig(offset, 4)))).toEqual([0, 0xffff_ffff, 0, 0]);
    expect(() => new IommuCore(new GuestMemory(), { pageSizeMask: 0n })).toThrow(/pageSizeMask/);
  });

  it('never shows a bypass value but 0 or 1, and takes it only when negotiated [D-CFG-5]', () => {
    const rig = new Rig({ emulated: [1], accept: bits(0, 1, 2, 4, 5, 6) });
    const shown = (): number => Number(rig.iommu.transport.readConfig(36, 1));
    for (const value of [2, 3, 0x80, 0xff]) {
      rig.driver.setBypass(value);
      expect(shown()).toBe(1);
    }
    rig.driver.setBypass(0);
    expect(shown()).toBe(0);
    rig.iommu.transport.writeConfig(36, 4, 0x0101_0101n);
    rig.iommu.transport.writeConfig(32, 4, 0n);
    expect([shown(), rig.iommu.transport.readConfig(32, 8)]).toEqual([1, 512n | (1n << 32n)]);
    const refused = new Rig({ emulated: [1], accept: bits(0, 1, 2) });
    refused.driver.setBypass(0);
    expect(Number(refused.iommu.transport.readConfig(36, 1))).toBe(1);
  });

  it('keeps bypass over a device reset, not over a system reset [D-CFG-4, T-INIT-1]', () => {
    const rig = new Rig({ groups: [[1]], emulated: [2] });
    rig.attach(1, 1);
    rig.attach(2, 2);
    rig.map(1, 5, 1, 0x100);
    rig.driver.setBypass(0);
    rig.iommu.transport.writeStatus(0);
    expect(rig.core.stats()).toMatchObject({ domains: 0, mappings: 0 });
    expect([rig.translate(2, 0n, 1).ok, rig.reach(1).size, Number(rig.iommu.transport.readConfig(36, 1))]).toEqual([
      false,
      0,
      0,
    ]);
    rig.driver.start();
    rig.attach(1, 1);
    rig.iommu.systemReset();
    expect([rig.translate(2, 0n, 1).ok, Number(rig.iommu.transport.readConfig(36, 1))]).toEqual([true, 1]);
    expect(rig.reach(1)).toEqual(rig.allRam);
    expect(rig.core.stats().domains).toBe(0);
  });

  it('takes any subset of what it offers, and refuses more [D-VIO-2]', () => {
    for (const subset of [0n, 1n, 4n, 0x77n, 0x55n]) {
      const rig = new Rig({ emulated: [1], cold: true, accept: subset | Feature.version1 });
      rig.driver.start();
      expect(rig.core.state.negotiated).toBe(subset);
    }
    const { transport } = new Rig({ emulated: [1], cold: true }).iommu;
    transport.writeStatus(1);
    transport.writeStatus(3);
    transport.setDriverFeatures(Feature.version1 | 8n);
    transport.writeStatus(11);
    expect(transport.status).toBe(3);
  });

  it('does nothing before DRIVER_OK and after a reset [D-VQ-1]', () => {
    const rig = new Rig({ emulated: [1], cold: true });
    rig.iommu.transport.notify(0);
    expect(rig.counters['kicks']).toBe(0);
    rig.driver.start();
    rig.attach(1, 1);
    rig.iommu.transport.writeStatus(0);
    rig.iommu.transport.notify(0);
    expect(rig.counters['kicks']).toBe(1);
  });
});

/** Puts `count` ATTACH requests of endpoint 1 into the ring without a kick. */
function stage(rig: Rig, count: number): void {
  const queue = rig.driver.requestQueue;
  for (let i = 0; i < count; i++) {
    const readable = new Uint8Array(20);
    readable.set([1, 0, 0, 0, i & 0xff, i >> 8, 0, 0, 1]);
    queue.makeAvailable(queue.add({ readable, writableLength: 4, indirect: true }));
  }
}

describe('serving', () => {
  it('leaves the rest to defer when the time is over; a kick without new buffers does no harm [D-RING-7]', () => {
    const deferred: (() => void)[] = [];
    const clock = { now: 0 };
    const rig = new Rig({
      emulated: [1],
      device: {
        defer: (run) => deferred.push(run),
        hostTimeBudget: 5,
        now: () => {
          clock.now += 3;
          return clock.now;
        },
      },
    });
    stage(rig, 10);
    rig.iommu.transport.notify(0);
    const served: number[] = [rig.driver.requestQueue.poll().length];
    while (deferred.length > 0) {
      deferred.shift()!();
      served.push(rig.driver.requestQueue.poll().length);
    }
    // An ATTACH may be long, so the clock is looked at after each.
    expect([served.reduce((sum, count) => sum + count, 0), served.length]).toEqual([10, 6]);
    expect(rig.counters['kicks']).toBe(1);
    rig.iommu.transport.notify(0);
    expect(rig.counters).toMatchObject({ kicks: 2, emptyKicks: 1 });
    expect([rig.driver.needsReset, rig.driver.requestQueue.poll()]).toEqual([false, []]);
  });

  it('waits while paused, also with what was deferred', () => {
    const deferred: (() => void)[] = [];
    const rig = new Rig({ emulated: [1], device: { defer: (run) => deferred.push(run), hostTimeBudget: 0 } });
    stage(rig, 2);
    rig.iommu.transport.notify(0);
    rig.iommu.pause();
    deferred.splice(0).forEach((run) => run());
    expect([rig.iommu.pending, rig.driver.requestQueue.poll().length]).toEqual([true, 1]);
    rig.iommu.resume();
    expect([rig.iommu.pending, rig.driver.requestQueue.poll().length]).toEqual([false, 1]);
    expect(rig.translate(1, 0n, 1).ok).toBe(false); // attached to domain 1, which is empty
    rig.iommu.pause();
    rig.iommu.transport.writeStatus(0);
    rig.driver.start();
    stage(rig, 1);
    rig.iommu.transport.notify(0);
    rig.iommu.resume();
    expect(rig.driver.requestQueue.poll()).toHaveLength(1);
  });

  it('serves at most 16 queue lengths in one kick when the guest keeps adding', () => {
    const rig = new Rig({ emulated: [1], queueSize: 4, accept: bits(0, 1, 2, 4, 5, 6) });
    rig.onInterrupt = () => {
      rig.driver.requestQueue.poll();
      stage(rig, 1);
    };
    stage(rig, 1);
    rig.iommu.transport.notify(0);
    expect(rig.core.stats().requests.attach).toBeLessThanOrEqual(16 * 4);
    rig.onInterrupt = () => undefined;
    rig.iommu.transport.notify(0);
    expect(rig.iommu.transport.status & 64).toBe(0);
  });

  it('answers in several segments when requests meet', () => {
    const rig = new Rig({ groups: [[1]] });
    rig.attach(1, 1);
    const before = rig.counters;
    const map = (virtStart: bigint) =>
      ({ op: 'map', domain: 1, virtStart, virtEnd: virtStart + 0xfffn, physStart: 0x10_0000n, flags: 3 }) as const;
    const replies = rig.driver.batch([
      map(0n),
      map(0x1000n),
      { op: 'unmap', domain: 1, virtStart: 0n, virtEnd: 0xfffn },
      map(0n),
    ]);
    expect(replies.map((reply) => reply.status)).toEqual([0, 0, 0, 0]);
    expect([rig.counters['segments']! - before['segments']!, rig.counters['segmentCuts']]).toEqual([3, 2]);
  });
});

describe('callbacks that re-enter', () => {
  it('a listener may kick, and the requests are served in the same call', () => {
    const rig = new Rig({ emulated: [1] });
    let kicked = false;
    rig.core.onEvent((event) => {
      if (event.type !== 'request' || kicked) return;
      kicked = true;
      stage(rig, 1);
      rig.iommu.transport.notify(0);
    });
    expect(rig.detach(1, 1)).toBe('INVAL');
    expect(rig.core.stats()).toMatchObject({ domains: 1, requests: { attach: 1 }, listenerErrors: 0 });
  });

  it('a listener that resets the device ends the batch, and no byte is written after the reset [D-VQ-1]', () => {
    const rig = new Rig({ groups: [[1]] });
    rig.attach(1, 1);
    let untouched: number | undefined;
    rig.core.onEvent((event) => {
      if (event.type !== 'request') return;
      rig.iommu.transport.writeStatus(0);
      untouched = rig.driver.requestQueue.usedIndex;
    });
    stage(rig, 1);
    const queue = rig.driver.requestQueue;
    const wrong = new Uint8Array(20).fill(2, 0, 1);
    queue.makeAvailable(
      queue.add({ readable: wrong, writableLength: 4 }),
      queue.add({ readable: wrong, writableLength: 4 }),
    );
    rig.iommu.transport.notify(0);
    expect(rig.driver.requestQueue.usedIndex).toBe(untouched);
    expect(rig.core.stats()).toMatchObject({ domains: 0, mappings: 0 });
    expect(rig.reach(1)).toEqual(rig.allRam);
    expect([rig.counters['deviceResets'], rig.core.busy]).toEqual([2, false]);
  });

  it('a reset while replies are written leaves the rest of them alone [D-VQ-1]', () => {
    const rig = new Rig({ emulated: [1] });
    const queue = rig.driver.requestQueue;
    rig.core.onEvent((event) => {
      if (event.type === 'request') rig.iommu.transport.writeStatus(0);
    });
    const wrong = new Uint8Array(36).fill(3, 0, 1);
    const heads = [1, 2].map(() => queue.add({ readable: wrong, writableLength: 4, prefill: 0x77 }));
    const tails = heads.map((head) => Number(queue.readDescriptor(queue.descriptorsOf(head)[1]!).addr));
    queue.makeAvailable(...heads);
    rig.iommu.transport.notify(0);
    const bytes = tails.map((tail) => {
      const tailBytes = new Uint8Array(4);
      rig.memory.read(tail, tailBytes, 0, 4);
      return [...tailBytes];
    });
    expect([bytes, queue.usedIndex]).toEqual([
      [
        [6, 0, 0, 0],
        [0x77, 0x77, 0x77, 0x77],
      ],
      0,
    ]);
  });

  it('a ring found damaged before a reset does not damage the device after it', () => {
    const rig = new Rig({ emulated: [1], accept: bits(0, 1, 2, 4, 5, 6) });
    stage(rig, 1);
    rig.driver.requestQueue.setAvailEntry(1, 0xffff);
    rig.driver.requestQueue.setAvailIndex(2);
    let restarted = false;
    rig.onInterrupt = () => {
      if (!restarted) rig.driver.start();
      restarted = true;
    };
    rig.iommu.transport.notify(0);
    expect([restarted, rig.driver.needsReset, rig.counters['brokenRings'], rig.attach(1, 1)]).toEqual([
      true,
      false,
      0,
      'OK',
    ]);
  });

  it('a second reset forgets the features that waited for the first', () => {
    const rig = new Rig({ emulated: [1] });
    rig.core.onEvent((event) => {
      if (event.type !== 'request') return;
      rig.driver.start();
      rig.iommu.transport.writeStatus(0);
    });
    rig.iommu.transport.notify(0);
    const queue = rig.driver.requestQueue;
    queue.makeAvailable(queue.add({ readable: new Uint8Array(20).fill(2, 0, 1), writableLength: 4 }));
    rig.iommu.transport.notify(0);
    expect([rig.core.state.negotiated, rig.iommu.transport.status]).toEqual([0n, 0]);
  });

  it.each([true, false])('an interrupt may reset the device and start it again (deferred: %s)', (late) => {
    const deferred: (() => void)[] = [];
    const clock = { now: 0, step: 0 };
    const now = (): number => (clock.now += clock.step);
    const rig = new Rig({
      groups: [[1]],
      accept: bits(0, 1, 2, 4, 5, 6),
      device: late ? { defer: (run) => deferred.push(run), now } : {},
    });
    rig.attach(1, 1);
    rig.map(1, 5, 1, 0x100);
    stage(rig, 3);
    let restarted = 0;
    const restart = (queue: number): void => {
      if (queue !== 0 || restarted > 0) return;
      restarted++;
      rig.driver.start(); // resets, negotiates and sets DRIVER_OK inside the device's interrupt
      rig.driver.setBypass(0);
      expect(Number(rig.iommu.transport.readConfig(36, 1))).toBe(0);
      stage(rig, 2);
      rig.iommu.transport.notify(0);
    };
    if (!late) rig.onInterrupt = restart;
    clock.step = 10; // the kick leaves the rest to be deferred
    rig.iommu.transport.notify(0);
    clock.step = 0;
    if (late) rig.onInterrupt = restart;
    while (deferred.length > 0) deferred.shift()!();
    expect(restarted).toBe(1);
    expect(rig.driver.requestQueue.poll().map(({ writable }) => writable[0])).toEqual([0, 0]);
    expect([...rig.core.state.domains.keys()]).toEqual([1]);
    expect([rig.core.stats().mappings, rig.core.state.bypass, rig.driver.needsReset]).toEqual([0, 0, false]);
    expect([rig.reach(1).size, rig.attach(9, 1)]).toEqual([0, 'OK']);
  });

  it('a queue reset in the middle drops what is under way', () => {
    const rig = new Rig({ emulated: [1] });
    const queue = rig.driver.requestQueue;
    const { desc, avail, used, size } = queue;
    rig.core.onEvent((event) => {
      if (event.type !== 'request') return;
      rig.iommu.transport.resetQueue(0);
      queue.reset();
      rig.iommu.transport.setupQueue(0, { size, desc, avail, used });
      rig.iommu.transport.enableQueue(0);
    });
    const wrong = new Uint8Array(20).fill(2, 0, 1);
    queue.makeAvailable(queue.add({ readable: wrong, writableLength: 4 }));
    stage(rig, 2);
    rig.iommu.transport.notify(0);
    expect([queue.usedIndex, rig.core.stats().domains]).toEqual([0, 0]);
    expect(rig.attach(1, 1)).toBe('OK');
  });

  it('changes from inside a request throw into the listener and change nothing', () => {
    const rig = new Rig({ groups: [[1]] });
    const errors: string[] = [];
    const refuses = (action: () => unknown): void => {
      try {
        action();
        errors.push('nothing');
      } catch (error) {
        errors.push((error as Error).message);
      }
    };
    rig.core.onEvent((event) => {
      if (event.type !== 'request') return;
      refuses(() => rig.addRam(0x300, 1));
      refuses(() => rig.core.addEndpoint({ id: 7 }));
      refuses(() => rig.core.removeEndpoint(1));
      refuses(() => rig.core.setBypass(0));
      refuses(() => rig.core.request(new Uint8Array(20), new Uint8Array(4)));
      refuses(() => rig.iommu.systemReset());
      refuses(() => rig.iommu.close());
      rig.iommu.addEndpoint({ id: 8 });
    });
    expect(rig.detach(1, 1)).toBe('INVAL');
    expect(errors).toHaveLength(7);
    for (const error of errors) expect(error).toMatch(/from inside a request/);
    expect(rig.core.stats()).toMatchObject({ endpoints: 1, listenerErrors: 1 });
    expect([rig.memory.regions.length, rig.core.state.bypass, rig.attach(1, 1)]).toEqual([2, 1, 'OK']);
  });

  it('changes from a listener of a change throw as well', () => {
    const rig = new Rig({ groups: [[1]], emulated: [2] });
    let refused = 0;
    rig.core.onEvent((event) => {
      if (event.type !== 'context-switched') return;
      try {
        rig.core.removeEndpoint(2);
      } catch {
        refused++;
      }
      stage(rig, 1);
      rig.iommu.transport.notify(0); // is served when the change is done
    });
    rig.core.setBypass(0);
    expect([refused, rig.core.stats().endpoints]).toEqual([1, 2]);
    rig.iommu.transport.notify(0);
    expect(rig.driver.requestQueue.poll().length).toBeGreaterThan(0);
  });
});

describe('damaged rings', () => {
  it('ask for a reset once, serve nothing, and work again after it [D-VQ-2]', () => {
    const rig = new Rig({ emulated: [1] });
    rig.driver.requestQueue.setAvailIndex(0x4000);
    rig.iommu.transport.notify(0);
    expect([rig.driver.needsReset, rig.interrupts.config]).toEqual([true, 1]);
    rig.iommu.resume();
    rig.iommu.transport.notify(0);
    expect(rig.events.filter((event) => event.type === 'ring-broken')).toHaveLength(1);
    expect(rig.counters['brokenRings']).toBe(1);
    rig.driver.start();
    expect([rig.attach(1, 1), rig.driver.needsReset]).toEqual(['OK', false]);
  });
});

describe('close', () => {
  it('blocks the contexts without a moment of bypass; the driver has no effect any more', () => {
    const rig = new Rig({ groups: [[1]], emulated: [2] });
    rig.attach(1, 1);
    rig.map(1, 5, 1, 0x100);
    let most = 0;
    rig.host.onOperation(() => (most = Math.max(most, rig.reach(1).size)));
    rig.iommu.close();
    expect([rig.reach(1).size, most]).toEqual([0, 0]);
    const { transport } = rig.iommu;
    transport.writeStatus(0);
    expect(() => rig.driver.start()).toThrow(/refused the features/);
    transport.writeConfig(36, 1, 0n);
    transport.notify(0);
    rig.iommu.resume();
    rig.iommu.close();
    expect(() => rig.core.reset()).toThrow(/after close/);
    expect(() => rig.core.addEndpoint({ id: 5 })).toThrow(/after close/);
    rig.addRam(0x300, 1);
    expect(rig.reach(1).size).toBe(0);
  });
});

describe('options', () => {
  const core = (options: IommuOptions): IommuCore => new IommuCore(new GuestMemory(), options);

  it.each<[string, IommuOptions, RegExp]>([
    ['features', { features: 3 as never }, /features must be an array/],
    ['features', { features: ['mapunmap' as never] }, /features must be one of/],
    ['pageSizeMask', { pageSizeMask: 4096 as never }, /pageSizeMask must be a bigint/],
    ['pageSizeMask', { pageSizeMask: 1n << 64n }, /pageSizeMask/],
    ['inputRange', { inputRange: { start: 5n, end: 4n } }, /inputRange\.end/],
    ['inputRange', { inputRange: { start: 1n, end: 0x1000n } }, /inputRange .* holds no whole granule/],
    ['inputRange', { features: ['mapUnmap'], inputRange: { start: 0n, end: 5n } }, /inputRange needs the feature/],
    ['domainRange', { domainRange: { start: 5, end: 4 } }, /domainRange\.end/],
    ['domainRange', { features: ['mapUnmap'], domainRange: { start: 0, end: 9 } }, /domainRange needs the feature/],
    ['probeSize', { probeSize: 65_536 }, /probeSize/],
    ['bypass', { bypass: 1 as never }, /bypass must be a boolean/],
    ['maxMappings', { maxMappings: -1 }, /maxMappings/],
    ['maxDomains', { maxDomains: 1.5 }, /maxDomains/],
    ['maxInstalled', { maxInstalled: 0 }, /maxInstalled/],
    ['policy', { policy: 'best' as never }, /policy must be one of forward, exact, kick, lossy/],
    ['gather', { gather: 'sometimes' as never }, /gather must be one of never, auto, always/],
    ['maxEntryBytes', { maxEntryBytes: 4095 }, /maxEntryBytes/],
    ['maxEntryBytes', { maxEntryBytes: 4097 }, /maxEntryBytes must be a multiple of 4096/],
    ['lowWater', { lowWater: -1 }, /lowWater/],
    ['pauseDma', { pauseDma: true as never }, /pauseDma must be a function/],
    ['resumeDma', { resumeDma: 1 as never }, /resumeDma must be a function/],
    ['resvOverflow', { resvOverflow: 'drop' as never }, /resvOverflow/],
    ['faults', { faults: { bursts: 3 } as never }, /faults\.bursts is not an option/],
    ['faults', { faults: { perSecond: -1 } }, /faults\.perSecond/],
    ['now', { now: 5 as never }, /now must be a function/],
    ['onFatal', { onFatal: 5 as never }, /onFatal/],
    ['an unknown one', { pageSizeMsk: 1n } as never, /options\.pageSizeMsk is not an option/],
  ])('names %s when it is wrong', (_name, options, message) => {
    expect(() => core(options)).toThrow(message);
  });

  it('need no interrupt: a PCI or MMIO function brings its own', () => {
    const iommu = new VirtioIommu({ memory: new GuestMemory() });
    iommu.transport.configChanged(true);
    iommu.close();
  });

  it('that are wrong leave memory and host contexts alone', () => {
    const memory = new GuestMemory();
    const host = new SimulatedHost();
    const mapped = host.addressSpace.mmap({ length: 0x1000n, kind: 'memfd' });
    memory.addRegion({ gpa: 0n, size: 0x1000n, windows: mapped.windows, hva: mapped.hva });
    const context = host.createContext({ group: 1, endpoints: [1] });
    const make = (options: object): VirtioIommu =>
      new VirtioIommu({ memory, interrupt, endpoints: [{ id: 1, host: context }], ...options });
    for (const [options, message] of [
      [{ memory: undefined }, /memory must be a GuestMemory/],
      [{ interrupt: {} }, /interrupt must be an object with queue and config/],
      [{ interrupt: null }, /interrupt/],
      [{ endpoints: 5 }, /endpoints must be an array/],
      [{ ringFeatures: ['packet'] }, /ringFeatures/],
      [{ requestQueueSize: 3 }, /requestQueueSize must be a power of two/],
      [{ requestQueueSize: 65_536 }, /requestQueueSize/],
      [{ eventQueueSize: 0 }, /eventQueueSize/],
      [{ defer: 5 }, /defer must be a function/],
      [{ hostTimeBudget: -1 }, /hostTimeBudget/],
      [{ probesize: 5 }, /options\.probesize is not an option/],
      [{ endpoints: [{ id: 1, host: context }, { id: 1 }] }, /endpoint\.id 1 is in use/],
      [{ endpoints: [{ id: -1 }] }, /endpoint\.id/],
      [{ endpoints: [{ id: 1, hosts: context }] }, /endpoint\.hosts is not an option/],
      [{ endpoints: [{ id: 1, host: null }] }, /endpoint\.host must be a HostContext/],
      [{ endpoints: [{ id: 1, reserved: [{ start: 0n, end: 1n, kind: 'x' }] }] }, /endpoint\.reserved\[0\]\.kind/],
    ] as const) {
      expect(() => make(options)).toThrow(message);
      expect(context.stats().entries).toBe(0);
    }
    const good = make({});
    expect(context.stats().entries).toBe(1);
    good.close();
  });
});

describe('host limits', () => {
  const two = (a: bigint, b: bigint, options: Partial<VirtioIommuOptions> = {}): VirtioIommu => {
    const host = new SimulatedHost();
    return new VirtioIommu({
      memory: new GuestMemory(),
      interrupt,
      endpoints: [a, b].map((pageSizes, group) => ({
        id: group,
        host: host.createContext({ group, endpoints: [group], pageSizes }),
      })),
      ...options,
    });
  };
  const mask = (iommu: VirtioIommu): bigint => iommu.transport.readConfig(0, 8);

  it('page_size_mask is the largest lowest bit, with 2M and 1G where all hosts have them', () => {
    expect(mask(two(0x4020_1000n, 0x4020_1000n))).toBe(0x4020_1000n);
    expect(mask(two(0xffff_f000n, 0x20_1000n))).toBe(0x20_1000n);
    expect(mask(two(0x4020_1000n, 0x1_0000n))).toBe(0x1_0000n);
    expect(mask(two(0x4020_1000n, 0x4020_0000n))).toBe(0x4020_0000n);
    expect(mask(two(0x4020_1000n, 0x4020_1000n, { pageSizeMask: 0x1_0000n }))).toBe(0x1_0000n);
    expect(() => two(0x4020_1000n, 0x1_0000n, { pageSizeMask: 0x1000n })).toThrow(/pageSizeMask .* below the host/);
    expect(() => two(0x1000n, 0x1000n, { pageSizeMask: 512n, inputRange: { start: 0n, end: 0xffffn } })).toThrow(
      /pageSizeMask/,
    );
  });

  it('input_range is what all hosts can map, and holes are reserved for their endpoint only', () => {
    const host = new SimulatedHost();
    const first = host.createContext({
      group: 0,
      endpoints: [1],
      usableRanges: [
        { start: 0x1000n, end: 0xf_ffffn },
        { start: 0x20_0000n, end: 0xffff_ffffn },
      ],
    });
    const second = host.createContext({ group: 1, endpoints: [2], usableRanges: [{ start: 0n, end: 0x7fff_ffffn }] });
    const iommu = new VirtioIommu({
      memory: new GuestMemory(),
      interrupt,
      inputRange: { start: 0n, end: 0xff_ffff_ffffn },
      endpoints: [{ id: 1, host: first }],
    });
    const range = (): bigint[] => [8, 16].map((offset) => iommu.transport.readConfig(offset, 8));
    expect(range()).toEqual([0x1000n, 0xffff_ffffn]);
    const { configGeneration } = iommu.transport;
    iommu.addEndpoint({ id: 2, host: second });
    expect([range(), iommu.transport.configGeneration !== configGeneration]).toEqual([[0x1000n, 0x7fff_ffffn], true]);
    expect(iommu.core.reservedRegions(1)).toEqual([{ kind: 'reserved', start: 0x10_0000n, end: 0x1f_ffffn }]);
    expect(iommu.core.reservedRegions(2)).toEqual([]);
    const far = host.createContext({ group: 2, endpoints: [3], usableRanges: [{ start: 1n << 40n, end: 1n << 41n }] });
    expect(() => iommu.addEndpoint({ id: 3, host: far })).toThrow(/endpoint\.host type1 group 2 can map nothing/);
    expect(iommu.core.stats().endpoints).toBe(2);
    expect(() => new VirtioIommu({ memory: new GuestMemory(), interrupt, features: ['mapUnmap'], endpoints: [{ id: 3, host: far }] })).toThrow(/features must hold inputRange/); // prettier-ignore
  });

  it('a geometry that changes before the driver runs puts every context in step again', () => {
    const rig = new Rig({ groups: [[1]], ram: [[0x100, 4]], cold: true });
    expect(rig.reach(1)).toEqual(rig.allRam);
    const small = rig.host.createContext({
      group: 5,
      endpoints: [5],
      usableRanges: [{ start: 0n, end: 0xffff_ffffn }],
    });
    rig.iommu.addEndpoint({ id: 5, host: small });
    expect([rig.reach(1), rig.reach(5)]).toEqual([rig.allRam, rig.allRam]);
    rig.driver.start();
    rig.attach(1, 1);
    rig.map(1, 7, 1, 0x101);
    expect(rig.reach(1)).toEqual(rig.reachOf([7, 0x101, 3]));
  });

  it('after DRIVER_OK an endpoint that does not fit is refused with the reason', () => {
    const rig = new Rig({ groups: [[1]] });
    const add = (id: number, options: object): void =>
      rig.iommu.addEndpoint({ id, host: rig.host.createContext({ group: id, endpoints: [id], ...options }) });
    expect(() => add(5, { pageSizes: 0x1_0000n })).toThrow(/pages of 0x10000, more than the granule 0x1000/);
    expect(() => add(6, { usableRanges: [{ start: 0n, end: 0xffff_ffffn }] })).toThrow(/less than the input range/);
    add(7, {});
    expect([rig.attach(1, 7), rig.core.stats().endpoints]).toEqual(['OK', 2]);
    const small = new Rig({
      emulated: [1],
      device: { pageSizeMask: 1n, inputRange: { start: 0n, end: 0xffff_ffffn } },
    });
    const context = small.host.createContext({ group: 1, endpoints: [2] });
    expect(() => small.iommu.addEndpoint({ id: 2, host: context })).toThrow(/granule/);
  });

  it('a core that has domains is running, whatever its embedder says', () => {
    const core = new IommuCore(new GuestMemory());
    core.addEndpoint({ id: 1 });
    core.setFeatures(0x77n);
    core.request(Uint8Array.of(1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), new Uint8Array(4));
    const small = new SimulatedHost().createContext({
      group: 1,
      endpoints: [2],
      usableRanges: [{ start: 0n, end: 0xffffn }],
    });
    expect(() => core.addEndpoint({ id: 2, host: small }, false)).toThrow(/less than the input range/);
    expect(core.state.domains.get(1)!.endpoints.size).toBe(1);
  });
});

it('the rings of the rig are where a host cannot see them', () => {
  const rig = new Rig({ groups: [[1]] });
  expect(rig.reach(1).has(Number(RINGS / PAGE))).toBe(false);
});
