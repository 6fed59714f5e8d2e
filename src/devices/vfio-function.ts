// A physical PCI function of the host, shown to a client of this process: configuration space and BARs are the device's own,
// through VFIO. Its DMA is the host IOMMU's business; here the bus-master bit is watched, on which the host plan rests.
// Not here: the container (host), interrupts (vfio-function-irqs.ts). Offsets and sizes in bytes.
import { checkFunction, checkOptions } from '../base/check.ts';
import { Errno, errnoName, isHostError } from '../base/errors.ts';
import { firstWidth } from './register-parts.ts';
import type { PassedDevice } from './vfio-function-device.ts';
import { VfioInterrupts } from './vfio-function-irqs.ts';

export type { IrqKindName, PassedDevice } from './vfio-function-device.ts';

/** Options of {@link VfioFunction}. */
export interface VfioFunctionOptions {
  /** The device; its group must be open in a context of this process. */
  readonly device: PassedDevice;
  /**
   * Told when the device is about to become able to do DMA, before the bit is set, and when it no longer can, after the bit was
   * cleared and its transactions have ended. When a call with true throws, the bit stays clear.
   */
  readonly onBusMaster?: (on: boolean) => void;
  /** Gets what somebody should know; default nothing. */
  readonly log?: (text: string) => void;
}

/** Counters of a {@link VfioFunction}. */
export interface VfioFunctionStats {
  readonly host: string;
  readonly busMaster: boolean;
  /** Accesses of registers, and those that the device or its driver refused: reads gave all ones, writes were lost. */
  readonly reads: number;
  readonly writes: number;
  readonly refused: number;
  readonly resets: number;
}

/** Regions of VFIO: 0 to 5 are the BARs. */
const ROM = 6;
const CONFIG = 7;
/** The Command register (PCI Local Bus 3.0 section 6.2.2): memory and I/O space, bus master. */
const Command = { offset: 4, space: 3, busMaster: 4 } as const;
/** Widest access of configuration space, and of a processor to registers. */
const CONFIG_WIDTH = 4;
const REGISTER_WIDTH = 8;

/** One passed-through function. No method throws for what a client does; only one client at a time may use it. */
export class VfioFunction {
  readonly bars: readonly { readonly index: number; readonly size: number }[];
  readonly vectors: number;
  /** The kernel does a long access word by word on the device, and nothing else is served meanwhile. */
  readonly maxAccess = 4096;
  readonly configBytes: number;
  /** Interrupts, which do not pass through this process. */
  readonly direct: VfioInterrupts;
  readonly #device: PassedDevice;
  readonly #onBusMaster: (on: boolean) => void;
  readonly #log: (text: string) => void;
  readonly #word = new DataView(new ArrayBuffer(4));
  /** What the owner was told. */
  #busMaster: boolean;
  #reads = 0;
  #writes = 0;
  #refused = 0;
  #resets = 0;
  #resetRefused = 0;

  /** @throws TypeError or RangeError that names the option; HostError when the device does not answer. */
  constructor(options: VfioFunctionOptions) {
    checkOptions('options', options, ['device', 'onBusMaster', 'log']);
    const nothing = (): void => undefined;
    if (typeof (options.device as Partial<PassedDevice> | undefined)?.readConfig !== 'function') {
      throw new TypeError('options.device must be a device of an open host context');
    }
    this.#device = options.device;
    this.#onBusMaster = checkFunction('options.onBusMaster', options.onBusMaster ?? nothing);
    this.#log = checkFunction('options.log', options.log ?? nothing);
    this.configBytes = sizeOf(this.#device, CONFIG);
    const bars = [0, 1, 2, 3, 4, 5, ROM].map((index) => ({ index, size: sizeOf(this.#device, index) }));
    this.bars = bars.filter(({ size }) => size > 0);
    this.direct = new VfioInterrupts(this.#device);
    this.vectors = this.#device.irqCount('msix');
    this.#busMaster = this.#device.busMaster();
  }

  /** Counters as of now. */
  stats(): VfioFunctionStats {
    return {
      host: this.#device.name,
      busMaster: this.#busMaster,
      reads: this.#reads,
      writes: this.#writes,
      refused: this.#refused,
      resets: this.#resets,
    };
  }

  /** Fills `into` from `offset` of configuration space; all ones where there is nothing. */
  readConfigBytes(offset: number, into: Uint8Array): void {
    into.fill(0xff);
    if (!inside(offset, into.length, this.configBytes)) return;
    for (let at = 0; at < into.length;) {
      const width = firstWidth(offset + at, into.length - at, CONFIG_WIDTH) as 1 | 2 | 4;
      const from = at;
      this.#reads++;
      this.#try(() => {
        this.#word.setUint32(0, this.#device.readConfig(offset + from, width), true);
        for (let i = 0; i < width; i++) into[from + i] = this.#word.getUint8(i);
      });
      at += width;
    }
  }

  /** Writes configuration space from `offset` on; what sets or clears bus master is told to the owner. */
  writeConfigBytes(offset: number, bytes: Uint8Array): void {
    if (!inside(offset, bytes.length, this.configBytes)) return;
    for (let at = 0; at < bytes.length;) {
      const width = firstWidth(offset + at, bytes.length - at, CONFIG_WIDTH) as 1 | 2 | 4;
      for (let i = 0; i < CONFIG_WIDTH; i++) this.#word.setUint8(i, i < width ? bytes[at + i]! : 0);
      const value = this.#word.getUint32(0, true);
      // Pieces are aligned, so that the piece with the low byte of the register begins with it.
      if (offset + at === Command.offset) this.#writeCommand(width, value);
      else this.#writeConfig(offset + at, width, value);
      at += width;
    }
  }

  /** Fills `into` from `offset` of a BAR or the ROM; all ones where there is nothing, or the device does not answer. */
  readBar(bar: number, offset: number, into: Uint8Array): void {
    into.fill(0xff);
    if (!inside(offset, into.length, this.#sizeOfBar(bar))) return;
    this.#inRegisters(offset, into, (at, piece) => {
      this.#reads++;
      // A refused read may have filled a part.
      if (!this.#try(() => this.#device.readRegion(bar, at, piece))) piece.fill(0xff);
    });
  }

  /** Writes a BAR from `offset` on; ignored where there is nothing. */
  writeBar(bar: number, offset: number, bytes: Uint8Array): void {
    if (bar === ROM || !inside(offset, bytes.length, this.#sizeOfBar(bar))) return;
    this.#inRegisters(offset, bytes, (at, piece) => {
      this.#writes++;
      this.#try(() => this.#device.writeRegion(bar, at, piece));
    });
  }

  /** Ends the DMA of the device and resets it; a device without a reset keeps its other registers. */
  reset(): void {
    this.#resets++;
    this.#quiesce();
    this.#try(() => {
      const errno = this.#device.reset();
      if (errno !== 0 && this.#resetRefused++ === 0) {
        // EINVAL is what vfio-pci says of a device without any kind of reset.
        const none = errno === Errno.ENOTTY || errno === Errno.EINVAL;
        const why = none ? 'it has no reset' : errnoName(errno);
        this.#log(`${this.#device.name} was not reset (${why}): a guest finds registers as the last one left them`);
      }
      // VFIO puts configuration space back after a reset; a function that was reset answers to no address.
      const command = this.#device.readConfig(Command.offset, 2);
      this.#device.writeConfig(Command.offset, 2, command & ~(Command.space | Command.busMaster));
    });
    // The bit may have been on again meanwhile only if the host cannot reset as it says.
    this.#quiesce();
  }

  #writeCommand(width: 1 | 2 | 4, value: number): void {
    const on = (value & Command.busMaster) !== 0;
    const allowed = !on || this.#busMaster || this.#tell(true);
    this.#writeConfig(Command.offset, width, allowed ? value : (value & ~Command.busMaster) >>> 0);
    if (!on && this.#busMaster) this.#quiesce();
  }

  #writeConfig(offset: number, width: 1 | 2 | 4, value: number): void {
    this.#writes++;
    this.#try(() => this.#device.writeConfig(offset, width, value));
  }

  /** Clears bus master and tells so when the device has really stopped; else it counts as able to do DMA. */
  #quiesce(): void {
    this.#try(() => {
      const errno = this.#device.setBusMaster(false);
      if (errno === 0) {
        if (this.#busMaster) this.#tell(false);
        return;
      }
      this.#refused++;
      this.#log(`${this.#device.name} does not stop its DMA (${errnoName(errno)})`);
    });
  }

  /** False when the owner does not allow it. */
  #tell(on: boolean): boolean {
    try {
      this.#onBusMaster(on);
    } catch (error) {
      if (!isHostError(error)) throw error;
      this.#refused++;
      this.#log(`bus master of ${this.#device.name} stays ${on ? 'off' : 'on'}: ${error.message}`);
      return false;
    }
    this.#busMaster = on;
    return true;
  }

  #inRegisters(offset: number, bytes: Uint8Array, access: (at: bigint, piece: Uint8Array) => void): void {
    // Longer ones come from no processor: they are copies of memory, which the kernel cuts itself.
    if (bytes.length > REGISTER_WIDTH) {
      access(BigInt(offset), bytes);
      return;
    }
    for (let at = 0; at < bytes.length;) {
      const width = firstWidth(offset + at, bytes.length - at, REGISTER_WIDTH);
      access(BigInt(offset + at), bytes.subarray(at, at + width));
      at += width;
    }
  }

  #sizeOfBar(bar: number): number {
    return this.bars.find(({ index }) => index === bar)?.size ?? 0;
  }

  /** False when the host refused it, which a client can cause (memory space is off, the device is gone). */
  #try(run: () => void): boolean {
    try {
      run();
      return true;
    } catch (error) {
      if (!isHostError(error)) throw error;
      this.#refused++;
      return false;
    }
  }
}

/** Bytes of a region, 0 without it. */
function sizeOf(device: PassedDevice, index: number): number {
  try {
    return Number(device.region(index).size);
  } catch (error) {
    if (isHostError(error) && error.errno === Errno.EINVAL) return 0;
    throw error;
  }
}

function inside(offset: number, length: number, size: number): boolean {
  return Number.isInteger(offset) && offset >= 0 && length >= 1 && offset <= size && length <= size - offset;
}
