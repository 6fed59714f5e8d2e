// Bad input for the host plan, each case by name: hosts without room, hosts that refuse, memory that vanishes under the
// device, and guests that map without end. Every step is checked as in the random runs (trial.ts).
// Unit: 4 KiB page numbers.
import { describe, expect, it } from 'vitest';
import { Errno } from '../../src/base/errors.ts';
import { POLICIES } from '../../src/coalesce/settings.ts';
import { STATUS_NAMES } from '../../src/iommu/status.ts';
import { Machine } from './machine.ts';
import { Runner } from './run.ts';
import type { ContextSetup, RegionSetup, Request, Setup, Step } from './setup.ts';
import { GPA_FIRST } from './setup.ts';
import { Trial } from './trial.ts';

const PAGE_END = 2 ** 52;

const CONTEXT: ContextSetup = {
  flavour: 'type1',
  mode: 'large',
  share: false,
  endpoints: [1],
  entryLimit: 65_535,
  lie: 0,
  mediated: false,
  windowPieces: -1,
  writeOnlyReadable: false,
  usable: [[0, PAGE_END]],
};
const REGION: RegionSetup = {
  page: GPA_FIRST,
  pages: 16,
  kind: 'memfd',
  readOnly: false,
  scattered: false,
  follows: false,
  sealed: 'no',
  present: true,
};

/** One device behind one container, 16 pages of RAM. */
function machineOf(
  policy: string,
  quiet: boolean,
  context: Partial<ContextSetup> = {},
  more: Partial<Setup> = {},
): Setup {
  return {
    contexts: [{ ...CONTEXT, ...context }],
    endpoints: [{ id: 1, busMaster: quiet ? false : undefined, reserved: [] }],
    regions: [REGION],
    policy,
    gather: 'auto',
    maxEntryPages: 0,
    lowWater: -1,
    pause: 'none',
    bypass: false,
    cap: 4,
    maxMapCount: 65_530,
    memlock: Infinity,
    iova: 0x1000,
    span: 64,
    ...more,
  };
}

const attach: Request = { op: 'attach', domain: 1, endpoint: 1, flags: 0 };
const map = (page: number, target: number, pages = 1): Request => ({
  op: 'map',
  domain: 1,
  page,
  pages,
  target: GPA_FIRST + target,
  flags: 3,
});
const unmap = (page: number, pages = 1): Request => ({ op: 'unmap', domain: 1, page, pages });
const kick = (...requests: readonly Request[]): Step => ({ do: 'kick', requests });
const master = (on: boolean): Step => ({ do: 'master', endpoint: 1, on });

/** A running trial that fails the test at the first broken invariant. */
class Checked {
  readonly trial: Trial;

  constructor(setup: Setup) {
    this.trial = new Trial(setup);
    this.#expect(this.trial.start());
  }

  step(step: Step): this {
    this.#expect(this.trial.step(step));
    return this;
  }

  /** Sends requests in one kick and returns their statuses. */
  kick(...requests: readonly Request[]): string[] {
    this.step(kick(...requests));
    return requests.map((_, i) => STATUS_NAMES[this.trial.machine.statuses[i]!] ?? 'none');
  }

  finish(): void {
    this.#expect(this.trial.finish());
  }

  #expect(broken: string | undefined): void {
    if (broken !== undefined) expect.fail(broken);
  }
}

/** Sends many MAPs of one page in kicks of 64; number of each status. */
function send(machine: Machine, count: number, make: (i: number) => Request): Record<string, number> {
  const statuses: Record<string, number> = {};
  for (let first = 0; first < count; first += 64) {
    const requests = Array.from({ length: Math.min(64, count - first) }, (_, i) => make(first + i));
    machine.kick(requests);
    requests.forEach((_, i) => {
      const name = STATUS_NAMES[machine.statuses[i]!] ?? 'none';
      statuses[name] = (statuses[name] ?? 0) + 1;
    });
  }
  return statuses;
}

function started(setup: Setup): Machine {
  const machine = new Machine(setup);
  machine.start();
  machine.kick([attach]);
  return machine;
}

function refusals(machine: Machine): number {
  return machine.events.filter((event) => event.type === 'host-refusal').length;
}

describe.each(POLICIES)('policy %s', (policy) => {
  describe.each([
    ['live', false],
    ['quiet', true],
  ] as const)('%s', (_, quiet) => {
    it.each([0, 1, 2])('a host with %i entries refuses only what does not fit 1:1, and tells it', (limit) => {
      const run = new Checked(machineOf(policy, quiet, { entryLimit: limit }));
      expect(run.kick(attach)).toEqual(['OK']);
      // Apart from each other, so that no two can be joined.
      const statuses = [0, 2, 4].map((page, i) => run.kick(map(0x1000 + page * 3, 7 - 2 * i))[0]!);
      expect(statuses.slice(0, limit)).toEqual(Array<string>(limit).fill('OK'));
      expect(statuses.slice(limit)).toEqual(Array<string>(3 - limit).fill('NOMEM'));
      if (limit > 0) {
        expect(run.kick(unmap(0x1000), map(0x1008, 3))).toEqual(['OK', 'OK']);
        run.step(master(true)).step(master(false));
      }
      run.finish();
    });

    it.each(['ENOSPC', 'ENOMEM', 'EINVAL', 'EFAULT', 'EEXIST'] as const)('%s at each host call in turn', (name) => {
      const setup = machineOf(policy, quiet, {}, { gather: 'always', bypass: true });
      const steps: Step[] = [
        kick(attach),
        kick(map(0x1000, 0), map(0x1001, 1), map(0x1002, 2), map(0x1003, 9)),
        kick(map(0x1004, 5)),
        master(true),
        kick(unmap(0x1001), map(0x1001, 1)),
        { do: 'region', index: 0 },
        { do: 'region', index: 0 },
        master(false),
        kick(unmap(0x1000, 2), map(0x1010, 3, 4)),
        master(true),
        { do: 'bypass', value: 0 },
        kick({ op: 'detach', domain: 1, endpoint: 1 }),
        { do: 'reset', system: true },
      ];
      const runner = new Runner();
      const clean = new Trial(setup);
      expect(clean.start()).toBeUndefined();
      for (const step of steps) expect(clean.step(step)).toBeUndefined();
      expect(clean.operations).toBeGreaterThan(8);
      for (let at = 1; at <= clean.operations; at++) {
        const broken = runner.replay(setup, steps, [{ at, errno: Errno[name], times: 1 }]);
        if (broken !== undefined) expect.fail(`host operation ${at}: ${broken}`);
      }
    });

    it('a host that promises more entries than it has', () => {
      const run = new Checked(machineOf(policy, quiet, { entryLimit: 2, lie: 10 }));
      run.kick(attach);
      for (let i = 0; i < 5; i++) run.kick(map(0x1000 + 2 * i, 9 - 2 * i));
      run.step(master(true)).step(master(false));
      run.finish();
    });

    it('one page that is mapped and unmapped 10,000 times leaves nothing behind', () => {
      const machine = started(machineOf(policy, quiet));
      const { host } = machine;
      const areas = host.addressSpace.mapCount;
      for (let i = 0; i < 10_000; i += 25) {
        const pairs = Array.from({ length: 25 }, () => [map(0x1000, 1), unmap(0x1000)]).flat();
        machine.kick(pairs);
        expect(machine.statuses.subarray(0, 50).every((status) => status === 0)).toBe(true);
      }
      expect(machine.contexts[0]!.entries()).toEqual([]);
      expect(host.lockedPages).toBe(0);
      expect(host.addressSpace.mapCount).toBeLessThanOrEqual(areas + 1);
      expect(machine.iommu.core.stats().contexts[0]!).toMatchObject({ entries: 0, guestMappings: 0, planned: 0 });
    });

    it('mappings up to the last page of 64 bits', () => {
      const run = new Checked(machineOf(policy, quiet));
      run.kick(attach);
      expect(run.kick(map(PAGE_END - 1, 4), map(PAGE_END - 2, 3), map(PAGE_END - 4, 1, 2))).toEqual(['OK', 'OK', 'OK']);
      run.step(master(true));
      expect(run.trial.machine.host.prober(1).reachable().at(-1)!.iova).toBeGreaterThanOrEqual(PAGE_END - 4);
      expect(run.kick(unmap(PAGE_END - 1))).toEqual(['OK']);
      expect(run.kick(unmap(PAGE_END - 4, 3))).toEqual(['OK']);
      expect(run.trial.machine.host.prober(1).reachable()).toEqual([]);
      run.finish();
    });
  });

  it('RAM that vanishes from the process is refused with DEVERR, and nothing else is touched', () => {
    const machine = started(machineOf(policy, false));
    machine.kick([map(0x1000, 0)]);
    const { hva, size } = machine.memory.regions[0]!;
    machine.host.addressSpace.munmap(hva!, size);
    machine.kick([map(0x1002, 2), map(0x1004, 4), unmap(0x1002)]);
    expect([...machine.statuses.subarray(0, 3)].map((status) => STATUS_NAMES[status])).toEqual([
      'DEVERR',
      'DEVERR',
      'OK',
    ]);
    expect(machine.contexts[0]!.entries().map(({ iova }) => iova)).toEqual([0x1000]);
    expect(refusals(machine)).toBe(2);
  });

  it('RAM that vanishes under a planned mapping blocks the context before the device can start', () => {
    const machine = started(machineOf(policy, true));
    machine.kick([map(0x1000, 0), map(0x1001, 1)]);
    const planned = machine.contexts[0]!.entries().length === 0;
    const { hva, size } = machine.memory.regions[0]!;
    machine.host.addressSpace.munmap(hva!, size);
    machine.setBusMaster(1, true);
    if (!planned) return;
    expect(machine.host.prober(1).reachable()).toEqual([]);
    expect(machine.iommu.core.stats().contexts[0]!.state).toBe('blocked');
    expect(machine.events.some((event) => event.type === 'context-blocked' && event.errno === Errno.EFAULT)).toBe(true);
  });

  it('65,535 mappings and one more: the last is refused, told, and fits when another goes', () => {
    const machine = started(machineOf(policy, false, {}, { cap: 1024, regions: [{ ...REGION, pages: 70 }] }));
    // Falling addresses of a falling page, so that no two are neighbours on both sides.
    const make = (i: number): Request => map(0x1000 + 2 * i, 69 - (i % 70));
    expect(send(machine, 65_534, make)).toEqual({ OK: 65_534 });
    const one = (request: Request): string => {
      machine.kick([request]);
      return STATUS_NAMES[machine.statuses[0]!]!;
    };
    expect(one(make(65_534))).toBe('OK');
    expect(one(make(65_535))).toBe('NOMEM');
    expect(refusals(machine)).toBe(1);
    expect(machine.contexts[0]!.entries().length).toBe(65_535);
    expect(one(unmap(0x1000))).toBe('OK');
    expect(one(make(65_535))).toBe('OK');
  });
});

describe('one page that is aliased 100,000 times', () => {
  const alias = (i: number): Request => map(0x1000 + i, 0);
  const wide = { cap: 1024, regions: [{ ...REGION, pages: 100 }] };

  it.each(['forward', 'exact'])('fills a live container under %s, and the rest is refused aloud', (policy) => {
    const machine = started(machineOf(policy, false, {}, wide));
    expect(send(machine, 100_000, alias)).toEqual({ OK: 65_535, NOMEM: 34_465 });
    expect(refusals(machine)).toBe(34_465);
    expect(machine.contexts[0]!.entries().length).toBe(65_535);
  });

  it.each(['exact', 'kick', 'lossy'])('fits a quiet container under %s', (policy) => {
    const machine = started(machineOf(policy, true, {}, wide));
    expect(send(machine, 100_000, alias)).toEqual({ OK: 100_000 });
    machine.setBusMaster(1, true);
    expect(machine.contexts[0]!.entries().length).toBeLessThanOrEqual(Math.ceil(100_000 / 512) + 1);
    const prober = machine.host.prober(1);
    const physical = prober.physicalPageAt(0x1000, true);
    expect(physical).toBeGreaterThan(0);
    for (let i = 0; i < 100_000; i++)
      if (prober.physicalPageAt(0x1000 + i, true) !== physical) expect.fail(`page ${i}`);
  });

  it('stops at the cap on installed memory', () => {
    const machine = started(machineOf('exact', true, {}, { cap: 4 }));
    expect(send(machine, 1000, alias)).toEqual({ OK: 64, NOMEM: 936 });
    machine.setBusMaster(1, true);
    expect(machine.host.lockedPages).toBe(64);
  });
});
