// Runs a scenario on the whole device over the simulated host and checks the invariants of the host plan: I1 after every
// single host operation, the others after every step (spec/design.md). A failure may be injected at one host operation.
import { expect } from 'vitest';
import type { IommufdContextOptions } from '../../src/host/simulated.ts';
import { statusName } from '../../src/iommu/status.ts';
import type { DriverCommand } from '../../src/testing/requests.ts';
import type { MemoryRegion } from '../../src/virtio/memory.ts';
import type { ReferenceMapping, ReferenceTarget } from './reference.ts';
import { Reference, rightsOf } from './reference.ts';
import type { Reach } from './rig.ts';
import { PAGE, Rig } from './rig.ts';

export type Flavour = 'type1' | 'iommufd' | 'iommufd cut';

/** One thing that happens to the machine. */
export type Step =
  | { readonly do: 'kick'; readonly commands: readonly DriverCommand[] }
  | { readonly do: 'bypass'; readonly value: number }
  | { readonly do: 'reset' }
  | { readonly do: 'memory'; readonly region: number };

export interface Scenario {
  readonly groups: readonly (readonly number[])[];
  readonly emulated: readonly number[];
  /** Of type1 contexts. */
  readonly entryLimit: number;
  /** Kind of context of each group; default type1. Those of iommufd can share an address space. */
  readonly flavours?: readonly Flavour[];
  readonly steps: readonly Step[];
}

/** A page that every endpoint reports as reserved; RAM lies behind it, so that bypass has to leave it out. */
export const RESERVED_PAGE = 0x103;
/** Regions that come and go, as [first page, pages, kind]; the first two are there from the start. */
const REGIONS = [
  [0x100, 6, 'ram'],
  [0x106, 4, 'ram'],
  [0x10a, 2, 'rom'],
  [0x10c, 3, 'mmio'],
] as const satisfies readonly (readonly [number, number, string])[];
const REFUSED = new Set(['NOMEM', 'DEVERR', 'IOERR']);

type Backing = ReturnType<Rig['backing']>;

/** What was seen at one host operation: how many requests of the kick were answered, and what each endpoint reached. */
interface Sight {
  readonly answered: number;
  readonly reach: ReadonlyMap<number, Reach>;
}

/** The scenario on one machine. */
export class InvariantRun {
  readonly rig: Rig;
  /** Host operations of the steps so far. */
  operations = 0;
  readonly #scenario: Scenario;
  readonly #regions: (MemoryRegion | undefined)[] = [];
  #state: Reference;
  #sights: Sight[] = [];
  #usedAtKick = 0;

  constructor(scenario: Scenario) {
    this.#scenario = scenario;
    const ids = [...scenario.groups.flat(), ...scenario.emulated];
    const region = {
      kind: 'reserved',
      start: BigInt(RESERVED_PAGE) * PAGE,
      end: BigInt(RESERVED_PAGE + 1) * PAGE - 1n,
    } as const;
    this.rig = new Rig({
      groups: scenario.groups,
      emulated: scenario.emulated,
      ram: [],
      reserved: Object.fromEntries(ids.map((id) => [id, [region]])),
      host: { entryLimit: scenario.entryLimit, writeOnlyReadable: false },
      context: (group) => contextOf(scenario.flavours?.[group] ?? 'type1'),
      queueSize: 16,
    });
    this.#state = new Reference(new Map(ids.map((id) => [id, undefined])), new Map(), true, RESERVED_PAGE);
    this.#toggle(0);
    this.#toggle(1);
    this.rig.host.onOperation(() => this.#look());
  }

  /** Runs all steps; `failAt`: the host operation (1 = the first) that fails with `errno`. */
  run(failAt: number, errno: number): void {
    if (failAt > 0) this.rig.host.failAt(failAt, errno);
    for (const step of this.#scenario.steps) {
      const injected = this.rig.host.faults.injected;
      this.#step(step, () => this.rig.host.faults.injected > injected);
      this.#checkTables();
      this.#checkReach();
    }
  }

  #look(): void {
    this.operations++;
    const answered = (this.rig.driver.requestQueue.usedIndex - this.#usedAtKick) & 0xffff;
    const ids = this.#scenario.groups.flat();
    this.#sights.push({ answered, reach: new Map(ids.map((id) => [id, this.rig.reach(id)])) });
  }

  #step(step: Step, injected: () => boolean): void {
    this.#sights = [];
    this.#usedAtKick = this.rig.driver.requestQueue.usedIndex;
    const before = this.#state;
    const backing = this.rig.backing();
    switch (step.do) {
      case 'kick':
        this.#kick(step.commands, injected);
        return;
      case 'bypass':
        this.rig.driver.setBypass(step.value);
        this.#state = before.withBypass(step.value === 1);
        break;
      case 'reset':
        this.rig.driver.start();
        this.#state = before.afterReset();
        break;
      case 'memory':
        this.#toggle(step.region);
    }
    const after = this.rig.backing();
    for (const { reach } of this.#sights) this.#checkIsolation(reach, [before, this.#state], [backing, after]);
  }

  #toggle(index: number): void {
    const [page, pages, kind] = REGIONS[index]!;
    const there = this.#regions[index];
    if (there !== undefined) {
      this.rig.memory.removeRegion(there);
      this.#regions[index] = undefined;
    } else if (kind === 'mmio') this.#regions[index] = this.rig.addMmio(page, pages);
    else this.#regions[index] = this.rig.addRam(page, pages, kind === 'rom');
  }

  #kick(commands: readonly DriverCommand[], injected: () => boolean): void {
    const blocks = this.#blocks();
    const replies = this.rig.driver.batch(commands).map((reply) => statusName(reply.status));
    // I5: a 1:1 engine that refuses what our host refused gives the same answers and the same state.
    const states = [this.#state];
    const tried: Reference[] = [];
    commands.forEach((command, i) => {
      const refused = REFUSED.has(replies[i]!);
      const { status, next } = this.#state.apply(command, refused);
      if (status !== (refused ? 'refused' : replies[i]))
        expect.fail(`I5: request ${i} was answered ${replies[i]}, a 1:1 engine says ${status}`);
      if (refused && !injected() && this.#blocks() === blocks) this.#checkNeed(command);
      tried.push(refused ? this.#state.apply(command, false).next : next);
      this.#state = next;
      states.push(next);
    });
    const backing = this.rig.backing();
    // Requests in progress count as either: also what a refused one would have given.
    for (const { answered, reach } of this.#sights)
      this.#checkIsolation(reach, [...states.slice(answered), ...tried.slice(answered)], [backing]);
    if (this.#blocks() === blocks && commands.every(({ op }) => op === 'map' || op === 'unmap'))
      this.#checkStability(states, backing);
  }

  /** I4: mappings that live through a whole kick are reached all the while. */
  #checkStability(states: readonly Reference[], backing: Backing): void {
    const contexts = this.rig.core.stats().contexts;
    this.#scenario.groups.forEach((endpoints, group) => {
      if (contexts[group]!.state !== 'domain') return;
      const endpoint = endpoints[0]!;
      const lists = states.map((state) => {
        const target = state.targetOf(endpoint);
        return typeof target === 'string' ? [] : target.mappings;
      });
      const lasting = lists[0]!.filter((each) => lists.every((list) => list.includes(each)));
      if (!this.rig.host.busMaster(endpoint)) return;
      for (const [iova, what] of expected({ bypass: false, mappings: lasting }, backing)) {
        const lost = this.#sights.some(({ reach }) => reach.get(endpoint)!.get(iova) !== what);
        if (lost) expect.fail(`I4: endpoint ${endpoint} lost page ${iova} for a moment`);
      }
    });
  }

  #blocks(): number {
    return this.rig.counters['contextBlocks']!;
  }

  /** I1: what an endpoint reaches is what one of `states` gives. */
  #checkIsolation(reach: ReadonlyMap<number, Reach>, states: readonly Reference[], backings: readonly Backing[]): void {
    for (const [endpoint, seen] of reach) {
      const targets = new Set(states.map((state) => state.targetOf(endpoint)));
      for (const [iova, what] of seen) {
        const [physical, rights] = what.split(':').map(Number) as [number, number];
        let given = false;
        for (const target of targets)
          for (const backing of backings) given ||= covers(target, backing, iova, physical, rights);
        if (!given) expect.fail(`I1: endpoint ${endpoint} reaches page ${iova} as ${what}`);
      }
    }
  }

  /** The guest's table is the reference's, and each context holds the entries that the device believes in. */
  #checkTables(): void {
    const { domains } = this.rig.core.state;
    expect([...domains.keys()].sort()).toEqual([...this.#state.domains.keys()].sort());
    let total = 0;
    for (const [id, domain] of this.#state.domains) {
      const rows = [...domain.mappings].sort((a, b) => a.start - b.start);
      expect(this.rig.mappings(id)).toEqual(rows.map((row) => [row.start, row.end - row.start, row.target, row.flags]));
      total += rows.length;
      const attached = [...this.#state.endpoints].flatMap(([endpoint, at]) => (at === id ? [endpoint] : []));
      expect([...domains.get(id)!.endpoints].map((endpoint) => endpoint.id).sort()).toEqual(attached.sort());
    }
    expect(this.rig.core.state.mappings).toBe(total);
    this.#scenario.groups.forEach((_, group) => {
      const { believed, real } = this.rig.tables(group);
      expect(believed).toEqual(real);
      let ram = 0;
      const entries = this.rig.mirror(group).entries.table;
      for (let slot = entries.first(); slot >= 0; slot = entries.next(slot))
        if ((entries.flagsAt(slot) & 4) === 0) ram += entries.endAt(slot) - entries.startAt(slot);
      expect(this.rig.mirror(group).pages).toBe(ram);
    });
  }

  /** I2, I3: a context reaches exactly what the guest's state gives, or nothing at all. */
  #checkReach(): void {
    const backing = this.rig.backing();
    this.#scenario.groups.forEach((endpoints, group) => {
      const targets = new Set(endpoints.map((endpoint) => this.#state.targetOf(endpoint)));
      const [target] = targets;
      const { state } = this.rig.core.stats().contexts[group]!;
      const reached = this.rig.reach(endpoints[0]!);
      if (targets.size > 1 || target === 'blocked') {
        expect([state, reached.size]).toEqual(['blocked', 0]);
      } else if (state === 'blocked') {
        expect(this.#blocks()).toBeGreaterThan(0);
        expect(reached.size).toBe(0);
      } else {
        // A context that was once stopped by its bus-master bit mirrors again; the bit is the guest's to set.
        const busMaster = this.rig.host.busMaster(endpoints[0]!);
        this.rig.host.setBusMaster(endpoints[0]!, true);
        const type1 = (this.#scenario.flavours?.[group] ?? 'type1') === 'type1';
        expect(this.rig.reach(endpoints[0]!)).toEqual(expected(target!, backing, type1));
        this.rig.host.setBusMaster(endpoints[0]!, busMaster);
      }
    });
  }

  /** I6: what was refused without a failing host really does not fit beside the live mappings. */
  #checkNeed(command: DriverCommand): void {
    if (command.op !== 'map' && command.op !== 'attach') expect.fail(`${command.op} was refused`);
    const backing = this.rig.backing();
    const { next } = this.#state.apply(command, false);
    const target = command.op === 'attach' ? next.targetOf(command.endpoint) : next.domains.get(command.domain)!;
    const need = entriesOf(target, backing);
    const ram = [...backing.values()].filter((page) => page.ram).length;
    const { flavours, groups } = this.#scenario;
    const limited = groups.some((_, group) => (flavours?.[group] ?? 'type1') === 'type1');
    // Linux maps no device registers through iommufd before it has dma-bufs of them.
    if (need.mmio && flavours?.some((flavour) => flavour !== 'type1') === true) return;
    if ((!limited || need.entries <= this.#scenario.entryLimit) && need.ram <= 4 * ram)
      expect.fail(`I6: ${command.op} was refused though ${need.entries} entries and ${need.ram} pages fit`);
  }
}

function contextOf(flavour: Flavour): Partial<IommufdContextOptions> {
  if (flavour === 'type1') return {};
  return { flavour: 'iommufd', mode: flavour === 'iommufd' ? 'large' : 'cut' };
}

function covers(target: ReferenceTarget, backing: Backing, iova: number, physical: number, rights: number): boolean {
  const gives = (page: number, flags: number): boolean => {
    const behind = backing.get(page);
    return behind?.physical === physical && (rights & ~(flags & behind.rights)) === 0;
  };
  if (target === 'blocked') return false;
  if (target === 'bypass') return iova !== RESERVED_PAGE && gives(iova, 3);
  return target.mappings.some(
    (each) => each.start <= iova && iova < each.end && gives(each.target + iova - each.start, each.flags),
  );
}

/** What is reached; bypass shows device registers where the host can map them. */
function expected(target: ReferenceTarget, backing: Backing, mmio = true): Reach {
  const reach = new Map<number, string>();
  const put = (iova: number, page: number, flags: number): void => {
    const behind = backing.get(page);
    const rights = behind === undefined ? 0 : flags & behind.rights & 3;
    if (rights !== 0) reach.set(iova, `${behind!.physical}:${rights}`);
  };
  if (target === 'bypass') {
    for (const [page, { ram }] of backing) if (page !== RESERVED_PAGE && (ram || mmio)) put(page, page, 3);
  } else if (target !== 'blocked') {
    for (const { start, end, target: first, flags } of [...target.mappings].sort((a, b) => a.start - b.start))
      for (let iova = start; iova < end; iova++) put(iova, first + iova - start, flags);
  }
  return new Map([...reach].sort(([a], [b]) => a - b));
}

/** Entries and RAM pages that a 1:1 engine needs. */
function entriesOf(target: ReferenceTarget, backing: Backing): { entries: number; ram: number; mmio: boolean } {
  const mappings: readonly ReferenceMapping[] =
    target === 'bypass'
      ? [
          { start: 0, end: RESERVED_PAGE, target: 0, flags: 3 },
          { start: RESERVED_PAGE + 1, end: 0x200, target: RESERVED_PAGE + 1, flags: 3 },
        ]
      : target === 'blocked'
        ? []
        : target.mappings;
  let entries = 0;
  let ram = 0;
  let mmio = false;
  for (const mapping of mappings) {
    let last = -1;
    for (let i = 0; i < mapping.end - mapping.start; i++) {
      const page = mapping.target + i;
      const behind = backing.get(page);
      if (behind === undefined || rightsOf(mapping, behind.rights) === 0) continue;
      if (behind.ram) ram++;
      else mmio = true;
      const region = REGIONS.findIndex(([first, pages]) => first <= page && page < first + pages);
      if (region !== last) entries++;
      last = region;
    }
  }
  return { entries, ram, mmio };
}
