// Words of memory as a device sees them: through the DMA of the edu device and a page of its own in the same container.
// Unit: 4 KiB page numbers of I/O virtual memory, below 4 GiB.
import { GuestRam } from '../../../../src/host/guest-ram.ts';
import { BUFFER_BYTES, EduRegisters } from './edu-registers.ts';
import type { Lab } from './lab.ts';

const K4 = 4096;
const RW = 3;
/** Where the page lies through which words go into the device and come out; mapped for each transfer only. */
const SCRATCH_IOVA = 0x0f00_0000;
const SLOTS = BUFFER_BYTES / 4;
/** What a slot holds before a transfer: no page of a case has such a word. */
const NONCE = 0xa500_0000;

/** A look at memory from the device's side. */
export class DeviceProbe {
  readonly #lab: Lab;
  readonly #edu: EduRegisters;
  readonly #scratch = GuestRam.create({ size: BigInt(K4) });
  readonly #words = new Uint32Array(this.#scratch.windows[0]!);
  #slot = SLOTS;

  constructor(lab: Lab) {
    this.#lab = lab;
    this.#edu = new EduRegisters(lab.device);
  }

  /** The first word of a page, which must not be 0; undefined when the device does not get it. */
  read(page: number): number | undefined {
    return this.#withScratch((slot) => {
      this.#edu.fetch(page * K4, slot, 4);
      this.#edu.store(slot, SCRATCH_IOVA, 4);
      const word = this.#words[0]!;
      return word === 0 || word === (NONCE | slot) >>> 0 ? undefined : word;
    });
  }

  /** Writes the first word of a page, if the device is let. */
  write(page: number, word: number): void {
    this.#withScratch((slot) => {
      this.#words[0] = word;
      this.#edu.fetch(SCRATCH_IOVA, slot, 4);
      this.#edu.store(slot, page * K4, 4);
    });
  }

  close(): void {
    this.#scratch.close();
  }

  #withScratch<T>(run: (slot: number) => T): T {
    const { context } = this.#lab;
    const [iova, size] = [BigInt(SCRATCH_IOVA), BigInt(K4)];
    const { errno } = context.mapDma({ flags: RW, vaddr: this.#scratch.hva, iova, size });
    if (errno !== 0) throw new Error(`the scratch page cannot be mapped: errno ${errno}`);
    try {
      if (this.#slot === SLOTS) this.#prime();
      return run(this.#slot++);
    } finally {
      context.unmapDma({ iova, size });
    }
  }

  /** Gives every slot a nonce, by which a read that did not happen shows. */
  #prime(): void {
    for (let slot = 0; slot < SLOTS; slot++) this.#words[slot] = NONCE | slot;
    this.#edu.fetch(SCRATCH_IOVA, 0, BUFFER_BYTES);
    this.#slot = 0;
  }
}
