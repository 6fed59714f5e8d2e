// Simulated physical memory: hands each backing object its own range of physical page numbers and finds it again.
// Unit: 4 KiB page numbers; ends exclusive. Ranges are never reused, so a stale page number finds nothing else.
import { IntervalTable, NONE } from '../../intervals/table.ts';
import { BackingObject } from './backing-object.ts';
import type { BackingKind, FileAccess } from './backing-object.ts';
import { PhysicalLayout } from './physical-layout.ts';

const PAGES_2M = 512;
const PAGES_1G = 512 * 512;

/** All backing objects by physical page. */
export class PhysicalMemory {
  readonly #ranges = new IntervalTable();
  readonly #objects = new Map<number, BackingObject>();
  #top = PAGES_1G;
  #last: BackingObject | undefined;

  #zeroPage: BackingObject | undefined;

  /** The page of zeroes that stands for anonymous pages without memory of their own; nothing maps it. */
  get zeroPage(): number {
    this.#zeroPage ??= this.create('pfnmap', 1, 1, undefined);
    return this.#zeroPage.layout.base;
  }

  /** Number of objects that exist. */
  get size(): number {
    return this.#objects.size;
  }

  /** Makes an object at a 2M-aligned physical address, 1G-aligned from 1 GiB on; `seed` undefined: contiguous. */
  create(
    kind: BackingKind,
    pages: number,
    granule: number,
    seed: number | undefined,
    file?: FileAccess,
  ): BackingObject {
    const alignment = Math.max(granule, pages >= PAGES_1G ? PAGES_1G : PAGES_2M);
    const base = Math.ceil(this.#top / alignment) * alignment;
    const object = new BackingObject(kind, new PhysicalLayout(base, pages, granule, seed), file);
    // One page between objects, so that no two of them are ever physically contiguous.
    this.#top = base + pages + 1;
    this.#ranges.insert(base, base + pages, base, 0);
    this.#objects.set(base, object);
    return object;
  }

  /** Forgets an object that nothing maps and no device reaches. */
  drop(object: BackingObject): void {
    this.#ranges.remove(object.layout.base);
    this.#objects.delete(object.layout.base);
    if (this.#last === object) this.#last = undefined;
  }

  /** The object whose physical range holds page `physical`. */
  objectAt(physical: number): BackingObject | undefined {
    const last = this.#last;
    if (last !== undefined && physical >= last.layout.base && physical < last.layout.base + last.pages) return last;
    const slot = this.#ranges.find(physical);
    if (slot === NONE) return undefined;
    this.#last = this.#objects.get(this.#ranges.valueAt(slot));
    return this.#last;
  }
}
