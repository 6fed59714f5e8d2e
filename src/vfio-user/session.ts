// What one client has said so far, and the answers: every message of the protocol, without a socket.
// Not here: bytes on a socket (connection.ts), what a message does (a file for each group of them).
import { Errno } from '../base/errors.ts';
import {
  Command,
  commandName,
  DeviceInfo,
  DmaMap,
  DmaUnmap,
  IrqInfo,
  IrqSet,
  MessageFlag,
  RegionAccess,
  RegionInfo,
} from './abi.ts';
import type { ClientMemory } from './client-memory.ts';
import { getInfo, getIrqInfo, getRegionInfo } from './device-info.ts';
import { dmaMap, dmaUnmap } from './dma-messages.ts';
import type { DmaTable } from './dma-table.ts';
import type { PciFunction } from './function.ts';
import type { Reply, Request } from './message.ts';
import { ProtocolError } from './protocol-error.ts';
import { regionRead, regionWrite } from './region-access.ts';
import type { DeviceSignals } from './set-irqs.ts';
import { setIrqs } from './set-irqs.ts';
import type { Agreement } from './version.ts';
import { negotiate } from './version.ts';

/** What a session works on; it owns none of it. */
export interface SessionParts {
  readonly pci: PciFunction;
  readonly table: DmaTable;
  readonly signals: DeviceSignals;
  /** Gets replies of the client. */
  readonly client: ClientMemory;
  readonly maxMaps: number;
  /** A version was agreed on. */
  readonly onAgreed: () => void;
  /** The client has reset the function. */
  readonly onReset: () => void;
}

/** Least bytes of payload; more is ignored, as a later minor version may add fields. */
const PAYLOAD: Readonly<Record<number, number>> = {
  [Command.dmaMap]: DmaMap.SIZE,
  [Command.dmaUnmap]: DmaUnmap.SIZE,
  [Command.getInfo]: DeviceInfo.SIZE,
  [Command.getRegionInfo]: RegionInfo.SIZE,
  [Command.getIrqInfo]: IrqInfo.SIZE,
  [Command.setIrqs]: IrqSet.SIZE,
  [Command.regionRead]: RegionAccess.SIZE,
  [Command.regionWrite]: RegionAccess.SIZE,
  [Command.deviceReset]: 0,
};

/** One connection's conversation. */
export class Session {
  readonly #parts: SessionParts;
  #agreed: Agreement | undefined;
  /** Requests that were refused with an errno. */
  refusals = 0;

  constructor(parts: SessionParts) {
    this.#parts = parts;
  }

  /** What was agreed on; undefined before VERSION. */
  get agreed(): Agreement | undefined {
    return this.#agreed;
  }

  /**
   * Does what a whole message asks for and writes the reply; bytes to send, 0 for none.
   * @throws ProtocolError when the connection must end; nothing has been changed by the message then.
   */
  handle(request: Request, reply: Reply): number {
    const type = request.flags & MessageFlag.type;
    const { command } = request;
    if (type === MessageFlag.reply) {
      if (request.descriptors.count > 0) throw new ProtocolError('a reply with descriptors');
      this.#parts.client.take(request);
      return 0;
    }
    if (type !== MessageFlag.command) throw new ProtocolError(`a message of type ${type}`);
    if (this.#agreed === undefined) return this.#version(request, reply);
    if (command === Command.version) throw new ProtocolError('a second VERSION');
    const result = this.#perform(command, request, reply, this.#agreed);
    if (result < 0) this.refusals++;
    return (request.flags & MessageFlag.noReply) !== 0 ? 0 : reply.finish(request, result);
  }

  #version(request: Request, reply: Reply): number {
    if (request.command !== Command.version) throw new ProtocolError('a message before VERSION');
    if (request.descriptors.count > 0) throw new ProtocolError('VERSION with descriptors');
    const { agreed, payload } = negotiate(request, reply, this.#parts.maxMaps);
    this.#agreed = agreed;
    this.#parts.client.begin(agreed);
    this.#parts.onAgreed();
    return reply.finish(request, payload);
  }

  #perform(command: number, request: Request, reply: Reply, agreed: Agreement): number {
    const { pci, table, signals } = this.#parts;
    const least = PAYLOAD[command] ?? -1;
    if (least < 0) return -Errno.EOPNOTSUPP;
    if (request.payload < least) {
      throw new ProtocolError(`${commandName(command)} with ${request.payload} bytes of ${least}`);
    }
    if (request.descriptors.count > 0 && command !== Command.dmaMap && command !== Command.setIrqs) {
      throw new ProtocolError(`${commandName(command)} with descriptors`);
    }
    switch (command) {
      case Command.regionWrite:
        return regionWrite(request, reply, pci);
      case Command.regionRead:
        return regionRead(request, reply, pci);
      case Command.dmaMap:
        return dmaMap(request, table, agreed);
      case Command.dmaUnmap:
        return dmaUnmap(request, reply, table);
      case Command.getInfo:
        return getInfo(request, reply);
      case Command.getRegionInfo:
        return getRegionInfo(request, reply, pci);
      case Command.getIrqInfo:
        return getIrqInfo(request, reply, pci);
      case Command.setIrqs:
        return setIrqs(request, pci, signals);
      default:
        return this.#reset();
    }
  }

  #reset(): number {
    this.#parts.pci.reset();
    this.#parts.onReset();
    return 0;
  }
}
