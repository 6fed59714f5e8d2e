// Counts, and on demand reports, what an endpoint reaches through the IOMMU, so that a status can prove that its DMA is
// translated. Not here: the translation (DmaView). Addresses are bytes.
import type { DmaAccess } from '../devices/dma-access.ts';
import type { IommuCore, AccessPiece } from '../iommu/core.ts';
import type { DmaResult, DmaView } from '../iommu/dma-view.ts';

/** An access that was let through. */
export type AccessSink = (iova: bigint, length: number, write: boolean, pieces: readonly AccessPiece[]) => void;

/** Accesses of one endpoint. */
export interface AccessCounts {
  /** Accesses that were let through; those of them whose bytes all lay where their address says; refused ones. */
  readonly accesses: number;
  readonly identical: number;
  readonly refused: number;
}

/** A {@link DmaView} that is watched. Each access is translated a second time, for the pieces that it reached. */
export class ObservedDma implements DmaAccess {
  readonly #core: IommuCore;
  readonly #view: DmaView;
  readonly #sink: AccessSink | undefined;
  #accesses = 0;
  #identical = 0;
  #refused = 0;

  constructor(core: IommuCore, view: DmaView, sink?: AccessSink) {
    this.#core = core;
    this.#view = view;
    this.#sink = sink;
  }

  /** A snapshot of the counters. */
  stats(): AccessCounts {
    return { accesses: this.#accesses, identical: this.#identical, refused: this.#refused };
  }

  read(iova: bigint, into: Uint8Array, offset?: number, length = into.length - (offset ?? 0)): DmaResult {
    const result = this.#view.read(iova, into, offset, length);
    this.#note(iova, length, false, result === 'ok');
    return result;
  }

  write(iova: bigint, from: Uint8Array, offset?: number, length = from.length - (offset ?? 0)): DmaResult {
    const result = this.#view.write(iova, from, offset, length);
    this.#note(iova, length, true, result === 'ok');
    return result;
  }

  loadU16(iova: bigint): number | undefined {
    const value = this.#view.loadU16(iova);
    this.#note(iova, 2, false, value !== undefined);
    return value;
  }

  storeU16(iova: bigint, value: number): boolean {
    const stored = this.#view.storeU16(iova, value);
    this.#note(iova, 2, true, stored);
    return stored;
  }

  #note(iova: bigint, length: number, write: boolean, reached: boolean): void {
    if (length === 0) return;
    if (!reached) {
      this.#refused++;
      return;
    }
    this.#accesses++;
    const result = this.#core.translate(this.#view.endpoint, iova, length, write ? 'write' : 'read');
    if (!result.ok) return; // what was written were registers that changed the mapping
    let at = iova;
    let identical = true;
    for (const piece of result.pieces) {
      identical &&= piece.gpa === at;
      at += BigInt(piece.length);
    }
    if (identical) this.#identical++;
    this.#sink?.(iova, length, write, result.pieces);
  }
}
