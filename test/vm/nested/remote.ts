// A VMM's side of a served function, without a VMM: memory and registers over the socket of `serve`, and the physical device
// behind it with the face of a VfioDevice, so that edu.ts drives it. Each call waits for its reply.
import { closeSync } from 'node:fs';
import { loadNative } from '../../../src/host/native.ts';
import type { GuestRam } from '../../../src/host/guest-ram.ts';
import type { VfioDevice } from '../../../src/host/vfio-device.ts';
import { Command, IrqInfo, IrqSetFlag, RegionIndex, RegionInfo } from '../../../src/vfio-user/abi.ts';
import { dmaMap, dmaUnmap, info, setIrqs } from '../../vfio-user/payloads.ts';
import { RemoteFunction, SyncClient } from '../../vfio-user/sync-client.ts';

const COMMAND_REGISTER = 4;
const BUS_MASTER = 4;

/** A connection to one function. */
export class Remote {
  readonly client: SyncClient;
  readonly function: RemoteFunction;
  readonly #close: () => void;

  constructor(path: string) {
    const socket = loadNative().NativeSocket.connect(path);
    this.#close = () => socket.close();
    // The server is another process: it gets the processor while nothing has come.
    const wait = new Int32Array(new SharedArrayBuffer(4));
    this.client = new SyncClient(socket, () => void Atomics.wait(wait, 0, 0, 1));
    this.client.negotiate();
    this.function = new RemoteFunction(this.client);
  }

  /** DMA_MAP of all of `ram` at `address`; errno. */
  map(ram: GuestRam, address = 0n): number {
    const fd = ram.duplicateFd();
    try {
      return this.client.errno(Command.dmaMap, dmaMap(address, ram.size), [fd]);
    } finally {
      closeSync(fd);
    }
  }

  /** DMA_UNMAP; errno. */
  unmap(address: bigint, size: bigint): number {
    return this.client.errno(Command.dmaUnmap, dmaUnmap(address, size));
  }

  /** Bytes of a region. */
  regionSize(index: number): number {
    const reply = this.client.request(Command.getRegionInfo, info(RegionInfo.SIZE, index));
    return Number(new DataView(reply.buffer).getBigUint64(RegionInfo.size, true));
  }

  /** Flags and number of the interrupts of a kind. */
  irqs(index: number): { readonly flags: number; readonly count: number } {
    const view = new DataView(this.client.request(Command.getIrqInfo, info(IrqInfo.SIZE, index)).buffer);
    return { flags: view.getUint32(IrqInfo.flags, true), count: view.getUint32(IrqInfo.count, true) };
  }

  /** Has interrupts of a kind signal eventfds; none switches the kind off. errno. */
  wire(index: number, fds: readonly number[]): number {
    const off = fds.length === 0;
    const flags = IrqSetFlag.trigger | (off ? IrqSetFlag.none : IrqSetFlag.eventfd);
    return this.client.errno(Command.setIrqs, setIrqs(flags, index, 0, fds.length), off ? undefined : fds);
  }

  /** Unmasks the first interrupt of a kind; errno. */
  unmask(index: number): number {
    return this.client.errno(Command.setIrqs, setIrqs(IrqSetFlag.unmask | IrqSetFlag.none, index, 0, 1));
  }

  /** The device with the methods that edu.ts uses. */
  asDevice(): VfioDevice {
    const remote = this.function;
    const setBusMaster = (on: boolean): number => {
      const command = remote.readConfig(COMMAND_REGISTER, 2);
      remote.writeConfig(COMMAND_REGISTER, 2, on ? command | BUS_MASTER : command & ~BUS_MASTER);
      return ((remote.readConfig(COMMAND_REGISTER, 2) & BUS_MASTER) !== 0) === on ? 0 : 5;
    };
    const face = {
      readConfig: (offset: number, bytes: 1 | 2 | 4) => remote.readConfig(offset, bytes),
      writeConfig: (offset: number, bytes: 1 | 2 | 4, value: number) => remote.writeConfig(offset, bytes, value),
      readRegion: (index: number, offset: bigint, into: Uint8Array) => remote.readBar(index, Number(offset), into),
      writeRegion: (index: number, offset: bigint, from: Uint8Array) => remote.writeBar(index, Number(offset), from),
      setBusMaster,
    };
    return face as unknown as VfioDevice;
  }

  close(): void {
    this.#close();
  }
}

export const CONFIG_REGION = RegionIndex.config;
