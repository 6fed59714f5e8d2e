// A virtio device over MMIO, version 2 [4.2], as a register model: the embedder decodes the window and wires one line.
// Not here: the device (device.ts). Offsets in bytes from the start of the window.
//
// Control registers answer to aligned 32-bit accesses only, as the standard asks of drivers; any other access reads 0 and
// writes nothing, and so do write-only, read-only and unknown registers. The configuration space takes any width.
import type { VirtioDevice } from '../device.ts';
import { checkFunction, checkInteger, checkOptions, U32_MAX } from '../../base/check.ts';
import { QueueRegisters, QueueWord, FeatureRegisters } from '../transport-registers.ts';
import { readDeviceConfig, writeDeviceConfig } from '../transport-registers.ts';
import { MMIO_MAGIC, MMIO_VERSION, MmioInterrupt, MmioRegister } from './mmio-layout.ts';

/** What a {@link VirtioMmioDevice} needs of its surroundings. */
export interface VirtioMmioOptions {
  /** The interrupt line, told at every change of level. */
  readonly interrupt: (level: boolean) => void;
  /** VendorID register, 32 bits; default 0x1af4. */
  readonly vendorId?: number;
}

const DEFAULT_VENDOR = 0x1af4;
const PAGE = 4096;
const QUEUE_WORDS = new Map<number, number>([
  [MmioRegister.queueDescLow, QueueWord.descLow],
  [MmioRegister.queueDescHigh, QueueWord.descHigh],
  [MmioRegister.queueDriverLow, QueueWord.driverLow],
  [MmioRegister.queueDriverHigh, QueueWord.driverHigh],
  [MmioRegister.queueDeviceLow, QueueWord.deviceLow],
  [MmioRegister.queueDeviceHigh, QueueWord.deviceHigh],
]);

/** Registers of one device. No access throws. */
export class VirtioMmioDevice {
  /** Bytes of the register window, a multiple of 4096; less may be decoded, but not below 0x100 + the configuration. */
  readonly size: number;
  readonly #device: VirtioDevice;
  readonly #vendorId: number;
  readonly #interrupt: (level: boolean) => void;
  readonly #features: FeatureRegisters;
  readonly #queues: QueueRegisters;
  #interruptStatus = 0;
  #level = false;

  /**
   * Puts registers in front of `device`, whose interrupts they take over.
   * @throws TypeError or RangeError naming the option; Error when the device has a transport already.
   */
  constructor(device: VirtioDevice, options: VirtioMmioOptions) {
    checkOptions('options', options, ['interrupt', 'vendorId']);
    this.#interrupt = checkFunction('options.interrupt', options.interrupt);
    this.#vendorId = checkInteger('options.vendorId', options.vendorId ?? DEFAULT_VENDOR, 0, U32_MAX);
    this.#device = device;
    this.#features = new FeatureRegisters(device);
    this.#queues = new QueueRegisters(device);
    this.size = Math.ceil((MmioRegister.config + device.configLength) / PAGE) * PAGE;
    device.connect({
      queue: () => this.#raise(MmioInterrupt.used),
      config: () => this.#raise(MmioInterrupt.config),
      reset: () => this.#reset(),
    });
  }

  /** The interrupt line as last told. */
  get interruptLevel(): boolean {
    return this.#level;
  }

  /** Fills `into` with what a read of `into.length` bytes at `offset` returns. */
  read(offset: number, into: Uint8Array): void {
    if (offset >= MmioRegister.config) {
      // D-MMIO-1: the configuration from 0x100 on, byte by byte if the driver likes.
      readDeviceConfig(this.#device, offset - MmioRegister.config, into);
      return;
    }
    into.fill(0);
    if (into.length !== 4 || offset % 4 !== 0) return;
    const value = this.#readRegister(offset);
    into[0] = value & 0xff;
    into[1] = (value >>> 8) & 0xff;
    into[2] = (value >>> 16) & 0xff;
    into[3] = value >>> 24;
  }

  /** Carries out a write of `bytes` at `offset`; `bytes` is not kept. A kick allocates nothing. */
  write(offset: number, bytes: Uint8Array): void {
    if (offset >= MmioRegister.config) {
      writeDeviceConfig(this.#device, offset - MmioRegister.config, bytes);
      return;
    }
    if (bytes.length !== 4 || offset % 4 !== 0) return;
    const value = (bytes[0]! | (bytes[1]! << 8) | (bytes[2]! << 16) | (bytes[3]! << 24)) >>> 0;
    if (offset === MmioRegister.queueNotify) this.#device.notify(value);
    else this.#writeRegister(offset, value);
  }

  #readRegister(offset: number): number {
    switch (offset) {
      // [4.2.2.1] D-MMIO-1: MUST return 0x74726976 and version 2.
      case MmioRegister.magicValue:
        return MMIO_MAGIC;
      case MmioRegister.version:
        return MMIO_VERSION;
      case MmioRegister.deviceId:
        return this.#device.deviceId;
      case MmioRegister.vendorId:
        return this.#vendorId;
      case MmioRegister.deviceFeatures:
        return this.#features.offered;
      case MmioRegister.queueSizeMax:
        return this.#queues.maxSize;
      case MmioRegister.queueReady:
        return this.#queues.enabled ? 1 : 0;
      case MmioRegister.interruptStatus:
        return this.#interruptStatus;
      case MmioRegister.status:
        return this.#device.status;
      // [4.2.2] without a shared memory region: length -1 and base 2^64-1.
      case MmioRegister.shmLenLow:
      case MmioRegister.shmLenHigh:
      case MmioRegister.shmBaseLow:
      case MmioRegister.shmBaseHigh:
        return U32_MAX;
      // [4.2.2.1] D-MMIO-1: MUST change when the driver might see an inconsistent configuration.
      case MmioRegister.configGeneration:
        return this.#device.configGeneration;
      // QueueReset among the rest: a reset is over when the write returns.
      default:
        return 0;
    }
  }

  #writeRegister(offset: number, value: number): void {
    switch (offset) {
      case MmioRegister.deviceFeaturesSel:
        this.#features.deviceSelect = value;
        return;
      case MmioRegister.driverFeaturesSel:
        this.#features.driverSelect = value;
        return;
      case MmioRegister.driverFeatures:
        this.#features.accept(value);
        return;
      case MmioRegister.queueSel:
        this.#queues.select = value;
        return;
      case MmioRegister.queueSize:
        this.#queues.size = value;
        return;
      case MmioRegister.queueReady:
        // [4.2.2.1] D-MMIO-1: MUST NOT access a queue whose QueueReady is 0.
        if (value === 1) this.#queues.enable();
        else if (value === 0) this.#queues.disable();
        return;
      case MmioRegister.queueReset:
        if (value === 1) this.#queues.resetSelected();
        return;
      case MmioRegister.interruptAck:
        this.#interruptStatus &= ~value;
        this.#updateLine();
        return;
      case MmioRegister.status:
        this.#device.writeStatus(value);
        return;
      default: {
        const word = QUEUE_WORDS.get(offset);
        if (word !== undefined) this.#queues.setWord(word, value);
      }
    }
  }

  #raise(bit: number): void {
    this.#interruptStatus |= bit;
    this.#updateLine();
  }

  /** [4.2.2.1] D-MMIO-1: on reset InterruptStatus is cleared; QueueReady is, because the device disables its queues. */
  #reset(): void {
    this.#features.reset();
    this.#queues.reset();
    this.#interruptStatus = 0;
    this.#updateLine();
  }

  #updateLine(): void {
    const level = this.#interruptStatus !== 0;
    if (level === this.#level) return;
    this.#level = level;
    this.#interrupt(level);
  }
}
