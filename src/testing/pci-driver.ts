// Driver side of virtio over PCI, as Linux does it (virtio_pci_modern): finds the capabilities, sizes and places the BARs,
// and shows the registers as a {@link DriverDevice}. Not here: rings, what the device is for.
// Accesses have the width of the field, 64-bit fields go by halves. Offsets in bytes.
import type { ConfigWidth, QueueSetup } from '../virtio/device.ts';
import type { VirtioPciFunction } from '../virtio/pci/virtio-pci-function.ts';
import type { Virtqueue } from '../virtio/virtqueue.ts';
import type { DriverDevice } from './driver-setup.ts';
import {
  BarFlag,
  CapabilityId,
  CfgType,
  Command,
  Common,
  Header,
  MsixCap,
  MsixControl,
  MsixEntry,
  NO_VECTOR,
  PciStatus,
  VIRTIO_PCI_VENDOR,
  VirtioCap,
} from '../virtio/pci/pci-layout.ts';

/** How a {@link PciDriver} behaves. */
export interface PciDriverOptions {
  /** 'msix' (default): vector 0 for the configuration, 1 + index for queues, as far as vectors go. 'intx': MSI-X stays off. */
  readonly interrupts?: 'msix' | 'intx';
  /** Guest-physical address from which BARs are placed; default 0xe0000000. */
  readonly barBase?: bigint;
}

/** A stretch of a BAR that a capability names. */
interface Window {
  readonly bar: number;
  readonly offset: number;
  readonly length: number;
  /** notify_off_multiplier; 0 for the other structures. */
  readonly multiplier: number;
}

const MAX_CAPABILITIES = 48;
const DEFAULT_BAR_BASE = 0xe000_0000n;
const MAX_RETRIES = 100;
/** Address of the messages that a PC would use; the number of the vector is the data. */
const MSI_ADDRESS = 0xfee0_0000;

/** A driver on one PCI function. */
export class PciDriver implements DriverDevice {
  readonly #function: VirtioPciFunction;
  readonly #options: PciDriverOptions;
  readonly #windows = new Map<number, Window>();
  readonly #bytes = new Uint8Array(4);
  readonly #view = new DataView(this.#bytes.buffer);
  #msixCap = 0;
  #vectors = 0;
  #maxSizes: readonly number[] = [];
  #notifyOffsets: readonly number[] = [];

  /** Brings the function up to where the device can be initialised. Error when it is no modern virtio function. */
  constructor(target: VirtioPciFunction, options: PciDriverOptions = {}) {
    this.#function = target;
    this.#options = options;
    this.probe();
  }

  /** Does it all again, as after a reset of the machine. @throws Error as the constructor does. */
  probe(): void {
    const pci = this.#function;
    const id = pci.readConfig(Header.deviceId, 2);
    if (pci.readConfig(Header.vendorId, 2) !== VIRTIO_PCI_VENDOR || id < 0x1040 || id > 0x107f) {
      throw new Error('not a modern virtio function');
    }
    this.#placeBars();
    this.#findCapabilities();
    pci.writeConfig(Header.command, 2, Command.memory | Command.busMaster);
    if (this.#options.interrupts !== 'intx' && this.#msixCap > 0) this.#enableMsix();
    this.#readQueues();
  }

  get offeredFeatures(): bigint {
    return this.#word64(Common.deviceFeatureSelect, Common.deviceFeature);
  }

  setDriverFeatures(features: bigint): void {
    for (const word of [0, 1]) {
      this.#writeCommon(Common.driverFeatureSelect, 4, word);
      this.#writeCommon(Common.driverFeature, 4, Number((features >> BigInt(32 * word)) & 0xffff_ffffn));
    }
  }

  /** Features as the device shows them back. */
  get driverFeatures(): bigint {
    return this.#word64(Common.driverFeatureSelect, Common.driverFeature);
  }

  get status(): number {
    return this.#readCommon(Common.deviceStatus, 1);
  }

  writeStatus(value: number): void {
    this.#writeCommon(Common.deviceStatus, 1, value);
  }

  get configGeneration(): number {
    return this.#readCommon(Common.configGeneration, 1);
  }

  /** Reads until the generation did not change meanwhile. @throws Error when it always does. */
  readConfig(offset: number, size: ConfigWidth): bigint {
    for (let i = 0; i < MAX_RETRIES; i++) {
      const before = this.configGeneration;
      const low = BigInt(this.#read(CfgType.device, offset, Math.min(size, 4)));
      const value = size === 8 ? low | (BigInt(this.#read(CfgType.device, offset + 4, 4)) << 32n) : low;
      if (this.configGeneration === before) return value;
    }
    throw new Error('the configuration never stands still');
  }

  writeConfig(offset: number, size: ConfigWidth, value: bigint): void {
    this.#write(CfgType.device, offset, Math.min(size, 4), Number(value & 0xffff_ffffn));
    if (size === 8) this.#write(CfgType.device, offset + 4, 4, Number((value >> 32n) & 0xffff_ffffn));
  }

  setupQueue(index: number, setup: QueueSetup): void {
    this.#select(index);
    this.#writeCommon(Common.queueSize, 2, setup.size);
    this.#writeAddress(Common.queueDesc, setup.desc);
    this.#writeAddress(Common.queueDriver, setup.avail);
    this.#writeAddress(Common.queueDevice, setup.used);
    if (this.#vectors === 0) return;
    this.#writeCommon(Common.configMsixVector, 2, 0);
    this.#writeCommon(Common.queueMsixVector, 2, index + 1 < this.#vectors ? index + 1 : NO_VECTOR);
  }

  enableQueue(index: number): void {
    this.#select(index);
    this.#writeCommon(Common.queueEnable, 2, 1);
  }

  /** Resets one queue (VIRTIO_F_RING_RESET); false when the device does not do it. */
  resetQueue(index: number): boolean {
    this.#select(index);
    this.#writeCommon(Common.queueReset, 2, 1);
    return this.#readCommon(Common.queueReset, 2) === 0 && this.#readCommon(Common.queueEnable, 2) === 0;
  }

  queue(index: number): Pick<Virtqueue, 'maxSize'> {
    const maxSize = this.#maxSizes[index];
    if (maxSize === undefined) throw new RangeError(`index must be below ${this.#maxSizes.length}, got ${index}`);
    return { maxSize };
  }

  /** A 16-bit write of the index to the queue's doorbell. */
  notify(index: number): void {
    const { multiplier } = this.#window(CfgType.notify);
    this.#write(CfgType.notify, (this.#notifyOffsets[index] ?? index) * multiplier, 2, index);
  }

  /** Reads ISR status, which clears it. */
  readIsr(): number {
    return this.#read(CfgType.isr, 0, 1);
  }

  /** Masks an MSI-X vector, or lets it through. */
  maskVector(vector: number, masked: boolean): void {
    const { bar, offset } = this.#msixTable();
    this.#put(masked ? 1 : 0);
    this.#function.writeBar(bar, offset + vector * MsixEntry.SIZE + MsixEntry.control, this.#bytes);
  }

  /** [PCI] all ones into each BAR, what comes back tells its size; then each gets a place on a multiple of that. */
  #placeBars(): void {
    const pci = this.#function;
    let next = this.#options.barBase ?? DEFAULT_BAR_BASE;
    for (let index = 0; index < 6; index++) {
      const at = Header.bar0 + 4 * index;
      pci.writeConfig(at, 4, 0xffff_ffff);
      const probed = pci.readConfig(at, 4);
      if (probed === 0) continue;
      const size = BigInt((~(probed & ~0xf) >>> 0) + 1);
      next = ((next + size - 1n) / size) * size;
      pci.writeConfig(at, 4, Number(next & 0xffff_ffffn));
      if ((probed & BarFlag.width64) !== 0) {
        pci.writeConfig(at + 4, 4, Number(next >> 32n));
        index++;
      }
      next += size;
    }
  }

  #findCapabilities(): void {
    const pci = this.#function;
    this.#windows.clear();
    this.#msixCap = 0;
    if ((pci.readConfig(Header.status, 2) & PciStatus.capabilities) === 0) throw new Error('no capability list');
    let at = pci.readConfig(Header.capabilities, 1);
    for (let seen = 0; at !== 0; seen++) {
      if (seen === MAX_CAPABILITIES) throw new Error('the capability list does not end');
      const id = pci.readConfig(at, 1);
      if (id === CapabilityId.msix) this.#msixCap = at;
      else if (id === CapabilityId.vendor) this.#addWindow(at);
      at = pci.readConfig(at + 1, 1);
    }
    for (const type of [CfgType.common, CfgType.notify, CfgType.isr]) this.#window(type);
  }

  #addWindow(at: number): void {
    const pci = this.#function;
    const type = pci.readConfig(at + VirtioCap.cfgType, 1);
    if (this.#windows.has(type)) return;
    this.#windows.set(type, {
      bar: pci.readConfig(at + VirtioCap.bar, 1),
      offset: pci.readConfig(at + VirtioCap.offset, 4),
      length: pci.readConfig(at + VirtioCap.regionLength, 4),
      multiplier: type === CfgType.notify ? pci.readConfig(at + VirtioCap.notifyMultiplier, 4) : 0,
    });
  }

  #msixTable(): { bar: number; offset: number } {
    const table = this.#function.readConfig(this.#msixCap + MsixCap.table, 4);
    return { bar: table & 7, offset: table & ~7 };
  }

  /** In the order of Linux: enabled with everything masked, entries written, then unmasked. */
  #enableMsix(): void {
    const pci = this.#function;
    const at = this.#msixCap + MsixCap.control;
    const control = pci.readConfig(at, 2);
    this.#vectors = (control & 0x7ff) + 1;
    pci.writeConfig(at, 2, control | MsixControl.enable | MsixControl.functionMask);
    const { bar, offset } = this.#msixTable();
    for (let vector = 0; vector < this.#vectors; vector++) {
      [MSI_ADDRESS, 0, vector, 0].forEach((word, i) => {
        this.#put(word);
        pci.writeBar(bar, offset + vector * MsixEntry.SIZE + 4 * i, this.#bytes);
      });
    }
    pci.writeConfig(at, 2, (control | MsixControl.enable) & ~MsixControl.functionMask);
  }

  #readQueues(): void {
    const maxSizes: number[] = [];
    const notifyOffsets: number[] = [];
    const count = this.#readCommon(Common.numQueues, 2);
    for (let index = 0; index < count; index++) {
      this.#select(index);
      maxSizes.push(this.#readCommon(Common.queueSize, 2));
      notifyOffsets.push(this.#readCommon(Common.queueNotifyOff, 2));
    }
    this.#maxSizes = maxSizes;
    this.#notifyOffsets = notifyOffsets;
  }

  #select(index: number): void {
    this.#writeCommon(Common.queueSelect, 2, index);
  }

  #word64(selectAt: number, at: number): bigint {
    let value = 0n;
    for (const word of [1, 0]) {
      this.#writeCommon(selectAt, 4, word);
      value = (value << 32n) | BigInt(this.#readCommon(at, 4));
    }
    return value;
  }

  #writeAddress(at: number, address: bigint): void {
    this.#writeCommon(at, 4, Number(address & 0xffff_ffffn));
    this.#writeCommon(at + 4, 4, Number((address >> 32n) & 0xffff_ffffn));
  }

  #readCommon(at: number, size: number): number {
    return this.#read(CfgType.common, at, size);
  }

  #writeCommon(at: number, size: number, value: number): void {
    this.#write(CfgType.common, at, size, value);
  }

  #read(type: number, at: number, size: number): number {
    const { bar, offset } = this.#window(type);
    this.#view.setUint32(0, 0);
    this.#function.readBar(bar, offset + at, this.#bytes.subarray(0, size));
    return this.#view.getUint32(0, true);
  }

  #write(type: number, at: number, size: number, value: number): void {
    const { bar, offset } = this.#window(type);
    this.#put(value);
    this.#function.writeBar(bar, offset + at, this.#bytes.slice(0, size));
  }

  #put(value: number): void {
    this.#view.setUint32(0, value, true);
  }

  #window(type: number): Window {
    const window = this.#windows.get(type);
    if (window === undefined) throw new Error(`the function has no structure of type ${type}`);
    return window;
  }
}
