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
 * translated whole before a byte moves. Addresses are I/O virtual bytes; lengths are bytes.
 */
export class DmaView {
  readonly endpoint: number;
  readonly #state: IommuState;
  readonly #memory: GuestMemory;
  readonly #msi: MsiSink;
  readonly #pieces = new Translation();

  constructor(state: IommuState, memory: GuestMemory, endpoint: number, msi: MsiSink) {
    this.endpoint = endpoint;
    this.#state = state;
    this.#memory = memory;
    this.#msi = msi;
  }

  /** Reads `length` bytes (default: the rest of `into`) at `iova` into `into[offset..]`. */
  read(iova: bigint, into: Uint8Array, offset = 0, length = into.length - offset): DmaResult {
    checkSpan(into, offset, length);
    if (length === 0) return 'ok';
    if (!this.#translate(iova, length, false)) return 'fault';
    const pieces = this.#pieces;
    let at = offset;
    for (let i = 0; i < pieces.count; i++) {
      const bytes = pieces.length[i]!;
      if (!this.#memory.dmaRead(pieces.gpa[i]!, into, at, bytes)) return 'unbacked';
      at += bytes;
    }
    return 'ok';
  }

  /** Writes `length` bytes (default: the rest of `from`) of `from[offset..]` at `iova`. */
  write(iova: bigint, from: Uint8Array, offset = 0, length = from.length - offset): DmaResult {
    checkSpan(from, offset, length);
    if (length === 0) return 'ok';
    if (!this.#translate(iova, length, true)) return 'fault';
    const pieces = this.#pieces;
    if (!this.#allBacked()) return 'unbacked';
    let at = offset;
    for (let i = 0; i < pieces.count; i++) {
      const bytes = pieces.length[i]!;
      const gpa = pieces.gpa[i]!;
      if (pieces.kind[i] === PieceKind.msi) this.#msi(this.endpoint, BigInt(gpa), from.slice(at, at + bytes));
      else if (!this.#memory.dmaWrite(gpa, from, at, bytes)) return 'unbacked';
      at += bytes;
    }
    return 'ok';
  }

  /** Reads a little-endian 16-bit number in one atomic load; undefined when the access is refused or `iova` is odd. */
  loadU16(iova: bigint): number | undefined {
    if (!this.#translate(iova, 2, false) || this.#pieces.count !== 1) return undefined;
    const value = this.#memory.loadU16(this.#pieces.gpa[0]!);
    return value < 0 ? undefined : value;
  }

  /** Writes a little-endian 16-bit number in one atomic store; false when the access is refused or `iova` is odd. */
  storeU16(iova: bigint, value: number): boolean {
    if (!this.#translate(iova, 2, true) || this.#pieces.count !== 1) return false;
    return this.#pieces.kind[0] === PieceKind.memory && this.#memory.storeU16(this.#pieces.gpa[0]!, value);
  }

  #translate(iova: bigint, length: number, write: boolean): boolean {
    checkBigint('iova', iova, 0n, U64_MAX);
    const endpoint: Endpoint | undefined = this.#state.endpoints.get(this.endpoint);
    const high = Number(iova >> 32n);
    const low = Number(iova & 0xffff_ffffn);
    this.#state.counters.translations++;
    if (translateAccess(this.#state, endpoint, high, low, length, write, this.#pieces)) return true;
    reportFault(this.#state, this.endpoint, endpoint, write, this.#pieces);
    return false;
  }

  #allBacked(): boolean {
    const pieces = this.#pieces;
    if (pieces.count === 1) return true; // dmaWrite itself is all or nothing
    for (let i = 0; i < pieces.count; i++) {
      if (pieces.kind[i] === PieceKind.memory && !this.#memory.dmaReachable(pieces.gpa[i]!, pieces.length[i]!, true))
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
