// Fuzzes a live device: requests of any bytes and a driver that damages rings, registers and state in any way. After every
// case the whole of guest memory, the status register and sampled translations are compared with the oracle.
// A block is one device with 1,000 cases, known by its seed. Not here: processes (main.ts).
import { ModelDevice } from '../../spec/model/device.ts';
import { allDomains } from '../../spec/model/state.ts';
import type { FeatureName as ModelFeature } from '../../spec/model/state.ts';
import type { SimulatedHost, SimulatedType1Context } from '../../src/host/simulated.ts';
import { SimulatedHost as Host } from '../../src/host/simulated.ts';
import type { FeatureName } from '../../src/iommu/options.ts';
import { VirtioIommu } from '../../src/iommu/virtio-iommu.ts';
import { Random } from '../../src/testing/random.ts';
import { requestBytes, writableBytes } from '../property/encode.ts';
import { OpGenerator } from '../property/generate-op.ts';
import { generateSetup, oneIn, pick, randomU64 } from '../property/generate-setup.ts';
import { compareMirror } from '../property/mirror.ts';
import { ProbePlan } from '../property/probe-plan.ts';
import { naiveRegions } from '../property/regions.ts';
import type { RequestOp, Setup } from '../property/sequence.ts';
import { U64, formatOp, granuleOf } from '../property/sequence.ts';
import { DeviceOracle } from './device-oracle.ts';
import type { FuzzMemory } from './fuzz-memory.ts';
import { MMIO_GPA } from './fuzz-memory.ts';
import type { RingPlace } from './ring-oracle.ts';

export const CASES_PER_BLOCK = 1000;
const QUEUE = 16;
const EVENT_QUEUE = 16;
const REQUESTS: RingPlace = { size: QUEUE, desc: 0n, avail: 0x200n, used: 0x400n };
const EVENTS: RingPlace = { size: EVENT_QUEUE, desc: 0x600n, avail: 0x700n, used: 0x800n };
/** Sixteen slots, each an indirect table, a readable and a writable buffer; then sixteen event buffers. */
const SLOTS = 0x1000;
const SLOT_BYTES = 0x400;
const EVENT_BUFFERS = 0x6000;
const PREFILL = 0xa5;
const MODEL_NAMES: Readonly<Record<FeatureName, ModelFeature>> = {
  inputRange: 'INPUT_RANGE',
  domainRange: 'DOMAIN_RANGE',
  mapUnmap: 'MAP_UNMAP',
  bypass: 'BYPASS',
  probe: 'PROBE',
  mmio: 'MMIO',
  bypassConfig: 'BYPASS_CONFIG',
};
/** Accesses to memory that one request may cost: two tables of descriptors, its bytes, its reply, the rings. */
const ACCESSES_PER_REQUEST = 4 * QUEUE + 64;

/** Counts of a run. */
export interface FuzzCounts {
  cases: number;
  blocks: number;
  served: number;
  ambiguous: number;
  broken: number;
  restarts: number;
  accesses: number;
  mirrorChecks: number;
  mostAccesses: number;
  readonly statuses: Record<string, number>;
  readonly kinds: Record<string, number>;
}

export function emptyFuzzCounts(): FuzzCounts {
  return {
    ...{ cases: 0, blocks: 0, served: 0, ambiguous: 0, broken: 0, restarts: 0, accesses: 0, mirrorChecks: 0 },
    ...{ mostAccesses: 0, statuses: {}, kinds: {} },
  };
}

/** Runs a block; how it failed, with the cases that led there when `trace` is given. */
export function runBlock(memory: FuzzMemory, seed: number, counts: FuzzCounts, trace?: string[]): string | undefined {
  let block: Block | undefined;
  // Every other device takes the way without windows, which must come to the same and whose accesses can all be counted.
  memory.memory.showsWindows = seed % 2 === 0;
  try {
    block = new Block(memory, seed, counts, trace);
    return block.run();
  } catch (error) {
    return `exception: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`;
  } finally {
    block?.close();
  }
}

class Block {
  readonly #random: Random;
  readonly #memory: FuzzMemory;
  readonly #counts: FuzzCounts;
  readonly #trace: string[] | undefined;
  readonly #setup: Setup;
  readonly #model: ModelDevice;
  readonly #device: VirtioIommu;
  readonly #oracle: DeviceOracle;
  readonly #generator: OpGenerator;
  readonly #probes: ProbePlan;
  readonly #host: SimulatedHost | undefined;
  readonly #contexts: SimulatedType1Context[] = [];
  /** The driver's own positions in the available rings. */
  #availIndex = 0;
  #eventIndex = 0;
  /** Slots of the kick under way. */
  #pending = 0;

  constructor(memory: FuzzMemory, seed: number, counts: FuzzCounts, trace: string[] | undefined) {
    this.#random = new Random(seed);
    this.#memory = memory;
    this.#counts = counts;
    this.#trace = trace;
    memory.clear();
    const setup: Setup = {
      ...generateSetup(this.#random),
      ...{ queueSize: QUEUE, eventQueueSize: EVENT_QUEUE, eventBuffers: 0, indirect: true, eventIdx: true },
      ...{ maxMappings: 1 << 20, maxDomains: 1 << 16 },
    };
    this.#setup = setup;
    const groups = new Set(setup.endpoints.flatMap(({ group }) => (group === undefined ? [] : [group])));
    if (groups.size > 0) {
      this.#host = new Host({
        addressSpace: memory.addressSpace,
        entryLimit: 1_000_000,
        usableRanges: [{ start: 0n, end: U64 }],
      });
    }
    for (const group of groups) {
      const endpoints = setup.endpoints.filter((each) => each.group === group).map(({ id }) => id);
      this.#contexts.push(this.#host!.createContext({ group, endpoints }));
    }
    this.#device = this.#makeDevice();
    this.#model = this.#makeModel();
    this.#oracle = new DeviceOracle(memory, this.#model, this.#device.transport.offeredFeatures);
    this.#generator = new OpGenerator(this.#random, setup, this.#model);
    this.#probes = new ProbePlan(setup, this.#model, false);
    counts.blocks++;
  }

  run(): string | undefined {
    this.#restart(true);
    for (let i = 0; i < CASES_PER_BLOCK; i++) {
      this.#counts.cases++;
      const difference = this.#case() ?? this.#check(i);
      if (difference !== undefined) return `case ${i}: ${difference}`;
      // A device that does nothing any more finds nothing: bring it up again soon.
      if (!this.#oracle.live && oneIn(this.#random, 3)) {
        const failed = this.#restart(!oneIn(this.#random, 10)) ?? this.#check(i);
        if (failed !== undefined) return `case ${i}, restart: ${failed}`;
      }
    }
    for (const [status, count] of Object.entries(this.#oracle.statuses)) {
      this.#counts.statuses[status] = (this.#counts.statuses[status] ?? 0) + count;
    }
    this.#counts.served += this.#oracle.served;
    return this.#finish();
  }

  close(): void {
    this.#device.close();
    for (const context of this.#contexts) context.close();
  }

  /** After all that, a driver that behaves finds a device that works. */
  #finish(): string | undefined {
    const failed = this.#restart(true);
    if (failed !== undefined) return `last restart: ${failed}`;
    if (!this.#oracle.live) return 'the device does not start after a reset';
    const before = this.#oracle.served;
    this.#pending = 0;
    for (let i = 0; i < 4; i++) this.#place(this.#nextRequest(), 0);
    const difference = this.#kick() ?? this.#check(0);
    if (difference !== undefined) return `after the last restart: ${difference}`;
    return this.#oracle.served - before === 4 ? undefined : 'the queue does not work after a reset';
  }

  #case(): string | undefined {
    const random = this.#random;
    const choice = random.below(100);
    if (choice < 52) return this.#note('request', () => this.#requests());
    if (choice < 60) return this.#note('random bytes', () => this.#randomRequest());
    if (choice < 70) return this.#note('mutated request', () => this.#mutatedRequest());
    if (choice < 78) return this.#note('garbage ring', () => this.#garbageRing());
    if (choice < 82) return this.#note('poke', () => this.#pokes());
    if (choice < 85) return this.#note('config write', () => this.#config());
    if (choice < 87) return this.#note('status write', () => this.#status());
    if (choice < 89) return this.#note('queue reset', () => this.#queueReset());
    if (choice < 93) return this.#note('event buffer', () => this.#eventBuffer());
    if (choice < 98) return this.#note('access', () => this.#accesses(4));
    if (choice < 99) return this.#note('notify', () => this.#notify(pick(random, [0, 0, 1, 2, 5, 0xffff, -1])));
    return this.#note('system reset', () => this.#systemReset());
  }

  #note(kind: string, action: () => string | undefined): string | undefined {
    this.#counts.kinds[kind] = (this.#counts.kinds[kind] ?? 0) + 1;
    this.#trace?.push(kind);
    return action();
  }

  #check(i: number): string | undefined {
    const { status } = this.#device.transport;
    if (status !== this.#oracle.status) return `status register ${status}, should be ${this.#oracle.status}`;
    const image = this.#memory.compare();
    if (image !== undefined) return image;
    if (i % 8 !== 0) return undefined;
    const domains = allDomains(this.#model.state);
    const mappings = domains.reduce((sum, domain) => sum + domain.mappings.length, 0);
    const stats = this.#device.core.stats();
    if (stats.domains !== domains.length || stats.mappings !== mappings) {
      return `device has ${stats.domains} domains, ${stats.mappings} mappings; model ${domains.length}, ${mappings}`;
    }
    return i % 32 === 0 ? this.#checkMirrors() : undefined;
  }

  #checkMirrors(): string | undefined {
    for (const context of this.#contexts) {
      this.#counts.mirrorChecks++;
      const difference = compareMirror(this.#memory, this.#host!, context, this.#model);
      if (difference !== undefined) return difference;
    }
    return undefined;
  }

  /** The device and the oracle do the same thing; what is compared afterwards is the caller's matter. */
  #both(device: () => void, oracle: () => void): string | undefined {
    const { memory } = this.#memory;
    const servedBefore = this.#oracle.served;
    this.#memory.beginStep();
    oracle();
    memory.accesses = 0;
    device();
    const { accesses } = memory;
    this.#counts.mostAccesses = Math.max(this.#counts.mostAccesses, accesses);
    const served = this.#oracle.served - servedBefore;
    if (!this.#memory.ambiguous) {
      const bound = (served + 1) * ACCESSES_PER_REQUEST;
      return accesses > bound ? `${accesses} accesses to memory for ${served} requests` : undefined;
    }
    // The guest let the device write over what it was about to read: any order is right, none may do harm.
    this.#counts.ambiguous++;
    const bound = 16 * (QUEUE + 1) * ACCESSES_PER_REQUEST;
    if (accesses > bound) return `${accesses} accesses to memory for one kick`;
    const harm = this.#memory.resync();
    if (harm !== undefined) return harm;
    this.#device.transport.writeStatus(0);
    this.#oracle.writeStatus(0);
    return undefined;
  }

  #kick(): string | undefined {
    this.#pending = 0;
    return this.#notify(0) ?? this.#accesses(2);
  }

  #notify(index: number): string | undefined {
    const broken = (this.#oracle.status & 64) !== 0;
    const difference = this.#both(
      () => this.#device.transport.notify(index),
      () => this.#oracle.notify(index),
    );
    if (!broken && (this.#oracle.status & 64) !== 0) this.#counts.broken++;
    return difference;
  }

  #nextRequest(): RequestOp {
    for (;;) {
      const op = this.#generator.next();
      if (op.op === 'request') return op;
    }
  }

  /** One to four requests as a driver sends them. */
  #requests(): string | undefined {
    const count = oneIn(this.#random, 3) ? 1 + this.#random.below(4) : 1;
    this.#pending = 0;
    const mode = this.#random.below(3);
    for (let i = 0; i < count; i++) this.#place(this.#nextRequest(), mode);
    return this.#kick();
  }

  #randomRequest(): string | undefined {
    const random = this.#random;
    const bytes = Uint8Array.from({ length: random.below(80) }, () => random.below(256));
    if (bytes.length > 0 && !oneIn(random, 4)) bytes[0] = 1 + random.below(5);
    this.#pending = 0;
    this.#placeBytes(bytes, random.below(random.below(2) === 0 ? 8 : 200), random.below(3));
    return this.#kick();
  }

  /** A request with a few bytes of its descriptors, table, ring entry or own bytes changed. */
  #mutatedRequest(): string | undefined {
    const random = this.#random;
    this.#pending = 0;
    this.#place(this.#nextRequest(), random.below(3));
    for (let i = 1 + random.below(3); i > 0; i--) {
      const places = [
        random.below(64),
        SLOTS + random.below(64),
        SLOTS + 0x100 + random.below(40),
        0x200 + random.below(4 + 2 * QUEUE + 2),
      ];
      this.#mutate(pick(random, places));
    }
    return this.#kick();
  }

  #mutate(gpa: number): void {
    const random = this.#random;
    const at = this.#memory.placeOf(gpa, 1, false);
    const old = this.#memory.actual[at]!;
    const value = pick(random, [old ^ (1 << random.below(8)), random.below(256), 0, 0xff, old + 1]) & 0xff;
    this.#trace?.push(`  byte 0x${gpa.toString(16)} = ${value}`);
    this.#memory.poke(gpa, Uint8Array.of(value));
  }

  /** Random descriptors, ring entries and counts. */
  #garbageRing(): string | undefined {
    const random = this.#random;
    for (let i = 0; i < QUEUE; i++) {
      if (oneIn(random, 2)) this.#descriptor(16 * i);
      if (oneIn(random, 2)) this.#descriptor(SLOTS + 16 * i);
    }
    const count = oneIn(random, 10) ? random.below(0x1_0000) : 1 + random.below(4);
    for (let i = 0; i < Math.min(count, QUEUE); i++) {
      const head = oneIn(random, 60) ? random.below(0x1_0000) : random.below(oneIn(random, 8) ? QUEUE + 1 : QUEUE);
      this.#memory.poke16(0x204 + 2 * ((this.#availIndex + i) % QUEUE), head);
    }
    this.#availIndex = (this.#availIndex + count) & 0xffff;
    this.#memory.poke16(0x202, this.#availIndex);
    // Readable buffers hold requests, so that garbage chains do something.
    for (let slot = 0; slot < 4; slot++) this.#memory.poke(slotAt(slot) + 0x100, requestBytes(this.#nextRequest()));
    return this.#kick();
  }

  #descriptor(at: number): void {
    const random = this.#random;
    const indirect = oneIn(random, 6);
    const slot = slotAt(random.below(4));
    const writable = oneIn(random, 2);
    const plain = slot + (indirect ? 0 : writable ? 0x200 : 0x100);
    const far = pick(random, [0x7ff0, 0x8000, 0xaff0, 0xaffc, 0xbff0, MMIO_GPA, 2 ** 52, 2 ** 52 + 0xff0, 0x600]);
    const addr = oneIn(random, 12) ? randomU64(random) : BigInt(oneIn(random, 10) ? far : plain + random.below(4));
    const length = indirect ? 16 * random.below(6) : pick(random, [0, 1, 3, 4, 8, 16, 20, 28, 36, 72, 100]);
    const flags = (oneIn(random, 2) ? 1 : 0) | (writable ? 2 : 0) | (indirect ? 4 : 0);
    this.#putDescriptor(
      at,
      addr,
      oneIn(random, 40) ? random.next() : length,
      oneIn(random, 40) ? random.below(0x1_0000) : indirect && !oneIn(random, 5) ? flags & ~1 : flags,
      // The first index that is outside as well.
      oneIn(random, 40) ? random.below(0x1_0000) : random.below(oneIn(random, 8) ? QUEUE + 1 : QUEUE),
    );
  }

  #pokes(): string | undefined {
    const random = this.#random;
    for (let i = 1 + random.below(4); i > 0; i--) {
      const gpa = oneIn(random, 2) ? random.below(0x900) : random.below(0x8000);
      this.#mutate(gpa);
    }
    return oneIn(random, 2) ? this.#notify(0) : undefined;
  }

  #config(): string | undefined {
    const random = this.#random;
    const width = pick(random, [1, 2, 4, 8] as const);
    const offset = oneIn(random, 2) ? 36 : pick(random, [random.below(48), 40 - width, 41 - width, 0xffff_ffff, -1]);
    const value = oneIn(random, 2) ? BigInt(random.below(3)) : randomU64(random);
    return this.#both(
      () => this.#device.transport.writeConfig(offset, width, value),
      () => this.#oracle.writeConfig(offset, width, value),
    );
  }

  #status(): string | undefined {
    const random = this.#random;
    const value = pick(random, [0, random.below(256), 15, 64, 128, 0x100, 4, 8]);
    const features = randomU64(random);
    const set = oneIn(random, 2);
    return this.#both(
      () => {
        if (set) this.#device.transport.setDriverFeatures(features);
        this.#device.transport.writeStatus(value);
      },
      () => {
        if (set) this.#oracle.setDriverFeatures(features);
        this.#oracle.writeStatus(value);
      },
    );
  }

  #queueReset(): string | undefined {
    const random = this.#random;
    const index = pick(random, [0, 0, 1, 1, 2, 7]);
    const place = oneIn(random, 2) ? (index === 0 ? REQUESTS : EVENTS) : this.#oddPlace();
    if (place === REQUESTS) this.#clearRequestRing();
    if (place === EVENTS) this.#clearEventRing();
    const enable = !oneIn(random, 5);
    this.#trace?.push(
      `  queue ${index} size ${place.size} at 0x${place.desc.toString(16)} 0x${place.avail.toString(16)} 0x${place.used.toString(16)}`,
    );
    return this.#both(
      () => {
        this.#device.transport.resetQueue(index);
        this.#device.transport.setupQueue(index, place);
        if (enable) this.#device.transport.enableQueue(index);
      },
      () => {
        this.#oracle.resetQueue(index);
        this.#oracle.setupQueue(index, place);
        if (enable) this.#oracle.enableQueue(index);
      },
    );
  }

  #oddPlace(): RingPlace {
    const random = this.#random;
    const near = (): bigint =>
      pick(random, [
        BigInt(random.below(0x900)) & ~15n,
        BigInt(random.below(0x900)),
        BigInt(pick(random, [0x7f00, 0x7ff0, 0xaf00, 0xb000, MMIO_GPA])),
        2n ** 52n,
        randomU64(random),
      ]);
    return {
      size: pick(random, [1, 2, 4, 8, 16, 16, 16, 0, 3, 32, 0x1_0000, -1, random.next()]),
      desc: near(),
      avail: near(),
      used: near(),
    };
  }

  /** A buffer for a fault record, sound or not. */
  #eventBuffer(): string | undefined {
    const random = this.#random;
    const slot = this.#eventIndex % EVENT_QUEUE;
    const at = Number(EVENTS.desc) + 16 * slot;
    if (oneIn(random, 6)) this.#descriptor(at);
    else {
      const length = pick(random, [24, 24, 24, 24, 32, 23, 0]);
      this.#putDescriptor(at, BigInt(EVENT_BUFFERS + 64 * slot), length, 2, 0);
    }
    this.#memory.poke16(Number(EVENTS.avail) + 4 + 2 * slot, oneIn(random, 60) ? random.below(0x1_0000) : slot);
    this.#eventIndex = (this.#eventIndex + 1) & 0xffff;
    this.#memory.poke16(Number(EVENTS.avail) + 2, this.#eventIndex);
    return this.#notify(1);
  }

  /** Translations near what was mapped, with the fault records that they cause. */
  #accesses(count: number): string | undefined {
    for (const { endpoint, iova, write } of this.#probes.take(false).slice(0, count)) {
      this.#counts.accesses++;
      const wanted = this.#model.access(endpoint, iova, write ? 'W' : 'R');
      let found = 'none';
      const difference = this.#both(
        () => {
          const seen = this.#device.core.translate(endpoint, iova, 1, write ? 'write' : 'read');
          const piece = seen.ok ? seen.pieces[0]! : undefined;
          found = piece === undefined ? 'FAULT' : piece.kind === 'msi' ? 'MSI' : String(piece.gpa);
        },
        () => {
          if (wanted.fault !== undefined) this.#oracle.report(wanted.fault.bytes);
        },
      );
      if (difference !== undefined) return difference;
      if (found !== String(wanted.result)) {
        return `endpoint ${endpoint} at 0x${iova.toString(16)}: device ${found}, model ${String(wanted.result)}`;
      }
    }
    return undefined;
  }

  #systemReset(): string | undefined {
    return this.#both(
      () => this.#device.systemReset(),
      () => this.#oracle.systemReset(),
    );
  }

  /** Brings the device up, mostly with all features; `sound` false: with anything. */
  #restart(sound: boolean): string | undefined {
    const random = this.#random;
    this.#counts.restarts++;
    this.#clearRequestRing();
    this.#clearEventRing();
    const { transport } = this.#device;
    const offered = transport.offeredFeatures;
    const less = oneIn(random, 4) ? randomU64(random) | (1n << 32n) : U64;
    const features = sound ? offered & less : randomU64(random);
    const places = sound ? [REQUESTS, EVENTS] : [this.#oddPlace(), this.#oddPlace()];
    this.#trace?.push(`restart ${sound ? 'sound' : 'odd'} features 0x${features.toString(16)}`);
    return this.#both(
      () => {
        for (const value of [0, 1, 3]) transport.writeStatus(value);
        transport.setDriverFeatures(features);
        transport.writeStatus(11);
        places.forEach((place, index) => {
          transport.setupQueue(index, place);
          transport.enableQueue(index);
        });
        transport.writeStatus(15);
      },
      () => {
        for (const value of [0, 1, 3]) this.#oracle.writeStatus(value);
        this.#oracle.setDriverFeatures(features);
        this.#oracle.writeStatus(11);
        places.forEach((place, index) => {
          this.#oracle.setupQueue(index, place);
          this.#oracle.enableQueue(index);
        });
        this.#oracle.writeStatus(15);
      },
    );
  }

  #clearRequestRing(): void {
    this.#memory.poke(0, new Uint8Array(0x600));
    this.#availIndex = 0;
  }

  #clearEventRing(): void {
    this.#memory.poke(0x600, new Uint8Array(0x300));
    this.#eventIndex = 0;
  }

  #place(op: RequestOp, mode: number): void {
    this.#trace?.push(`  ${formatOp(op)}`);
    const writable = Math.min(writableBytes(op, this.#setup.probeSize), 0x200);
    this.#placeBytes(requestBytes(op).subarray(0, 0x100), writable, mode);
  }

  /** Puts a request into the next slot and makes it available; `mode` 0 direct, 1 indirect, 2 direct in pieces. */
  #placeBytes(bytes: Uint8Array, writable: number, mode: number): void {
    const slot = this.#pending++;
    const at = slotAt(slot);
    this.#memory.poke(at + 0x100, bytes);
    this.#memory.poke(at + 0x200, new Uint8Array(writable).fill(PREFILL));
    const first = 4 * slot;
    const table = mode === 1 ? at : 0;
    const base = mode === 1 ? 0 : first;
    const half = mode === 2 ? this.#random.below(bytes.length + 1) : bytes.length;
    const pieces = [
      { addr: at + 0x100, length: half, flags: 0 },
      ...(mode === 2 ? [{ addr: at + 0x100 + half, length: bytes.length - half, flags: 0 }] : []),
      { addr: at + 0x200, length: writable, flags: 2 },
    ];
    pieces.forEach(({ addr, length, flags }, i) => {
      const last = i === pieces.length - 1;
      this.#putDescriptor(table + 16 * (base + i), BigInt(addr), length, flags | (last ? 0 : 1), base + i + 1);
    });
    if (mode === 1) this.#putDescriptor(16 * first, BigInt(at), 16 * pieces.length, 4, 0);
    this.#memory.poke16(0x204 + 2 * (this.#availIndex % QUEUE), first);
    this.#availIndex = (this.#availIndex + 1) & 0xffff;
    this.#memory.poke16(0x202, this.#availIndex);
  }

  #putDescriptor(at: number, addr: bigint, length: number, flags: number, next: number): void {
    const bytes = new DataView(new ArrayBuffer(16));
    bytes.setBigUint64(0, addr, true);
    bytes.setUint32(8, length, true);
    bytes.setUint16(12, flags, true);
    bytes.setUint16(14, next, true);
    this.#memory.poke(at, new Uint8Array(bytes.buffer));
  }

  #makeDevice(): VirtioIommu {
    const setup = this.#setup;
    return new VirtioIommu({
      memory: this.#memory.memory,
      interrupt: { queue: () => undefined, config: () => undefined },
      features: setup.offered,
      pageSizeMask: setup.pageSizeMask,
      ...(setup.offered.includes('inputRange') ? { inputRange: setup.inputRange } : {}),
      domainRange: setup.domainRange,
      probeSize: setup.probeSize,
      bypass: setup.bypass,
      maxMappings: setup.maxMappings,
      maxDomains: setup.maxDomains,
      maxInstalled: 1024,
      resvOverflow: 'probe-error',
      faults: { perSecond: Infinity },
      requestQueueSize: QUEUE,
      eventQueueSize: EVENT_QUEUE,
      endpoints: setup.endpoints.map(({ id, regions, group }) => {
        const host = this.#contexts.find((context) => context.group === group);
        return { id, reserved: regions, ...(host === undefined ? {} : { host }) };
      }),
    });
  }

  #makeModel(): ModelDevice {
    const setup = this.#setup;
    const input = setup.offered.includes('inputRange') ? setup.inputRange : { start: 0n, end: U64 };
    return new ModelDevice({
      pageSizeMask: setup.pageSizeMask,
      inputRange: setup.inputRange,
      domainRange: setup.domainRange,
      probeSize: setup.probeSize,
      bypass: setup.bypass,
      offered: ['VERSION_1', 'RING_INDIRECT_DESC', 'RING_EVENT_IDX', ...setup.offered.map((name) => MODEL_NAMES[name])],
      endpoints: setup.endpoints.map(({ id, regions }) => ({
        id,
        regions: naiveRegions(regions, granuleOf(setup), input),
      })),
      maxMappings: setup.maxMappings,
      maxDomains: setup.maxDomains,
    });
  }
}

function slotAt(slot: number): number {
  return SLOTS + SLOT_BYTES * slot;
}
