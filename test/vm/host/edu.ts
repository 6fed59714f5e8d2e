// QEMU's edu device (docs/specs/edu.rst) driven through VfioDevice: a DMA engine with a buffer of 4 KiB.
// IOVAs are bigint bytes below 4 GiB: before Linux 6.9 vfio-pci cuts accesses of 8 bytes in two, and the device takes only the
// first half of its 64-bit registers then. A transfer takes about 0.1 s.
import type { VfioDevice } from '../../../src/host/vfio-device.ts';

const Register = {
  identity: 0x00n,
  liveness: 0x04n,
  source: 0x80n,
  target: 0x88n,
  count: 0x90n,
  command: 0x98n,
} as const;
/** Bit 0 starts and stays set until the transfer is done; bit 1: from the buffer to memory. */
const Command = { toBuffer: 1n, toMemory: 3n } as const;
const IDENTITY = 0x0100_00ed;
const BUFFER = 0x40000n;
const BUFFER_BYTES = 4096;
const COMMAND_REGISTER = 4;
const MEMORY_ENABLE = 2;
const WAIT_MS = 30_000;

/** The DMA engine. Bus master is off after a reset: see {@link Edu.start}. */
export class Edu {
  readonly #device: VfioDevice;

  constructor(device: VfioDevice) {
    this.#device = device;
  }

  /** Enables the registers and bus master. @throws Error when the device does not answer like an edu device. */
  start(busMaster = true): void {
    const command = this.#device.readConfig(COMMAND_REGISTER, 2);
    this.#device.writeConfig(COMMAND_REGISTER, 2, command | MEMORY_ENABLE);
    const errno = this.#device.setBusMaster(busMaster);
    if (errno !== 0) throw new Error(`setBusMaster(${busMaster}) gives errno ${errno}`);
    const identity = this.#read32(Register.identity);
    if (identity !== IDENTITY) throw new Error(`identity register is 0x${identity.toString(16)}`);
    this.#device.writeRegion(0, Register.liveness, Uint8Array.of(0x78, 0x56, 0x34, 0x12));
    if (this.#read32(Register.liveness) !== 0xedcb_a987) throw new Error('the liveness register does not answer');
  }

  /** Reads memory at `iova` into the device's buffer. */
  load(iova: bigint, bytes: number, at = 0): Promise<void> {
    return this.#transfer(Command.toBuffer, iova, BUFFER + BigInt(at), bytes, at);
  }

  /** Writes the device's buffer to memory at `iova`. */
  store(iova: bigint, bytes: number, at = 0): Promise<void> {
    return this.#transfer(Command.toMemory, BUFFER + BigInt(at), iova, bytes, at);
  }

  /** Copies memory by two transfers. */
  async copy(from: bigint, to: bigint, bytes: number): Promise<void> {
    await this.load(from, bytes);
    await this.store(to, bytes);
  }

  async #transfer(command: bigint, source: bigint, target: bigint, bytes: number, at: number): Promise<void> {
    // An address outside its buffer ends the emulator.
    if (bytes < 1 || (source | target) >= 2n ** 32n || at < 0 || at + bytes > BUFFER_BYTES)
      throw new RangeError(`${bytes} bytes at ${at} do not fit, or an address`);
    this.#write64(Register.source, source);
    this.#write64(Register.target, target);
    this.#write64(Register.count, BigInt(bytes));
    this.#write64(Register.command, command);
    const end = performance.now() + WAIT_MS;
    while ((this.#read64(Register.command) & 1n) !== 0n) {
      if (performance.now() > end) throw new Error('the transfer does not end');
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  #read32(register: bigint): number {
    const bytes = new Uint8Array(4);
    this.#device.readRegion(0, register, bytes);
    return new DataView(bytes.buffer).getUint32(0, true);
  }

  #read64(register: bigint): bigint {
    const bytes = new Uint8Array(8);
    this.#device.readRegion(0, register, bytes);
    return new DataView(bytes.buffer).getBigUint64(0, true);
  }

  #write64(register: bigint, value: bigint): void {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, value, true);
    this.#device.writeRegion(0, register, bytes);
  }
}
