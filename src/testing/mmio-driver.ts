// Driver side of virtio over MMIO, version 2, as Linux does it (virtio_mmio): shows the registers as a {@link DriverDevice}.
// Not here: rings, what the device is for. Control registers take 32-bit accesses; the configuration the width of the field.
import type { ConfigWidth, QueueSetup } from '../virtio/device.ts';
import type { VirtioMmioDevice } from '../virtio/mmio/virtio-mmio-device.ts';
import type { Virtqueue } from '../virtio/virtqueue.ts';
import type { DriverDevice } from './driver-setup.ts';
import { MMIO_MAGIC, MMIO_VERSION, MmioRegister } from '../virtio/mmio/mmio-layout.ts';

const MAX_RETRIES = 100;

/** A driver on one register window. */
export class MmioDriver implements DriverDevice {
  readonly #device: VirtioMmioDevice;
  readonly #bytes = new Uint8Array(4);
  readonly #view = new DataView(this.#bytes.buffer);

  /** @throws Error when there is no virtio device of version 2 behind the window. */
  constructor(device: VirtioMmioDevice) {
    this.#device = device;
    if (this.register(MmioRegister.magicValue) !== MMIO_MAGIC) throw new Error('no virtio device');
    if (this.register(MmioRegister.version) !== MMIO_VERSION) throw new Error('not version 2');
    if (this.register(MmioRegister.deviceId) === 0) throw new Error('a placeholder, no device');
  }

  /** Reads a control register. */
  register(offset: number): number {
    return this.#read(offset, 4);
  }

  /** Writes a control register. */
  writeRegister(offset: number, value: number): void {
    this.#write(offset, 4, value);
  }

  get offeredFeatures(): bigint {
    let features = 0n;
    for (const word of [1, 0]) {
      this.writeRegister(MmioRegister.deviceFeaturesSel, word);
      features = (features << 32n) | BigInt(this.register(MmioRegister.deviceFeatures));
    }
    return features;
  }

  setDriverFeatures(features: bigint): void {
    for (const word of [1, 0]) {
      this.writeRegister(MmioRegister.driverFeaturesSel, word);
      this.writeRegister(MmioRegister.driverFeatures, Number((features >> BigInt(32 * word)) & 0xffff_ffffn));
    }
  }

  get status(): number {
    return this.register(MmioRegister.status);
  }

  writeStatus(value: number): void {
    this.writeRegister(MmioRegister.status, value);
  }

  get configGeneration(): number {
    return this.register(MmioRegister.configGeneration);
  }

  /** Reads until the generation did not change meanwhile. @throws Error when it always does. */
  readConfig(offset: number, size: ConfigWidth): bigint {
    const at = MmioRegister.config + offset;
    for (let i = 0; i < MAX_RETRIES; i++) {
      const before = this.configGeneration;
      const low = BigInt(this.#read(at, Math.min(size, 4)));
      const value = size === 8 ? low | (BigInt(this.#read(at + 4, 4)) << 32n) : low;
      if (this.configGeneration === before) return value;
    }
    throw new Error('the configuration never stands still');
  }

  writeConfig(offset: number, size: ConfigWidth, value: bigint): void {
    const at = MmioRegister.config + offset;
    this.#write(at, Math.min(size, 4), Number(value & 0xffff_ffffn));
    if (size === 8) this.#write(at + 4, 4, Number((value >> 32n) & 0xffff_ffffn));
  }

  setupQueue(index: number, setup: QueueSetup): void {
    this.#select(index);
    this.writeRegister(MmioRegister.queueSize, setup.size);
    this.#writeAddress(MmioRegister.queueDescLow, setup.desc);
    this.#writeAddress(MmioRegister.queueDriverLow, setup.avail);
    this.#writeAddress(MmioRegister.queueDeviceLow, setup.used);
  }

  enableQueue(index: number): void {
    this.#select(index);
    this.writeRegister(MmioRegister.queueReady, 1);
  }

  queue(index: number): Pick<Virtqueue, 'maxSize'> {
    this.#select(index);
    return { maxSize: this.register(MmioRegister.queueSizeMax) };
  }

  notify(index: number): void {
    this.writeRegister(MmioRegister.queueNotify, index);
  }

  /** Reads InterruptStatus and acknowledges all of it. */
  takeInterrupts(): number {
    const status = this.register(MmioRegister.interruptStatus);
    this.writeRegister(MmioRegister.interruptAck, status);
    return status;
  }

  #select(index: number): void {
    this.writeRegister(MmioRegister.queueSel, index);
  }

  #writeAddress(at: number, address: bigint): void {
    this.writeRegister(at, Number(address & 0xffff_ffffn));
    this.writeRegister(at + 4, Number((address >> 32n) & 0xffff_ffffn));
  }

  #read(offset: number, size: number): number {
    this.#view.setUint32(0, 0);
    this.#device.read(offset, this.#bytes.subarray(0, size));
    return this.#view.getUint32(0, true);
  }

  #write(offset: number, size: number, value: number): void {
    this.#view.setUint32(0, value, true);
    this.#device.write(offset, this.#bytes.slice(0, size));
  }
}
