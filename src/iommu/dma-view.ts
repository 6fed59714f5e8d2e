// DmaView: what an emulated device behind the IOMMU uses for its DMA. It copies; it never hands out guest memory, so a
// device that completes later asks again and an UNMAP in between is honoured (spec/design.md, emulated DMA).
import { U64_MAX, checkBigint, checkInteger } from '../base/check.ts';
import type { GuestMemory } from '../virtio/memory.ts';
import type { Endpoint } from './endpoint.ts';
import type { IommuState } from './state.ts';
import { reportFault } from './fault-report.ts';
import { translateAccess } from './translate.ts';
import { PieceKind, Translation } from './translation.ts';

/** How an access ended: `fault` = the IOMMU refused it, `unbacked` = it was allowed but no memory is there. */
export type DmaResult = 'ok' | 'fault' | 'unbacked';

/** Receives what an endpoint writes into its MSI region. */
export type MsiSink = (endpoint: number, address: bigint, data: Uint8Array) => void;

/**
 * DMA of one endpoint. Whether an access is translated is decided when it happens. An access is all or nothing: it is
 * translated whole, and all of it must be backed, before a byte moves. Addresses are I/O virtual bytes; lengths are bytes.
 * Reentrant: an MMIO handler or MSI sink that an access reaches may do DMA of the same endpoint.
 */
export class DmaView {
  readonly endpoint: number;
  readonly #state: IommuState;
  readonly #memory: GuestMemory;
  readonly #msi: MsiSink;
  /** Pieces of accesses that are over, for reuse: one for each level of nesting that was ever reached. */
  readonly #idle: Translation[] = [];

  constructor(state: IommuState, memory: GuestMemory, endpoint: number, msi: MsiSink) {
    this.endpoint = endpoint;
    this.#state = state;
    this.#memory = memory;
    this.#msi = msi;
  }

  /** Reads `length` bytes (default: the rest of `into`) at `iova` into `into[offset..]`. */
  read(iova: bigint, into: Uint8Array, offset = 0, length = into.length - offset): DmaResult {
    return this.#access(iova, into, offset, length, false);
  }

  /** Writes `length` bytes (default: the rest of `from`) of `from[offset..]` at `iova`. */
  write(iova: bigint, from: Uint8Array, offset = 0, length = from.length - offset): DmaResult {
    return this.#access(iova, from, offset, length, true);
  }

  /** Reads a little-endian 16-bit number in one atomic load; undefined when the access is refused or `iova` is odd. */
  loadU16(iova: bigint): number | undefined {
    const pieces = this.#take();
    const ok = this.#translate(iova, 2, false, pieces) && pieces.count === 1;
    const value = ok ? this.#memory.loadU16(pieces.gpa[0]!) : -1;
    this.#idle.push(pieces);
    return value < 0 ? undefined : value;
  }

  /** Writes a little-endian 16-bit number in one atomic store; false when the access is refused or `iova` is odd. */
  storeU16(iova: bigint, value: number): boolean {
    const pieces = this.#take();
    const ok = this.#translate(iova, 2, true, pieces) && pieces.count === 1 && pieces.kind[0] === PieceKind.memory;
    const stored = ok && this.#memory.storeU16(pieces.gpa[0]!, value);
    this.#idle.push(pieces);
    return stored;
  }

  #access(iova: bigint, bytes: Uint8Array, offset: number, length: number, write: boolean): DmaResult {
    checkSpan(bytes, offset, length);
    checkBigint('iova', iova, 0n, U64_MAX);
    if (length === 0) return 'ok';
    const pieces = this.#take();
    try {
      if (!this.#translate(iova, length, write, pieces)) return 'fault';
      if (!this.#allBacked(pieces, write)) return 'unbacked';
      return this.#move(pieces, bytes, offset, write) ? 'ok' : 'unbacked';
    } finally {
      this.#idle.push(pieces);
    }
  }

  #move(pieces: Translation, bytes: Uint8Array, offset: number, write: boolean): boolean {
    let at = offset;
    for (let i = 0; i < pieces.count; i++) {
      const length = pieces.length[i]!;
      const gpa = pieces.gpa[i]!;
      if (pieces.kind[i] === PieceKind.msi) {
        const address = this.#state.unit.addressOf(pieces.unit[i]!) + BigInt(pieces.offset[i]!);
        this.#msi(this.endpoint, address, bytes.slice(at, at + length));
      } else {
        const moved = write
          ? this.#memory.dmaWrite(gpa, bytes, at, length)
          : this.#memory.dmaRead(gpa, bytes, at, length);
        if (!moved) return false;
      }
      at += length;
    }
    return true;
  }

  #take(): Translation {
    return this.#idle.pop() ?? new Translation();
  }

  #translate(iova: bigint, length: number, write: boolean, pieces: Translation): boolean {
    checkBigint('iova', iova, 0n, U64_MAX);
    const endpoint: Endpoint | undefined = this.#state.endpoints.get(this.endpoint);
    const high = Number(iova >> 32n);
    const low = Number(iova & 0xffff_ffffn);
    this.#state.counters.translations++;
    if (translateAccess(this.#state, endpoint, high, low, length, write, pieces)) return true;
    reportFault(this.#state, this.endpoint, endpoint, write, pieces);
    return false;
  }

  #allBacked(pieces: Translation, write: boolean): boolean {
    if (pieces.count === 1) return true; // one move is all or nothing itself
    for (let i = 0; i < pieces.count; i++) {
      if (pieces.kind[i] === PieceKind.memory && !this.#memory.dmaReachable(pieces.gpa[i]!, pieces.length[i]!, write))
        return false;
    }
    return true;
  }
}

function checkSpan(bytes: unknown, offset: number, length: number): void {
  if (!(bytes instanceof Uint8Array)) throw new TypeError('the buffer must be a Uint8Array');
  checkInteger('offset', offset, 0, bytes.length);
  checkInteger('length', length, 0, bytes.length - offset);
}
