// The device on iommufd contexts, two of each mode that can share an address space, beside a type1 container: what the guest asks
// for has the same effect on all, and no host operation is ever refused: the device sends no UNMAP of an empty range and none that
// cuts where the host cannot.
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { Errno } from '../../src/base/errors.ts';
import type { HostContext } from '../../src/host/context.ts';
import { SimulatedHost } from '../../src/host/simulated.ts';
import { statusName } from '../../src/iommu/status.ts';
import type { VirtioIommuOptions } from '../../src/iommu/virtio-iommu.ts';
import { VirtioIommu } from '../../src/iommu/virtio-iommu.ts';
import { IommuDriver } from '../../src/testing/iommu-driver.ts';
import type { MemoryRegion } from '../../src/virtio/memory.ts';
import { GuestMemory } from '../../src/virtio/memory.ts';

const PAGE = 4096n;
const RINGS = 1n << 40n;
/** First guest page and pages of RAM. */
const RAM = [0x100, 64] as const;
const MORE = 0x140;
const TYPE1 = 1;
const LARGE = 2;
const CUT = 3;
const LARGE_TOO = 4;
const CUT_TOO = 5;
const ALL = [TYPE1, LARGE, CUT, LARGE_TOO, CUT_TOO] as const;

const TROUBLE = ['host-refusal', 'context-blocked', 'ring-broken'];

class Machine {
  readonly host = new SimulatedHost();
  readonly memory = new GuestMemory();
  readonly iommu: VirtioIommu;
  readonly driver: IommuDriver;
  /** Refused host operations, as text. */
  readonly refused: string[] = [];
  /** Types of the events that tell of trouble with a host. */
  readonly events: string[] = [];
  more: MemoryRegion | undefined;

  constructor(endpoints: readonly number[] = ALL, device: Partial<VirtioIommuOptions> = {}) {
    this.addRam(...RAM);
    this.memory.addRegion({ gpa: RINGS, size: 4n << 20n });
    this.iommu = new VirtioIommu({
      memory: this.memory,
      interrupt: { queue: () => undefined, config: () => undefined },
      endpoints: endpoints.map((id) => ({ id, host: this.#context(id) })),
      requestQueueSize: 64,
      eventQueueSize: 16,
      ...device,
    });
    this.iommu.core.onEvent((event) => {
      if (TROUBLE.includes(event.type)) this.events.push(event.type);
    });
    this.host.onOperation(({ context, kind, iova, pages, errno }) => {
      if (errno !== 0) this.refused.push(`${context.name} ${kind} ${iova}+${pages}: errno ${errno}`);
    });
    this.driver = new IommuDriver({ device: this.iommu.transport, memory: this.memory, base: RINGS });
    this.driver.start();
  }

  #context(id: number): HostContext {
    if (id === TYPE1) return this.host.createContext({ group: id, endpoints: [id] });
    const mode = id === CUT || id === CUT_TOO ? 'cut' : 'large';
    return this.host.createContext({ group: id, endpoints: [id], flavour: 'iommufd', mode });
  }

  addRam(page: number, pages: number): MemoryRegion {
    const mapped = this.host.addressSpace.mmap({ length: BigInt(pages) * PAGE, kind: 'memfd' });
    return this.memory.addRegion({
      gpa: BigInt(page) * PAGE,
      size: BigInt(pages) * PAGE,
      windows: mapped.windows,
      hva: mapped.hva,
    });
  }

  attach(domain: number, endpoint: number, flags = 0): string {
    return statusName(this.driver.attach(domain, endpoint, flags).status);
  }

  map(domain: number, page: number, pages: number, target: number, flags = 3): string {
    const end = BigInt(page + pages) * PAGE - 1n;
    return statusName(this.driver.map(domain, BigInt(page) * PAGE, end, BigInt(target) * PAGE, flags).status);
  }

  unmap(domain: number, page: number, pages: number): string {
    return statusName(this.driver.unmap(domain, BigInt(page) * PAGE, BigInt(page + pages) * PAGE - 1n).status);
  }

  reach(endpoint: number): string[] {
    const runs = this.host.prober(endpoint).reachable();
    return runs.flatMap((run) =>
      Array.from({ length: run.pages }, (_, i) => `${run.iova + i}>${run.physical + i}:${run.rights}`),
    );
  }
}

function sameReach(machine: Machine): string[] {
  const reach = machine.reach(TYPE1);
  for (const endpoint of ALL) expect(machine.reach(endpoint)).toEqual(reach);
  return reach;
}

it('attach, map, unmap over holes, detach and reset have the same effect on every flavour', () => {
  const machine = new Machine();
  expect(sameReach(machine)).toHaveLength(64);
  for (const endpoint of ALL) expect(machine.attach(1, endpoint)).toBe('OK');
  expect(sameReach(machine)).toEqual([]);
  expect(machine.map(1, 0, 4, 0x100)).toBe('OK');
  expect(machine.map(1, 8, 4, 0x110, 1)).toBe('OK');
  // Its first two pages have no memory behind them, and the next mapping has none at all.
  expect(machine.map(1, 16, 4, 0xfe)).toBe('OK');
  expect(machine.map(1, 24, 4, 0x900)).toBe('OK');
  expect(sameReach(machine)).toHaveLength(10);
  expect(machine.unmap(1, 24, 4)).toBe('OK');
  expect(machine.unmap(1, 30, 100)).toBe('OK');
  expect(machine.unmap(1, 0, 2)).toBe('RANGE');
  expect(machine.unmap(1, 2, 20)).toBe('RANGE');
  expect(machine.unmap(1, 0, 18)).toBe('RANGE');
  expect(sameReach(machine)).toHaveLength(10);
  expect(machine.unmap(1, 0, 12)).toBe('OK');
  expect(sameReach(machine)).toHaveLength(2);
  machine.iommu.systemReset();
  expect(sameReach(machine)).toHaveLength(64);
  machine.iommu.close();
  expect([machine.refused, machine.events]).toEqual([[], []]);
});

it('memory that comes and goes is followed by every flavour', () => {
  const machine = new Machine();
  for (const endpoint of ALL) machine.attach(1, endpoint);
  expect(machine.map(1, 0, 128, 0x100)).toBe('OK');
  expect(sameReach(machine)).toHaveLength(64);
  const more = machine.addRam(MORE, 16);
  expect(sameReach(machine)).toHaveLength(80);
  machine.memory.removeRegion(more);
  expect(sameReach(machine)).toHaveLength(64);
  expect(machine.unmap(1, 0, 128)).toBe('OK');
  expect(sameReach(machine)).toEqual([]);
  expect(machine.refused).toEqual([]);
});

it('a MAP that the iommufd host refuses is undone where another host took it', () => {
  const machine = new Machine([TYPE1, LARGE]);
  for (const endpoint of [TYPE1, LARGE]) machine.attach(1, endpoint);
  machine.map(1, 0, 1, 0x100);
  machine.host.failAt(1, Errno.ENOMEM, { kind: 'map', group: LARGE });
  expect(machine.map(1, 8, 4, 0x110)).toBe('NOMEM');
  expect([machine.reach(TYPE1).length, machine.reach(LARGE).length]).toEqual([1, 1]);
  expect(machine.map(1, 8, 4, 0x110)).toBe('OK');
  machine.host.failAt(1, Errno.EIO, { kind: 'unmap', group: LARGE });
  expect(machine.unmap(1, 8, 4)).toBe('OK');
  expect([machine.reach(TYPE1).length, machine.reach(LARGE).length]).toEqual([1, 0]);
});

it('any sequence of requests: no refused host operation, and the same reach for equal domains', () => {
  const command = fc.record({
    kind: fc.constantFrom('map', 'map', 'map', 'unmap', 'unmap', 'attach', 'detach', 'more', 'less', 'reset'),
    endpoint: fc.constantFrom(...ALL),
    domain: fc.integer({ min: 1, max: 2 }),
    page: fc.integer({ min: 0, max: 40 }),
    pages: fc.integer({ min: 1, max: 12 }),
    target: fc.integer({ min: 0xf8, max: MORE + 20 }),
    flags: fc.constantFrom(1, 2, 3),
  });
  fc.assert(
    fc.property(fc.array(command, { maxLength: 40 }), (commands) => {
      const machine = new Machine();
      let of: (number | undefined)[] = [];
      for (const { kind, endpoint, domain, page, pages, target, flags } of commands) {
        if (kind === 'map') machine.map(domain, page, pages, target, flags);
        else if (kind === 'unmap') machine.unmap(domain, page, pages);
        else if (kind === 'attach') {
          expect(machine.attach(domain, endpoint)).toBe('OK');
          of[endpoint] = domain;
        } else if (kind === 'detach') {
          const done = statusName(machine.driver.detach(domain, endpoint).status);
          if (done === 'OK') of[endpoint] = undefined;
        } else if (kind === 'more') machine.more ??= machine.addRam(MORE, 16);
        else if (kind === 'less') {
          if (machine.more !== undefined) machine.memory.removeRegion(machine.more);
          machine.more = undefined;
        } else {
          machine.iommu.systemReset();
          machine.driver.start();
          of = [];
        }
        expect(machine.refused).toEqual([]);
        for (const one of ALL) {
          for (const other of ALL) {
            if (one < other && of[one] === of[other]) expect(machine.reach(one)).toEqual(machine.reach(other));
          }
        }
      }
      machine.iommu.close();
      expect(machine.events).toEqual([]);
    }),
    { numRuns: 120 },
  );
});

it('device registers cannot be given to an iommufd host: the MAP is refused, and alone', () => {
  const machine = new Machine([LARGE]);
  const bar = machine.host.addressSpace.mmap({ length: 4n * PAGE, kind: 'pfnmap' });
  machine.attach(1, LARGE);
  machine.memory.addMmio({ gpa: 0x800n * PAGE, size: 4n * PAGE, hva: bar.hva });
  machine.map(1, 0, 1, 0x100);
  expect(machine.map(1, 8, 4, 0x800)).toBe('DEVERR');
  expect(machine.reach(LARGE)).toHaveLength(1);
});
