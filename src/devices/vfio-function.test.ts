// A passed-through function on a device that is a fake: what reaches the device, with which widths, in which order, and what its
// owner is told when.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FakePassedDevice } from '../../test/devices/passed-device.ts';
import { Errno, HostError } from '../base/errors.ts';
import { firstWidth } from './register-parts.ts';

import { VfioFunction } from './vfio-function.ts';

const COMMAND = 4;

interface Rig {
  readonly device: FakePassedDevice;
  readonly pci: VfioFunction;
  readonly log: string[];
}

function rig(setup: (device: FakePassedDevice) => void = () => undefined, allow = true): Rig {
  const device = new FakePassedDevice();
  setup(device);
  const log: string[] = [];
  const pci = new VfioFunction({
    device,
    onBusMaster: (on) => {
      if (on && !allow) throw new HostError('ERR_VIOMMU_HOST_REFUSED', 'blocked', { errno: 5, syscall: 'x' });
      device.calls.push(`told ${on}`);
    },
    log: (text) => log.push(text),
  });
  device.calls.length = 0;
  return { device, pci, log };
}

function word(value: number, width: number): Uint8Array {
  return Uint8Array.from({ length: width }, (_, i) => (value >>> (8 * i)) & 0xff);
}

describe('a passed-through function', () => {
  it('has the BARs, the ROM, the configuration space and the vectors of the device', () => {
    const { pci } = rig();
    expect(pci.bars).toEqual([
      { index: 0, size: 0x1000 },
      { index: 2, size: 0x20 },
      { index: 6, size: 0x800 },
    ]);
    expect([pci.configBytes, pci.vectors]).toEqual([4096, 8]);
  });

  it('needs a device', () => {
    for (const device of [undefined, null, {}]) {
      expect(() => new VfioFunction({ device: device as never })).toThrow(/options\.device/);
    }
    expect(() => new VfioFunction({ device: new FakePassedDevice(), onBusMaster: 1 as never })).toThrow(/onBusMaster/);
  });

  it('has no region that the device refuses', () => {
    expect(rig((device) => (device.missing = 6)).pci.bars.map(({ index }) => index)).toEqual([0, 2]);
  });

  it.each([
    [0, 4, ['config 0 4']],
    [0, 2, ['config 0 2']],
    [1, 1, ['config 1 1']],
    [1, 3, ['config 1 1', 'config 2 2']],
    [2, 4, ['config 2 2', 'config 4 2']],
    [3, 6, ['config 3 1', 'config 4 4', 'config 8 1']],
    [0, 8, ['config 0 4', 'config 4 4']],
    [4092, 4, ['config 4092 4']],
    [4095, 1, ['config 4095 1']],
  ])('reads configuration space at %i, %i bytes, in pieces of their own width', (offset, length, calls) => {
    const { device, pci } = rig();
    const into = new Uint8Array(length);
    pci.readConfigBytes(offset, into);
    expect(device.calls).toEqual(calls);
    expect([...into]).toEqual(Array.from({ length }, (_, i) => device.config[offset + i]));
  });

  it.each([
    [4096, 1],
    [4093, 4],
    [0, 4097],
    [-1, 1],
    [0.5, 1],
    [Number.NaN, 1],
    [2 ** 32, 4],
    [0, 0],
  ])('gives all ones at %d, %i bytes, and takes no writes', (offset, length) => {
    const { device, pci } = rig();
    const into = new Uint8Array(length);
    pci.readConfigBytes(offset, into);
    pci.writeConfigBytes(offset, into);
    expect([into.every((byte) => byte === 0xff), device.calls]).toEqual([true, []]);
  });

  it('gives all ones where the device refuses, and goes on', () => {
    const { device, pci } = rig();
    device.refuse = (call) => call === 'config 4 4';
    const into = new Uint8Array(12);
    pci.readConfigBytes(0, into);
    expect([...into.subarray(4, 8)]).toEqual([255, 255, 255, 255]);
    expect([...into.subarray(8)]).toEqual([...device.config.subarray(8, 12)]);
    expect(pci.stats().refused).toBe(1);
  });
});

describe('registers of a BAR', () => {
  it.each([
    [0, 0, 4, ['bar 0 0 4']],
    [0, 0, 8, ['bar 0 0 8']],
    [0, 4, 8, ['bar 0 4 4', 'bar 0 8 4']],
    [0, 1, 7, ['bar 0 1 1', 'bar 0 2 2', 'bar 0 4 4']],
    [0, 6, 3, ['bar 0 6 2', 'bar 0 8 1']],
    [0, 0, 16, ['bar 0 0 16']],
    [0, 0xffc, 4, ['bar 0 4092 4']],
    [2, 0x1f, 1, ['bar 2 31 1']],
    [6, 0, 0x800, ['bar 6 0 2048']],
  ])('BAR %i at %i, %i bytes', (bar, offset, length, calls) => {
    const { device, pci } = rig();
    const into = new Uint8Array(length);
    pci.readBar(bar, offset, into);
    expect(device.calls).toEqual(calls);
    expect(into.every((byte, i) => byte === ((offset + i) & 0xff))).toBe(true);
    device.calls.length = 0;
    pci.writeBar(bar, offset, into);
    expect(device.calls).toEqual(
      bar === 6 ? [] : calls.map((call) => `${call} = ${[...slice(call, into, offset)].join()}`),
    );
  });

  it.each([
    [0, 0x1000, 1],
    [0, 0xfff, 2],
    [0, -4, 4],
    [1, 0, 4],
    [7, 0, 4],
    [2, 0x1d, 4],
    [0, 2 ** 53, 4],
  ])('BAR %i at %d, %i bytes, are not there', (bar, offset, length) => {
    const { device, pci } = rig();
    const into = new Uint8Array(length);
    pci.readBar(bar, offset, into);
    pci.writeBar(bar, offset, into);
    expect([into.every((byte) => byte === 0xff), device.calls]).toEqual([true, []]);
  });

  it('give all ones while memory space is off, and lose writes', () => {
    const { device, pci } = rig();
    device.refuse = (call) => call.startsWith('bar');
    const into = new Uint8Array(8);
    pci.readBar(0, 0, into);
    pci.writeBar(0, 0, into);
    expect(into.every((byte) => byte === 0xff)).toBe(true);
    expect(pci.stats().refused).toBe(2);
  });

  it('pass an error that is no refusal', () => {
    const { device, pci } = rig();
    device.readConfig = () => {
      throw new TypeError('a bug');
    };
    expect(() => pci.readConfigBytes(0, new Uint8Array(1))).toThrow('a bug');
  });
});

describe('bus master', () => {
  it.each([
    [4, 1, 0x06],
    [4, 2, 0x0406],
    [4, 4, 0x00100406],
  ] as const)('is told before it is set by a write at %i of %i bytes', (offset, width, value) => {
    const { device, pci } = rig();
    pci.writeConfigBytes(offset, word(value, width));
    expect(device.calls).toEqual(['told true', `write ${offset} ${width} 0x${value.toString(16)}`]);
    expect(pci.stats().busMaster).toBe(true);
  });

  it('is told once', () => {
    const { device, pci } = rig();
    pci.writeConfigBytes(COMMAND, word(4, 2));
    pci.writeConfigBytes(COMMAND, word(6, 2));
    expect(device.calls.filter((call) => call.startsWith('told'))).toEqual(['told true']);
  });

  it('is found inside a long write that is not aligned', () => {
    const { device, pci } = rig();
    pci.writeConfigBytes(2, Uint8Array.of(0, 0, 4, 0, 0, 0));
    expect(device.calls).toEqual(['write 2 2 0x0', 'told true', 'write 4 4 0x4']);
  });

  it('is not touched by its neighbours', () => {
    const { device, pci } = rig();
    pci.writeConfigBytes(5, Uint8Array.of(4));
    pci.writeConfigBytes(3, Uint8Array.of(4));
    pci.writeConfigBytes(6, word(4, 2));
    expect(device.calls).toEqual(['write 5 1 0x4', 'write 3 1 0x4', 'write 6 2 0x4']);
  });

  it('is told after it was cleared and the device has stopped', () => {
    const { device, pci } = rig();
    pci.writeConfigBytes(COMMAND, word(4, 2));
    device.calls.length = 0;
    pci.writeConfigBytes(COMMAND, word(2, 2));
    expect(device.calls).toEqual(['write 4 2 0x2', 'setBusMaster false', 'told false']);
    expect(pci.stats().busMaster).toBe(false);
  });

  it('counts as on while the device does not stop', () => {
    const { device, pci, log } = rig();
    pci.writeConfigBytes(COMMAND, word(4, 2));
    device.stops = Errno.EBUSY;
    pci.writeConfigBytes(COMMAND, word(0, 2));
    expect(device.calls).not.toContain('told false');
    expect([pci.stats().busMaster, log.length]).toEqual([true, 1]);
    device.stops = 0;
    pci.writeConfigBytes(COMMAND, word(0, 2));
    expect(device.calls.at(-1)).toBe('told false');
  });

  it('stays off, and only that, when the owner refuses it', () => {
    const { device, pci, log } = rig(undefined, false);
    pci.writeConfigBytes(COMMAND, word(0x8000_0407, 4));
    expect(device.calls).toEqual(['write 4 4 0x80000403']);
    expect([pci.stats().busMaster, log]).toEqual([false, [expect.stringContaining('blocked')]]);
  });

  it('is told to be on also when the write is refused: the device may have it', () => {
    const { device, pci } = rig();
    device.refuse = (call) => call.startsWith('write');
    pci.writeConfigBytes(COMMAND, word(4, 2));
    expect([device.calls[0], pci.stats().busMaster]).toEqual(['told true', true]);
  });

  it('agrees with what was told, for any writes', () => {
    const write = fc.tuple(fc.integer({ min: 0, max: 9 }), fc.uint8Array({ minLength: 1, maxLength: 9 }));
    fc.assert(
      fc.property(fc.array(write, { maxLength: 30 }), (writes) => {
        const { device, pci } = rig();
        for (const [offset, bytes] of writes) {
          pci.writeConfigBytes(offset, bytes);
          expect(pci.stats().busMaster).toBe((device.config[COMMAND]! & 4) !== 0);
        }
        expect(device.unsafe).toEqual([]);
      }),
    );
  });
});

describe('a reset', () => {
  it('ends DMA first and leaves the Command register as after a reset', () => {
    const { device, pci } = rig();
    pci.writeConfigBytes(COMMAND, word(0x407, 2));
    device.calls.length = 0;
    pci.reset();
    expect(device.calls).toEqual([
      'setBusMaster false',
      'told false',
      'reset',
      'config 4 2',
      'write 4 2 0x400',
      'setBusMaster false',
    ]);
    expect([pci.stats().resets, pci.stats().busMaster]).toEqual([1, false]);
  });

  it.each([
    [Errno.ENOTTY, 'no reset'],
    [Errno.EINVAL, 'no reset'],
    [Errno.EBUSY, 'EBUSY'],
  ])('that does not happen (errno %i) is said once', (errno, words) => {
    const { pci, log } = rig((device) => (device.resets = errno));
    pci.reset();
    pci.reset();
    expect(log).toEqual([expect.stringContaining(words)]);
  });

  it('of a device that is gone does nothing', () => {
    const { device, pci } = rig();
    device.refuse = () => true;
    pci.reset();
    expect(pci.stats().refused).toBeGreaterThan(0);
  });
});

describe('the width of a piece', () => {
  it('cuts every access into aligned powers of two, in order, without a gap', () => {
    const widths = fc.constantFrom(1, 2, 4, 8);
    fc.assert(
      fc.property(fc.nat(5000), fc.integer({ min: 1, max: 64 }), widths, (offset, length, widest) => {
        let at = offset;
        for (let left = length; left > 0;) {
          const width = firstWidth(at, left, widest);
          expect(width <= widest && width <= left && at % width === 0 && Math.log2(width) % 1 === 0).toBe(true);
          // The next larger one does not do.
          expect(width === widest || width * 2 > left || at % (width * 2) !== 0).toBe(true);
          at += width;
          left -= width;
        }
        expect(at).toBe(offset + length);
      }),
    );
  });
});

function slice(call: string, bytes: Uint8Array, offset: number): Uint8Array {
  const [, , at = '', width = ''] = call.split(' ');
  return bytes.subarray(Number(at) - offset, Number(at) - offset + Number(width));
}
