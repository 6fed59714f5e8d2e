// The 256 bytes of configuration space of a function as bytes with a write mask: header, BARs, capability list.
// Not here: what a write causes (virtio-pci-function.ts). Offsets in bytes; values little-endian.
import type { BarLayout, BarRegion, PciBar } from './bar-layout.ts';
import {
  BarFlag,
  CapabilityId,
  CfgType,
  Command,
  CONFIG_BYTES,
  Header,
  MsixCap,
  MsixControl,
  PciStatus,
  VIRTIO_PCI_DEVICE_BASE,
  VIRTIO_PCI_VENDOR,
  VirtioCap,
} from './pci-layout.ts';

/** Identity of a function. */
export interface PciIdentity {
  /** Virtio device id. */
  readonly deviceId: number;
  /** 24 bits: base class, subclass, programming interface. */
  readonly classCode: number;
  readonly subsystemVendorId: number;
  readonly subsystemId: number;
  /** Uses INTA. */
  readonly intx: boolean;
}

/** Configuration space: what reads return, and which bits a driver can write. */
export class PciConfigSpace {
  /** Offset of the PCI configuration access capability. */
  readonly cfgCap: number;
  /** Offset of the MSI-X capability, 0 when there is none. */
  readonly msixCap: number;
  readonly #bytes = new Uint8Array(CONFIG_BYTES);
  readonly #writable = new Uint8Array(CONFIG_BYTES);
  readonly #initial: Uint8Array;
  readonly #view = new DataView(this.#bytes.buffer);
  readonly #mask = new DataView(this.#writable.buffer);
  #end: number = Header.SIZE;
  #link: number = Header.capabilities;

  constructor(identity: PciIdentity, layout: BarLayout, notifyMultiplier: number, vectors: number) {
    this.#fillHeader(identity);
    for (const bar of layout.bars) this.#addBar(bar);
    const region = (type: number, { offset, length }: BarRegion, size: number = VirtioCap.SIZE): number =>
      this.#addVirtioCap(type, layout.registerBar, offset, length, size);
    region(CfgType.common, layout.common);
    const notify = region(CfgType.notify, layout.notify, VirtioCap.LONG_SIZE);
    this.#view.setUint32(notify + VirtioCap.notifyMultiplier, notifyMultiplier, true);
    region(CfgType.isr, layout.isr);
    // [4.1.4.6] only for device types that have a configuration.
    if (layout.device.length > 0) region(CfgType.device, layout.device);
    this.cfgCap = this.#addVirtioCap(CfgType.pci, 0, 0, 0, VirtioCap.LONG_SIZE);
    this.#mask.setUint8(this.cfgCap + VirtioCap.bar, 0xff);
    this.#mask.setUint32(this.cfgCap + VirtioCap.offset, 0xffff_ffff);
    this.#mask.setUint32(this.cfgCap + VirtioCap.regionLength, 0xffff_ffff);
    this.#mask.setUint32(this.cfgCap + VirtioCap.cfgData, 0xffff_ffff);
    this.msixCap = vectors > 0 ? this.#addMsixCap(layout, vectors) : 0;
    this.#initial = this.#bytes.slice();
  }

  /** Everything as after power-on. */
  reset(): void {
    this.#bytes.set(this.#initial);
  }

  /** Byte at `offset`; 0xff, as from no function, outside the space. */
  byte(offset: number): number {
    return this.#bytes[offset] ?? 0xff;
  }

  u16(offset: number): number {
    return this.#view.getUint16(offset, true);
  }

  u32(offset: number): number {
    return this.#view.getUint32(offset, true);
  }

  /** A driver's write of one byte: only writable bits change; nothing outside the space. */
  write(offset: number, value: number): void {
    const mask = this.#writable[offset];
    if (mask === undefined) return;
    this.#bytes[offset] = (this.#bytes[offset]! & ~mask) | (value & mask);
  }

  /** The four bytes of pci_cfg_data. */
  get cfgData(): Uint8Array {
    const at = this.cfgCap + VirtioCap.cfgData;
    return this.#bytes.subarray(at, at + 4);
  }

  /** Interrupt Status in the status register. */
  set interruptPending(pending: boolean) {
    const other = this.u16(Header.status) & ~PciStatus.interrupt;
    this.#view.setUint16(Header.status, other | (pending ? PciStatus.interrupt : 0), true);
  }

  /** Base address in `bar` as written, without the flag bits. */
  barAddress(bar: PciBar): bigint {
    const at = Header.bar0 + 4 * bar.index;
    const low = BigInt(this.u32(at)) & ~0xfn;
    return bar.width === 64 ? (BigInt(this.u32(at + 4)) << 32n) | low : low;
  }

  #fillHeader({ deviceId, classCode, subsystemVendorId, subsystemId, intx }: PciIdentity): void {
    const view = this.#view;
    view.setUint16(Header.vendorId, VIRTIO_PCI_VENDOR, true);
    view.setUint16(Header.deviceId, VIRTIO_PCI_DEVICE_BASE + deviceId, true);
    view.setUint16(Header.status, PciStatus.capabilities, true);
    // [4.1.2.1] a device without legacy interface SHOULD have revision 1 or higher. The class code is above it.
    view.setUint32(Header.revisionId, ((classCode << 8) | 1) >>> 0, true);
    view.setUint16(Header.subsystemVendorId, subsystemVendorId, true);
    view.setUint16(Header.subsystemId, subsystemId, true);
    view.setUint8(Header.interruptPin, intx ? 1 : 0);
    this.#mask.setUint16(Header.command, Command.WRITABLE, true);
    this.#mask.setUint8(Header.cacheLineSize, 0xff);
    this.#mask.setUint8(Header.interruptLine, 0xff);
  }

  /** The bits below the size are hardwired, which is how a driver finds the size. */
  #addBar({ index, size, width }: PciBar): void {
    const at = Header.bar0 + 4 * index;
    this.#mask.setUint32(at, -size >>> 0, true);
    if (width === 32) return;
    this.#view.setUint32(at, BarFlag.width64, true);
    this.#mask.setUint32(at + 4, 0xffff_ffff, true);
  }

  #addVirtioCap(type: number, bar: number, offset: number, length: number, size: number): number {
    const at = this.#addCapability(CapabilityId.vendor, size);
    this.#view.setUint8(at + VirtioCap.length, size);
    this.#view.setUint8(at + VirtioCap.cfgType, type);
    this.#view.setUint8(at + VirtioCap.bar, bar);
    this.#view.setUint32(at + VirtioCap.offset, offset, true);
    this.#view.setUint32(at + VirtioCap.regionLength, length, true);
    return at;
  }

  #addMsixCap(layout: BarLayout, vectors: number): number {
    const at = this.#addCapability(CapabilityId.msix, MsixCap.SIZE);
    this.#view.setUint16(at + MsixCap.control, vectors - 1, true);
    this.#view.setUint32(at + MsixCap.table, layout.msixTable.offset | layout.msixBar, true);
    this.#view.setUint32(at + MsixCap.pba, layout.msixPba.offset | layout.msixBar, true);
    this.#mask.setUint16(at + MsixCap.control, MsixControl.functionMask | MsixControl.enable, true);
    return at;
  }

  #addCapability(id: number, size: number): number {
    const at = this.#end;
    this.#view.setUint8(this.#link, at);
    this.#view.setUint8(at, id);
    this.#link = at + 1;
    this.#end = at + size;
    return at;
  }
}
