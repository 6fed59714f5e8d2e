// A 1:1 engine for the property tests: it runs requests one by one on an unlimited host, and refuses what it is told to.
// Naive on purpose: arrays and linear scans, 4 KiB pages, all features. Order of checks: spec/decisions.md.
import type { DriverCommand } from '../../src/testing/requests.ts';

const PAGE = 4096n;
const READ_WRITE = 3;

/** One guest mapping in pages. */
export interface ReferenceMapping {
  readonly start: number;
  readonly end: number;
  readonly target: number;
  readonly flags: number;
}

export interface ReferenceDomain {
  readonly bypass: boolean;
  readonly mappings: readonly ReferenceMapping[];
}

/** What an endpoint's guest state asks for. */
export type ReferenceTarget = ReferenceDomain | 'bypass' | 'blocked';

/** An immutable state; requests make new ones. */
export class Reference {
  readonly domains: ReadonlyMap<number, ReferenceDomain>;
  /** Endpoint -> domain id. */
  readonly endpoints: ReadonlyMap<number, number | undefined>;
  readonly bypass: boolean;
  /** Pages that no MAP may meet. */
  readonly reserved: number;

  constructor(
    endpoints: ReadonlyMap<number, number | undefined>,
    domains: ReadonlyMap<number, ReferenceDomain>,
    bypass: boolean,
    reserved: number,
  ) {
    this.endpoints = endpoints;
    this.domains = domains;
    this.bypass = bypass;
    this.reserved = reserved;
  }

  withBypass(bypass: boolean): Reference {
    return new Reference(this.endpoints, this.domains, bypass, this.reserved);
  }

  afterReset(): Reference {
    const endpoints = new Map([...this.endpoints.keys()].map((id) => [id, undefined]));
    return new Reference(endpoints, new Map(), this.bypass, this.reserved);
  }

  targetOf(endpoint: number): ReferenceTarget {
    const id = this.endpoints.get(endpoint);
    if (id === undefined) return this.bypass ? 'bypass' : 'blocked';
    const domain = this.domains.get(id)!;
    return domain.bypass ? 'bypass' : domain;
  }

  /** Status and state after one request; `refuse`: the host refuses what is valid. */
  apply(command: DriverCommand, refuse: boolean): { readonly status: string; readonly next: Reference } {
    const { status, next } = this.#decide(command);
    if (status !== 'OK' || !refuse) return { status, next };
    return { status: 'refused', next: this };
  }

  #decide(command: DriverCommand): { readonly status: string; readonly next: Reference } {
    const no = (status: string): { status: string; next: Reference } => ({ status, next: this });
    switch (command.op) {
      case 'attach': {
        if (!this.endpoints.has(command.endpoint)) return no('NOENT');
        const bypass = command.flags === 1;
        const existing = this.domains.get(command.domain);
        if (existing !== undefined && existing.bypass !== bypass) return no('INVAL');
        if (this.endpoints.get(command.endpoint) === command.domain) return no('OK');
        return { status: 'OK', next: this.#move(command.endpoint, command.domain, bypass) };
      }
      case 'detach':
        if (!this.endpoints.has(command.endpoint)) return no('NOENT');
        if (this.endpoints.get(command.endpoint) !== command.domain) return no('INVAL');
        return { status: 'OK', next: this.#move(command.endpoint, undefined, false) };
      case 'map': {
        const domain = this.domains.get(command.domain);
        if (domain === undefined) return no('NOENT');
        if (domain.bypass) return no('INVAL');
        const start = Number(command.virtStart / PAGE);
        const end = Number((command.virtEnd + 1n) / PAGE);
        if (start <= this.reserved && this.reserved < end) return no('INVAL');
        if (domain.mappings.some((each) => each.start < end && start < each.end)) return no('INVAL');
        const added = { start, end, target: Number(command.physStart / PAGE), flags: command.flags };
        return { status: 'OK', next: this.#withMappings(command.domain, [...domain.mappings, added]) };
      }
      case 'unmap': {
        const domain = this.domains.get(command.domain);
        if (domain === undefined) return no('NOENT');
        if (domain.bypass) return no('INVAL');
        const start = Number(command.virtStart / PAGE);
        const end = Number((command.virtEnd + 1n) / PAGE);
        const inside = (each: ReferenceMapping): boolean => start <= each.start && each.end <= end;
        if (domain.mappings.some((each) => each.start < end && start < each.end && !inside(each))) return no('RANGE');
        const left = domain.mappings.filter((each) => !inside(each));
        return { status: 'OK', next: this.#withMappings(command.domain, left) };
      }
      case 'probe':
        return no(this.endpoints.has(command.endpoint) ? 'OK' : 'NOENT');
    }
  }

  #withMappings(id: number, mappings: readonly ReferenceMapping[]): Reference {
    const domains = new Map(this.domains).set(id, { bypass: false, mappings });
    return new Reference(this.endpoints, domains, this.bypass, this.reserved);
  }

  #move(endpoint: number, to: number | undefined, bypass: boolean): Reference {
    const endpoints = new Map(this.endpoints).set(endpoint, to);
    const domains = new Map(this.domains);
    const from = this.endpoints.get(endpoint);
    if (from !== undefined && ![...endpoints.values()].includes(from)) domains.delete(from);
    if (to !== undefined && !domains.has(to)) domains.set(to, { bypass, mappings: [] });
    return new Reference(endpoints, domains, this.bypass, this.reserved);
  }
}

/** The rights of a mapping on pages that give `rights`. */
export function rightsOf(mapping: ReferenceMapping, rights: number): number {
  return mapping.flags & rights & READ_WRITE;
}
