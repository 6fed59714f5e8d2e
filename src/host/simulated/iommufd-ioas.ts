// SimulatedIoas: one address space of iommufd (struct iommufd_ioas) with its areas, what is pinned for them, and the I/O page
// tables of the groups that are attached to it. Equal IOMMUs have one table (an automatic hw_pagetable) together.
// Not here: argument checks (iommufd-rules.ts), who pins what (iopt-pages.ts), batches, faults and costs of calls
// (iommufd-context.ts). Unit: 4 KiB page numbers, ends exclusive.
import { Errno } from '../../base/errors.ts';
import { IntervalTable } from '../../intervals/table.ts';
import { HostRight } from '../context.ts';
import type { AreaSlice, AreaSource } from './area-table.ts';
import { AreaTable } from './area-table.ts';
import type { IommufdRules } from './iommufd-rules.ts';
import { IoPageTable } from './io-page-table.ts';
import { IoptPages } from './iopt-pages.ts';
import type { Machine } from './machine.ts';
import { PinList } from './pin-list.ts';
import { PAGE_END } from './type1-rules.ts';

/** A group that uses an address space, attached to it or not; the object itself is its identity. */
export interface IoasUser {
  /** Reserved addresses and alignment of the group's devices. */
  readonly rules: IommufdRules;
  /** IOPTE sizes of the group's IOMMU that are in use, in bytes. */
  readonly ioptes: bigint;
  readonly writeOnlyReadable: boolean;
  /** RLIMIT_MEMLOCK in pages, Infinity with CAP_IPC_LOCK. */
  readonly memlockLimit: number;
  /** Told the number of areas when one is added. */
  readonly seeAreas: (count: number) => void;
}

interface Domain {
  readonly ioptes: bigint;
  readonly writeOnlyReadable: boolean;
  readonly table: IoPageTable;
}

/** An address space; it is pinned while at least one group is attached, and only then devices reach it. */
export class SimulatedIoas {
  /** Area [iova, end) -> (unused, rights). */
  readonly live = new IntervalTable();
  readonly areas = new AreaTable(this.live);
  /** Pages pinned by areas: a page of two areas counts twice. */
  pinnedPages = 0;
  /** iova_alignment: the largest of the attached groups in pages; 0 when none is, which takes any byte. */
  unit = 0;
  /** Areas and pages that the last {@link remove} took away. */
  removedAreas = 0;
  removedPages = 0;
  readonly #machine: Machine;
  readonly #pins = new PinList();
  #users: readonly IoasUser[] = [];
  #attached: readonly IoasUser[] = [];
  #domains: readonly Domain[] = [];

  constructor(machine: Machine) {
    this.#machine = machine;
  }

  /** Number of groups that use this address space. */
  get userCount(): number {
    return this.#users.length;
  }

  /** One more group uses this address space; whether it is attached is another matter. */
  join(user: IoasUser): void {
    this.#users = [...this.#users, user];
    user.seeAreas(this.live.size);
  }

  /** A group no longer uses this address space, and is no longer attached to it. */
  leave(user: IoasUser): void {
    this.detach(user);
    this.#users = this.#users.filter((each) => each !== user);
  }

  /** The page table behind which the devices of `user` stand when they are attached. */
  tableOf(user: IoasUser): IoPageTable | undefined {
    return this.#domainOf(user)?.table;
  }

  /**
   * VFIO_DEVICE_ATTACH_IOMMUFD_PT for a group; `replacing`: it is attached elsewhere, and let go there by the caller. Returns
   * 0, EADDRINUSE (an area is outside its usable addresses or not aligned), for the first group EFAULT or ENOMEM; then
   * nothing is pinned or mapped that was not before.
   */
  attach(user: IoasUser, replacing: boolean): number {
    // A replace first makes and fills the page table, for which only the aperture counts, when there is none to be had.
    const late = replacing && this.#attached.length === 0;
    const errno = this.#checkAreas(user.rules, late) || this.#addDomain(user);
    if (errno !== 0) return errno;
    if (late && this.#checkAreas(user.rules, false) !== 0) {
      this.#dropDomains();
      return Errno.EADDRINUSE;
    }
    this.#setAttached([...this.#attached, user]);
    return 0;
  }

  /** The group reaches nothing here any more; its reserved addresses are free, and with the last group all is unpinned. */
  detach(user: IoasUser): void {
    if (!this.#attached.includes(user)) return;
    this.#setAttached(this.#attached.filter((each) => each !== user));
    this.#dropDomains();
  }

  /** 0, EINVAL for addresses that an attached group has reserved, EEXIST. */
  checkFree(iova: number, end: number): number {
    for (const { rules } of this.#attached) if (!rules.isUsable(iova, end)) return Errno.EINVAL;
    return this.live.isFree(iova, end) ? 0 : Errno.EEXIST;
  }

  /** Adds an area of process memory at `va` to free addresses; `limit` is the caller's limit of locked pages. */
  insert(iova: number, pages: number, va: number, rights: number, limit: number): number {
    const { addressSpace } = this.#machine;
    const source = { pages: new IoptPages(addressSpace, va, (rights & HostRight.write) !== 0), index: 0 };
    const errno = this.#fill(iova, iova + pages, source, rights, limit);
    if (errno === 0) this.#addArea(iova, iova + pages, source, rights);
    return errno;
  }

  /** Adds areas side by side from `iova` on; nothing is left of refused ones. */
  insertSlices(iova: number, slices: readonly AreaSlice[], rights: number, limit: number): number {
    let at = iova;
    for (const slice of slices) {
      const errno = this.#fill(at, at + slice.length, slice, rights, limit);
      if (errno !== 0) {
        for (let area = this.areas.firstFrom(iova, at); area !== undefined; area = this.areas.firstFrom(iova, at)) {
          this.#drop(area.start, area.end);
        }
        return errno;
      }
      this.#addArea(at, at + slice.length, slice, rights);
      at += slice.length;
    }
    return 0;
  }

  /** The parts of areas that cover [iova, end), ready to be shown by further areas; undefined when a page has none. */
  share(iova: number, end: number): AreaSlice[] | undefined {
    const slices = this.areas.slices(iova, end);
    const filled = this.#domains[0]?.table;
    for (const { pages, area } of slices ?? []) {
      const held = new PinList();
      if (!pages.shared) filled?.collect(area.start, area.end, held);
      pages.share(area.index, held);
    }
    return slices;
  }

  /**
   * iopt_unmap_iova_range(): removes the areas that touch [touchStart, touchEnd) one by one in ascending order, and stops with
   * ENOENT at the first that is not inside [iova, end); ENOENT also when there is none.
   */
  remove(touchStart: number, touchEnd: number, iova: number, end: number): number {
    this.removedPages = 0;
    this.removedAreas = 0;
    let area = this.areas.firstFrom(touchStart, touchEnd);
    while (area !== undefined && area.start >= iova && area.end <= end) {
      this.#drop(area.start, area.end);
      this.removedPages += area.end - area.start;
      this.removedAreas++;
      area = this.areas.firstFrom(touchStart, touchEnd);
    }
    return area !== undefined || this.removedAreas === 0 ? Errno.ENOENT : 0;
  }

  /** iopt_area_split(): the area over `page` becomes two, without any change for the devices; EINVAL off `unit`. */
  cutAt(page: number, unit: number): number {
    const area = this.areas.over(page);
    if (area === undefined) return 0;
    if (page % unit !== 0) return Errno.EINVAL;
    const { start, end, rights } = area;
    const source = this.areas.sourceOf(start);
    this.areas.remove(start);
    this.#addArea(start, page, source, rights);
    this.#addArea(page, end, this.#tail(source, page - start), rights);
    for (const { table } of this.#domains) table.split(page);
    return 0;
  }

  #setAttached(attached: readonly IoasUser[]): void {
    this.#attached = attached;
    this.unit = attached.reduce((unit, { rules }) => Math.max(unit, rules.unit), 0);
  }

  #domainOf({ ioptes, writeOnlyReadable }: IoasUser): Domain | undefined {
    return this.#domains.find((each) => each.ioptes === ioptes && each.writeOnlyReadable === writeOnlyReadable);
  }

  /** What attaching asks of the areas that are there; `inAperture`: only that the IOMMU could map them at all. */
  #checkAreas(rules: IommufdRules, inAperture: boolean): number {
    const { unit } = rules;
    let errno = 0;
    this.areas.each(PAGE_END, (start, end) => {
      const { pages, index } = this.areas.sourceOf(start);
      const aligned = start % unit === 0 && end % unit === 0 && (pages.va + index) % unit === 0;
      const usable = inAperture ? rules.isInAperture(start, end) : rules.isUsable(start, end);
      if (!aligned || !usable) errno = Errno.EADDRINUSE;
      return errno === 0;
    });
    return errno;
  }

  /** A page table for `user` with every area in it, unless there is one. */
  #addDomain(user: IoasUser): number {
    if (this.#domainOf(user) !== undefined) return 0;
    const { ioptes, writeOnlyReadable, memlockLimit } = user;
    const filled = this.#domains[0]?.table;
    const table = new IoPageTable(ioptes, writeOnlyReadable);
    let errno = 0;
    if (filled === undefined) this.#domains = [{ ioptes, writeOnlyReadable, table }];
    this.areas.each(PAGE_END, (start, end, rights) => {
      if (filled !== undefined) errno = this.#fillFrom(filled, table, start, end, rights);
      else {
        errno = this.#fill(start, end, this.areas.sourceOf(start), rights, memlockLimit);
        if (errno !== 0) this.#unfillAll(start);
      }
      return errno === 0;
    });
    if (filled === undefined && errno !== 0) this.#domains = [];
    if (filled !== undefined && errno === 0) this.#domains = [...this.#domains, { ioptes, writeOnlyReadable, table }];
    return errno;
  }

  /** Maps for one more IOMMU what is pinned already. */
  #fillFrom(filled: IoPageTable, table: IoPageTable, start: number, end: number, rights: number): number {
    const pins = this.#pins;
    pins.reset(Infinity, false, false);
    filled.collect(start, end, pins);
    return table.insert(start, pins, rights) ? 0 : Errno.EINVAL;
  }

  /** Drops the page tables that no attached group stands behind; with the last one everything is unpinned. */
  #dropDomains(): void {
    if (this.#attached.length === 0) this.#unfillAll(PAGE_END);
    const kept = this.#attached.map((user) => this.#domainOf(user));
    this.#domains = this.#domains.filter((domain) => kept.includes(domain));
  }

  #addArea(iova: number, end: number, source: AreaSource, rights: number): void {
    this.live.insert(iova, end, 0, rights);
    this.areas.add(iova, source);
    for (const user of this.#users) user.seeAreas(this.live.size);
  }

  #drop(iova: number, end: number): void {
    if (this.#domains.length > 0) this.#unfill(iova, end);
    this.areas.remove(iova);
  }

  /** Pins an area and maps it in every page table, when there is one; nothing is left of a refused one. */
  #fill(iova: number, end: number, { pages, index }: AreaSource, rights: number, limit: number): number {
    if (this.#domains.length === 0) return 0;
    const pins = this.#pins;
    const machine = this.#machine;
    const stop = index + end - iova;
    const errno = pages.fill(index, stop, pins);
    if (errno !== 0) return errno;
    // Pages are pinned first and counted afterwards: a hole is found before the limit.
    const tooMany = machine.userPages + pins.lockedPages > limit;
    if (tooMany || !this.#mapPinned(iova, end, rights)) {
      pages.unfill(index, stop);
      return tooMany ? Errno.ENOMEM : Errno.EINVAL;
    }
    machine.lock(pins.lockedPages, true);
    machine.spend(machine.costs.perPageNs * (end - iova));
    this.pinnedPages += end - iova;
    return 0;
  }

  #mapPinned(iova: number, end: number, rights: number): boolean {
    for (const domain of this.#domains) {
      if (domain.table.insert(iova, this.#pins, rights)) continue;
      for (const before of this.#domains) {
        if (before === domain) return false;
        before.table.remove(iova, end);
      }
    }
    return true;
  }

  #unfill(iova: number, end: number): void {
    const { pages, index } = this.areas.sourceOf(iova);
    for (const { table } of this.#domains) table.remove(iova, end);
    this.#machine.lock(-pages.unfill(index, index + end - iova), true);
    this.pinnedPages -= end - iova;
  }

  #unfillAll(limit: number): void {
    this.areas.each(limit, (start, end) => {
      this.#unfill(start, end);
      return true;
    });
  }

  /** The second part of an area that is cut; what only one area shows needs no record of who shows what. */
  #tail({ pages, index }: AreaSource, length: number): AreaSource {
    if (pages.shared) return { pages, index: index + length };
    return { pages: new IoptPages(this.#machine.addressSpace, pages.va + index + length, pages.writable), index: 0 };
  }
}
