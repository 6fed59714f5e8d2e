// The planner of one guest domain: the changes of one segment are collected in ring order, then committed in one go to every
// context of the domain, each MAP in all of them or in none. The policy of the moment decides how.
// Unit: 4 KiB page numbers. Tokens name requests; they come back for those that the host refused.
import { Errno } from '../base/errors.ts';
import { HostOp } from '../host/context.ts';
import { NONE } from '../intervals/table.ts';
import { ChangeList, REFUSED } from './changes.ts';
import { reinstallRevoked } from './revocation.ts';
import { ForwardRun } from './forward.ts';
import type { Refusals } from './send.ts';
import type { ContextMirror } from './mirror.ts';
import { Removal } from './removal.ts';
import { joinsInKick, joinsWhenQuiet } from './settings.ts';

/** Receives what the host refused while a plan was committed. */
export interface RefusalSink {
  /** The MAP with this token was refused and undone in every context; `errno` of `mirror`'s host. */
  mapRefused(token: number, errno: number, mirror: ContextMirror): void;
}

/** Collects the changes of one segment of one domain, and carries them out. */
export class DomainPlanner implements Refusals {
  readonly #changes = new ChangeList();
  readonly #forward = new ForwardRun(this.#changes, (change, errno, mirror) => this.#refuse(change, errno, mirror));
  readonly #removal = new Removal();
  #mirrors: readonly ContextMirror[] = [];
  /** The context at work, for refusals that come from inside a plan. */
  #current: ContextMirror | undefined;
  #sink: RefusalSink | undefined;

  /** Number of changes collected. */
  get pending(): number {
    return this.#changes.count;
  }

  /** The guest's table gained [iova, iova + pages) -> gpa with these rights. */
  map(token: number, iova: number, pages: number, gpa: number, rights: number): void {
    this.#changes.map(token, iova, pages, gpa, rights);
  }

  /** The guest's table lost every mapping inside [iova, iova + pages); no mapping reaches over either end. */
  unmap(token: number, iova: number, pages: number): void {
    this.#changes.unmap(token, iova, pages);
  }

  /** True when [iova, iova + pages) meets a change that is collected: the caller commits first. */
  touches(iova: number, pages: number): boolean {
    return this.#changes.touches(iova, pages);
  }

  /** Carries the changes out on all `mirrors`, each MAP in all of them or in none; then the plan is empty. */
  commit(mirrors: readonly ContextMirror[], sink: RefusalSink): void {
    if (this.#changes.count === 0) return;
    this.#mirrors = mirrors;
    this.#sink = sink;
    if (mirrors.length === 1 && isPlain(mirrors[0]!)) this.#forward.run(mirrors[0]!, false);
    else this.#commitPlanned(mirrors);
    for (const mirror of mirrors) mirror.budget.watch();
    this.#changes.clear();
    this.#mirrors = [];
    this.#sink = undefined;
    this.#current = undefined;
  }

  /** See {@link Refusals}: the mapping at page `iova` is refused when it is one of this segment. */
  refuse(iova: number, errno: number): boolean {
    const change = this.#changes.indexAt(iova);
    if (change === NONE || this.#changes.kind[change] !== HostOp.map) return false;
    this.#refuse(change, errno, this.#current!);
    return true;
  }

  /** UNMAPs first, as one union; then what they freed is used; then the MAPs. */
  #commitPlanned(mirrors: readonly ContextMirror[]): void {
    this.#collectRemovals();
    for (const mirror of mirrors) {
      if (mirror.isBlocked()) continue;
      if (this.#removal.ranges.count === 0) continue;
      this.#removal.apply(mirror);
      if (mirror.waiting.revoked > 0 && !mirror.quiet) reinstallRevoked(mirror);
    }
    if (this.#changes.maps === 0) return;
    if (mirrors.length === 1) this.#mapInOne(mirrors[0]!);
    else this.#mapInAll(mirrors);
  }

  #collectRemovals(): void {
    const { ranges } = this.#removal;
    const { count, kind, iova, pages, maps } = this.#changes;
    ranges.clear();
    this.#removal.unmaps = count - maps;
    for (let i = 0; i < count; i++) if (kind[i] === HostOp.unmap) ranges.add(iova[i]!, iova[i]! + pages[i]!);
    ranges.normalise();
  }

  #mapInOne(mirror: ContextMirror): void {
    if (!joins(mirror)) {
      this.#forward.run(mirror, true);
      return;
    }
    this.#begin(mirror);
    const { count, kind } = this.#changes;
    for (let i = 0; i < count && !mirror.isBlocked(); i++) {
      if (kind[i] !== HostOp.map) continue;
      const errno = this.#plan(mirror, i);
      if (errno !== 0) this.#refuse(i, errno, mirror);
    }
    this.#end(mirror);
  }

  /** Change by change, so that a refusal in one context frees its place in the others before the next. */
  #mapInAll(mirrors: readonly ContextMirror[]): void {
    const { count, kind } = this.#changes;
    for (let i = 0; i < count; i++) {
      for (const mirror of mirrors) {
        if (kind[i] !== HostOp.map || mirror.isBlocked()) continue;
        const errno = joins(mirror) ? this.#planAlone(mirror, i) : this.#forward.mapOne(mirror, i);
        if (errno !== 0) this.#refuse(i, errno, mirror);
      }
    }
    for (const mirror of mirrors) {
      if (mirror.isBlocked() || !joins(mirror)) continue;
      this.#begin(mirror);
      this.#end(mirror);
    }
  }

  #planAlone(mirror: ContextMirror, i: number): number {
    this.#begin(mirror);
    const errno = this.#plan(mirror, i);
    if (!mirror.plan.sender.flush()) mirror.plan.sender.blockFailed('planned installation');
    return errno;
  }

  #begin(mirror: ContextMirror): void {
    this.#current = mirror;
    mirror.plan.sender.refusals = this;
  }

  /** What is complete goes to the host; on a live context everything does, before anything is answered. */
  #end(mirror: ContextMirror): void {
    if (mirror.isBlocked()) return;
    const { plan } = mirror;
    const done = mirror.quiet ? plan.sender.flush() : plan.installWaiting();
    if (!done) plan.sender.blockFailed('planned installation');
    else if (mirror.quiet && mirror.budget.isLow) mirror.relieveEarly();
  }

  /** Plans MAP `i`; 0, or the errno with which nothing of it is planned. */
  #plan(mirror: ContextMirror, i: number): number {
    const { plan, budget, backing } = mirror;
    const { iova, pages, gpa, rights } = this.#changes;
    const ram = backing.ramPagesIn(gpa[i]!, pages[i]!, rights[i]!);
    if (exceedsCap(mirror, ram)) {
      // What came before is settled first: the host may refuse it yet.
      if (!plan.sender.flush() || mirror.isBlocked()) return 0;
      if (exceedsCap(mirror, ram)) return Errno.ENOMEM;
    }
    // One entry, and one to keep free; a mapping of several pieces may need more.
    if (budget.left < 2 || !backing.locate(gpa[i]!, pages[i]!, rights[i]!)) return this.#planTightly(mirror, i);
    plan.add(iova[i]!, pages[i]!, gpa[i]!, rights[i]!);
    return 0;
  }

  /** As {@link #plan} when entries are short: what came before is settled first, so that the newest MAP is the guilty one. */
  #planTightly(mirror: ContextMirror, i: number): number {
    const { plan, budget } = mirror;
    const { iova, pages, gpa, rights, kind } = this.#changes;
    if (!plan.continuedBy(iova[i]!, pages[i]!, gpa[i]!, rights[i]!)) plan.park();
    if (!plan.sender.flush() || mirror.isBlocked() || kind[i] === REFUSED) return 0;
    plan.add(iova[i]!, pages[i]!, gpa[i]!, rights[i]!);
    if (budget.left >= 0) return 0;
    plan.park();
    if (budget.left >= 0) return 0;
    // What the host says now holds; then room is made.
    budget.readAgain();
    if (budget.left >= 0 || (mirror.relieve() && budget.left >= 0) || mirror.isBlocked()) return 0;
    plan.sender.drop(iova[i]!, iova[i]! + pages[i]!);
    plan.sender.flush();
    return Errno.ENOSPC;
  }

  /** MAP `change` is refused: it leaves the guest's table, and every context. */
  #refuse(change: number, errno: number, mirror: ContextMirror): void {
    const changes = this.#changes;
    if (changes.kind[change] === REFUSED) return;
    changes.kind[change] = REFUSED;
    this.#sink!.mapRefused(changes.token[change]!, errno, mirror);
    const start = changes.iova[change]!;
    const end = start + changes.pages[change]!;
    for (const other of this.#mirrors) {
      if (other.isBlocked() || (isPlain(other) && other.entries.isFree(start, end))) continue;
      this.#removal.ranges.clear();
      this.#removal.ranges.add(start, end);
      this.#removal.unmaps = 0;
      this.#removal.apply(other);
    }
  }
}

/** True when `ram` more pages of RAM are more than may be installed. */
function exceedsCap(mirror: ContextMirror, ram: number): boolean {
  const { waiting, plan } = mirror;
  return mirror.pages + waiting.pages + plan.pages + ram > mirror.pageCap;
}

/** True when MAPs are joined on the context now. */
function joins(mirror: ContextMirror): boolean {
  const { policy } = mirror.settings;
  // Where the host cuts entries, a join costs no access later.
  const isFree = mirror.quiet || mirror.context.limits.cuts === true;
  return joinsInKick(policy) || (isFree && joinsWhenQuiet(policy));
}

/** True when nothing but 1:1 entries is there and will come: the short way. */
function isPlain(mirror: ContextMirror): boolean {
  const { entries, waiting, plan } = mirror;
  return !joins(mirror) && entries.joined + entries.gathered + waiting.size === 0 && !plan.open;
}
