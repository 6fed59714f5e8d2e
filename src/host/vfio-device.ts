// A PCI device opened through VFIO: configuration space, bus master, reset, regions, interrupts, BARs for other devices.
// Not here: the container and its entries (vfio-type1.ts). Positions and sizes are bytes, ends exclusive.
import { U32_MAX, checkBigint, checkBoolean, checkInteger, checkOneOf, hex } from '../base/check.ts';
import { Errno, HostError } from '../base/errors.ts';
import type { EventCounter } from './event-counter.ts';
import type { NativeDevice, NativeRegisters } from './native-api.ts';
import { attempt, closedError, errnoOf, refusedVerdict } from './refusals.ts';

/** Index of the configuration space among the regions (VFIO_PCI_CONFIG_REGION_INDEX); 0 to 5 are the BARs, 6 is the ROM. */
export const CONFIG_REGION = 7;

/** Kinds of interrupts, VFIO_PCI_*_IRQ_INDEX. */
export const IrqKind = { intx: 0, msi: 1, msix: 2, error: 3, request: 4 } as const;

/** Bits of {@link VfioRegion.flags}, VFIO_REGION_INFO_FLAG_*. */
export const RegionFlag = { read: 1, write: 2, mmap: 4 } as const;

/** A region of a device. */
export interface VfioRegion {
  readonly index: number;
  readonly size: bigint;
  /** {@link RegionFlag} bits. */
  readonly flags: number;
  /** Parts that may be mapped, where not the whole region may; ends exclusive. */
  readonly mappable: readonly { readonly offset: bigint; readonly size: bigint }[] | undefined;
}

/** A part of a BAR in this process's addresses, for the entries of other devices (peer to peer). */
export interface MappedRegisters {
  /** Host virtual address. Never touch it: the registers go away while the device's memory is disabled. */
  readonly hva: bigint;
  readonly size: bigint;
  /** Gives the addresses back; remove the entries first. A mapping that lives keeps its group busy. */
  close(): void;
}

/** PCI configuration space (PCI Local Bus 3.0 section 6.1; PCI Express 7.5). */
const Config = { command: 4, status: 6, capabilities: 0x34 } as const;
const BUS_MASTER = 4;
const CAPABILITY_LIST = 0x10;
/** What a function that is gone answers; no Command register has this value, since its upper bits are 0. */
const GONE = 0xffff;
/** Capability ids, and where each has its Transactions Pending bit. */
const PCI_EXPRESS = 0x10;
const DEVICE_STATUS = 10;
const DEVICE_STATUS_PENDING = 0x20;
const ADVANCED_FEATURES = 0x13;
const AF_CAPABILITIES = 3;
const AF_STATUS = 5;
const AF_PENDING = 1;
const MAX_CAPABILITIES = 48;
/**
 * Steps of 1 ms. The default range of Completion Timeout ends at 50 ms; a device with a longer one is EBUSY here, since this
 * thread waits.
 */
const PENDING_STEPS = 100;
const RESET_ATTEMPTS = 10;
const MAX_POSITION = 2n ** 63n - 1n;

/** One device of an open group. */
export class VfioDevice {
  /** `ssss:bb:dd.f`. */
  readonly name: string;
  readonly #native: NativeDevice;
  readonly #config: bigint;
  readonly #registers = new Set<NativeRegisters>();
  /** Where Transactions Pending is; the capabilities that VFIO shows never change. */
  #pending: { readonly offset: number; readonly bit: number } | undefined;
  #closed = false;

  /** Made by a context. @throws HostError when the device does not answer. */
  constructor(name: string, native: NativeDevice) {
    this.name = name;
    this.#native = native;
    this.#config = attempt(() => native.region(CONFIG_REGION), refusedVerdict).offset;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Number of regions and of interrupt kinds, and whether the device can be reset (VFIO_DEVICE_GET_INFO). */
  info(): { readonly regions: number; readonly irqKinds: number; readonly canReset: boolean } {
    const native = this.#open('VFIO_DEVICE_GET_INFO');
    const [flags = 0, regions = 0, irqKinds = 0] = attempt(() => native.info(), refusedVerdict);
    return { regions, irqKinds, canReset: (flags & 1) !== 0 };
  }

  /** One region (VFIO_DEVICE_GET_REGION_INFO). @throws HostError EINVAL when there is none with this index. */
  region(index: number): VfioRegion {
    const { flags, size, mappable, msixMappable } = this.#region(index);
    return { index, size, flags, mappable: msixMappable ? undefined : mappable && pairs(mappable) };
  }

  /** Reads 1, 2 or 4 bytes of configuration space, little-endian; `offset` a multiple of `bytes`. @throws HostError. */
  readConfig(offset: number, bytes: 1 | 2 | 4): number {
    const native = this.#open('pread');
    checkConfig(offset, bytes);
    const buffer = new Uint8Array(4);
    const position = this.#config + BigInt(offset);
    const part = buffer.subarray(0, bytes);
    attempt(() => whole(native.read(part, position), bytes), refusedVerdict);
    return new DataView(buffer.buffer).getUint32(0, true);
  }

  /** Writes 1, 2 or 4 bytes of configuration space. Writes of bus master: use {@link setBusMaster}. @throws HostError. */
  writeConfig(offset: number, bytes: 1 | 2 | 4, value: number): void {
    const native = this.#open('pwrite');
    checkConfig(offset, bytes);
    checkInteger('value', value, 0, 2 ** (8 * bytes) - 1);
    const buffer = new Uint8Array(4);
    new DataView(buffer.buffer).setUint32(0, value, true);
    const position = this.#config + BigInt(offset);
    attempt(() => whole(native.write(buffer.subarray(0, bytes), position), bytes), refusedVerdict);
  }

  /** The bus-master bit of the Command register as the device has it. @throws HostError ENODEV when it does not answer. */
  busMaster(): boolean {
    return (this.#command() & BUS_MASTER) !== 0;
  }

  /**
   * True while the device waits for completions of its reads (Transactions Pending of PCI Express Device Status, or of
   * Advanced Features); false where it cannot tell. Posted writes are not counted; the answer to any read comes behind them.
   */
  transactionsPending(): boolean {
    this.#pending ??= this.#findPending();
    const { offset, bit } = this.#pending;
    return offset !== 0 && (this.readConfig(offset, 1) & bit) !== 0;
  }

  /**
   * Sets or clears the bus-master bit and reads it back; after clearing waits, at most 0.1 s, until no transaction is
   * pending. Returns 0 when that holds, EIO when the bit did not change, EBUSY when transactions stay pending, ENODEV when
   * the device does not answer, or the errno of the access.
   */
  setBusMaster(on: boolean): number {
    checkBoolean('on', on);
    this.#open('setBusMaster');
    return errnoFrom(() => {
      const command = this.#command();
      this.writeConfig(Config.command, 2, on ? command | BUS_MASTER : command & ~BUS_MASTER);
      if (this.busMaster() !== on) return Errno.EIO;
      if (on) return 0;
      for (let step = 0; this.transactionsPending(); step++) {
        if (step === PENDING_STEPS) return Errno.EBUSY;
        waitMillisecond();
      }
      return 0;
    });
  }

  /**
   * VFIO_DEVICE_RESET; returns 0 or errno (EINVAL: the device has no reset). Linux saves the Command register before and
   * restores it after, so a device that was a bus master is one again: see {@link busMaster}, {@link resetQuiet}.
   */
  reset(): number {
    const native = this.#open('VFIO_DEVICE_RESET');
    for (let attempt = 1; ; attempt++) {
      const errno = errnoOf(() => native.reset());
      // Somebody else holds the device's lock: power management, or a reset from another side.
      if (errno !== Errno.EAGAIN || attempt === RESET_ATTEMPTS) return errno;
      waitMillisecond();
    }
  }

  /** {@link reset}, then bus master off: no DMA until somebody turns it on. Returns 0, or the errno of the first that failed. */
  resetQuiet(): number {
    const errno = this.reset();
    return errno === 0 ? this.setBusMaster(false) : errno;
  }

  /** Reads a region at `offset` into all of `into`, which must be one register, or memory. @throws HostError. */
  readRegion(index: number, offset: bigint, into: Uint8Array): void {
    const native = this.#open('pread');
    const position = this.#position(index, offset, into);
    attempt(() => whole(native.read(into, position), into.length), refusedVerdict);
  }

  /** Writes all of `from` to a region at `offset`. @throws HostError. */
  writeRegion(index: number, offset: bigint, from: Uint8Array): void {
    const native = this.#open('pwrite');
    const position = this.#position(index, offset, from);
    attempt(() => whole(native.write(from, position), from.length), refusedVerdict);
  }

  /** Maps a part of a BAR; page multiples inside a mappable part. @throws RangeError, HostError. */
  mapRegion(index: number, offset: bigint, size: bigint): MappedRegisters {
    const native = this.#open('mmap');
    const region = this.#region(index);
    checkBigint('offset', offset, 0n, region.size);
    checkBigint('size', size, 1n, region.size - offset);
    if (offset % 4096n !== 0n || size % 4096n !== 0n) throw new RangeError('offset and size must be multiples of 4096');
    const registers = attempt(
      () => native.map(region.offset + offset, size),
      (failure) => [
        'ERR_VIOMMU_HOST_REFUSED',
        `region ${index} of ${this.name} cannot be mapped at ${hex(offset)} (errno ${failure.errno}): see region().mappable`,
      ],
    );
    this.#registers.add(registers);
    const close = (): void => {
      this.#registers.delete(registers);
      registers.close();
    };
    return { hva: registers.address(), size, close };
  }

  /** How many interrupts of a kind there are; 0 where the kind is missing. */
  irqCount(kind: keyof typeof IrqKind): number {
    const native = this.#open('VFIO_DEVICE_GET_IRQ_INFO');
    const index = irqIndex(kind);
    let count = 0;
    // EINVAL: a device that is not PCI Express has no error interrupt, and older kernels do not know of all kinds.
    const errno = errnoOf(() => (count = native.irq(index)[1] ?? 0));
    if (errno === 0 || errno === Errno.EINVAL) return count;
    return attempt(() => native.irq(index), refusedVerdict)[1] ?? 0;
  }

  /** Has interrupts from `start` on signal event counters (any eventfd does); undefined: that one signals none. @throws HostError. */
  setIrqs(
    kind: keyof typeof IrqKind,
    start: number,
    counters: readonly (Pick<EventCounter, 'fd'> | undefined)[],
  ): void {
    const native = this.#open('VFIO_DEVICE_SET_IRQS');
    const index = irqIndex(kind);
    checkInteger('start', start, 0, U32_MAX);
    if (counters.length === 0) throw new RangeError('counters must not be empty: disableIrqs switches a kind off');
    const fds = Int32Array.from(counters, (counter) => counter?.fd ?? -1);
    attempt(() => native.setIrqs(index, start, fds), refusedVerdict);
  }

  /**
   * Masks, or unmasks, `count` interrupts from `start` on. An INTx interrupt is masked by the kernel each time that it has
   * signalled, and is unmasked here when its device has been served. @throws HostError EINVAL where there is no such mask.
   */
  maskIrqs(kind: keyof typeof IrqKind, start: number, count: number, masked: boolean): void {
    const native = this.#open('VFIO_DEVICE_SET_IRQS');
    const index = irqIndex(kind);
    checkInteger('start', start, 0, U32_MAX);
    checkInteger('count', count, 1, U32_MAX);
    checkBoolean('masked', masked);
    attempt(() => native.maskIrqs(index, start, count, masked), refusedVerdict);
  }

  /** Switches a kind of interrupts off. @throws HostError. */
  disableIrqs(kind: keyof typeof IrqKind): void {
    const native = this.#open('VFIO_DEVICE_SET_IRQS');
    const index = irqIndex(kind);
    attempt(() => native.setIrqs(index, 0, new Int32Array(0)), refusedVerdict);
  }

  /** Gives the device and its mapped registers back; the context does it too. A second call does nothing. */
  close(): void {
    this.#closed = true;
    for (const registers of this.#registers) registers.close();
    this.#registers.clear();
    this.#native.close();
  }

  #open(what: string): NativeDevice {
    if (this.#closed) throw closedError(this.name, what);
    return this.#native;
  }

  #region(index: number): ReturnType<NativeDevice['region']> {
    const native = this.#open('VFIO_DEVICE_GET_REGION_INFO');
    checkInteger('index', index, 0, U32_MAX);
    return attempt(() => native.region(index), refusedVerdict);
  }

  #position(index: number, offset: bigint, bytes: Uint8Array): bigint {
    if (!(bytes instanceof Uint8Array)) throw new TypeError('the bytes must be a Uint8Array');
    const { offset: start, size } = this.#region(index);
    const length = BigInt(bytes.length);
    checkBigint('offset', offset, 0n, size < length ? 0n : size - length);
    if (length === 0n || length > size) throw new RangeError(`the bytes must be 1 to ${size}, got ${length}`);
    return checkBigint('offset', start + offset, 0n, MAX_POSITION);
  }

  #command(): number {
    const command = this.readConfig(Config.command, 2);
    if (command !== GONE) return command;
    const detail = { errno: Errno.ENODEV, syscall: 'pread' };
    throw new HostError('ERR_VIOMMU_HOST_REFUSED', `${this.name} does not answer: it is gone, or has no power`, detail);
  }

  /** The byte and the bit that say it; offset 0 where there is none. */
  #findPending(): { readonly offset: number; readonly bit: number } {
    const express = this.#findCapability(PCI_EXPRESS);
    if (express !== 0) return { offset: express + DEVICE_STATUS, bit: DEVICE_STATUS_PENDING };
    const advanced = this.#findCapability(ADVANCED_FEATURES);
    const tells = advanced !== 0 && (this.readConfig(advanced + AF_CAPABILITIES, 1) & AF_PENDING) !== 0;
    return { offset: tells ? advanced + AF_STATUS : 0, bit: AF_PENDING };
  }

  /** Offset of a capability in configuration space, 0 when it is not there. */
  #findCapability(id: number): number {
    if ((this.readConfig(Config.status, 2) & CAPABILITY_LIST) === 0) return 0;
    let at = this.readConfig(Config.capabilities, 1) & 0xfc;
    for (let i = 0; at >= 0x40 && i < MAX_CAPABILITIES; i++) {
      if (this.readConfig(at, 1) === id) return at;
      at = this.readConfig(at + 1, 1) & 0xfc;
    }
    return 0;
  }
}

function irqIndex(kind: keyof typeof IrqKind): number {
  return IrqKind[checkOneOf('kind', kind, ['intx', 'msi', 'msix', 'error', 'request'])];
}

function checkConfig(offset: number, bytes: number): void {
  if (bytes !== 1 && bytes !== 2 && bytes !== 4) throw new RangeError(`bytes must be 1, 2 or 4, got ${String(bytes)}`);
  checkInteger('offset', offset, 0, 4096 - bytes);
  if (offset % bytes !== 0) throw new RangeError(`offset must be a multiple of ${bytes}, got ${offset}`);
}

function pairs(numbers: BigUint64Array): { offset: bigint; size: bigint }[] {
  const list: { offset: bigint; size: bigint }[] = [];
  for (let i = 0; i + 1 < numbers.length; i += 2) list.push({ offset: numbers[i]!, size: numbers[i + 1]! });
  return list;
}

function waitMillisecond(): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
}

/** A device gives and takes all bytes of an access, or none. */
function whole(got: number, wanted: number): void {
  if (got !== wanted) throw Object.assign(new Error(`pread ${Errno.EIO}`), { code: 'ERR_NATIVE' });
}

/** What `run` returns, or the errno of the HostError that it throws. */
function errnoFrom(run: () => number): number {
  try {
    return run();
  } catch (error) {
    const errno = error instanceof Error && 'errno' in error ? error.errno : undefined;
    if (typeof errno === 'number' && errno !== 0) return errno;
    throw error;
  }
}

/** Runs `run` on every device that is open (a closed one does no DMA); the first errno, ENODEV when there is no device. */
export function everyDevice(devices: readonly VfioDevice[], run: (device: VfioDevice) => number): number {
  let first = devices.length === 0 ? Errno.ENODEV : 0;
  for (const device of devices) {
    const errno = device.closed ? 0 : run(device);
    if (first === 0) first = errno;
  }
  return first;
}
