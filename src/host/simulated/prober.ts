// DmaProber: what one passed-through device can reach at this moment, byte for byte, and the DMA it would do.
// Unit: bigint bytes at the public edge, 4 KiB page numbers on the fast path. A blocked access never throws.
import { checkBigint, checkInteger, checkOneOf } from '../../base/check.ts';
import type { MemoryByte, SimulatedAddressSpace } from './address-space.ts';
import type { SimulatedDevice } from './device.ts';
import type { ReachableRun } from './io-page-table.ts';

const IOVA_END = 1n << 64n;
const LENGTH_MAX = 2 ** 30;

/** The eyes and hands of one device behind the simulated host IOMMU. */
export class DmaProber {
  readonly endpoint: number;
  /** Pages that {@link read} could not reach. */
  blockedReads = 0;
  /** Pages that {@link write} could not reach. */
  blockedWrites = 0;
  readonly #device: SimulatedDevice;
  readonly #memory: SimulatedAddressSpace;

  constructor(device: SimulatedDevice, memory: SimulatedAddressSpace) {
    this.endpoint = device.endpoint;
    this.#device = device;
    this.#memory = memory;
  }

  /**
   * Physical page that the device reaches at I/O virtual page `iovaPage`, -1 when it is blocked: not mapped, no right,
   * bus mastering off, or the group has no open context. Counts nothing.
   */
  physicalPageAt(iovaPage: number, write: boolean): number {
    const { table, busMaster } = this.#device;
    return table === undefined || !busMaster ? -1 : table.physicalPage(iovaPage, write);
  }

  /** The byte that the device reaches at `iova`, undefined when it is blocked. Counts nothing. */
  translate(iova: bigint, access: 'read' | 'write'): MemoryByte | undefined {
    const address = checkBigint('iova', iova, 0n, IOVA_END - 1n);
    const write = checkOneOf('access', access, ['read', 'write']) === 'write';
    const physical = this.physicalPageAt(Number(address / 4096n), write);
    if (physical < 0) return undefined;
    const object = this.#memory.objectAt(physical)!;
    const inPage = address % 4096n;
    return {
      physical: BigInt(physical) * 4096n + inPage,
      object,
      offset: BigInt(object.layout.pageOf(physical)) * 4096n + inPage,
    };
  }

  /**
   * What the device reads from [iova, iova + length), length <= 1 GiB: a copy, or undefined when one of its pages is
   * blocked (real hardware aborts only those transactions, and the device sees whatever its bus returns).
   */
  read(iova: bigint, length: number): Uint8Array | undefined {
    checkInteger('length', length, 0, LENGTH_MAX);
    const bytes = new Uint8Array(length);
    const blocked = this.#move(iova, bytes, false);
    this.blockedReads += blocked;
    return blocked === 0 ? bytes : undefined;
  }

  /**
   * The device writes `bytes` (at most 1 GiB) at `iova`; true when all of them arrived. As on hardware each 4 KiB page
   * is all or nothing for itself: what lies in reachable pages is written also when another page is blocked.
   */
  write(iova: bigint, bytes: Uint8Array): boolean {
    checkInteger('bytes.length', bytes.length, 0, LENGTH_MAX);
    const blocked = this.#move(iova, bytes, true);
    this.blockedWrites += blocked;
    return blocked === 0;
  }

  /**
   * Everything the device reaches, in order, joined where I/O virtual and physical pages continue with equal rights.
   * The rights are those of the entry: with `writeOnlyReadable` the device can read a write-only stretch as well.
   */
  reachable(): ReachableRun[] {
    const { table, busMaster } = this.#device;
    return table === undefined || !busMaster ? [] : table.runs();
  }

  /** Moves bytes page by page; returns the number of blocked pages. */
  #move(iova: bigint, bytes: Uint8Array, write: boolean): number {
    const start = checkBigint('iova', iova, 0n, IOVA_END - 1n);
    checkBigint('iova + length', start + BigInt(bytes.length), 0n, IOVA_END);
    let page = Number(start / 4096n);
    let inPage = Number(start % 4096n);
    let blocked = 0;
    for (let done = 0; done < bytes.length; page++, inPage = 0) {
      const part = bytes.subarray(done, done + Math.min(4096 - inPage, bytes.length - done));
      const physical = this.physicalPageAt(page, write);
      if (physical < 0) blocked++;
      else this.#movePart(physical, inPage, part, write);
      done += part.length;
    }
    return blocked;
  }

  #movePart(physical: number, inPage: number, part: Uint8Array, write: boolean): void {
    const object = this.#memory.objectAt(physical)!;
    const offset = object.layout.pageOf(physical) * 4096 + inPage;
    if (write) object.write(offset, part);
    else object.read(offset, part);
  }
}
