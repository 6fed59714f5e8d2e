// Host contexts and the endpoints that share them: decides what each context mirrors (spec/design.md).
// A context mirrors one domain, bypass, or nothing; endpoints that differ get nothing until they agree.
import type { AddressRange } from '../base/ranges.ts';
import { invertRanges, mergeRanges } from '../base/ranges.ts';
import { U64_MAX } from '../base/check.ts';
import type { Backing } from '../coalesce/backing.ts';
import type { MirrorObserver } from '../coalesce/mirror.ts';
import { ContextMirror } from '../coalesce/mirror.ts';
import type { PlanSettings } from '../coalesce/settings.ts';
import type { MirrorSource, PageRange } from '../coalesce/source.ts';
import { BypassSource } from '../coalesce/source.ts';
import type { HostContext } from '../host/context.ts';
import { HOST_PAGE_SHIFT } from '../host/context.ts';
import type { Domain } from './domain.ts';
import type { Endpoint } from './endpoint.ts';

/** What an endpoint's guest state asks of its context. */
export type Target = Domain | 'bypass' | 'blocked';

/** One host context with its endpoints. */
export class HostGroup {
  readonly mirror: ContextMirror;
  readonly members = new Set<Endpoint>();
  /** True while the members ask for different things. */
  differ = false;
  /** Switches that a host refused. */
  failedSwitches = 0;
  /** The domain whose list of mirrors names this context. */
  listed: Domain | undefined = undefined;
  #bypass: BypassSource | undefined;
  /** Members came or went since {@link bypassSource} was made. */
  #bypassStale = true;

  constructor(mirror: ContextMirror) {
    this.mirror = mirror;
  }

  get name(): string {
    return this.mirror.context.name;
  }

  get endpointIds(): number[] {
    return [...this.members].map((member) => member.id);
  }

  addMember(endpoint: Endpoint): void {
    this.members.add(endpoint);
    this.#bypassStale = true;
    this.updateQuiet();
  }

  /** A context is quiet when the bus-master bit of every member is known to be clear. */
  updateQuiet(): void {
    if (this.members.size === 0) return;
    let quiet = true;
    for (const { busMaster } of this.members) {
      if (busMaster !== undefined) this.mirror.quietKnown = true;
      if (busMaster !== false) quiet = false;
    }
    this.mirror.setQuiet(quiet);
  }

  removeMember(endpoint: Endpoint): void {
    this.members.delete(endpoint);
    this.#bypassStale = true;
    this.updateQuiet();
  }

  /** All guest memory but the reserved regions of the members (D-RES-5) and what the host cannot map. */
  get bypassSource(): BypassSource {
    if (this.#bypass === undefined || this.#bypassStale) {
      const holes = this.#holes();
      // The same object while nothing changes, so that a context in bypass is left alone (I4).
      if (this.#bypass?.hasHoles(holes) !== true) this.#bypass = new BypassSource(this.mirror.backing, holes);
      this.#bypassStale = false;
    }
    return this.#bypass;
  }

  /** The source that `target` means for this context. */
  sourceOf(target: Target): MirrorSource | undefined {
    if (target === 'blocked') return undefined;
    return target === 'bypass' || target.bypass ? this.bypassSource : target.source;
  }

  #holes(): PageRange[] {
    const { usableRanges } = this.mirror.context.limits;
    const holes: AddressRange[] = invertRanges(usableRanges, { start: 0n, end: U64_MAX });
    for (const member of this.members) holes.push(...member.regions);
    const shift = BigInt(HOST_PAGE_SHIFT);
    const pages: PageRange[] = mergeRanges(holes).map((hole) => ({
      start: Number(hole.start >> shift),
      end: Number(hole.end >> shift) + 1,
    }));
    // A host map must lie inside one usable range: where two of them touch, a hole of length 0 cuts.
    for (const { start } of usableRanges) {
      const page = Number(start >> shift);
      if (page > 0 && !pages.some((hole) => hole.start <= page && page <= hole.end))
        pages.push({ start: page, end: page });
    }
    return pages.sort((a, b) => a.start - b.start);
  }
}

/** Hears about switches; every call is rare. */
export interface GroupObserver extends MirrorObserver {
  switched(group: HostGroup): void;
  /** After `operation` the members of the group ask for different things; the context is blocked until they agree. */
  differ(group: HostGroup, operation: string): void;
}

/** All groups of a device. */
export class HostGroups {
  readonly #groups = new Map<HostContext, HostGroup>();
  readonly #backing: Backing;
  readonly #observer: GroupObserver;
  readonly #capFactor: number;
  readonly #settings: PlanSettings;

  constructor(backing: Backing, observer: GroupObserver, capFactor: number, settings: PlanSettings) {
    this.#backing = backing;
    this.#observer = observer;
    this.#capFactor = capFactor;
    this.#settings = settings;
  }

  get all(): Iterable<HostGroup> {
    return this.#groups.values();
  }

  /** The group of a host context; made when it is new. */
  groupOf(context: HostContext): HostGroup {
    let group = this.#groups.get(context);
    if (group === undefined) {
      group = new HostGroup(new ContextMirror(context, this.#backing, this.#observer, this.#capFactor, this.#settings));
      this.#groups.set(context, group);
    }
    return group;
  }

  groupOfMirror(mirror: ContextMirror): HostGroup | undefined {
    return this.#groups.get(mirror.context);
  }

  /** Forgets a group without members; its context keeps no entries, or is remembered while the host keeps them. */
  release(group: HostGroup): void {
    group.mirror.quiesce();
    list(group, undefined);
    if (group.mirror.entries.size === 0) this.#groups.delete(group.mirror.context);
  }

  /**
   * Makes a context mirror what `targetOf` says of its members, because of `operation`, and enters it into the list of
   * mirrors of its domain. Returns 0, or the errno of a host that refused; then the
   * former state is back when `mayRestore` and the host allows it, and the context is blocked otherwise.
   */
  settle(group: HostGroup, targetOf: (endpoint: Endpoint) => Target, operation: string, mayRestore: boolean): number {
    const { mirror } = group;
    const former = mirror.source;
    const wanted = agree(group, targetOf);
    const source = wanted === 'differ' ? undefined : group.sourceOf(wanted);
    let errno = 0;
    if (source === undefined) {
      mirror.quiesce();
      if (wanted === 'differ' && !group.differ) this.#observer.differ(group, operation);
    } else if (source !== former) {
      errno = mirror.switchTo(source, mayRestore);
      if (errno !== 0) group.failedSwitches++;
    }
    if (errno === 0 || !mayRestore) group.differ = wanted === 'differ';
    if (source !== undefined && mirror.source === source) list(group, typeof wanted === 'string' ? undefined : wanted);
    else if (mirror.source === undefined) list(group, undefined);
    if (mirror.source !== former) this.#observer.switched(group);
    return errno;
  }
}

/** Enters a context into the mirrors of `domain` and takes it out of those of the domain that it mirrored before. */
function list(group: HostGroup, domain: Domain | undefined): void {
  const { mirror, listed } = group;
  if (listed === domain) return;
  if (listed !== undefined) listed.mirrors = listed.mirrors.filter((other) => other !== mirror);
  if (domain !== undefined) domain.mirrors = [...domain.mirrors, mirror];
  group.listed = domain;
}

function agree(group: HostGroup, targetOf: (endpoint: Endpoint) => Target): Target | 'differ' {
  let wanted: Target | undefined;
  for (const member of group.members) {
    let target = targetOf(member);
    if (target !== 'bypass' && target !== 'blocked' && target.bypass) target = 'bypass';
    if (wanted !== undefined && wanted !== target) return 'differ';
    wanted = target;
  }
  return wanted ?? 'blocked';
}
