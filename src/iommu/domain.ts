// A domain: the guest's mappings and the endpoints that share them. The mappings are the truth of the whole device.
// Unit: granule numbers, half-open. [5.13.6.6] T-UNM-1: one interval is exactly what one MAP created.
import type { ContextMirror } from '../coalesce/mirror.ts';
import { DomainPlanner } from '../coalesce/planner.ts';
import { DomainSource } from '../coalesce/source.ts';
import { IntervalTable } from '../intervals/table.ts';
import type { Endpoint } from './endpoint.ts';
import { RangeList } from './range-list.ts';

/** One domain of the guest. */
export class Domain {
  readonly id: number;
  /** Created by an ATTACH with the BYPASS flag: no mappings, all accesses are identity. */
  readonly bypass: boolean;
  /** I/O virtual granules -> guest-physical granule; flags = MAP flags. */
  readonly table = new IntervalTable();
  readonly endpoints = new Set<Endpoint>();
  readonly source: DomainSource;
  readonly planner = new DomainPlanner();
  /** Host contexts that mirror this domain now. */
  mirrors: readonly ContextMirror[] = [];
  #reserved: RangeList = RangeList.EMPTY;
  /** True when {@link reserved} must be made anew: once for any number of ATTACHes and DETACHes. */
  #reservedStale = false;

  constructor(id: number, bypass: boolean, granulePages: number) {
    this.id = id;
    this.bypass = bypass;
    this.source = new DomainSource(this.table, granulePages);
  }

  /** Adds an endpoint and its reserved regions. */
  add(endpoint: Endpoint): void {
    this.endpoints.add(endpoint);
    if (this.endpoints.size === 1) {
      this.#reserved = endpoint.reserved;
      this.#reservedStale = false;
    } else if (!this.#reservedStale) {
      this.#reservedStale = !endpoint.reserved.isInside(this.#reserved);
    }
  }

  /** Removes an endpoint; returns true when it was the last. */
  remove(endpoint: Endpoint): boolean {
    this.endpoints.delete(endpoint);
    if (endpoint.reserved.length > 0) this.#reservedStale = true;
    return this.endpoints.size === 0;
  }

  /** True when a reserved region of `list` meets an existing mapping. */
  clashesWith(list: RangeList): boolean {
    for (let i = 0; i < list.length; i++) {
      if (!this.table.isFree(list.startAt(i), list.endAt(i))) return true;
    }
    return false;
  }

  /** Reserved regions of all endpoints: no MAP may meet them. */
  get reserved(): RangeList {
    if (this.#reservedStale) this.#mergeReserved();
    return this.#reserved;
  }

  #mergeReserved(): void {
    const edges: { start: number; end: number; kind: number }[] = [];
    for (const { reserved } of this.endpoints) {
      for (let i = 0; i < reserved.length; i++)
        edges.push({ start: reserved.startAt(i), end: reserved.endAt(i), kind: 0 });
    }
    edges.sort((a, b) => a.start - b.start);
    const merged: typeof edges = [];
    for (const edge of edges) {
      const last = merged.at(-1);
      if (last !== undefined && edge.start <= last.end) last.end = Math.max(last.end, edge.end);
      else merged.push(edge);
    }
    this.#reserved = new RangeList(merged);
    this.#reservedStale = false;
  }
}
