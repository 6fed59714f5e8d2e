// A small PCI function that copies from I/O virtual address to I/O virtual address on command: for tests of what a guest's
// own VFIO user can reach. No interrupts, no queues; registers: dma-engine-registers.ts. Not here: translation (DmaView).
// Offsets and lengths in bytes; a range [address, address + length) must not wrap 2^64.
import type { PciBar } from '../virtio/pci/bar-layout.ts';
import type { DmaAccess } from './dma-access.ts';
import { checkFunction, checkOptions } from '../base/check.ts';
import { Command, CONFIG_BYTES, Header } from '../virtio/pci/pci-layout.ts';
import {
  ENGINE_BAR_BYTES,
  ENGINE_DEVICE,
  ENGINE_ID,
  ENGINE_MAX_LENGTH,
  ENGINE_VENDOR,
  EngineCommand,
  EngineRegister,
  EngineStatus,
} from './dma-engine-registers.ts';

/** Options of {@link DmaEngine}. */
export interface DmaEngineOptions {
  /** The endpoint's way to memory, normally `core.dmaView(id)`. */
  readonly dma: DmaAccess;
  /** The driver set or cleared the bus-master bit: called before the device may do DMA, and after it has stopped. */
  readonly onBusMaster?: (on: boolean) => void;
}

/** What a {@link DmaEngine} has done. */
export interface DmaEngineStats {
  readonly commands: number;
  readonly refused: number;
  readonly bytes: number;
}

/** Bytes that are moved at a time; each piece is translated when it is. */
const PIECE = 65_536;
const U64_END = 1n << 64n;
/** Base class "system peripheral", other. */
const CLASS_CODE = 0x08_8000;
/** The command register's bits that can be set; INTA is not there. */
const COMMAND_BITS = Command.memory | Command.busMaster;
const BAR: PciBar = { index: 0, size: ENGINE_BAR_BYTES, width: 32 };

/** The function. Nothing that a guest can do makes a method throw. */
export class DmaEngine {
  /** The BARs. */
  readonly bars: readonly PciBar[] = [BAR];
  /** MSI-X vectors: none. */
  readonly vectors = 0;
  readonly #dma: DmaAccess;
  readonly #onBusMaster: (on: boolean) => void;
  readonly #config = new Uint8Array(CONFIG_BYTES);
  readonly #configView = new DataView(this.#config.buffer);
  readonly #mask = configMask();
  readonly #registers = new Uint8Array(EngineRegister.SIZE);
  readonly #view = new DataView(this.#registers.buffer);
  readonly #buffer = new Uint8Array(PIECE);
  readonly #zeroes = new Uint8Array(PIECE);
  #commands = 0;
  #refused = 0;
  #bytes = 0;

  /** @throws TypeError that names the option. */
  constructor(options: DmaEngineOptions) {
    checkOptions('options', options, ['dma', 'onBusMaster']);
    this.#dma = options.dma;
    this.#onBusMaster = checkFunction('onBusMaster', options.onBusMaster ?? (() => undefined));
    this.#powerOn();
  }

  /** Bus Master bit of the command register. */
  get busMaster(): boolean {
    return (this.#command & Command.busMaster) !== 0;
  }

  /** A snapshot of the counters. */
  stats(): DmaEngineStats {
    return { commands: this.#commands, refused: this.#refused, bytes: this.#bytes };
  }

  /** Fills `into` from `offset` of configuration space; bytes from 256 on read as 0xff. */
  readConfigBytes(offset: number, into: Uint8Array): void {
    for (let i = 0; i < into.length; i++) into[i] = this.#config[offset + i] ?? 0xff;
  }

  /** Writes `bytes` at `offset` of configuration space; read-only bits stay. */
  writeConfigBytes(offset: number, bytes: Uint8Array): void {
    const { busMaster } = this;
    bytes.forEach((byte, i) => {
      const mask = this.#mask[offset + i];
      if (mask !== undefined) this.#config[offset + i] = (this.#config[offset + i]! & ~mask) | (byte & mask);
    });
    if (this.busMaster !== busMaster) this.#onBusMaster(this.busMaster);
  }

  /** Fills `into` from `offset` of a BAR; 0xff outside of it and while memory space is disabled. */
  readBar(bar: number, offset: number, into: Uint8Array): void {
    const inside = bar === BAR.index && this.#memorySpace;
    for (let i = 0; i < into.length; i++) {
      const at = offset + i;
      into[i] = inside && at >= 0 && at < BAR.size ? (this.#registers[at] ?? 0) : 0xff;
    }
  }

  /** Writes `bytes` at `offset` of a BAR; `bytes` is not kept. A command is carried out inside the call. */
  writeBar(bar: number, offset: number, bytes: Uint8Array): void {
    if (bar !== BAR.index || !this.#memorySpace) return;
    bytes.forEach((byte, i) => {
      const at = offset + i;
      if (at >= EngineRegister.source && at < EngineRegister.command) this.#registers[at] = byte;
    });
    const command = bytes[EngineRegister.command - offset];
    if (command !== undefined) this.#run(command);
  }

  /** Everything as after power-on. */
  reset(): void {
    const { busMaster } = this;
    this.#powerOn();
    if (busMaster) this.#onBusMaster(false);
  }

  get #command(): number {
    return this.#configView.getUint16(Header.command, true);
  }

  get #memorySpace(): boolean {
    return (this.#command & Command.memory) !== 0;
  }

  #powerOn(): void {
    const view = this.#configView;
    this.#config.fill(0);
    view.setUint16(Header.vendorId, ENGINE_VENDOR, true);
    view.setUint16(Header.deviceId, ENGINE_DEVICE, true);
    view.setUint32(Header.revisionId, ((CLASS_CODE << 8) | 1) >>> 0, true);
    view.setUint16(Header.subsystemVendorId, ENGINE_VENDOR, true);
    view.setUint16(Header.subsystemId, ENGINE_DEVICE, true);
    this.#registers.fill(0);
    this.#view.setUint32(EngineRegister.id, ENGINE_ID, true);
    this.#view.setUint32(EngineRegister.maxLength, ENGINE_MAX_LENGTH, true);
  }

  #run(command: number): void {
    const source = this.#view.getBigUint64(EngineRegister.source, true);
    const target = this.#view.getBigUint64(EngineRegister.target, true);
    const length = this.#view.getUint32(EngineRegister.length, true);
    this.#commands++;
    let moved = 0;
    let status = this.#check(command, source, target, length);
    while (status === EngineStatus.done && moved < length) {
      const bytes = Math.min(PIECE, length - moved);
      status = this.#piece(command, source + BigInt(moved), target + BigInt(moved), bytes);
      if (status === EngineStatus.done) moved += bytes;
    }
    if (status !== EngineStatus.done) this.#refused++;
    this.#bytes += moved;
    this.#view.setUint32(EngineRegister.status, status, true);
    this.#view.setUint32(EngineRegister.moved, moved, true);
  }

  #check(command: number, source: bigint, target: bigint, length: number): number {
    if (!this.busMaster) return EngineStatus.noBusMaster;
    const known = command >= EngineCommand.copy && command <= EngineCommand.write;
    if (!known || length === 0 || length > ENGINE_MAX_LENGTH) return EngineStatus.invalid;
    const wraps = (address: bigint): boolean => address + BigInt(length) > U64_END;
    if (command !== EngineCommand.write && wraps(source)) return EngineStatus.invalid;
    if (command !== EngineCommand.read && wraps(target)) return EngineStatus.invalid;
    return EngineStatus.done;
  }

  #piece(command: number, source: bigint, target: bigint, bytes: number): number {
    const reads = command !== EngineCommand.write;
    if (reads && this.#dma.read(source, this.#buffer, 0, bytes) !== 'ok') return EngineStatus.sourceRefused;
    if (command === EngineCommand.read) return EngineStatus.done;
    const from = reads ? this.#buffer : this.#zeroes;
    return this.#dma.write(target, from, 0, bytes) === 'ok' ? EngineStatus.done : EngineStatus.targetRefused;
  }
}

function configMask(): Uint8Array {
  const mask = new Uint8Array(CONFIG_BYTES);
  const view = new DataView(mask.buffer);
  view.setUint16(Header.command, COMMAND_BITS, true);
  view.setUint8(Header.cacheLineSize, 0xff);
  view.setUint8(Header.interruptLine, 0xff);
  // The bits below the size are hardwired, which is how a driver finds the size.
  view.setUint32(Header.bar0, -BAR.size >>> 0, true);
  return mask;
}
