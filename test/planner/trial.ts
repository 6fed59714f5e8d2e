// One run: carries the steps of a list out on a machine, looks at every host operation, and says which invariant of
// spec/design.md broke first. A host operation can be made to fail. Not here: what is compared (reach.ts, engine.ts).
// Unit: 4 KiB page numbers, ends exclusive.
import type { ReachableRun, SimulatedOperation } from '../../src/host/simulated.ts';
import type { ContextMirror } from '../../src/coalesce/mirror.ts';
import type { DmaProber } from '../../src/host/simulated.ts';
import type { DmaWindowEvent } from '../../src/iommu/events.ts';
import { STATUS_NAMES, statusOfErrno } from '../../src/iommu/status.ts';
import type { ContextStats } from '../../src/iommu/stats.ts';
import { NONE } from '../../src/intervals/table.ts';
import type { GuestDomain, GuestEndpoint, Mapping, Target } from './engine.ts';
import { Engine } from './engine.ts';
import { entriesDiffer } from './entries.ts';
import type { Backing, Need } from './layout.ts';
import type { SimulatedContext } from './machine.ts';
import { Machine } from './machine.ts';
import type { BypassMaps } from './reach.ts';
import { covered, foreignPage, meets, missingPages } from './reach.ts';
import type { ContextSetup, Failure, Request, Setup, Step } from './setup.ts';
import { formatRequest } from './setup.ts';

const OK = 0;
/** Statuses that a host refusal may have; RANGE is a guest's mistake as well. */
const REFUSALS = new Set(['NOMEM', 'DEVERR', 'IOERR', 'RANGE']);
/** Host operations of one run that can only mean a loop. */
const MOST_OPERATIONS = 100_000;
const NO_RUNS: readonly ReachableRun[] = [];
const PAGE = 4096n;

/** A context with what is known of it from outside. */
interface Watched {
  readonly index: number;
  readonly setup: ContextSetup;
  readonly host: SimulatedContext;
  readonly members: readonly GuestEndpoint[];
  readonly probers: readonly DmaProber[];
  /** What bypass leaves out. */
  readonly holes: readonly (readonly [number, number])[];
  readonly mmio: boolean;
  bypass: BypassMaps;
  /** An operation failed, and nothing was mirrored since. */
  failed: boolean;
  /** {@link failed} at the start of the step, or at any time in it. */
  failedInStep: boolean;
  /** It failed in this step. */
  failedNow: boolean;
  /** Nothing could stop its devices: it refuses everything until the machine is reset. */
  fatal: boolean;
  /** Answered requests from which on all members want what they want at the end of the step. */
  stableFrom: number;
  /** What its devices reached after the last host operation, and which of them were bus masters. */
  runs: readonly ReachableRun[];
  masters: number;
  /** Ranges that a live context lost for want of room. */
  revoked: (readonly [number, number])[];
  /** Counted windows at the start of the step, and the contexts to which the count belongs. */
  windows: number;
  users: readonly unknown[] | undefined;
  /** Pages found missing in this step, as pairs. */
  missing: number[];
  /** RAM pages that its target took at the start of the kick. */
  ram: number;
  /** Only ever mapped under `forward`. */
  alwaysForward: boolean;
}

interface Sight {
  readonly context: Watched;
  readonly answered: number;
  readonly runs: readonly ReachableRun[];
  readonly masters: number;
  readonly what: string;
}

/** What a run came through, so that it shows when the lists no longer reach the planner's corners. */
export interface Reached {
  refused: number;
  blocked: number;
  joins: number;
  gathers: number;
  demotions: number;
  cuts: number;
  /** Ends of steps at which a context shares its address space with others. */
  shared: number;
  windows: number;
  stalls: number;
  compactions: number;
  failedInstalls: number;
}

export const REACHED_NOTHING: Readonly<Reached> = {
  refused: 0,
  blocked: 0,
  joins: 0,
  gathers: 0,
  demotions: 0,
  cuts: 0,
  shared: 0,
  windows: 0,
  stalls: 0,
  compactions: 0,
  failedInstalls: 0,
};

export class Trial {
  /** Host operations so far. */
  operations = 0;
  readonly reached: Reached = { ...REACHED_NOTHING };
  readonly engine: Engine;
  readonly machine: Machine;
  readonly #watched: readonly Watched[];
  readonly #sights: Sight[] = [];
  readonly #honest: boolean;
  #inKick = false;
  #usedAtKick = 0;
  #answered = 0;
  #injected = 0;
  /** Kinds of the host operations that were made to fail in this step. */
  readonly #injectedKinds: string[] = [];
  /** True when the host refused a window in this step. */
  #windowRefused = false;
  #before: Backing | undefined;
  #policy: string;
  #steps = 0;

  constructor(setup: Setup, failures: readonly Failure[] = []) {
    this.machine = new Machine(setup);
    this.engine = new Engine(setup);
    this.#policy = setup.policy;
    this.#honest = setup.memlock === Infinity;
    this.#watched = this.machine.contexts.map((host, index) => this.#watch(host, index));
    this.machine.host.onOperation((operation) => {
      if (operation.kind === 'window' && operation.errno !== 0) this.#windowRefused = true;
      this.#look(operation);
    });
    this.machine.onPause = (context) => {
      for (const each of this.#named(context)) this.#lookAt(each, 'pause');
    };
    for (const { at, errno, times } of failures) this.machine.host.failAt(at, errno, { times });
  }

  /** Brings the machine up; says what broke. */
  start(): string | undefined {
    this.#begin();
    this.machine.start();
    this.#sights.length = 0;
    return this.#end(1, 'start');
  }

  /** Carries out one step; says what broke. */
  step(step: Step): string | undefined {
    this.#steps++;
    this.#begin();
    switch (step.do) {
      case 'kick':
        return this.#kick(step.requests);
      case 'master':
        if (this.machine.contextOf(step.endpoint) === undefined) return undefined;
        if (this.machine.setBusMaster(step.endpoint, step.on)) break;
        this.#noteBlocks();
        if (!this.#contextOf(step.endpoint).failed)
          return `bus master of e${step.endpoint} refused though the context is not blocked`;
        break;
      case 'bypass':
        this.machine.driver.setBypass(step.value);
        this.engine.setBypass(step.value === 1);
        break;
      case 'reset':
        return this.#reset(step.system);
      case 'region':
      case 'move':
        if (!this.#changeMemory(step)) return undefined;
        break;
      case 'policy':
        this.machine.setPolicy(step.policy);
        this.#policy = step.policy;
        if (step.policy !== 'forward') for (const each of this.#watched) each.alwaysForward = false;
    }
    return this.#end(1, step.do);
  }

  /** Shuts the machine down; says what is left behind. */
  finish(): string | undefined {
    const { host, iommu, layout, contexts } = this.machine;
    host.clearFaults();
    const stats = iommu.core.stats();
    const blocked = stats.contexts;
    this.reached.refused += stats.counters['refused']!;
    for (const context of stats.contexts) this.#count(context);
    iommu.close();
    for (const each of this.#watched) {
      const left = each.host.entries().length;
      const kept = blocked[each.index]!.blockedBy;
      if (left > 0 && kept !== 'bus master' && kept !== 'device reset' && kept !== 'fatal')
        return `END: ${left} entries left in ${each.host.name} after close`;
      if (left > 0 && this.#reach(each).length > 0) return `END: ${each.host.name} is live after close`;
    }
    for (const { name, stats } of contexts.map((context) => ({ name: context.name, stats: context.stats() })))
      if (stats.windows !== 0) return `END: ${stats.windows} windows stand in ${name}`;
    for (const context of contexts) context.close();
    if (host.lockedPages !== 0) return `END: ${host.lockedPages} pages stay locked`;
    if (host.addressSpace.mapCount !== layout.areas)
      return `END: ${host.addressSpace.mapCount} memory areas, the embedder has ${layout.areas}`;
    return undefined;
  }

  #count(stats: ContextStats): void {
    const { reached } = this;
    reached.blocked += stats.blocks;
    reached.joins += stats.joinsMade;
    reached.gathers += stats.gathersMade;
    reached.demotions += stats.demotions;
    reached.windows += stats.windows.count;
    reached.stalls += stats.stalls;
    reached.compactions += stats.compactions;
    reached.failedInstalls += stats.failedInstalls;
  }

  #watch(host: SimulatedContext, index: number): Watched {
    const { setup, layout } = this.machine;
    const context = setup.contexts[index]!;
    const members = context.endpoints.map((id) => this.engine.endpoints.get(id)!);
    const ends: (readonly [number, number])[] = members.flatMap(({ reserved }) => [...reserved]);
    let page = 0;
    for (const [first, end] of context.usable) {
      ends.push([page, first]);
      page = end;
    }
    ends.push([page, 2 ** 52]);
    const mmio = host.limits.mmio !== false;
    const holes = ends.filter(([first, end]) => first < end).sort((a, b) => a[0] - b[0]);
    return {
      index,
      setup: context,
      host,
      members,
      probers: context.endpoints.map((id) => this.machine.host.prober(id)),
      holes,
      mmio,
      bypass: { maps: layout.bypassMaps(holes, mmio), gone: [] },
      failed: false,
      failedInStep: false,
      failedNow: false,
      fatal: false,
      stableFrom: 0,
      runs: NO_RUNS,
      masters: 0,
      revoked: [],
      windows: 0,
      users: undefined,
      missing: [],
      ram: 0,
      alwaysForward: setup.policy === 'forward',
    };
  }

  /** Those that an event names: all that share an address space. */
  #named(name: string): Watched[] {
    const names = name.split(' + ');
    return this.#watched.filter(({ host }) => names.includes(host.name));
  }

  /** Those whose devices may notice what is done through `context`. */
  #besides(context: Watched): Watched[] {
    const { share, mode } = context.setup;
    if (!share) return [context];
    return this.#watched.filter(({ setup }) => setup.share && setup.mode === mode);
  }

  #contextOf(endpoint: number): Watched {
    return this.#watched.find(({ setup }) => setup.endpoints.includes(endpoint))!;
  }

  #mirrorOf({ index }: Watched): ContextMirror {
    return [...this.machine.iommu.core.state.groups.all][index]!.mirror;
  }

  /** Endpoints whose bus-master bit the device hears about. */
  #known(): number[] {
    const { setup } = this.machine;
    return setup.endpoints
      .filter(({ id, busMaster }) => busMaster !== undefined && this.machine.contextOf(id) !== undefined)
      .map(({ id }) => id);
  }

  #begin(): void {
    this.engine.begin();
    this.#sights.length = 0;
    this.machine.events.length = 0;
    this.#inKick = false;
    this.#answered = 0;
    this.#before = undefined;
    this.#injected = this.machine.host.faults.injected;
    this.#injectedKinds.length = 0;
    this.#windowRefused = false;
    for (const each of this.#watched) {
      each.failedInStep = each.failed;
      each.failedNow = false;
      each.stableFrom = 0;
      each.missing.length = 0;
      if (each.bypass.gone.length > 0) each.bypass = { maps: each.bypass.maps, gone: [] };
    }
  }

  /** After a single host operation. */
  #look({ context, kind, errno, iova, pages }: SimulatedOperation): void {
    this.operations++;
    this.machine.now++;
    if (this.operations > MOST_OPERATIONS) throw new Error(`more than ${MOST_OPERATIONS} host operations: no end`);
    if (this.machine.host.faults.injected > this.#injected + this.#injectedKinds.length) this.#injectedKinds.push(kind);
    const index = this.machine.contexts.indexOf(context as SimulatedContext);
    if (errno === 0 && (kind === 'clearBusMaster' || kind === 'resetDevices')) this.machine.cleared(context.name);
    const watched = this.#watched[index]!;
    // The device takes note of it afterwards.
    if (kind === 'unmap' && errno === 0 && this.#mirrorOf(watched).entries.table.splits(iova, iova + pages))
      this.reached.cuts++;
    if (this.#inKick) {
      const answered = (this.machine.driver.requestQueue.usedIndex - this.#usedAtKick) & 0xffff;
      if (answered !== this.#answered) {
        this.#answered = answered;
        // What was reached just before this operation was still reached when these answers were given.
        for (const each of this.#watched) this.#note(each, 'answers');
      }
    }
    const what = `${kind} 0x${iova.toString(16)}+${pages}${errno === 0 ? '' : ` errno ${errno}`}`;
    for (const each of this.#besides(watched)) this.#lookAt(each, what);
  }

  #lookAt(context: Watched, what: string): void {
    context.runs = this.#reach(context);
    this.#note(context, what);
  }

  #note(context: Watched, what: string): void {
    this.#sights.push({
      context,
      answered: this.#answered,
      runs: context.runs,
      masters: context.masters,
      what,
    });
  }

  #reach(context: Watched): readonly ReachableRun[] {
    context.masters = 0;
    let first: DmaProber | undefined;
    context.setup.endpoints.forEach((id, i) => {
      if (!this.machine.host.busMaster(id)) return;
      context.masters |= 1 << i;
      first ??= context.probers[i];
    });
    return first?.reachable() ?? NO_RUNS;
  }

  /** The driver, or the whole machine, resets the device; what that left is looked at before the driver is back. */
  #reset(system: boolean): string | undefined {
    const { machine } = this;
    if (system) {
      machine.systemReset(this.#known());
      for (const each of this.#watched) each.fatal = false;
    } else machine.iommu.transport.writeStatus(0);
    this.engine.reset(system);
    const wrong = this.#end(1, 'reset');
    if (wrong !== undefined) return wrong;
    this.#begin();
    machine.driver.start();
    return this.#checkTables() ?? this.#end(1, 'start of the driver');
  }

  #changeMemory(step: Extract<Step, { do: 'region' | 'move' }>): boolean {
    const { layout } = this.machine;
    const { index } = step;
    this.#before = layout.fork();
    if (step.do === 'region') {
      if (layout.has(index)) layout.remove(index);
      else if (!layout.add(index)) return false;
    } else if (!layout.move(index, step.page)) return false;
    for (const each of this.#watched)
      each.bypass = { maps: layout.bypassMaps(each.holes, each.mmio), gone: each.bypass.maps };
    return true;
  }

  #kick(requests: readonly Request[]): string | undefined {
    const { machine, engine } = this;
    this.#usedAtKick = machine.driver.requestQueue.usedIndex;
    this.#inKick = true;
    machine.kick(requests);
    this.#inKick = false;
    if (machine.driver.needsReset) return 'the device asks for a reset';
    this.#noteBlocks();
    let refused = 0;
    this.#noteCaps();
    for (let i = 0; i < requests.length; i++) {
      const request = requests[i]!;
      const status = STATUS_NAMES[machine.statuses[i]!];
      const verdict = engine.apply(i, request, machine.statuses[i] !== OK);
      if (verdict === 'refused') {
        refused++;
        if (status === undefined || !REFUSALS.has(status))
          return `I5: request ${i} (${formatRequest(request)}) was answered ${status ?? machine.statuses[i]!}, a 1:1 engine says OK`;
        const wrong = this.#checkRefusal(i, request, status) ?? this.#checkRestored(i, request, requests);
        if (wrong !== undefined) return wrong;
      } else if (verdict !== status)
        return `I5: request ${i} (${formatRequest(request)}) was answered ${status ?? machine.statuses[i]!}, a 1:1 engine says ${verdict}`;
    }
    return this.#checkTold(refused) ?? this.#checkTables() ?? this.#checkCaps() ?? this.#end(requests.length, 'kick');
  }

  /** Takes note of contexts that were blocked or unblocked, in the order of events. */
  #noteBlocks(): void {
    for (const event of this.machine.events) {
      if (event.type === 'context-blocked' && event.reason !== 'endpoints differ') {
        for (const context of this.#named(event.context)) {
          context.failed = context.failedInStep = context.failedNow = true;
          if (event.reason === 'fatal') context.fatal = true;
        }
      } else if (event.type === 'context-switched' && event.to !== 'blocked')
        for (const context of this.#named(event.context)) context.failed = false;
    }
  }

  /** Most RAM pages that a context may hold. */
  get #cap(): number {
    return this.machine.setup.cap * this.machine.layout.ramPages;
  }

  get #injectedInStep(): boolean {
    return this.machine.host.faults.injected > this.#injected;
  }

  /** I6: what was refused although no host operation was made to fail really does not fit 1:1. */
  #checkRefusal(i: number, request: Request, status: string): string | undefined {
    if (this.#injectedInStep || !this.#honest) return undefined;
    // A window that the host refuses against what it said: entries run out later than planned, at another MAP of the kick.
    if (this.#windowRefused && request.op === 'map') return undefined;
    const text = `request ${i} (${formatRequest(request)}) was refused with ${status}`;
    if (request.op === 'map') {
      const domain = this.engine.domains.get(request.domain)!;
      const extra = {
        start: request.page,
        end: request.page + request.pages,
        target: request.target,
        flags: request.flags,
      };
      for (const each of this.#watched) {
        if (!each.members.every(({ now }) => now.target === domain)) continue;
        if (each.failedInStep || !this.#fits(each, domain, extra)) return undefined;
      }
      return `I6: ${text} though it fits 1:1`;
    }
    if (request.op !== 'attach') return `I6: ${text}`;
    const each = this.#contextOf(request.endpoint);
    const target = this.engine.endpoints.get(request.endpoint)!.presences.at(-1)!.target;
    return each.failedInStep || each.fatal || !this.#fits(each, target) ? undefined : `I6: ${text} though it fits 1:1`;
  }

  /** I7: an ATTACH for which one map was refused, and nothing else, puts the former state back. */
  #checkRestored(i: number, request: Request, requests: readonly Request[]): string | undefined {
    if (request.op !== 'attach' || !this.#honest || this.#injectedKinds.length !== 1) return undefined;
    if (this.#injectedKinds[0] !== 'map' || requests.some(({ op }) => op === 'detach')) return undefined;
    const each = this.#contextOf(request.endpoint);
    if (!each.failedNow || each.setup.lie !== 0) return undefined;
    // What does not fit is refused before anything is touched: the failure has hit something else.
    if (!this.#fits(each, this.engine.endpoints.get(request.endpoint)!.presences.at(-1)!.target)) return undefined;
    return `I7: request ${i} (${formatRequest(request)}) was refused and ${each.host.name} is blocked`;
  }

  /** RAM pages of each context before the kick. */
  #noteCaps(): void {
    for (const each of this.#watched) each.ram = this.#need(each, agreed(each) ?? 'blocked').ram;
  }

  /** No MAP brings a context above the cap on installed memory. */
  #checkCaps(): string | undefined {
    for (const each of this.#watched) {
      const target = agreed(each);
      if (target === undefined || typeof target === 'string' || each.failed) continue;
      const { ram } = this.#need(each, target);
      if (ram > this.#cap && ram > each.ram && each.ram > 0)
        return `CAP: ${each.host.name} mirrors ${ram} pages of ${this.machine.layout.ramPages} pages of memory`;
    }
    return undefined;
  }

  /** Whether a context has room for a target, with one more mapping, 1:1. */
  #fits(each: Watched, target: Target, extra?: Omit<Mapping, 'from' | 'until'>): boolean {
    const need = this.#need(each, target);
    const { layout } = this.machine;
    if (extra !== undefined) layout.addNeed(need, extra);
    const { setup } = each;
    if (need.mmio > 0 && setup.flavour === 'iommufd') return false;
    if (need.ram > this.#cap) return false;
    return setup.flavour === 'iommufd' || need.entries <= setup.entryLimit + Math.min(0, setup.lie);
  }

  #need(each: Watched, target: Target, gone = false): Need {
    const need: Need = { entries: 0, ram: 0, mmio: 0 };
    const { layout } = this.machine;
    const add = (maps: readonly Mapping[]): void => maps.forEach((map) => layout.addNeed(need, map));
    if (target === 'bypass') {
      add(each.bypass.maps);
      if (gone) add(each.bypass.gone);
    } else if (target !== 'blocked') {
      add(target.maps);
      if (gone) add(target.gone);
    }
    return need;
  }

  /** Each refused request is told by an event with its status. */
  #checkTold(refused: number): string | undefined {
    let told = 0;
    for (const event of this.machine.events) {
      if (event.type !== 'host-refusal' || (event.request !== 'MAP' && event.request !== 'ATTACH')) continue;
      told++;
      if (event.status !== STATUS_NAMES[statusOfErrno(event.errno)])
        return `TOLD: ${event.request} refused with errno ${event.errno} is told as ${event.status}`;
    }
    return told === refused ? undefined : `TOLD: ${refused} requests were refused, ${told} events`;
  }

  /** I5: the guest's tables. */
  #checkTables(): string | undefined {
    const { state } = this.machine.iommu.core;
    if (state.mappings !== this.engine.mappings)
      return `I5: ${state.mappings} mappings instead of ${this.engine.mappings}`;
    if (state.domains.size !== this.engine.domains.size)
      return `I5: ${state.domains.size} domains instead of ${this.engine.domains.size}`;
    for (const domain of this.engine.domains.values()) {
      const real = state.domains.get(domain.id);
      if (real === undefined) return `I5: domain ${domain.id} is missing`;
      const wrong = tableDiffers(real, domain);
      if (wrong !== undefined) return `I5: domain ${domain.id} ${wrong}`;
    }
    return undefined;
  }

  /** Everything that holds at the end of a step; `time`: number of requests. */
  #end(time: number, what: string): string | undefined {
    this.#noteBlocks();
    const windows = this.#windowEvents();
    for (const each of this.#watched) this.#settle(each);
    for (const sight of this.#sights) {
      const wrong = this.#checkSight(sight);
      if (wrong !== undefined) return `${wrong} (${what}, ${sight.what}, ${sight.answered} answered)`;
    }
    const stats = this.machine.iommu.core.stats().contexts;
    this.#before = undefined;
    for (const each of this.#watched) {
      const wrong = this.#checkEnd(
        each,
        time,
        stats[each.index]!,
        windows.filter(({ context }) => this.#named(context).includes(each)),
      );
      if (wrong !== undefined) return `${wrong} (end of ${what})`;
    }
    return undefined;
  }

  #windowEvents(): DmaWindowEvent[] {
    return this.machine.events.filter((event) => event.type === 'dma-window');
  }

  #settle(each: Watched): void {
    for (const { presences } of each.members)
      for (let i = 1; i < presences.length; i++)
        each.stableFrom = Math.max(each.stableFrom, Math.ceil(presences[i]!.from));
  }

  #checkSight({ context, answered, runs, masters }: Sight): string | undefined {
    if (masters === 0) return runs.length === 0 ? undefined : 'a device without bus mastering reaches memory';
    const memory = this.#memory;
    const wrong = this.#checkForeign(context, runs, masters, answered);
    if (wrong !== undefined) return wrong;
    if (answered < context.stableFrom || context.failedInStep) return undefined;
    const target = agreed(context);
    if (target !== undefined) missingPages(runs, target, context.bypass, memory, answered, context.missing);
    return undefined;
  }

  get #memory(): { before: Backing; after: Backing } {
    const after = this.machine.layout.backing;
    return { before: this.#before ?? after, after };
  }

  #checkForeign(
    context: Watched,
    runs: readonly ReachableRun[],
    masters: number,
    answered: number,
  ): string | undefined {
    for (let i = 0; i < context.members.length; i++) {
      if ((masters & (1 << i)) === 0) continue;
      const endpoint = context.members[i]!;
      const page = foreignPage(runs, endpoint, context.bypass, this.#memory, answered);
      if (page < 0) continue;
      const run = runs.find(({ iova, pages }) => iova <= page && page < iova + pages)!;
      return `I1: e${endpoint.id} reaches 0x${page.toString(16)} (run 0x${run.iova.toString(16)}+${run.pages}, rights ${run.rights})`;
    }
    return undefined;
  }

  #checkEnd(each: Watched, time: number, stats: ContextStats, windows: readonly DmaWindowEvent[]): string | undefined {
    const { host } = each;
    const lost = each.missing.slice();
    each.missing.length = 0;
    each.runs = this.#reach(each);
    if (each.masters !== 0) {
      const wrong = this.#checkForeign(each, each.runs, each.masters, time);
      if (wrong !== undefined) return wrong;
    }
    const target = agreed(each);
    const wrong = this.#checkState(each, target, stats) ?? this.#checkEntries(each, target, stats);
    if (wrong !== undefined) return wrong;
    const mirrored = target !== undefined && target !== 'blocked' && !each.failed;
    if (mirrored && each.masters !== 0) missingPages(each.runs, target, each.bypass, this.#memory, time, each.missing);
    if (!mirrored && each.runs.length > 0) return `I1: ${host.name} is blocked and reaches memory`;
    return this.#checkWindows(each, lost, windows, stats);
  }

  /** What the context says that it mirrors; blocking is told, and has a reason. */
  #checkState(each: Watched, target: Target | undefined, stats: ContextStats): string | undefined {
    const wanted =
      each.failed || target === undefined || target === 'blocked'
        ? 'blocked'
        : target === 'bypass'
          ? 'bypass'
          : 'domain';
    if (stats.state !== wanted) return `STATE: ${each.host.name} is ${stats.state} instead of ${wanted}`;
    if (!each.failedNow || this.#injectedInStep || !this.#honest || each.setup.lie !== 0) return undefined;
    // Without an injected failure a context is blocked only when what it was to hold does not fit 1:1.
    for (const { presences } of each.members) {
      for (const { target: tried } of presences) {
        const need = this.#need(each, tried, true);
        const iommufd = each.setup.flavour === 'iommufd';
        if (iommufd ? need.mmio > 0 : need.entries > each.setup.entryLimit) return undefined;
        if (need.ram > this.#cap) return undefined;
      }
    }
    const told = this.machine.events.find(
      (event) => event.type === 'context-blocked' && this.#named(event.context).includes(each),
    );
    return `I6: ${each.host.name} was blocked though everything fits 1:1: ${JSON.stringify(told, bigints)}`;
  }

  /** A context with the same target that could share the address space and does not, though no host refused anything. */
  #apart(each: Watched, target: Target): Watched | undefined {
    if (this.machine.host.faults.injected > 0 || !this.#honest || typeof target === 'string') return undefined;
    return this.#besides(each).find(
      (other) => agreed(other) === target && !other.failed && this.#mirrorOf(other) !== this.#mirrorOf(each),
    );
  }

  /** Host entries: what the device believes, the limit, and never more than 1:1. */
  #checkEntries(each: Watched, target: Target | undefined, stats: ContextStats): string | undefined {
    const real = each.host.entries().length;
    if (stats.entries !== real)
      return `STATS: ${each.host.name} holds ${real} entries, the device says ${stats.entries}`;
    if (each.setup.flavour === 'type1' && real > each.setup.entryLimit) return `LIMIT: ${real} entries`;
    if (target === undefined || target === 'blocked' || each.failed) return undefined;
    if (this.#mirrorOf(each).contexts.length > 1) this.reached.shared++;
    const apart = this.#apart(each, target);
    if (apart !== undefined)
      return `SHARE: ${each.host.name} and ${apart.host.name} have one domain and two address spaces`;
    const differ = entriesDiffer(this.#mirrorOf(each), each.host);
    if (differ !== undefined) return `ENTRIES: ${each.host.name} ${differ}`;
    const need = this.#need(each, target);
    if (real > need.entries) return `I6: ${real} entries where 1:1 takes ${need.entries}`;
    if (each.alwaysForward && real !== need.entries) return `FORWARD: ${real} entries where 1:1 takes ${need.entries}`;
    return undefined;
  }

  /** I4: what was missing is a window that the policy permits, and all windows are told and counted. */
  #checkWindows(
    each: Watched,
    lost: readonly number[],
    windows: readonly DmaWindowEvent[],
    stats: ContextStats,
  ): string | undefined {
    const ranges = windows.map(({ start, end }): [number, number] => [Number(start / PAGE), Number(end / PAGE) + 1]);
    const known = [...ranges, ...each.revoked];
    if (!covered(lost, known)) return `I4: ${each.host.name} lost ${pairs(lost)}, told are ${pairs(known.flat())}`;
    const fresh = windows.flatMap(({ reason }, i) => (reason === 'revoked' ? [ranges[i]!] : []));
    const open = [...fresh, ...each.revoked];
    if (!covered(each.missing, open)) return `I2: ${each.host.name} does not reach ${pairs(each.missing)}`;
    // Without a bus master nothing shows what is back.
    each.revoked = each.masters === 0 ? open : open.filter(([start, end]) => meets(each.missing, start, end));
    const { count } = stats.windows;
    const counted = count - each.windows;
    each.windows = count;
    const { contexts: users } = this.#mirrorOf(each);
    // A context that comes to another address space, or leaves one, brings no count along.
    const same = each.users === users;
    each.users = users;
    if (same && counted !== windows.length) return `I4: ${windows.length} windows told, ${counted} counted`;
    if (stats.windows.open > 0 !== each.revoked.length > 0 && each.masters !== 0)
      return `I4: ${stats.windows.open} windows are open, missing is ${pairs(each.missing)}`;
    if (windows.length === 0) return undefined;
    if (each.setup.mode === 'cut' && !this.#injectedInStep) return `I4: a window on a host that cuts entries`;
    if (each.setup.mode === 'cut' && !this.#injectedKinds.includes('unmap') && windows.some(takesApart))
      return `I4: an entry is taken apart on a host that cuts entries`;
    if (each.alwaysForward) return `I4: a window under forward`;
    if (this.#policy !== 'lossy' && windows.some(({ reason }) => reason === 'compaction'))
      return `I4: a window of a compaction under ${this.#policy}`;
    return undefined;
  }
}

/** A window that a partial UNMAP, or memory that goes, opens. */
function takesApart({ reason }: DmaWindowEvent): boolean {
  return reason === 'demotion' || reason === 'memory';
}

/** What all members of a context want, undefined when they differ. */
function agreed({ members }: Watched): Target | undefined {
  const [first] = members;
  return members.every(({ now }) => now.target === first!.now.target) ? first!.now.target : undefined;
}

function tableDiffers(real: { table: RealTable; bypass: boolean }, domain: GuestDomain): string | undefined {
  const { table } = real;
  let slot = table.first();
  for (const { start, end, target, flags } of domain.maps) {
    if (slot === NONE) return `lacks 0x${start.toString(16)}`;
    const same =
      table.startAt(slot) === start &&
      table.endAt(slot) === end &&
      table.valueAt(slot) === target &&
      table.flagsAt(slot) === flags;
    if (!same) return `has 0x${table.startAt(slot).toString(16)} instead of 0x${start.toString(16)}`;
    slot = table.next(slot);
  }
  return slot === NONE ? undefined : `has 0x${table.startAt(slot).toString(16)} too many`;
}

interface RealTable {
  first(): number;
  next(slot: number): number;
  startAt(slot: number): number;
  endAt(slot: number): number;
  valueAt(slot: number): number;
  flagsAt(slot: number): number;
}

function pairs(list: readonly number[]): string {
  const texts: string[] = [];
  for (let i = 0; i < list.length; i += 2) texts.push(`0x${list[i]!.toString(16)}-0x${list[i + 1]!.toString(16)}`);
  return texts.join(' ') || 'nothing';
}

const bigints = (_: string, value: unknown): unknown => (typeof value === 'bigint' ? `0x${value.toString(16)}` : value);
