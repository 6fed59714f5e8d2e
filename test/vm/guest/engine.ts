// The DMA engine of this project (src/devices/dma-engine.ts) driven by a guest's own VFIO user. Runs in the guest.
import type { VfioDevice } from '../../../src/host/vfio-device.ts';
import { ENGINE_ID, EngineCommand, EngineRegister, EngineStatus } from '../../../src/devices/dma-engine-registers.ts';

const COMMAND_REGISTER = 4;
const MEMORY_ENABLE = 2;

/** How a command ended. */
export type Outcome = keyof typeof EngineStatus;

/** Copies by I/O virtual address; addresses and lengths are bigint bytes. */
export class Engine {
  readonly #device: VfioDevice;

  constructor(device: VfioDevice) {
    this.#device = device;
  }

  /** Enables registers and bus master. @throws Error when the function does not answer like the engine. */
  start(): void {
    const command = this.#device.readConfig(COMMAND_REGISTER, 2);
    this.#device.writeConfig(COMMAND_REGISTER, 2, command | MEMORY_ENABLE);
    const errno = this.#device.setBusMaster(true);
    if (errno !== 0) throw new Error(`setBusMaster gives errno ${errno}`);
    const id = this.#read32(EngineRegister.id);
    if (id !== ENGINE_ID) throw new Error(`the id register holds 0x${id.toString(16)}`);
  }

  /** Copies, reads or writes zeroes, and says how it ended. */
  run(command: keyof typeof EngineCommand, source: bigint, target: bigint, length: number): Outcome {
    const bytes = new Uint8Array(EngineRegister.command - EngineRegister.source);
    const view = new DataView(bytes.buffer);
    view.setBigUint64(0, source, true);
    view.setBigUint64(EngineRegister.target - EngineRegister.source, target, true);
    view.setUint32(EngineRegister.length - EngineRegister.source, length, true);
    // Registers take accesses of 8 bytes and less.
    for (let at = 0; at < bytes.length; at += 4) this.#write(EngineRegister.source + at, bytes.subarray(at, at + 4));
    this.#write(EngineRegister.command, Uint8Array.of(EngineCommand[command], 0, 0, 0));
    const status = this.#read32(EngineRegister.status);
    const found = Object.entries(EngineStatus).find(([, value]) => value === status);
    if (found === undefined) throw new Error(`unknown status ${status}`);
    return found[0] as Outcome;
  }

  #read32(register: number): number {
    const bytes = new Uint8Array(4);
    this.#device.readRegion(0, BigInt(register), bytes);
    return new DataView(bytes.buffer).getUint32(0, true);
  }

  #write(register: number, bytes: Uint8Array): void {
    this.#device.writeRegion(0, BigInt(register), bytes);
  }
}
