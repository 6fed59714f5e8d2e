// The registers of QEMU's edu device through VFIO, each access waiting for its effect: DMA engine and interrupt.
// Not here: the same engine without waiting (../edu.ts). IOVAs are bytes below 4 GiB; slots are 32-bit words of the device's
// own 4 KiB.
import type { VfioDevice } from '../../../../src/host/vfio-device.ts';

/** Offsets in BAR 0 (docs/specs/edu.rst in QEMU); all are accessed as 32 bits. */
const Register = {
  identification: 0n,
  liveness: 4n,
  interruptStatus: 0x24n,
  interruptRaise: 0x60n,
  interruptAcknowledge: 0x64n,
  dmaSource: 0x80n,
  dmaDestination: 0x88n,
  dmaCount: 0x90n,
  dmaCommand: 0x98n,
} as const;

/** Bits of the command register of the DMA engine. */
const Command = { run: 1, toMemory: 2 } as const;

/** Where the device's buffer is for its own DMA engine, and its length. */
const BUFFER = 0x4_0000;
export const BUFFER_BYTES = 4096;
const MEMORY_AND_BUS_MASTER = 6;
const COMMAND_REGISTER = 4;
/** A transfer takes 100 ms of the machine's time. */
const POLL_MS = 2;
const MAX_POLLS = 5000;

/** Waits without giving the thread away, as a VMM's ring path would. */
export function pause(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

/** One edu function. */
export class EduRegisters {
  readonly #device: VfioDevice;
  readonly #word = new Uint8Array(4);

  /** Enables memory and bus master, which VFIO leaves off. */
  constructor(device: VfioDevice) {
    this.#device = device;
    device.writeConfig(COMMAND_REGISTER, 2, device.readConfig(COMMAND_REGISTER, 2) | MEMORY_AND_BUS_MASTER);
    const id = this.#read(Register.identification);
    if ((id & 0xffff) !== 0xed) throw new Error(`${device.name} is no edu device: ${id.toString(16)}`);
  }

  /** True when the device answers with the complement of what it is told. */
  isAlive(): boolean {
    this.#write(Register.liveness, 0x1234_5678);
    return this.#read(Register.liveness) === ~0x1234_5678 >>> 0;
  }

  /** Copies `bytes` of memory at `iova` into the device from slot `slot` on. */
  fetch(iova: number, slot: number, bytes: number): void {
    this.#transfer(iova, BUFFER + slot * 4, bytes, Command.run);
  }

  /** Copies `bytes` of the device from slot `slot` on to memory at `iova`. */
  store(slot: number, iova: number, bytes: number): void {
    this.#transfer(BUFFER + slot * 4, iova, bytes, Command.run | Command.toMemory);
  }

  /** Raises the device's interrupt with some bits of its status. */
  raise(bits: number): void {
    this.#write(Register.interruptRaise, bits);
  }

  /** Bits that were raised and not acknowledged. */
  interruptStatus(): number {
    return this.#read(Register.interruptStatus);
  }

  acknowledge(bits: number): void {
    this.#write(Register.interruptAcknowledge, bits);
  }

  #transfer(source: number, destination: number, bytes: number, command: number): void {
    this.#write(Register.dmaSource, source);
    this.#write(Register.dmaDestination, destination);
    this.#write(Register.dmaCount, bytes);
    this.#write(Register.dmaCommand, command);
    for (let poll = 0; (this.#read(Register.dmaCommand) & Command.run) !== 0; poll++) {
      if (poll === MAX_POLLS) throw new Error('the edu device does not end its transfer');
      pause(POLL_MS);
    }
  }

  #read(register: bigint): number {
    this.#device.readRegion(0, register, this.#word);
    return new DataView(this.#word.buffer).getUint32(0, true);
  }

  #write(register: bigint, value: number): void {
    new DataView(this.#word.buffer).setUint32(0, value, true);
    this.#device.writeRegion(0, register, this.#word);
  }
}
