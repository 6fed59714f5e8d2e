// A vfio-user client that waits for each reply, and the function behind it as a driver reaches one: for drivers that know
// nothing of sockets. Not here: a client that goes on meanwhile (client.ts).
import { Command, MessageFlag, MessageHeader, RegionAccess, RegionIndex } from '../../src/vfio-user/abi.ts';
import type { NativeSocket } from '../../src/host/native-api.ts';
import * as payloads from './payloads.ts';

/** Most attempts to read a reply. */
const PATIENCE = 1e8;

/** Sends a message and waits for its reply; `pump` lets the server work, where it runs on this thread. */
export class SyncClient {
  readonly #socket: NativeSocket;
  readonly #pump: () => void;
  readonly #out = new Uint8Array(4096);
  readonly #outView = new DataView(this.#out.buffer);
  readonly #in = new Uint8Array(65536);
  readonly #inView = new DataView(this.#in.buffer);
  #id = 0;

  constructor(socket: NativeSocket, pump: () => void = () => undefined) {
    this.#socket = socket;
    this.#pump = pump;
  }

  /** Payload of the reply; Error with the errno. */
  request(command: number, payload: Uint8Array = new Uint8Array(0), fds?: readonly number[]): Uint8Array {
    this.#out.set(payload, MessageHeader.SIZE);
    const errno = this.#exchange(command, payload.length, fds === undefined ? undefined : Int32Array.from(fds));
    if (errno !== 0) throw new Error(`command ${command}: errno ${errno}`);
    return this.#in.slice(MessageHeader.SIZE, this.#inView.getUint32(MessageHeader.size, true));
  }

  /** errno of a request, 0 for none. */
  errno(command: number, payload: Uint8Array = new Uint8Array(0), fds?: readonly number[]): number {
    this.#out.set(payload, MessageHeader.SIZE);
    return this.#exchange(command, payload.length, fds === undefined ? undefined : Int32Array.from(fds));
  }

  /** VERSION as QEMU sends it. */
  negotiate(): void {
    this.request(Command.version, payloads.version(0, 0, payloads.QEMU_CAPABILITIES));
  }

  /** REGION_READ; errno. Allocates nothing. */
  read(region: number, offset: number, into: Uint8Array): number {
    this.#place(region, offset, into.length);
    const errno = this.#exchange(Command.regionRead, RegionAccess.SIZE, undefined);
    const at = MessageHeader.SIZE + RegionAccess.data;
    for (let i = 0; errno === 0 && i < into.length; i++) into[i] = this.#in[at + i]!;
    return errno;
  }

  /** REGION_WRITE; errno. Allocates nothing. */
  write(region: number, offset: number, bytes: Uint8Array): number {
    this.#place(region, offset, bytes.length);
    const at = MessageHeader.SIZE + RegionAccess.data;
    for (let i = 0; i < bytes.length; i++) this.#out[at + i] = bytes[i]!;
    return this.#exchange(Command.regionWrite, RegionAccess.SIZE + bytes.length, undefined);
  }

  #place(region: number, offset: number, count: number): void {
    const view = this.#outView;
    view.setUint32(MessageHeader.SIZE + RegionAccess.offset, offset, true);
    view.setUint32(MessageHeader.SIZE + RegionAccess.offset + 4, 0, true);
    view.setUint32(MessageHeader.SIZE + RegionAccess.region, region, true);
    view.setUint32(MessageHeader.SIZE + RegionAccess.count, count, true);
  }

  #exchange(command: number, payload: number, fds: Int32Array | undefined): number {
    const view = this.#outView;
    const id = (this.#id = (this.#id + 1) & 0xffff);
    view.setUint16(MessageHeader.id, id, true);
    view.setUint16(MessageHeader.command, command, true);
    view.setUint32(MessageHeader.size, MessageHeader.SIZE + payload, true);
    view.setUint32(MessageHeader.flags, MessageFlag.command, true);
    view.setUint32(MessageHeader.error, 0, true);
    const length = MessageHeader.SIZE + payload;
    if (this.#socket.send(this.#out, 0, length, fds) !== length) throw new Error('the message was not sent at once');
    this.#await();
    if (this.#inView.getUint16(MessageHeader.id, true) !== id) throw new Error('a reply to something else');
    const failed = (this.#inView.getUint32(MessageHeader.flags, true) & MessageFlag.error) !== 0;
    return failed ? this.#inView.getUint32(MessageHeader.error, true) : 0;
  }

  #await(): void {
    let have = 0;
    let need: number = MessageHeader.SIZE;
    for (let i = 0; i < PATIENCE; i++) {
      this.#pump();
      const count = this.#socket.receive(this.#in, have, need, 0);
      if (count === 0) throw new Error('the server has ended the connection');
      if (count > 0) have += count;
      if (have >= MessageHeader.SIZE) need = this.#inView.getUint32(MessageHeader.size, true);
      if (have === need) return;
    }
    throw new Error('no reply');
  }
}

/** The function that a client reaches, with the methods that a driver uses. */
export class RemoteFunction {
  readonly #client: SyncClient;
  readonly #bytes = new Uint8Array(4);

  constructor(client: SyncClient) {
    this.#client = client;
  }

  readConfig(offset: number, size: 1 | 2 | 4): number {
    const bytes = this.#bytes.fill(0);
    check(this.#client.read(RegionIndex.config, offset, bytes.subarray(0, size)));
    return new DataView(bytes.buffer).getUint32(0, true);
  }

  writeConfig(offset: number, size: 1 | 2 | 4, value: number): void {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, value, true);
    check(this.#client.write(RegionIndex.config, offset, bytes.subarray(0, size)));
  }

  readBar(bar: number, offset: number, into: Uint8Array): void {
    check(this.#client.read(bar, offset, into));
  }

  writeBar(bar: number, offset: number, bytes: Uint8Array): void {
    check(this.#client.write(bar, offset, bytes));
  }
}

function check(errno: number): void {
  if (errno !== 0) throw new Error(`errno ${errno}`);
}
