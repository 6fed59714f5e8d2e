// A naive 1:1 engine: runs requests one by one in ring order and refuses exactly what it is told that the host refused.
// It remembers at which request of the step each mapping and each attachment began and ended, so that what an endpoint
// may reach, or must reach, can be said for every moment of the step. Shares no code with the device.
// Unit: 4 KiB page numbers, ends exclusive. Time: n = n requests of the step have been carried out; n + 0.5 = the state
// that request n would have made, had the host not refused it.
import type { Request, Setup } from './setup.ts';

export const FOREVER = Infinity;

/** What one MAP made; valid at times from..until. */
export interface Mapping {
  readonly start: number;
  readonly end: number;
  readonly target: number;
  readonly flags: number;
  from: number;
  until: number;
}

export class GuestDomain {
  readonly id: number;
  readonly bypass: boolean;
  /** Live mappings by address. */
  readonly maps: Mapping[] = [];
  /** Mappings that ended, or were refused, in this step. */
  readonly gone: Mapping[] = [];
  readonly members = new Set<GuestEndpoint>();

  constructor(id: number, bypass: boolean) {
    this.id = id;
    this.bypass = bypass;
  }
}

export type Target = GuestDomain | 'bypass' | 'blocked';

/** What an endpoint was given at times from..until. */
export interface Presence {
  readonly target: Target;
  readonly from: number;
  until: number;
}

export class GuestEndpoint {
  readonly id: number;
  readonly reserved: readonly (readonly [number, number])[];
  domain: GuestDomain | undefined;
  /** In this step; the last one that is not a refused try is the present one. */
  presences: Presence[] = [];
  now: Presence;

  constructor(id: number, reserved: readonly (readonly [number, number])[], target: Target) {
    this.id = id;
    this.reserved = reserved;
    this.now = { target, from: 0, until: FOREVER };
  }
}

export type Verdict = 'OK' | 'INVAL' | 'RANGE' | 'NOENT' | 'refused';

/** The guest's view of a machine with an unlimited host. */
export class Engine {
  readonly domains = new Map<number, GuestDomain>();
  readonly endpoints = new Map<number, GuestEndpoint>();
  bypass: boolean;
  mappings = 0;
  readonly #initialBypass: boolean;
  readonly #first: number;
  readonly #end: number;

  constructor(setup: Setup) {
    this.bypass = setup.bypass;
    this.#initialBypass = setup.bypass;
    this.#first = Math.max(0, ...setup.contexts.map(({ usable }) => usable[0]![0]));
    this.#end = Math.min(2 ** 52, ...setup.contexts.map(({ usable }) => usable.at(-1)![1]));
    for (const { id, reserved } of setup.endpoints) {
      const context = setup.contexts.find(({ endpoints }) => endpoints.includes(id));
      const all = [...reserved, ...holesOf(context?.usable ?? [], this.#first, this.#end)];
      this.endpoints.set(id, new GuestEndpoint(id, all, this.#unattached));
    }
  }

  get #unattached(): Target {
    return this.bypass ? 'bypass' : 'blocked';
  }

  /** Forgets the past: a new step starts at time 0. */
  begin(): void {
    for (const domain of this.domains.values()) {
      domain.gone.length = 0;
      for (const map of domain.maps) map.from = 0;
    }
    for (const endpoint of this.endpoints.values()) {
      endpoint.now = { target: endpoint.now.target, from: 0, until: FOREVER };
      endpoint.presences = [endpoint.now];
    }
  }

  /** Runs request `i` of the step; `refuse`: the host refuses it if the guest's own state does not. */
  apply(i: number, request: Request, refuse: boolean): Verdict {
    switch (request.op) {
      case 'map':
        return this.#map(i, request, refuse);
      case 'unmap':
        return this.#unmap(i, request);
      case 'attach':
        return this.#attach(i, request, refuse);
      case 'detach': {
        const endpoint = this.endpoints.get(request.endpoint);
        if (endpoint === undefined) return 'NOENT';
        if (endpoint.domain?.id !== request.domain) return 'INVAL';
        this.#leave(i, endpoint);
        this.#give(i, endpoint, this.#unattached);
        return 'OK';
      }
    }
  }

  /** config.bypass changes. */
  setBypass(value: boolean): void {
    this.bypass = value;
    for (const endpoint of this.endpoints.values())
      if (endpoint.domain === undefined) this.#give(0, endpoint, this.#unattached);
  }

  /** A device reset; a system reset brings the initial value of config.bypass back, which nobody sees before. */
  reset(system: boolean): void {
    if (system) this.bypass = this.#initialBypass;
    for (const endpoint of this.endpoints.values()) {
      this.#leave(0, endpoint);
      this.#give(0, endpoint, this.#unattached);
    }
  }

  #map(i: number, request: Extract<Request, { op: 'map' }>, refuse: boolean): Verdict {
    const domain = this.domains.get(request.domain);
    if (domain === undefined) return 'NOENT';
    if (domain.bypass) return 'INVAL';
    const start = request.page;
    const end = start + request.pages;
    if (start < this.#first || end > this.#end) return 'RANGE';
    for (const member of domain.members)
      for (const [first, behind] of member.reserved) if (start < behind && first < end) return 'INVAL';
    const at = indexFrom(domain.maps, start);
    if (at < domain.maps.length && domain.maps[at]!.start < end) return 'INVAL';
    const map: Mapping = { start, end, target: request.target, flags: request.flags, from: i + 1, until: FOREVER };
    if (refuse) {
      map.from = map.until = i + 0.5;
      domain.gone.push(map);
      return 'refused';
    }
    domain.maps.splice(at, 0, map);
    this.mappings++;
    return 'OK';
  }

  #unmap(i: number, request: Extract<Request, { op: 'unmap' }>): Verdict {
    const domain = this.domains.get(request.domain);
    if (domain === undefined) return 'NOENT';
    if (domain.bypass) return 'INVAL';
    const start = request.page;
    const end = start + request.pages;
    const at = indexFrom(domain.maps, start);
    let behind = at;
    while (behind < domain.maps.length && domain.maps[behind]!.start < end) behind++;
    if (behind === at) return 'OK';
    if (domain.maps[at]!.start < start || domain.maps[behind - 1]!.end > end) return 'RANGE';
    for (const map of domain.maps.splice(at, behind - at)) {
      map.until = i;
      domain.gone.push(map);
    }
    this.mappings -= behind - at;
    return 'OK';
  }

  #attach(i: number, request: Extract<Request, { op: 'attach' }>, refuse: boolean): Verdict {
    const endpoint = this.endpoints.get(request.endpoint);
    if (endpoint === undefined) return 'NOENT';
    const bypass = request.flags === 1;
    const existing = this.domains.get(request.domain);
    if (existing !== undefined && existing.bypass !== bypass) return 'INVAL';
    if (existing !== undefined && endpoint.domain === existing) return 'OK';
    for (const { start, end } of existing?.maps ?? [])
      for (const [first, behind] of endpoint.reserved) if (start < behind && first < end) return 'INVAL';
    const domain = existing ?? new GuestDomain(request.domain, bypass);
    const target = domain.bypass ? 'bypass' : domain;
    if (refuse) {
      endpoint.presences.push({ target, from: i + 0.5, until: i + 0.5 });
      return 'refused';
    }
    this.#leave(i, endpoint);
    this.domains.set(domain.id, domain);
    domain.members.add(endpoint);
    endpoint.domain = domain;
    this.#give(i, endpoint, target);
    return 'OK';
  }

  /** Takes an endpoint out of its domain; the last one takes the domain with it. */
  #leave(i: number, endpoint: GuestEndpoint): void {
    const { domain } = endpoint;
    if (domain === undefined) return;
    endpoint.domain = undefined;
    domain.members.delete(endpoint);
    if (domain.members.size > 0) return;
    this.domains.delete(domain.id);
    this.mappings -= domain.maps.length;
    for (const map of domain.maps.splice(0)) {
      map.until = i;
      domain.gone.push(map);
    }
  }

  #give(i: number, endpoint: GuestEndpoint, target: Target): void {
    if (endpoint.now.target === target) return;
    endpoint.now.until = i;
    endpoint.now = { target, from: i + 1, until: FOREVER };
    endpoint.presences.push(endpoint.now);
  }
}

/** Index of the first mapping that ends behind `page`. */
export function indexFrom(maps: readonly Mapping[], page: number): number {
  let low = 0;
  let high = maps.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (maps[middle]!.end > page) high = middle;
    else low = middle + 1;
  }
  return low;
}

function holesOf(
  usable: readonly (readonly [number, number])[],
  first: number,
  end: number,
): (readonly [number, number])[] {
  const holes: [number, number][] = [];
  for (let i = 1; i < usable.length; i++) holes.push([usable[i - 1]![1], usable[i]![0]]);
  // What a host cannot map is reserved only inside of what the device offers.
  if (usable.length > 0 && usable[0]![0] > first) holes.push([first, usable[0]![0]]);
  if (usable.length > 0 && usable.at(-1)![1] < end) holes.push([usable.at(-1)![1], end]);
  return holes;
}
