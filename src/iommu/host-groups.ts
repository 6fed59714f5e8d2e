// Host contexts and the endpoints that share them: decides what each context mirrors (spec/design.md).
// A context mirrors one domain, bypass, or nothing; endpoints that differ get nothing until they agree.
// Not here: which address space a context uses for it (shared-space.ts).
import type { AddressRange } from '../base/ranges.ts';
import { invertRanges, mergeRanges } from '../base/ranges.ts';
import { U64_MAX } from '../base/check.ts';
import { isHostError } from '../base/errors.ts';
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
import { blockGroup, releaseGroup, switchGroup } from './shared-space.ts';

/** What an endpoint's guest state asks of its context. */
export type Target = Domain | 'bypass' | 'blocked';

/** Where a group is entered as a user of a domain's mirror. */
interface Listed {
  readonly domain: Domain;
  readonly mirror: ContextMirror;
}

/** One host context with its endpoints. */
export class HostGroup {
  readonly context: HostContext;
  /** The address space that the devices use; other groups may use it too. */
  mirror: ContextMirror;
  readonly members = new Set<Endpoint>();
  /** True while the members ask for different things. */
  differ = false;
  /** True when no member can do DMA. */
  quiet = false;
  /** Switches that a host refused. */
  failedSwitches = 0;
  /** Times that the group was blocked because an operation failed. */
  blocks = 0;
  /** The domain whose list of mirrors names the mirror because of this group. */
  listed: Listed | undefined = undefined;
  #bypass: BypassSource | undefined;
  /** Members came or went since {@link bypassSource} was made. */
  #bypassStale = true;
  readonly #owner: HostGroups;

  constructor(context: HostContext, mirror: ContextMirror, owner: HostGroups) {
    this.context = context;
    this.mirror = mirror;
    this.#owner = owner;
  }

  get name(): string {
    return this.context.name;
  }

  get endpointIds(): number[] {
    return [...this.members].map((member) => member.id);
  }

  addMember(endpoint: Endpoint): void {
    this.members.add(endpoint);
    this.#bypassStale = true;
    this.updateQuiet();
  }

  /** A group is quiet when the bus-master bit of every member is known to be clear. */
  updateQuiet(): void {
    if (this.members.size === 0) return;
    this.quiet = true;
    for (const { busMaster } of this.members) {
      if (busMaster !== undefined) this.mirror.quietKnown = true;
      if (busMaster !== false) this.quiet = false;
    }
    this.#owner.updateQuiet(this.mirror);
  }

  removeMember(endpoint: Endpoint): void {
    this.members.delete(endpoint);
    this.#bypassStale = true;
    this.updateQuiet();
  }

  /** All guest memory but the reserved regions of the members (D-RES-5) and what the host cannot map (SIL-65). */
  get bypassSource(): BypassSource {
    if (this.#bypass === undefined || this.#bypassStale) {
      const holes = this.#holes();
      const mmio = this.context.limits.mmio !== false;
      // The same object while nothing changes, so that a context in bypass is left alone (I4), and the same for groups that
      // show the same, so that they can share an address space.
      if (this.#bypass?.shows(holes, mmio) !== true) this.#bypass = this.#owner.bypassWith(holes, mmio);
      this.#bypassStale = false;
    }
    return this.#bypass;
  }

  /** The last {@link bypassSource}, when it shows the same. */
  bypassLike(holes: readonly PageRange[], mmio: boolean): BypassSource | undefined {
    return this.#bypass?.shows(holes, mmio) === true ? this.#bypass : undefined;
  }

  /** True while the context is in bypass and device registers are not shown. */
  get leavesMmioOut(): boolean {
    const { source } = this.mirror;
    return source instanceof BypassSource && !source.mmio;
  }

  /** The source that `target` means for this context. */
  sourceOf(target: Target): MirrorSource | undefined {
    if (target === 'blocked') return undefined;
    return target === 'bypass' || target.bypass ? this.bypassSource : target.source;
  }

  #holes(): PageRange[] {
    const { usableRanges } = this.context.limits;
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
  /** A group is in bypass without device registers that the guest has (SIL-65). */
  mmioLeftOut(group: HostGroup): void;
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

  /** The mirrors of all groups, each once. */
  get mirrors(): Iterable<ContextMirror> {
    return new Set([...this.#groups.values()].map(({ mirror }) => mirror));
  }

  /** The group of a host context; made when it is new. */
  groupOf(context: HostContext): HostGroup {
    let group = this.#groups.get(context);
    if (group === undefined) {
      group = new HostGroup(context, this.makeMirror(context), this);
      this.#groups.set(context, group);
    }
    return group;
  }

  /** Mirrors nothing into the address space that a context uses. */
  makeMirror(context: HostContext): ContextMirror {
    return new ContextMirror(context, this.#backing, this.#observer, this.#capFactor, this.#settings);
  }

  /** The groups whose devices use the address space of a mirror. */
  usersOf(mirror: ContextMirror): HostGroup[] {
    return mirror.contexts.flatMap((context) => this.#groups.get(context) ?? []);
  }

  /** Bypass with these holes, with or without device registers: one object for all groups. */
  bypassWith(holes: readonly PageRange[], mmio: boolean): BypassSource {
    for (const group of this.#groups.values()) {
      const same = group.bypassLike(holes, mmio);
      if (same !== undefined) return same;
    }
    return new BypassSource(this.#backing, holes, mmio);
  }

  /** A mirror is quiet when all of its groups are. */
  updateQuiet(mirror: ContextMirror): void {
    const users = this.usersOf(mirror);
    if (users.length > 0) mirror.setQuiet(users.every(({ quiet }) => quiet));
  }

  /** Device registers came: tells of the groups that do not show them. */
  tellMmio(): void {
    for (const group of this.#groups.values()) if (group.leavesMmioOut) this.#observer.mmioLeftOut(group);
  }

  /** Forgets a group without members; its context keeps no entries, or is remembered while the host keeps them. */
  release(group: HostGroup): void {
    releaseGroup(this, group);
    this.#list(group, undefined);
    if (group.mirror.entries.size === 0) this.#groups.delete(group.context);
  }

  /** Blocks every context and leaves each with an address space of its own. */
  close(): void {
    for (const group of this.#groups.values()) releaseGroup(this, group);
  }

  /** Fatal blocks end (system reset). A group that is only remembered is forgotten when its context was closed meanwhile. */
  forgive(): void {
    for (const mirror of this.mirrors) {
      try {
        mirror.forgive();
      } catch (error) {
        const isRemembered = this.usersOf(mirror).every(({ members }) => members.size === 0);
        if (!isRemembered || !isHostError(error) || error.code !== 'ERR_VIOMMU_HOST_CLOSED') throw error;
        this.#groups.delete(mirror.context);
      }
    }
  }

  /**
   * Makes a context mirror what `targetOf` says of its members, because of `operation`, and enters it into the list of
   * mirrors of its domain. Returns 0, or the errno of a host that refused; then the
   * former state is back when `mayRestore` and the host allows it, and the context is blocked otherwise.
   */
  settle(group: HostGroup, targetOf: (endpoint: Endpoint) => Target, operation: string, mayRestore: boolean): number {
    const former = group.mirror.source;
    const { blocks } = group;
    const wanted = agree(group, targetOf);
    const source = wanted === 'differ' ? undefined : group.sourceOf(wanted);
    const domain = typeof wanted === 'string' ? undefined : wanted;
    let errno = 0;
    if (source === undefined) {
      blockGroup(this, group);
      if (wanted === 'differ' && !group.differ) this.#observer.differ(group, operation);
    } else if (source !== former) {
      errno = switchGroup(this, group, source, domain, mayRestore);
      if (errno !== 0) group.failedSwitches++;
    }
    if (errno === 0 || !mayRestore) group.differ = wanted === 'differ';
    if (source !== undefined && group.mirror.source === source) this.#list(group, domain);
    else if (group.mirror.source === undefined) this.#list(group, undefined);
    // One that was told to be blocked on the way is back.
    if (group.mirror.source !== former || (group.mirror.source !== undefined && group.blocks > blocks)) {
      this.#observer.switched(group);
      if (group.leavesMmioOut && this.#backing.mmioRegions > 0) this.#observer.mmioLeftOut(group);
    }
    return errno;
  }

  /** Enters the mirror of a group into those of `domain`, and takes out what it was entered as before. */
  #list(group: HostGroup, domain: Domain | undefined): void {
    const { mirror, listed } = group;
    if (listed?.domain === domain && (domain === undefined || listed?.mirror === mirror)) return;
    group.listed = domain === undefined ? undefined : { domain, mirror };
    if (listed !== undefined && !this.#isListed(listed)) {
      listed.domain.mirrors = listed.domain.mirrors.filter((other) => other !== listed.mirror);
    }
    if (domain?.mirrors.includes(mirror) === false) domain.mirrors = [...domain.mirrors, mirror];
  }

  #isListed({ domain, mirror }: Listed): boolean {
    return this.usersOf(mirror).some(({ listed }) => listed?.domain === domain && listed.mirror === mirror);
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
