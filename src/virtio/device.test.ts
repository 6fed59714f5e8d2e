import { beforeEach, describe, expect, it } from 'vitest';
import type { VirtioDeviceModel, VirtioDeviceOptions } from './device.ts';
import type { Virtqueue } from './virtqueue.ts';
import { DriverQueue } from '../testing/driver-queue.ts';
import { DescriptorChain } from './chain.ts';
import { VirtioDevice } from './device.ts';
import { Feature, Status } from './features.ts';
import { GuestMemory } from './memory.ts';
import { PopResult } from './virtqueue.ts';

const DEVICE_BIT = 1n << 3n;
const ALL = DEVICE_BIT | Feature.version1 | Feature.indirectDesc | Feature.eventIdx | Feature.ringReset;
const NEGOTIATED = Status.acknowledge | Status.driver | Status.featuresOk;
const RUNNING = NEGOTIATED | Status.driverOk;

/** Echoes the readable part into the writable part; records what it is told. */
class EchoModel implements VirtioDeviceModel {
  readonly deviceId = 63;
  deviceFeatures = DEVICE_BIT;
  queueMaxSizes = [16, 8];
  readonly configLength = 12;
  readonly config = Uint8Array.from({ length: 12 }, (_, i) => 0x10 + i);
  readonly log: string[] = [];
  accept = true;
  queues: readonly Virtqueue[] = [];
  device: VirtioDevice | undefined;
  onEvent: ((event: string) => void) | undefined;
  readonly #chain = new DescriptorChain();

  readConfig(into: Uint8Array): void {
    into.set(this.config);
  }
  writeConfig(offset: number, bytes: Uint8Array): void {
    this.config.set(bytes, offset);
    this.#note(`config ${offset}+${bytes.length}`);
  }
  featuresNegotiated(features: bigint): boolean {
    this.#note(`features ${features.toString(16)}`);
    return this.accept;
  }
  driverReady(queues: readonly Virtqueue[]): void {
    this.queues = queues;
    this.#note('ready');
    for (const queue of queues) this.serve(queue);
    this.#note('ready done');
  }
  notified(queue: number): void {
    this.#note(`kick ${queue}`);
    this.serve(this.queues[queue]!);
    this.#note(`kick ${queue} done`);
  }
  reset(): void {
    this.#note('reset');
  }
  queueReset(queue: number): void {
    this.#note(`queueReset ${queue}`);
  }

  serve(queue: Virtqueue): void {
    for (;;) {
      const result = queue.pop(this.#chain);
      if (result === PopResult.chain) {
        const bytes = new Uint8Array(this.#chain.readableLength);
        this.#chain.copyReadable(0, bytes, bytes.length);
        this.#note(`serve ${bytes[0] ?? 0}`);
        queue.push(this.#chain.head, this.#chain.write(0, bytes, bytes.length));
        continue;
      }
      if (queue.publish()) this.device?.signalQueue(queue.index);
      if (result === PopResult.broken) this.device?.needsReset();
      if (result === PopResult.broken || !queue.armNotification()) return;
    }
  }

  #note(event: string): void {
    this.log.push(event);
    this.onEvent?.(event);
  }
}

let memory: GuestMemory;
let model: EchoModel;
let device: VirtioDevice;
let driver: DriverQueue;
let interrupts: string[];
let onInterrupt: (() => void) | undefined;

function make(ringFeatures?: VirtioDeviceOptions['ringFeatures']): void {
  device = new VirtioDevice(model, {
    memory,
    interrupt: {
      queue: (index) => {
        interrupts.push(`queue ${index}`);
        onInterrupt?.();
      },
      config: () => {
        interrupts.push('config');
        onInterrupt?.();
      },
    },
    ...(ringFeatures === undefined ? {} : { ringFeatures }),
  });
  model.device = device;
}

function setupQueue(index = 0): void {
  const { desc, avail, used, size } = driver;
  device.setupQueue(index, { size, desc, avail, used });
  device.enableQueue(index);
}

function negotiate(features = ALL): void {
  device.writeStatus(Status.acknowledge);
  device.writeStatus(device.status | Status.driver);
  device.setDriverFeatures(features);
  device.writeStatus(device.status | Status.featuresOk);
}

function run(features = ALL): void {
  negotiate(features);
  driver.reset();
  setupQueue();
  device.writeStatus(device.status | Status.driverOk);
}

function offer(...values: number[]): void {
  driver.makeAvailable(...values.map((value) => driver.add({ readable: Uint8Array.of(value), writableLength: 1 })));
}

function answers(): number[] {
  return driver.poll().map(({ writable }) => writable[0]!);
}

beforeEach(() => {
  memory = new GuestMemory();
  memory.addRegion({ gpa: 0n, size: 0x100000n });
  model = new EchoModel();
  driver = new DriverQueue(memory, { size: 8, base: 0x1000n, eventIdx: true });
  interrupts = [];
  onInterrupt = undefined;
  make();
});

describe('construction', () => {
  it('offers VERSION_1, the ring features asked for, and the device bits', () => {
    expect(device.offeredFeatures).toBe(ALL);
    make([]);
    expect(device.offeredFeatures).toBe(DEVICE_BIT | Feature.version1);
    make(['indirect']);
    expect(device.offeredFeatures).toBe(DEVICE_BIT | Feature.version1 | Feature.indirectDesc);
    expect(device.queueCount).toBe(2);
  });

  it('refuses what no device can offer', () => {
    expect(() => make(['inOrder' as never])).toThrow(/ringFeatures/);
    for (const bit of [24n, 28n, 32n, 49n, 64n]) {
      model.deviceFeatures = 1n << bit;
      expect(() => make(), String(bit)).toThrow(/deviceFeatures/);
    }
    for (const bit of [0n, 23n, 50n, 63n]) {
      model.deviceFeatures = 1n << bit;
      make();
    }
    model.queueMaxSizes = [16, 12];
    expect(() => make()).toThrow(/maxSize/);
  });
});

describe('status', () => {
  it('walks from reset to DRIVER_OK', () => {
    run();
    expect(device.status).toBe(RUNNING);
    expect(model.log).toEqual([`features ${ALL.toString(16)}`, 'ready', 'ready done']);
  });

  it('only adds bits, and leaves NEEDS_RESET to the device', () => {
    device.writeStatus(Status.acknowledge | Status.needsReset | 0x30);
    expect(device.status).toBe(Status.acknowledge);
    device.writeStatus(Status.driver);
    expect(device.status).toBe(Status.acknowledge | Status.driver);
    device.writeStatus(Status.failed);
    expect(device.status).toBe(Status.acknowledge | Status.driver | Status.failed);
    device.writeStatus(0x100);
    expect(device.status).toBe(0);
  });

  it('refuses FEATURES_OK without VERSION_1, with a bit not offered, and when the model does [D-VIO-2]', () => {
    for (const features of [
      0n,
      DEVICE_BIT,
      ALL & ~Feature.version1,
      ALL | (1n << 33n),
      ALL | 1n,
      (1n << 64n) | DEVICE_BIT,
    ]) {
      negotiate(features);
      expect(device.status, features.toString(16)).toBe(Status.acknowledge | Status.driver);
      expect(model.log).toEqual([]);
      device.writeStatus(0);
      model.log.length = 0;
    }
    model.accept = false;
    negotiate();
    expect(device.status & Status.featuresOk).toBe(0);
    device.writeStatus(device.status | Status.driverOk);
    expect(device.status & Status.driverOk).toBe(0);
    model.accept = true;
    device.setDriverFeatures(Feature.version1);
    device.writeStatus(device.status | Status.featuresOk);
    expect([device.status, device.driverFeatures]).toEqual([NEGOTIATED, Feature.version1]);
  });

  it('keeps the features after FEATURES_OK and forgets them at reset', () => {
    negotiate();
    device.setDriverFeatures(0n);
    expect(device.driverFeatures).toBe(ALL);
    device.writeStatus(0);
    expect([device.status, device.driverFeatures]).toEqual([0, 0n]);
    expect(model.log.at(-1)).toBe('reset');
  });

  it('ignores DRIVER_OK without FEATURES_OK, and takes both in one write', () => {
    device.writeStatus(Status.acknowledge | Status.driver | Status.driverOk);
    expect(device.status).toBe(Status.acknowledge | Status.driver);
    device.setDriverFeatures(ALL);
    device.writeStatus(RUNNING);
    expect(device.status).toBe(RUNNING);
    expect(model.log).toContain('ready');
  });

  it('resets in any state', () => {
    const runAndFail = (): void => {
      run();
      device.needsReset();
    };
    const states = [() => undefined, () => negotiate(), () => run(), runAndFail];
    for (const reach of states) {
      reach();
      device.writeStatus(0);
      expect([device.status, device.queue(0).ready, device.queueEnabled(0)]).toEqual([0, false, false]);
    }
    run();
    offer(5);
    device.notify(0);
    expect(answers()).toEqual([5]);
  });
});

describe('queues', () => {
  it('consumes and notifies nothing before DRIVER_OK, then finds what is there (D-VQ-1)', () => {
    negotiate();
    setupQueue();
    offer(1, 2);
    device.notify(0);
    device.signalQueue(0);
    device.configChanged(true);
    expect(device.queue(0).pop(new DescriptorChain())).toBe(PopResult.empty);
    expect([driver.usedIndex, interrupts, model.log.length]).toEqual([0, [], 1]);
    device.writeStatus(device.status | Status.driverOk);
    expect(answers()).toEqual([1, 2]);
    expect(interrupts).toEqual(['queue 0']);
  });

  it('ignores kicks for bad, disabled and idle queues', () => {
    run();
    model.log.length = 0;
    for (const index of [1, 2, -1, 0.5, 65535, NaN]) device.notify(index);
    expect(model.log).toEqual([]);
    expect(() => device.queue(2)).toThrow(RangeError);
    for (const index of [2, -1, 1.5]) {
      device.setupQueue(index, { size: 8, desc: 0n, avail: 0n, used: 0n });
      device.enableQueue(index);
      device.resetQueue(index);
    }
    device.notify(0);
    expect(model.log).toEqual(['kick 0', 'kick 0 done']);
  });

  it('starts a queue that is enabled after DRIVER_OK', () => {
    negotiate();
    device.writeStatus(device.status | Status.driverOk);
    setupQueue();
    expect(device.queue(0).ready).toBe(true);
    offer(7);
    device.notify(0);
    expect(answers()).toEqual([7]);
  });

  it('keeps the setup of an enabled queue', () => {
    run();
    device.setupQueue(0, { size: 3, desc: 1n, avail: 1n, used: 1n });
    device.enableQueue(0);
    expect(device.queue(0).size).toBe(8);
    offer(1);
    device.notify(0);
    expect(answers()).toEqual([1]);
  });

  it('asks for a reset when a setup cannot work', () => {
    for (const setup of [
      { size: 3, desc: 0n, avail: 0n, used: 0n },
      { size: 8, desc: 1n << 60n, avail: 0x2000n, used: 0x3000n },
      { size: 32, desc: 0x1000n, avail: 0x2000n, used: 0x3000n },
    ]) {
      negotiate();
      device.setupQueue(0, setup);
      device.enableQueue(0);
      device.writeStatus(device.status | Status.driverOk);
      expect(device.status).toBe(RUNNING | Status.needsReset);
      device.writeStatus(0);
    }
    negotiate();
    device.enableQueue(0);
    device.writeStatus(device.status | Status.driverOk);
    expect(device.status).toBe(RUNNING | Status.needsReset);
  });

  it('resets one queue and runs it again (VIRTIO_F_RING_RESET)', () => {
    run();
    offer(1);
    device.notify(0);
    answers();
    offer(2);
    device.resetQueue(0);
    expect(model.log.at(-1)).toBe('queueReset 0');
    device.notify(0);
    expect([driver.usedIndex, device.queueEnabled(0), device.queue(0).ready]).toEqual([1, false, false]);
    device.resetQueue(0);
    expect(model.log.filter((line) => line === 'queueReset 0')).toHaveLength(1);
    driver.reset();
    setupQueue();
    offer(3);
    device.notify(0);
    expect(answers()).toEqual([3]);
    expect(device.status).toBe(RUNNING);
  });

  it('uses the ring features that were negotiated, not those offered', () => {
    driver = new DriverQueue(memory, { size: 8, base: 0x1000n });
    run(DEVICE_BIT | Feature.version1);
    driver.setAvailFlags(1);
    offer(1);
    device.notify(0);
    expect([answers(), interrupts, driver.availEvent]).toEqual([[1], [], 0]);
    driver.makeAvailable(driver.add({ readable: Uint8Array.of(1), writableLength: 1, indirect: true }));
    device.notify(0);
    expect(device.status & Status.needsReset).toBe(Status.needsReset);
  });
});

describe('needs reset', () => {
  it('tells the driver once, stops, and works again after a reset', () => {
    run();
    offer(1);
    driver.setAvailEntry(1, 8);
    driver.setAvailIndex(2);
    device.notify(0);
    expect(device.status).toBe(RUNNING | Status.needsReset);
    expect(interrupts).toEqual(['queue 0', 'config']);
    expect(answers()).toEqual([1]);
    device.needsReset();
    device.notify(0);
    device.writeStatus(device.status);
    expect([device.status, interrupts.length]).toEqual([RUNNING | Status.needsReset, 2]);
    expect(model.log.filter((line) => line.startsWith('kick'))).toHaveLength(2);
    device.writeStatus(0);
    run();
    offer(4);
    device.notify(0);
    expect(answers()).toEqual([4]);
  });

  it('before DRIVER_OK sets the bit without an interrupt, and DRIVER_OK is ignored then; in status 0 it does nothing', () => {
    device.needsReset();
    expect(device.status).toBe(0);
    negotiate();
    device.needsReset();
    device.writeStatus(device.status | Status.driverOk);
    expect([device.status, interrupts]).toEqual([NEGOTIATED | Status.needsReset, []]);
  });
});

describe('configuration space', () => {
  it('reads any width at any offset, before FEATURES_OK, and zeroes outside (D-VIO-1, D-PCI-1)', () => {
    const cases: [number, 1 | 2 | 4 | 8, bigint][] = [
      [0, 1, 0x10n],
      [3, 2, 0x1413n],
      [1, 4, 0x14131211n],
      [4, 8, 0x1b1a191817161514n],
      [4, 4, 0x17161514n],
      [8, 4, 0x1b1a1918n],
      [9, 8, 0x1b1a19n],
      [11, 1, 0x1bn],
      [12, 8, 0n],
      [2 ** 32, 4, 0n],
      [-1, 2, 0x1000n],
    ];
    for (const [offset, size, value] of cases) expect(device.readConfig(offset, size), `${offset}/${size}`).toBe(value);
  });

  it('writes any width at any offset, and ignores what is not wholly inside', () => {
    device.writeConfig(1, 1, 0x1ffn);
    device.writeConfig(2, 2, 0xbbaan);
    device.writeConfig(4, 8, 0x8877665544332211n);
    const outside: [number, 1 | 2 | 4 | 8][] = [
      [12, 1],
      [11, 2],
      [9, 4],
      [5, 8],
      [-1, 1],
    ];
    for (const [offset, size] of outside) device.writeConfig(offset, size, 0n);
    expect([...model.config]).toEqual([0x10, 0xff, 0xaa, 0xbb, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]);
    expect(model.log).toEqual(['config 1+1', 'config 2+2', 'config 4+8']);
  });

  it('counts changes and interrupts only when asked and running', () => {
    const first = device.configGeneration;
    device.configChanged(true);
    expect([device.configGeneration - first, interrupts]).toEqual([1, []]);
    run();
    device.configChanged(false);
    device.configChanged(true);
    expect([device.configGeneration - first, interrupts]).toEqual([3, ['config']]);
  });
});

describe('re-entry', () => {
  it('remembers a kick that comes while the model works', () => {
    run();
    let more = [2, 3];
    onInterrupt = () => {
      const [value] = more;
      more = more.slice(1);
      if (value === undefined) return;
      driver.poll();
      offer(value);
      device.notify(0);
      device.notify(0);
    };
    offer(1);
    device.notify(0);
    expect(model.log.filter((line) => line.startsWith('serve'))).toEqual(['serve 1', 'serve 2', 'serve 3']);
    const nested = model.log.some((line, i) => line === 'kick 0' && model.log[i + 1] === 'kick 0');
    expect(nested).toBe(false);
  });

  it('drops a remembered kick when the model asks for a reset meanwhile', () => {
    run();
    model.log.length = 0;
    model.onEvent = (event) => {
      if (event !== 'kick 0') return;
      device.notify(0);
      device.needsReset();
    };
    device.notify(0);
    expect(model.log).toEqual(['kick 0', 'kick 0 done']);
  });

  it('a reset from inside acts at once; the new start waits until the model has returned', () => {
    run();
    model.log.length = 0;
    onInterrupt = () => {
      onInterrupt = undefined;
      device.writeStatus(0);
      expect(device.status).toBe(0);
      run();
      expect(device.status).toBe(RUNNING);
      offer(9);
      device.notify(0);
    };
    offer(1);
    device.notify(0);
    expect(model.log.filter((line) => !line.startsWith('features'))).toEqual([
      'kick 0',
      'serve 1',
      'reset',
      'kick 0 done',
      'ready',
      'serve 9',
      'ready done',
      'kick 0',
      'kick 0 done',
    ]);
    expect(answers()).toEqual([9]);
    expect(device.status).toBe(RUNNING);
  });

  it('a model that meets its own reset leaves a clean device', () => {
    run();
    model.onEvent = (event) => {
      if (event === 'serve 1') device.writeStatus(0);
    };
    offer(1, 2);
    device.notify(0);
    expect([device.status, driver.usedIndex, interrupts]).toEqual([0, 0, []]);
    model.onEvent = (event) => {
      if (event === 'reset') device.writeStatus(0);
      if (event.startsWith('features')) device.writeStatus(0);
    };
    model.log.length = 0;
    device.writeStatus(0);
    expect(model.log).toEqual(['reset']);
    device.setDriverFeatures(ALL);
    device.writeStatus(RUNNING);
    expect(device.status).toBe(0);
  });

  it('an exception of the model does not jam the device', () => {
    run();
    model.onEvent = () => {
      throw new Error('bug');
    };
    expect(() => device.notify(0)).toThrow('bug');
    expect(() => device.writeStatus(0)).toThrow('bug');
    model.onEvent = undefined;
    run();
    offer(1);
    device.notify(0);
    expect(answers()).toEqual([1]);
  });
});
