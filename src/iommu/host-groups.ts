// Host contexts and the endpoints that share them: decides what each context mirrors (spec/design.md).
// A context mirrors one domain, bypass, or nothing; endpoints that differ get nothing until they agree.
import type { AddressRange } from '../base/ranges.ts';
import { invertRanges, mergeRanges } from '../base/ranges.ts';
import { U64_MAX } from '../base/check.ts';
import type { Backing } from '../coalesce/backing.ts';
import type { MirrorObserver } from '../coalesce/mirror.ts';
import { ContextMirror } from '../coalesce/mirror.ts';
import type { MirrorSource } from '../coalesce/source.ts';
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
  #bypass: BypassSource | undefined;

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
    this.#bypass = undefined;
  }

  removeMember(endpoint: Endpoint): void {
    this.members.delete(endpoint);
    this.#bypass = undefined;
  }

  /** All guest memory but the reserved regions of the members and what the host cannot map. */
  get bypassSource(): BypassSource {
    this.#bypass ??= new BypassSource(this.mirror.backing, this.#holes());
    return this.#bypass;
  }

  /** The source that `target` means for this context. */
  sourceOf(target: Target): MirrorSource | undefined {
    if (target === 'blocked') return undefined;
    return target === 'bypass' || target.bypass ? this.bypassSource : target.source;
  }

  #holes(): { start: number; end: number }[] {
    const holes: AddressRange[] = invertRanges(this.mirror.context.limits.usableRanges, { start: 0n, end: U64_MAX });
    for (const member of this.members) holes.push(...member.regions);
    const shift = BigInt(HOST_PAGE_SHIFT);
    return mergeRanges(holes).map((hole) => ({
      start: Number(hole.start >> shift),
      end: Number(hole.end >> shift) + 1,
    }));
  }
}

/** Hears about switches; every call is rare. */
export interface GroupObserver extends MirrorObserver {
  switched(group: HostGroup): void;
  /** The members of the group ask for different things; the context is blocked until they agree. */
  differ(group: HostGroup): void;
}

/** All groups of a device. */
export class HostGroups {
  readonly #groups = new Map<HostContext, HostGroup>();
  readonly #backing: Backing;
  readonly #observer: GroupObserver;
  readonly #capFactor: number;

  constructor(backing: Backing, observer: GroupObserver, capFactor: number) {
    this.#backing = backing;
    this.#observer = observer;
    this.#capFactor = capFactor;
  }

  get all(): Iterable<HostGroup> {
    return this.#groups.values();
  }

  /** The group of a host context; made when it is new. */
  groupOf(context: HostContext): HostGroup {
    let group = this.#groups.get(context);
    if (group === undefined) {
      group = new HostGroup(new ContextMirror(context, this.#backing, this.#observer, this.#capFactor));
      this.#groups.set(context, group);
    }
    return group;
  }

  groupOfMirror(mirror: ContextMirror): HostGroup | undefined {
    return this.#groups.get(mirror.context);
  }

  /** Forgets a group without members; its context keeps no entries. */
  release(group: HostGroup): void {
    group.mirror.quiesce();
    this.#groups.delete(group.mirror.context);
  }

  /**
   * Makes a context mirror what `targetOf` says of its members. Returns 0, or the errno of a host that refused; then the
   * former state is back when `mayRestore` and the host allows it, and the context is blocked otherwise.
   */
  settle(group: HostGroup, targetOf: (endpoint: Endpoint) => Target, mayRestore: boolean): number {
    const { mirror } = group;
    const former = mirror.source;
    const wanted = agree(group, targetOf);
    const source = wanted === 'differ' ? undefined : group.sourceOf(wanted);
    if (source === former && source !== undefined) {
      group.differ = false;
      return 0;
    }
    let errno = 0;
    if (source === undefined) {
      mirror.quiesce();
      if (wanted === 'differ' && !group.differ) this.#observer.differ(group);
    } else {
      errno = mirror.switchTo(source, mayRestore);
      if (errno !== 0) group.failedSwitches++;
    }
    if (errno === 0) group.differ = wanted === 'differ';
    if (mirror.source !== former) this.#observer.switched(group);
    return errno;
  }

  /** Rewrites which contexts each of `domains` must keep in step. */
  refreshMirrors(domain: Domain): void {
    const mirrors: ContextMirror[] = [];
    for (const { mirror } of this.#groups.values()) if (mirror.source === domain.source) mirrors.push(mirror);
    domain.mirrors = mirrors;
  }
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
