// What a client lets its device reach: DMA_MAP and DMA_UNMAP, and the guest memory that is made of them.
// Not here: messages (dma-messages.ts). Ranges are address + size in bytes, end exclusive, at most 2^53.
import { Errno, HostError, isHostError } from '../base/errors.ts';
import type { GuestMemory, MemoryRegion } from '../virtio/memory.ts';
import type { AdoptedFile } from './adopted-file.ts';
import { adoptFile } from './adopted-file.ts';

/** What a client may do with its device's memory, at most. */
export interface DmaLimits {
  /** Mappings at a time. */
  readonly maxMaps: number;
  /** Bytes of files mapped at a time. */
  readonly maxBytes: number;
  /** Refuse files that the client can shrink. */
  readonly requireSealed: boolean;
}

/** One mapping of the client. */
interface Mapping {
  readonly start: number;
  readonly end: number;
  readonly readable: boolean;
  readonly writable: boolean;
  /** The file and its place in guest memory; none for what only DMA_READ and DMA_WRITE reach. */
  readonly file: AdoptedFile | undefined;
  region: MemoryRegion | undefined;
}

/** A mapping as the client asks for it; `address`, `size` and `offset` are multiples of 4096. */
export interface MapOrder {
  readonly address: number;
  readonly size: number;
  readonly readable: boolean;
  readonly writable: boolean;
  /** Descriptor of the file, -1 for none; it stays the caller's. */
  readonly fd: number;
  readonly offset: bigint;
}

/** Tells of what the owner should know; one call each. */
export type Notice = (message: string) => void;

/** Refusals of a client that are told. */
const REFUSALS_TOLD = 8;

/** The mappings of one client, sorted by address. Results are 0 or an errno. */
export class DmaTable {
  readonly #memory: GuestMemory;
  readonly #limits: DmaLimits;
  readonly #notice: Notice;
  #rows: Mapping[] = [];
  #bytes = 0;
  #warned = false;
  #refusals = 0;
  /** Guest memory is telling its observers; what one of them asks for (the server's end) is done afterwards. */
  #busy = false;
  #clearLater = false;

  constructor(memory: GuestMemory, limits: DmaLimits, notice: Notice) {
    this.#memory = memory;
    this.#limits = limits;
    this.#notice = notice;
  }

  /** Another client: what it does wrong is told again. */
  newClient(): void {
    this.#warned = false;
    this.#refusals = 0;
  }

  /** Number of mappings, those without a file too. */
  get count(): number {
    return this.#rows.length;
  }

  /** Bytes of files that are mapped. */
  get mappedBytes(): number {
    return this.#bytes;
  }

  /** Adds a mapping: EEXIST where one is, ENOSPC at a limit, or what the host says of the file. */
  map(order: MapOrder, maxMaps: number): number {
    const { address, size, fd } = order;
    const end = address + size;
    const at = this.#firstBehind(address);
    const next = this.#rows[at];
    if (next !== undefined && next.start < end) return Errno.EEXIST;
    if (this.#rows.length >= Math.min(maxMaps, this.#limits.maxMaps)) return Errno.ENOSPC;
    if (fd >= 0 && this.#bytes + size > this.#limits.maxBytes) return Errno.ENOSPC;
    if (this.#busy) return Errno.EBUSY;
    return this.#exclusively(() => this.#insert(at, order));
  }

  #insert(at: number, order: MapOrder): number {
    const { address, size, readable, writable, fd } = order;
    try {
      const backing = fd < 0 ? undefined : this.#adopt(order);
      this.#rows.splice(at, 0, {
        start: address,
        end: address + size,
        readable,
        writable,
        file: backing?.file,
        region: backing?.region,
      });
      if (fd >= 0) this.#bytes += size;
      return 0;
    } catch (error) {
      return this.#errnoOf(`mapping 0x${address.toString(16)}`, error);
    }
  }

  /** Removes every mapping wholly inside; ENOENT when there is none, EINVAL when one is partly inside: nothing is removed then. */
  unmap(address: number, end: number): number {
    const first = this.#firstBehind(address);
    let last = first;
    while (last < this.#rows.length && this.#rows[last]!.start < end) last++;
    if (first === last) return Errno.ENOENT;
    if (this.#rows[first]!.start < address || this.#rows[last - 1]!.end > end) return Errno.EINVAL;
    if (this.#busy) return Errno.EBUSY;
    return this.#exclusively(() => this.#remove(first, last));
  }

  /** Removes every mapping; 0 also when there was none. From inside an observer of guest memory: when that is done. */
  unmapAll(): number {
    if (this.#busy) {
      this.#clearLater = true;
      return 0;
    }
    return this.#exclusively(() => this.#remove(0, this.#rows.length));
  }

  /** Runs a change, and then the removal of everything that was asked for meanwhile: EBUSY where the change is undone so. */
  #exclusively(change: () => number): number {
    this.#busy = true;
    let errno: number;
    try {
      errno = change();
    } finally {
      this.#busy = false;
    }
    if (!this.#clearLater) return errno;
    this.#clearLater = false;
    this.unmapAll();
    return Errno.EBUSY;
  }

  /** True when [address, end) is mapped without gaps and with the right. */
  allows(address: number, end: number, write: boolean): boolean {
    let at = address;
    for (let i = this.#firstBehind(address); at < end; i++) {
      const row = this.#rows[i];
      if (row === undefined || row.start > at || !(write ? row.writable : row.readable)) return false;
      at = row.end;
    }
    return true;
  }

  /** Index of the first mapping that ends behind `address`. */
  #firstBehind(address: number): number {
    let low = 0;
    let high = this.#rows.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#rows[middle]!.end <= address) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #adopt({ fd, offset, address, size, writable }: MapOrder): { file: AdoptedFile; region: MemoryRegion } {
    const file = adoptFile(fd, offset, BigInt(size));
    try {
      if (!file.sealed) this.#unsealed();
      const region = this.#memory.addRegion({ ...file.region(BigInt(address)), readOnly: !writable });
      return { file, region };
    } catch (error) {
      file.ram.close();
      throw error;
    }
  }

  #unsealed(): void {
    if (this.#limits.requireSealed) {
      throw new HostError('ERR_VIOMMU_HOST_INCOMPATIBLE', 'the file lacks F_SEAL_SHRINK: use memory-backend-memfd', {
        errno: Errno.EPERM,
        syscall: 'F_GET_SEALS',
      });
    }
    if (this.#warned) return;
    this.#warned = true;
    this.#notice(
      'the client can shrink the file of its memory (no F_SEAL_SHRINK), which would end this process: use a sealed memfd ' +
        '(memory-backend-memfd) where the client is not trusted',
    );
  }

  /** Takes rows [first, last) out of guest memory, then gives their files back; all or none. */
  #remove(first: number, last: number): number {
    const rows = this.#rows.slice(first, last);
    try {
      for (const row of rows) {
        if (row.region === undefined) continue;
        this.#memory.removeRegion(row.region);
        row.region = undefined;
      }
    } catch (error) {
      const errno = this.#errnoOf('removing memory', error);
      this.#putBack(rows);
      return errno;
    }
    this.#rows.splice(first, last - first);
    for (const row of rows) {
      if (row.file === undefined) continue;
      this.#bytes -= row.end - row.start;
      row.file.ram.close();
    }
    return 0;
  }

  #putBack(rows: readonly Mapping[]): void {
    for (const row of rows) {
      if (row.region !== undefined || row.file === undefined) continue;
      const init = { ...row.file.region(BigInt(row.start)), readOnly: !row.writable };
      row.region = this.#memory.addRegion(init);
    }
  }

  #errnoOf(what: string, error: unknown): number {
    // A client must not fill a log.
    if (this.#refusals++ < REFUSALS_TOLD) {
      this.#notice(`${what} was refused: ${error instanceof Error ? error.message : String(error)}`);
    }
    if (isHostError(error)) return error.errno === 0 ? Errno.EIO : error.errno;
    // Another region of this memory, which the embedder has put there, or an observer with a word of its own.
    return error instanceof RangeError ? Errno.EEXIST : Errno.EBUSY;
  }
}
