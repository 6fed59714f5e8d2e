// The edu device attached to an address space, guest RAM, and short ways to map, unmap and look. Runs in the machine.
// Unit: 4 KiB pages; page i of the RAM carries a stamp of its own.
import assert from 'node:assert/strict';
import { HostBatch } from '../../../src/host/context.ts';
import { GuestRam } from '../../../src/host/guest-ram.ts';
import { IommufdContext } from '../../../src/host/iommufd.ts';
import type { IommufdOptions } from '../../../src/host/iommufd.ts';
import { readHost } from '../../../src/host/sysfs.ts';
import { Edu } from '../host/edu.ts';
import type { GuestEnv } from '../host/guest-env.ts';

export const RW = 3;
const PAGE = 4096;
const K4 = 4096n;
const WORDS = PAGE / 4;
/** Bytes of a page that a look moves. */
const STAMP = 16;

/** One attached device with memory. */
export class Lab {
  readonly context: IommufdContext;
  readonly ram: GuestRam;
  readonly edu: Edu;
  readonly words: Uint32Array;
  /** First host virtual page of the RAM. */
  readonly va: number;
  readonly #batch = new HostBatch();
  #salt = 0;

  constructor(env: GuestEnv, pages: number, options: Partial<IommufdOptions> = {}) {
    this.context = IommufdContext.open({ group: env.edu.group, ...options });
    this.ram = GuestRam.create({ size: BigInt(pages) * K4, preallocate: true });
    this.words = new Uint32Array(this.ram.windows[0]!);
    this.va = Number(this.ram.hva / K4);
    this.edu = new Edu(this.context.devices[0]!);
    this.edu.start();
    this.stamp();
  }

  /** Runs `use` on a lab and ends it. */
  static async with(
    env: GuestEnv,
    pages: number,
    options: Partial<IommufdOptions>,
    use: (lab: Lab) => void | Promise<void>,
  ): Promise<void> {
    const lab = new Lab(env, pages, options);
    try {
      await use(lab);
    } finally {
      lab.close();
    }
  }

  /** Writes a fresh stamp into every page of the RAM. */
  stamp(): void {
    this.#salt++;
    for (let page = 0; page * WORDS < this.words.length; page++)
      this.words.fill(this.stampOf(page), page * WORDS, page * WORDS + 4);
  }

  /** The word that stands in page `page` of the RAM. */
  stampOf(page: number): number {
    return ((this.#salt << 24) | 0x80_0000 | page) >>> 0;
  }

  /** Maps RAM from page `page` on; returns 0 or errno. */
  map(iova: number, pages: number, page: number, rights = RW, context = this.context): number {
    return this.mapVa(iova, pages, this.va + page, rights, context);
  }

  mapVa(iova: number, pages: number, va: number, rights = RW, context = this.context): number {
    this.#batch.clear();
    this.#batch.map(iova, pages, va, rights);
    return context.apply(this.#batch, 0) === 1 ? 0 : this.#batch.errno[0]!;
  }

  /** Unmaps; returns errno and the pages removed. */
  unmap(iova: number, pages: number, context = this.context): [errno: number, done: number] {
    this.#batch.clear();
    this.#batch.unmap(iova, pages);
    context.apply(this.#batch, 0);
    return [this.#batch.errno[0]!, this.#batch.done[0]!];
  }

  /** True when the device reads page `page` of the RAM at `iova`; `out` is a mapped I/O page of RAM page 0 of no other use. */
  async reads(iova: number, page: number, out: number, edu = this.edu): Promise<boolean> {
    const nonce = 0x5a5a_0000 | (iova & 0xffff);
    this.words.fill(nonce, 0, 4);
    await edu.load(BigInt(out) * K4, STAMP);
    this.words.fill(0, 0, 4);
    await edu.load(BigInt(iova) * K4, STAMP);
    await edu.store(BigInt(out) * K4, STAMP);
    const seen = this.words[0]!;
    return seen === this.stampOf(page);
  }

  /** True when a write of the device at `iova` changes page `page` of the RAM; `source` is a mapped I/O page of RAM page 0. */
  async writes(iova: number, page: number, source: number, edu = this.edu): Promise<boolean> {
    const word = 0x1234_0000 | (iova & 0xffff);
    this.words.fill(word, 0, 4);
    await edu.load(BigInt(source) * K4, STAMP);
    await edu.store(BigInt(iova) * K4, STAMP);
    const changed = this.words[page * WORDS] === word;
    this.words.fill(this.stampOf(page), page * WORDS, page * WORDS + 4);
    return changed;
  }

  close(): void {
    this.context.close();
    this.ram.close();
  }
}

/** Faults that the IOMMU has reported since the machine started. */
export function dmaFaults(): number {
  const log = readHost().kernelLog;
  assert.ok(log !== undefined, 'the kernel log cannot be read');
  return log.split('\n').filter((line) => /DMAR: \[DMA (Read|Write)|AMD-Vi: Event logged \[IO_PAGE_FAULT/.test(line))
    .length;
}
