// VfioDevice on a made-up device: configuration space, bus master with read-back, pending transactions, regions, BARs.
import { describe, expect, it } from 'vitest';
import { Errno, HostError } from '../base/errors.ts';
import type { NativeDevice, NativeRegion, NativeRegisters } from './native-api.ts';
import { CONFIG_REGION, VfioDevice } from './vfio-device.ts';

const CONFIG_AT = 7n << 40n;
const BAR_AT = 1n << 40n;

function native(call: string, errno: number): Error {
  return Object.assign(new Error(`${call} ${errno}`), { code: 'ERR_NATIVE' });
}

/** A device with 256 bytes of configuration space and one BAR of 16 KiB; the fields say how it misbehaves. */
class Made implements NativeDevice {
  readonly config = new Uint8Array(256);
  readonly calls: unknown[] = [];
  stuckBusMaster = false;
  /** Reads of Device Status that still say "pending". */
  pending = 0;
  short = false;
  mappable: BigUint64Array | undefined;
  msixMappable = false;
  resetErrno = 0;
  irqErrno = 0;
  resetTries = 0;

  constructor() {
    this.config.set([0x34, 0x12, 0xe8, 0x11, 0x03, 0x01, 0x10, 0x00]);
    this.config[0x34] = 0x40;
    this.config.set([0x05, 0x60], 0x40);
    this.config.set([0x10, 0x00], 0x60);
  }

  info(): number[] {
    return [3, 9, 5];
  }

  region(index: number): NativeRegion {
    if (index > 8) throw native('VFIO_DEVICE_GET_REGION_INFO', Errno.EINVAL);
    if (index === CONFIG_REGION) return { flags: 3, size: 256n, offset: CONFIG_AT, msixMappable: false };
    const { mappable, msixMappable } = this;
    return { flags: 7, size: 0x4000n, offset: BAR_AT, msixMappable, ...(mappable === undefined ? {} : { mappable }) };
  }

  read(into: Uint8Array, position: bigint): number {
    if (this.short) return 0;
    const at = Number(position - CONFIG_AT);
    if (at < 0 || at >= 256) {
      this.calls.push(['read', position, into.length]);
      return into.length;
    }
    if (at === 0x60 + 10) this.config[at] = this.pending-- > 0 ? 0x20 : 0;
    into.set(this.config.subarray(at, at + into.length));
    return into.length;
  }

  write(from: Uint8Array, position: bigint): number {
    if (this.short) return 0;
    const at = Number(position - CONFIG_AT);
    this.calls.push(['write', position, [...from]]);
    if (at === 4 && this.stuckBusMaster) return from.length;
    if (at >= 0 && at < 256) this.config.set(from, at);
    return from.length;
  }

  reset(): void {
    this.resetTries++;
    if (this.resetErrno !== 0) throw native('VFIO_DEVICE_RESET', this.resetErrno);
    this.calls.push('reset');
  }

  irq(index: number): number[] {
    if (this.irqErrno !== 0) throw native('VFIO_DEVICE_GET_IRQ_INFO', this.irqErrno);
    return [9, index + 1];
  }

  setIrqs(index: number, start: number, counters: Int32Array): void {
    this.calls.push(['irqs', index, start, [...counters]]);
  }

  maskIrqs(index: number, start: number, count: number, masked: boolean): void {
    this.calls.push([masked ? 'mask' : 'unmask', index, start, count]);
  }

  map(position: bigint, length: bigint): NativeRegisters {
    this.calls.push(['map', position, length]);
    return { address: () => 0x7f00_0000_0000n, close: () => this.calls.push('unmap') };
  }

  close(): void {
    this.calls.push('close');
  }
}

function made(): [VfioDevice, Made] {
  const device = new Made();
  return [new VfioDevice('0000:00:04.0', device), device];
}

describe('configuration space', () => {
  it('is read and written little-endian in 1, 2 and 4 bytes', () => {
    const [device, { config }] = made();
    expect([device.readConfig(0, 4), device.readConfig(2, 2), device.readConfig(1, 1)]).toEqual([
      0x11e8_1234, 0x11e8, 0x12,
    ]);
    device.writeConfig(0x10, 4, 0xdead_beef);
    device.writeConfig(0x14, 2, 0xffff);
    expect([...config.subarray(0x10, 0x17)]).toEqual([0xef, 0xbe, 0xad, 0xde, 0xff, 0xff, 0]);
  });

  it('names a wrong argument', () => {
    const [device, { calls }] = made();
    const wrong: readonly [() => unknown, RegExp][] = [
      [() => device.readConfig(1, 2), /^offset must be a multiple of 2/],
      [() => device.readConfig(4096, 1), /^offset must be in/],
      [() => device.readConfig(-4, 4), /^offset must be in/],
      [() => device.readConfig(0, 3 as 4), /^bytes must be 1, 2 or 4/],
      [() => device.writeConfig(0, 1, 256), /^value must be in/],
      [() => device.writeConfig(0, 4, 2 ** 32), /^value must be in/],
      [() => device.setBusMaster(1 as unknown as boolean), /^on must be a boolean/],
    ];
    for (const [run, message] of wrong) expect(run).toThrow(message);
    expect(calls).toEqual([]);
  });

  it('is an error when the device does not answer', () => {
    const [device, native] = made();
    native.short = true;
    expect(() => device.readConfig(0, 4)).toThrow(HostError);
    expect(device.setBusMaster(false)).toBe(Errno.EIO);
  });
});

describe('bus master', () => {
  it('is set and cleared with the other bits kept, and read back', () => {
    const [device, { config }] = made();
    expect([device.busMaster(), device.setBusMaster(true), device.busMaster(), config[4]]).toEqual([false, 0, true, 7]);
    expect([device.setBusMaster(false), device.busMaster(), config[4], config[5]]).toEqual([0, false, 3, 1]);
  });

  it('that does not change is EIO', () => {
    const [device, native] = made();
    native.stuckBusMaster = true;
    expect([device.setBusMaster(true), device.setBusMaster(false)]).toEqual([Errno.EIO, 0]);
  });

  it('waits for pending transactions, but not for ever', () => {
    const [device, native] = made();
    native.pending = 3;
    expect([device.setBusMaster(false), native.pending]).toEqual([0, -1]);
    native.pending = Infinity;
    expect(device.setBusMaster(false)).toBe(Errno.EBUSY);
    expect(device.setBusMaster(true)).toBe(0);
  });

  it.each([
    ['no capability list', (config: Uint8Array) => (config[6] = 0)],
    ['no PCI Express capability', (config: Uint8Array) => (config[0x60] = 9)],
    ['a list that goes round', (config: Uint8Array) => config.set([9, 0x40], 0x60)],
    ['a list that points into the header', (config: Uint8Array) => (config[0x34] = 0x3c)],
  ])('does not wait with %s', (_, change) => {
    const [device, native] = made();
    native.pending = Infinity;
    change(native.config);
    expect([device.transactionsPending(), device.setBusMaster(false)]).toEqual([false, 0]);
  });
});

describe('regions, interrupts and reset', () => {
  it('reads and writes where the region is', () => {
    const [device, { calls }] = made();
    device.readRegion(0, 0x3ffcn, new Uint8Array(4));
    device.writeRegion(0, 8n, Uint8Array.of(1, 2));
    expect(calls).toEqual([
      ['read', BAR_AT + 0x3ffcn, 4],
      ['write', BAR_AT + 8n, [1, 2]],
    ]);
    expect(() => device.readRegion(0, 0x3ffdn, new Uint8Array(4))).toThrow(/^offset must be in/);
    expect(() => device.readRegion(0, 2n ** 63n, new Uint8Array(4))).toThrow(/^offset must be in/);
    expect(() => device.readRegion(0, 0n, new Uint8Array(0))).toThrow(/^the bytes must be 1/);
    expect(() => device.readRegion(0, 0n, new Uint8Array(0x4001))).toThrow(/^the bytes must be 1/);
    expect(() => device.readRegion(0, 0n, [0] as unknown as Uint8Array)).toThrow(TypeError);
    expect(() => device.region(9)).toThrow(HostError);
    expect(() => device.region(-1)).toThrow(/^index /);
  });

  it('tells what may be mapped', () => {
    const [device, native] = made();
    expect(device.region(0).mappable).toBeUndefined();
    native.mappable = BigUint64Array.of(0n, 0x1000n, 0x2000n, 0x2000n);
    expect(device.region(0).mappable).toEqual([
      { offset: 0n, size: 0x1000n },
      { offset: 0x2000n, size: 0x2000n },
    ]);
    native.msixMappable = true;
    expect(device.region(0).mappable).toBeUndefined();
  });

  it('maps whole pages of a BAR, and gives them back with the device', () => {
    const [device, { calls }] = made();
    const first = device.mapRegion(0, 0x1000n, 0x3000n);
    device.mapRegion(0, 0n, 0x4000n);
    expect(() => device.mapRegion(0, 0x1000n, 0x3001n)).toThrow(/^size must be in/);
    expect(() => device.mapRegion(0, 0x800n, 0x800n)).toThrow(/multiples of 4096/);
    expect([first.hva, first.size]).toEqual([0x7f00_0000_0000n, 0x3000n]);
    first.close();
    device.close();
    expect(calls).toEqual([['map', BAR_AT + 0x1000n, 0x3000n], ['map', BAR_AT, 0x4000n], 'unmap', 'unmap', 'close']);
    expect(() => device.reset()).toThrow('0000:00:04.0 is closed');
    expect(() => device.readConfig(0, 4)).toThrow(HostError);
  });

  it('switches interrupts on and off', () => {
    const [device, { calls }] = made();
    device.setIrqs('msix', 2, [undefined, undefined]);
    device.disableIrqs('intx');
    expect(calls).toEqual([
      ['irqs', 2, 2, [-1, -1]],
      ['irqs', 0, 0, []],
    ]);
    expect(device.irqCount('msi')).toBe(2);
    expect(() => device.setIrqs('msix', 0, [])).toThrow(/^counters must not be empty/);
    expect(() => device.irqCount('nmi' as 'msi')).toThrow(/^kind must be one of/);
  });

  it('tries a reset again while somebody holds the device, and turns bus master off when asked', () => {
    const [device, native] = made();
    native.config[4] = 7;
    native.resetErrno = 11;
    expect([device.reset(), native.resetTries]).toEqual([11, 10]);
    expect([device.resetQuiet(), device.busMaster()]).toEqual([11, true]);
    native.resetErrno = 0;
    expect([device.reset(), device.busMaster()]).toEqual([0, true]);
    expect([device.resetQuiet(), device.busMaster()]).toEqual([0, false]);
    native.config[4] = 7;
    native.stuckBusMaster = true;
    expect(device.resetQuiet()).toBe(Errno.EIO);
  });

  it('says so of a device that is gone', () => {
    const [device, native] = made();
    native.config.fill(0xff);
    expect([device.setBusMaster(true), device.setBusMaster(false), device.resetQuiet()]).toEqual([
      Errno.ENODEV,
      Errno.ENODEV,
      Errno.ENODEV,
    ]);
    expect(() => device.busMaster()).toThrow('0000:00:04.0 does not answer: it is gone, or has no power');
  });

  it('sees pending transactions of a function with Advanced Features only', () => {
    const [device, { config }] = made();
    config.set([0x13, 0x00, 0x06, 0x01, 0x00, 0x01], 0x60);
    expect([device.transactionsPending(), device.setBusMaster(false)]).toEqual([true, Errno.EBUSY]);
    config[0x65] = 0;
    expect([device.transactionsPending(), device.setBusMaster(false)]).toEqual([false, 0]);
    const [silent, other] = made();
    other.config.set([0x13, 0x00, 0x06, 0x00, 0x00, 0x01], 0x60);
    expect(silent.transactionsPending()).toBe(false);
  });

  it('masks and unmasks interrupts', () => {
    const [device, { calls }] = made();
    device.maskIrqs('intx', 0, 1, false);
    device.maskIrqs('msix', 3, 4, true);
    expect(calls).toEqual([
      ['unmask', 0, 0, 1],
      ['mask', 2, 3, 4],
    ]);
    expect(() => device.maskIrqs('intx', -1, 1, true)).toThrow(/^start must be in/);
    expect(() => device.maskIrqs('intx', 0, 0, true)).toThrow(/^count must be in/);
    expect(() => device.maskIrqs('intx', 0, 1, 1 as unknown as boolean)).toThrow(/^masked must be a boolean/);
  });

  it('counts no interrupts of a kind that the kernel does not know for the device', () => {
    const [device, native] = made();
    native.irqErrno = Errno.EINVAL;
    expect(device.irqCount('error')).toBe(0);
    native.irqErrno = Errno.EIO;
    expect(() => device.irqCount('error')).toThrow('VFIO_DEVICE_GET_IRQ_INFO was refused: EIO');
  });

  it('resets, or says with which errno not', () => {
    const [device, native] = made();
    expect([device.info(), device.reset()]).toEqual([{ regions: 9, irqKinds: 5, canReset: true }, 0]);
    native.resetErrno = Errno.EINVAL;
    expect(device.reset()).toBe(Errno.EINVAL);
  });
});
