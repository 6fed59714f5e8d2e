// A modern virtio device as a PCI function [4.1]: type 0 configuration space, capability list, BARs, MSI-X and INTA, as a
// register model that any VMM can wire. Not here: the device (../device.ts), the bus, where BARs are mapped.
// Offsets and sizes in bytes.
//
// Bus master. While the bit is 0 the device reads and writes no ring: kicks and DRIVER_OK are remembered, and every enabled
// queue is looked at when the bit turns 1. MSI-X messages, writes of the function like any other, wait in the pending bits.
// The device status stays as it is. (QEMU also clears DRIVER_OK, so that a driver which sets the bit late has to begin
// again; the standard knows no status bit that clears itself.) INTA, which is no memory access, is not affected.
// Memory space. While the bit is 0 the BARs do not answer: reads return all ones, writes are lost. The PCI configuration
// access capability reaches the registers all the same; that is what it is for.
import type { VirtioDevice } from '../device.ts';
import type { BarLayout, BarRegion, PciBar } from './bar-layout.ts';
import type { MsixMessage, ResolvedPciOptions, VirtioPciOptions } from './options.ts';
import { checkInteger } from '../../base/check.ts';
import { readDeviceConfig, writeDeviceConfig } from '../transport-registers.ts';
import { layoutBars } from './bar-layout.ts';
import { CommonConfig } from './common-config.ts';
import { PciConfigSpace } from './config-space.ts';
import { MsixTable } from './msix.ts';
import { resolvePciOptions } from './options.ts';
import { Command, CONFIG_BYTES, Header, Isr, MsixCap, MsixControl, NO_VECTOR, VirtioCap } from './pci-layout.ts';

export type { PciBar } from './bar-layout.ts';
export type { MsixMessage, PciInterrupts, VirtioPciOptions } from './options.ts';

/** A virtio PCI function. Nothing that a guest can do makes a method throw. */
export class VirtioPciFunction {
  readonly #device: VirtioDevice;
  readonly #options: ResolvedPciOptions;
  readonly #layout: BarLayout;
  readonly #config: PciConfigSpace;
  readonly #common: CommonConfig;
  readonly #msix: MsixTable;
  #isr = 0;
  #intx = false;

  /**
   * Puts a function in front of `device`, whose interrupts it takes over. Bus mastering is off, as after power-on.
   * @throws TypeError or RangeError naming the option; Error when the device has a transport already.
   */
  constructor(device: VirtioDevice, options: VirtioPciOptions) {
    const resolved = resolvePciOptions(options, device.queueCount);
    const { vectors, barWidth, notifyMultiplier, interrupts } = resolved;
    this.#device = device;
    this.#options = resolved;
    this.#layout = layoutBars({
      queues: device.queueCount,
      configLength: device.configLength,
      notifyMultiplier,
      vectors,
      width: barWidth,
    });
    const identity = { ...resolved, deviceId: device.deviceId, intx: interrupts.intx !== undefined };
    this.#config = new PciConfigSpace(identity, this.#layout, notifyMultiplier, vectors);
    this.#common = new CommonConfig(device, vectors);
    this.#msix = new MsixTable(vectors, resolved.msixTable === 'vmm', (vector) => interrupts.msix(vector));
    device.connect({
      queue: (index) => this.#queueInterrupt(index),
      config: () => this.#configInterrupt(),
      reset: () => this.#deviceReset(),
    });
    this.#msix.hold(true);
    device.setDmaAllowed(false);
  }

  /** The BARs, lowest first. */
  get bars(): readonly PciBar[] {
    return this.#layout.bars;
  }

  /** Number of MSI-X vectors. */
  get vectors(): number {
    return this.#msix.vectors;
  }

  /** Guest-physical address of BAR `index`; undefined while memory space is disabled, and for a BAR that does not exist. */
  barAddress(index: number): bigint | undefined {
    const bar = this.#layout.bars.find((each) => each.index === index);
    return bar === undefined || !this.memorySpace ? undefined : this.#config.barAddress(bar);
  }

  /** Memory Space bit of the command register. */
  get memorySpace(): boolean {
    return (this.#command & Command.memory) !== 0;
  }

  /** Bus Master bit of the command register. */
  get busMaster(): boolean {
    return (this.#command & Command.busMaster) !== 0;
  }

  /** True when the driver has enabled MSI-X. */
  get msixEnabled(): boolean {
    return this.#msix.enabled;
  }

  /** Level of INTA as last told. */
  get intxLevel(): boolean {
    return this.#intx;
  }

  /** What the driver wrote for an MSI-X vector. @throws TypeError or RangeError naming `vector`. */
  msixMessage(vector: number): MsixMessage {
    return this.#msix.message(checkInteger('vector', vector, 0, this.#msix.vectors - 1));
  }

  /** Reads 1, 2 or 4 bytes of configuration space; any alignment. Bytes from 256 on read as 0xff. */
  readConfig(offset: number, size: 1 | 2 | 4): number {
    this.#beforeConfigRead(offset, size);
    let value = 0;
    for (let i = size - 1; i >= 0; i--) value = value * 256 + this.#config.byte(offset + i);
    return value;
  }

  /** Writes the low 1, 2 or 4 bytes of `value`; any alignment. Read-only bits and bytes from 256 on stay as they are. */
  writeConfig(offset: number, size: 1 | 2 | 4, value: number): void {
    const bytes = new Uint8Array(size);
    for (let i = 0; i < size; i++) bytes[i] = (value >>> (8 * i)) & 0xff;
    this.writeConfigBytes(offset, bytes);
  }

  /** As {@link VirtioPciFunction.readConfig} for any length. */
  readConfigBytes(offset: number, into: Uint8Array): void {
    this.#beforeConfigRead(offset, into.length);
    for (let i = 0; i < into.length; i++) into[i] = this.#config.byte(offset + i);
  }

  /** As {@link VirtioPciFunction.writeConfig} for any length. */
  writeConfigBytes(offset: number, bytes: Uint8Array): void {
    const before = this.#command;
    for (let i = 0; i < bytes.length; i++) this.#config.write(offset + i, bytes[i]!);
    const end = offset + bytes.length;
    const touches = (at: number, length: number): boolean => at < end && at + length > offset;
    const { msixCap, cfgCap } = this.#config;
    // The command register decides first, and with it whether a message that is let go may be sent.
    if (touches(Header.command, 2)) this.#commandWritten(before);
    if (touches(Header.bar0, 24) && this.memorySpace) this.#options.onBarsMoved();
    if (msixCap > 0 && touches(msixCap + MsixCap.control, 2)) this.#msixControlWritten();
    if (touches(cfgCap + VirtioCap.cfgData, 4)) this.#accessThroughConfig(true);
  }

  /** Fills `into` from `offset` of a BAR; 0 where nothing is, 0xff outside the BAR or while memory space is disabled. */
  readBar(bar: number, offset: number, into: Uint8Array): void {
    if (this.memorySpace) this.#readBar(bar, offset, into);
    else into.fill(0xff);
  }

  /** Writes `bytes` at `offset` of a BAR; `bytes` is not kept. A kick allocates nothing. */
  writeBar(bar: number, offset: number, bytes: Uint8Array): void {
    if (this.memorySpace) this.#writeBar(bar, offset, bytes);
  }

  /** What a reset of the bus or of the function does: configuration space as after power-on, and a device reset. */
  reset(): void {
    const { busMaster, memorySpace } = this;
    this.#config.reset();
    this.#msix.reset();
    this.#busMasterChanged(busMaster, false);
    this.#device.writeStatus(0);
    if (memorySpace) this.#options.onBarsMoved();
  }

  get #command(): number {
    return this.#config.u16(Header.command);
  }

  #commandWritten(before: number): void {
    const now = this.#command;
    this.#busMasterChanged((before & Command.busMaster) !== 0, (now & Command.busMaster) !== 0);
    this.#updateIntx();
    if (((before ^ now) & Command.memory) !== 0) this.#options.onBarsMoved();
  }

  #busMasterChanged(before: boolean, now: boolean): void {
    if (before === now) return;
    if (now) this.#options.onBusMaster(true);
    // The callback may have run the guest: what holds is what the register says now.
    this.#msix.hold(!this.busMaster);
    this.#device.setDmaAllowed(this.busMaster);
    if (!now) this.#options.onBusMaster(false);
  }

  #msixControlWritten(): void {
    const control = this.#config.u16(this.#config.msixCap + MsixCap.control);
    this.#msix.setControl((control & MsixControl.enable) !== 0, (control & MsixControl.functionMask) !== 0);
    this.#updateIntx();
  }

  /** [4.1.4.9.1] a read of pci_cfg_data MUST read the BAR first. */
  #beforeConfigRead(offset: number, length: number): void {
    const data = this.#config.cfgCap + VirtioCap.cfgData;
    if (offset < data + 4 && offset + length > data) this.#accessThroughConfig(false);
  }

  /** [4.1.4.9.2] the driver MUST NOT use other lengths than 1, 2 and 4, nor an unaligned offset: nothing happens then. */
  #accessThroughConfig(write: boolean): void {
    const { cfgCap, cfgData } = this.#config;
    const bar = this.#config.byte(cfgCap + VirtioCap.bar);
    const offset = this.#config.u32(cfgCap + VirtioCap.offset);
    const length = this.#config.u32(cfgCap + VirtioCap.regionLength);
    if ((length !== 1 && length !== 2 && length !== 4) || offset % length !== 0) return;
    if (write) this.#writeBar(bar, offset, cfgData.slice(0, length));
    else this.#readBar(bar, offset, cfgData.subarray(0, length));
  }

  #readBar(bar: number, offset: number, into: Uint8Array): void {
    const size = this.#layout.bars.find((each) => each.index === bar)?.size ?? 0;
    into.fill(0);
    if (!(offset >= 0 && offset < size)) into.fill(0xff);
    else if (offset + into.length > size) into.fill(0xff, size - offset);
    const { common, isr, device, msixTable, msixPba, registerBar } = this.#layout;
    if (size > 0 && bar === registerBar) {
      part(common, offset, into, (at, bytes) => this.#common.read(at, bytes));
      part(isr, offset, into, (at, bytes) => this.#readIsr(at, bytes));
      part(device, offset, into, (at, bytes) => {
        this.#common.configRead();
        readDeviceConfig(this.#device, at, bytes);
      });
    } else if (size > 0) {
      part(msixTable, offset, into, (at, bytes) => this.#msix.readTable(at, bytes));
      part(msixPba, offset, into, (at, bytes) => this.#msix.readPending(at, bytes));
    }
  }

  #writeBar(bar: number, offset: number, bytes: Uint8Array): void {
    const { common, device, notify, msixTable, registerBar, msixBar } = this.#layout;
    if (bar === registerBar) {
      const doorbell = offset - notify.offset;
      if (doorbell >= 0 && doorbell < notify.length) {
        this.#kick(doorbell, bytes);
        return;
      }
      part(common, offset, bytes, (at, data) => this.#common.write(at, data));
      part(device, offset, bytes, (at, data) => writeDeviceConfig(this.#device, at, data));
    } else if (bar === msixBar && this.#msix.vectors > 0) {
      part(msixTable, offset, bytes, (at, data) => this.#msix.writeTable(at, data));
    }
  }

  /** [4.1.5.2] the address names the queue; with one doorbell for all, the value written does. */
  #kick(doorbell: number, bytes: Uint8Array): void {
    const { notifyMultiplier } = this.#options;
    if (notifyMultiplier > 0) this.#device.notify(Math.floor(doorbell / notifyMultiplier));
    else if (doorbell === 0) this.#device.notify((bytes[0] ?? 0) | ((bytes[1] ?? 0) << 8));
  }

  /** [4.1.4.5.1] MUST reset ISR status to 0 on driver read. */
  #readIsr(at: number, into: Uint8Array): void {
    into.fill(0);
    if (at !== 0 || into.length === 0) return;
    into[0] = this.#isr;
    this.#isr = 0;
    this.#updateIntx();
  }

  #queueInterrupt(index: number): void {
    // [4.1.5.3.1] with MSI-X and NO_VECTOR MUST NOT deliver an interrupt.
    if (this.#msix.enabled) {
      const vector = this.#common.queueVector(index);
      if (vector !== NO_VECTOR) this.#msix.raise(vector);
      return;
    }
    this.#isr |= Isr.queue;
    this.#updateIntx();
  }

  #configInterrupt(): void {
    // [4.1.4.5.1] MUST set the bit before the notification, with MSI-X too.
    this.#isr |= Isr.config;
    if (this.#msix.enabled && this.#common.configVector !== NO_VECTOR) this.#msix.raise(this.#common.configVector);
    this.#updateIntx();
  }

  /** [4.1.4.5.1] with MSI-X disabled Interrupt Status is the OR of ISR status; the line follows unless it is masked. */
  #updateIntx(): void {
    const pending = this.#isr !== 0 && !this.#msix.enabled;
    this.#config.interruptPending = pending;
    const { interrupts } = this.#options;
    const level = pending && interrupts.intx !== undefined && (this.#command & Command.intxDisable) === 0;
    if (level === this.#intx) return;
    this.#intx = level;
    interrupts.intx?.(level);
  }

  #deviceReset(): void {
    this.#common.reset();
    this.#msix.clearPending();
    this.#isr = 0;
    this.#updateIntx();
  }
}

export { CONFIG_BYTES as PCI_CONFIG_BYTES };

/** Calls `access` with the part of `bytes`, which begin at `offset`, that lies in `region`; nothing when none does. */
function part(
  region: BarRegion,
  offset: number,
  bytes: Uint8Array,
  access: (at: number, bytes: Uint8Array) => void,
): void {
  const from = Math.max(region.offset, offset);
  const to = Math.min(region.offset + region.length, offset + bytes.length);
  if (from >= to) return;
  access(from - region.offset, bytes.subarray(from - offset, to - offset));
}
