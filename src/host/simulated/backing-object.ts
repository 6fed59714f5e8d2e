// What a virtual mapping shows: a simulated memfd, anonymous memory, hugetlb file, file-system file or device BAR.
// Holds the bytes (allocated when first touched) and the physical layout. Unit: 4 KiB pages; byte offsets are numbers.
import { Errno } from '../../base/errors.ts';
import { PhysicalLayout } from './physical-layout.ts';

/** Kind of memory; `pfnmap` is a mapped BAR, `file` a file of a file system that needs dirty tracking. */
export type BackingKind = 'memfd' | 'anonymous' | 'hugetlb' | 'pfnmap' | 'file';

/** What a file is sealed against (F_SEAL_* of memfd_create(2)). */
export type FileSeal = 'shrink' | 'grow' | 'seal' | 'write' | 'future-write';

/** How the process holds the file of an object. */
export interface FileAccess {
  /** Opened for reading only (O_RDONLY). */
  readonly readOnly: boolean;
  readonly seals: readonly FileSeal[];
}

const PLAIN_FILE: FileAccess = { readOnly: false, seals: [] };

/** Size of the byte arrays that hold an object, the last one excepted. */
export const WINDOW_BYTES = 2 ** 30;

const PAGE_BYTES = 4096;

/** One piece of memory with identity: the same object mapped twice shows the same bytes and physical pages. */
export class BackingObject {
  readonly kind: BackingKind;
  readonly layout: PhysicalLayout;
  /** Seals of the file; none for what has no file. */
  readonly seals: readonly FileSeal[];
  /** Errno of mmap() for a new writable shared mapping: EACCES of a read-only descriptor, EPERM of a seal, 0. */
  readonly writeRefusal: number;
  readonly #windows: (ArrayBuffer | undefined)[];
  /** Pages of anonymous memory that were written, one byte each; undefined: none. */
  #written: Uint8Array | undefined;
  /** Pages of virtual address space that show this object now, kept by the address space. */
  mappedPages = 0;
  /** True once a host entry has pinned a page, so that a device may still reach it when nothing maps it. */
  pinned = false;

  constructor(kind: BackingKind, layout: PhysicalLayout, file = PLAIN_FILE) {
    this.kind = kind;
    this.layout = layout;
    this.seals = file.seals;
    const sealed = file.seals.includes('write') || file.seals.includes('future-write');
    this.writeRefusal = file.readOnly ? Errno.EACCES : sealed ? Errno.EPERM : 0;
    this.#windows = new Array<ArrayBuffer | undefined>(Math.ceil(this.bytes / WINDOW_BYTES)).fill(undefined);
  }

  /** Size in 4 KiB pages. */
  get pages(): number {
    return this.layout.pages;
  }

  /** Size in bytes. */
  get bytes(): number {
    return this.layout.pages * PAGE_BYTES;
  }

  /** Page size of the backing in bytes (hugetlb: the huge page). */
  get pageSize(): number {
    return this.layout.granule * PAGE_BYTES;
  }

  /** Whether the object is a file that can be mapped a second time, other than the registers of a device. */
  get isFile(): boolean {
    return this.kind !== 'anonymous' && this.kind !== 'pfnmap';
  }

  /** Whether neighbouring mappings of it stay apart (VM_SPECIAL, VM_HUGETLB); others merge when they continue each other. */
  get staysApart(): boolean {
    return this.kind === 'hugetlb' || this.kind === 'pfnmap';
  }

  /** The bytes of the whole object in order, in arrays of 1 GiB and a shorter last one; allocates all of them. */
  get windows(): ArrayBuffer[] {
    // Whoever has them may write everywhere.
    this.markWritten(0, this.pages);
    return this.#windows.map((_, index) => this.#window(index));
  }

  /** Copies `into.length` bytes at `offset` into `into`; must stay inside one 4 KiB page. */
  read(offset: number, into: Uint8Array): void {
    const index = Math.floor(offset / WINDOW_BYTES);
    const window = this.#windows[index];
    if (window === undefined) into.fill(0);
    else into.set(new Uint8Array(window, offset - index * WINDOW_BYTES, into.length));
  }

  /** Copies `bytes` to `offset`; must stay inside one 4 KiB page. */
  write(offset: number, bytes: Uint8Array): void {
    this.markWritten(Math.floor(offset / PAGE_BYTES), 1);
    const index = Math.floor(offset / WINDOW_BYTES);
    new Uint8Array(this.#window(index), offset - index * WINDOW_BYTES, bytes.length).set(bytes);
  }

  /** False for a page of anonymous memory that nobody has written: it has no memory of its own yet. */
  hasOwnPage(page: number): boolean {
    return this.kind !== 'anonymous' || this.#written?.[page] === 1;
  }

  /** Gives [page, page + pages) memory of their own. */
  markWritten(page: number, pages: number): void {
    if (this.kind !== 'anonymous') return;
    this.#written ??= new Uint8Array(this.pages);
    this.#written.fill(1, page, page + pages);
  }

  #window(index: number): ArrayBuffer {
    return (this.#windows[index] ??= new ArrayBuffer(Math.min(WINDOW_BYTES, this.bytes - index * WINDOW_BYTES)));
  }
}
