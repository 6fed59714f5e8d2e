// What both register models keep of a driver's writes: feature words and the setup of each queue, as they were written.
// Not here: where the registers lie (pci/, mmio/), what becomes of the values (device.ts). Nothing here throws.
import type { VirtioDevice } from './device.ts';
import type { QueueSetup } from './split-queue.ts';
import { Feature, Status } from './features.ts';

const WORD_MASK = 0xffff_ffffn;

/** Feature bits in words of 32, each side behind a select register. */
export class FeatureRegisters {
  /** Words selected by the driver; any 32-bit value. */
  deviceSelect = 0;
  driverSelect = 0;
  readonly #device: VirtioDevice;

  constructor(device: VirtioDevice) {
    this.#device = device;
  }

  reset(): void {
    this.deviceSelect = 0;
    this.driverSelect = 0;
  }

  /** [4.1.4.3.1] the selected word of what is offered; 0 beyond bit 63. */
  get offered(): number {
    return wordOf(this.#device.offeredFeatures, this.deviceSelect);
  }

  /** The selected word of what the driver has written. */
  get accepted(): number {
    return wordOf(this.#device.driverFeatures, this.driverSelect);
  }

  /** Writes the selected word; ignored beyond bit 63, and by the device after FEATURES_OK. */
  accept(word: number): void {
    if (this.driverSelect > 1) return;
    const shift = BigInt(32 * this.driverSelect);
    const others = this.#device.driverFeatures & ~(WORD_MASK << shift);
    this.#device.setDriverFeatures(others | (BigInt(word) << shift));
  }
}

/** Words of 32 bits that describe where a queue is; low before high. */
export const QueueWord = { descLow: 0, descHigh: 1, driverLow: 2, driverHigh: 3, deviceLow: 4, deviceHigh: 5 } as const;
const WORDS_PER_QUEUE = 6;

/** Size and places of every queue. Out of range, a queue reads as zeroes and ignores writes. */
export class QueueRegisters {
  /** Selected queue; any 16-bit value. */
  select = 0;
  readonly #device: VirtioDevice;
  readonly #size: Float64Array;
  readonly #words: Uint32Array;

  constructor(device: VirtioDevice) {
    this.#device = device;
    this.#size = new Float64Array(device.queueCount);
    this.#words = new Uint32Array(device.queueCount * WORDS_PER_QUEUE);
    this.reset();
  }

  reset(): void {
    this.select = 0;
    for (let index = 0; index < this.#size.length; index++) this.#clear(index);
  }

  /** True when the selected queue exists. */
  get available(): boolean {
    return this.select < this.#size.length;
  }

  /** Largest size of the selected queue, 0 when there is no such queue. */
  get maxSize(): number {
    return this.available ? this.#device.queue(this.select).maxSize : 0;
  }

  /** Size as written, the largest one until then; 0 when there is no such queue. */
  get size(): number {
    return this.#size[this.select] ?? 0;
  }

  set size(value: number) {
    if (this.available && !this.enabled) this.#size[this.select] = value;
  }

  /** One of {@link QueueWord} of the selected queue. */
  word(which: number): number {
    return this.available ? this.#words[this.select * WORDS_PER_QUEUE + which]! : 0;
  }

  /** [4.1.4.3.2] the driver MUST NOT touch what describes a queue that is enabled: ignored then. */
  setWord(which: number, value: number): void {
    if (this.available && !this.enabled) this.#words[this.select * WORDS_PER_QUEUE + which] = value;
  }

  /** True while the selected queue is enabled. */
  get enabled(): boolean {
    return this.#device.queueEnabled(this.select);
  }

  /** Enables the selected queue with what was written; ignored when it is enabled already. */
  enable(): void {
    if (!this.available || this.enabled) return;
    this.#device.setupQueue(this.select, this.#setup());
    this.#device.enableQueue(this.select);
  }

  /** Disables the selected queue and keeps what was written about it. */
  disable(): void {
    if (this.available && this.enabled) this.#device.resetQueue(this.select);
  }

  /** [2.6.1] resets the selected queue, if VIRTIO_F_RING_RESET was negotiated: back to what it is after a device reset. */
  resetSelected(): boolean {
    if (!this.available || !negotiated(this.#device, Feature.ringReset)) return false;
    this.#device.resetQueue(this.select);
    this.#clear(this.select);
    return true;
  }

  #clear(index: number): void {
    this.#size[index] = this.#device.queue(index).maxSize;
    this.#words.fill(0, index * WORDS_PER_QUEUE, (index + 1) * WORDS_PER_QUEUE);
  }

  #setup(): QueueSetup {
    const address = (low: number, high: number): bigint => (BigInt(this.word(high)) << 32n) | BigInt(this.word(low));
    return {
      size: this.size,
      desc: address(QueueWord.descLow, QueueWord.descHigh),
      avail: address(QueueWord.driverLow, QueueWord.driverHigh),
      used: address(QueueWord.deviceLow, QueueWord.deviceHigh),
    };
  }
}

/** True when device and driver have agreed on a feature. */
export function negotiated(device: VirtioDevice, feature: bigint): boolean {
  return (device.status & Status.featuresOk) !== 0 && (device.driverFeatures & feature) !== 0n;
}

/** Reads a stretch of the device-specific configuration; bytes outside read as 0. */
export function readDeviceConfig(device: VirtioDevice, offset: number, into: Uint8Array): void {
  const { length } = into;
  if (length === 1 || length === 2 || length === 4 || length === 8) {
    putLittleEndian(into, device.readConfig(offset, length));
  } else {
    const end = Math.min(length, device.configLength - offset);
    into.fill(0);
    for (let i = 0; i < end; i++) into[i] = Number(device.readConfig(offset + i, 1));
  }
}

/** Writes a stretch of the device-specific configuration; what is not wholly inside is ignored. */
export function writeDeviceConfig(device: VirtioDevice, offset: number, bytes: Uint8Array): void {
  const { length } = bytes;
  if (length === 1 || length === 2 || length === 4 || length === 8) {
    device.writeConfig(offset, length, littleEndian(bytes));
  } else {
    const end = Math.min(length, device.configLength - offset);
    for (let i = 0; i < end; i++) device.writeConfig(offset + i, 1, BigInt(bytes[i]!));
  }
}

function littleEndian(bytes: Uint8Array): bigint {
  let value = 0n;
  for (let i = bytes.length - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[i]!);
  return value;
}

function putLittleEndian(into: Uint8Array, value: bigint): void {
  let rest = value;
  for (let i = 0; i < into.length; i++) {
    into[i] = Number(rest & 0xffn);
    rest >>= 8n;
  }
}

function wordOf(features: bigint, select: number): number {
  return select > 1 ? 0 : Number((features >> BigInt(32 * select)) & WORD_MASK);
}
