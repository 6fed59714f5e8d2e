// One device behind a real ring and the reference model beside it: runs operations on both and compares all that a
// guest can see. Not here: what operations there are and why (generate-*.ts). Ends INCLUSIVE.
import { ModelDevice } from '../../spec/model/device.ts';
import type { ModelReply } from '../../spec/model/device.ts';
import type { FeatureName as ModelFeature, ModelRegion } from '../../spec/model/state.ts';
import type { SimulatedHost, SimulatedType1Context } from '../../src/host/simulated.ts';
import { VirtioIommu } from '../../src/iommu/virtio-iommu.ts';
import type { FeatureName } from '../../src/iommu/options.ts';
import { FEATURES } from '../../src/iommu/options.ts';
import { DriverQueue } from '../../src/testing/driver-queue.ts';
import { negotiate, runQueues } from '../../src/testing/driver-setup.ts';
import { Feature } from '../../src/virtio/features.ts';
import type { Bench } from './bench.ts';
import { EVENT_BASE, REQUEST_BUFFER_BYTES, RING_BASE } from './bench.ts';
import { PREFILL, frame, requestBytes, writableBytes } from './encode.ts';
import { compareMirror } from './mirror.ts';
import { ProbePlan } from './probe-plan.ts';
import { naiveRegions } from './regions.ts';
import type { AccessOp, ConfigOp, Op, RequestOp, ResetOp, Setup } from './sequence.ts';
import { T, granuleOf, namesOf } from './sequence.ts';

const MODEL_NAMES: Readonly<Record<FeatureName, ModelFeature>> = {
  inputRange: 'INPUT_RANGE',
  domainRange: 'DOMAIN_RANGE',
  mapUnmap: 'MAP_UNMAP',
  bypass: 'BYPASS',
  probe: 'PROBE',
  mmio: 'MMIO',
  bypassConfig: 'BYPASS_CONFIG',
};
const RECORD_BYTES = 24;
/** Lengths of event buffers in turn; negative: readable, so that no record fits. */
const EVENT_BUFFERS = [24, 24, 32, 24, 23, 24, 24, 64, 24, 0, 24, -24, 24, 25];
const CONFIG_BYTES = 40;

interface Waiting {
  readonly op: RequestOp;
  readonly head: number;
  readonly reply: ModelReply | undefined;
  readonly writableLength: number;
}

interface EventBuffer {
  readonly writable: number;
  readonly prefill: number;
}

interface WantedEvent {
  readonly usedLength: number;
  readonly bytes: Uint8Array;
}

/** A difference between device and model, in words. */
export type Difference = string | undefined;

/** How thorough the comparison is. */
export interface WorldOptions {
  /** Probes every edge of every mapping for every endpoint after each kick; for shrinking. */
  readonly thorough?: boolean;
}

/** Counts over all worlds. */
export interface WorldCounts {
  requests: number;
  kicks: number;
  probes: number;
  events: number;
  mirrorChecks: number;
  /** Model's answers by status name. */
  readonly statuses: Record<string, number>;
}

export function emptyCounts(): WorldCounts {
  return { requests: 0, kicks: 0, probes: 0, events: 0, mirrorChecks: 0, statuses: {} };
}

export class World {
  readonly setup: Setup;
  readonly model: ModelDevice;
  readonly iommu: VirtioIommu;
  readonly #bench: Bench;
  readonly #counts: WorldCounts;
  readonly #plan: ProbePlan;
  readonly #host: SimulatedHost | undefined;
  readonly #contexts: SimulatedType1Context[] = [];
  #queue: DriverQueue;
  #eventQueue: DriverQueue;
  #waiting: Waiting[] = [];
  #buffers: EventBuffer[] = [];
  #wantedEvents: WantedEvent[] = [];
  #bufferCount = 0;
  #running = false;
  /** Endpoint ids in the order in which they came into their domains. */
  #arrivals: number[] = [];

  constructor(bench: Bench, setup: Setup, counts: WorldCounts, options: WorldOptions = {}) {
    this.setup = setup;
    this.#bench = bench;
    this.#counts = counts;
    const groups = new Set(setup.endpoints.flatMap(({ group }) => (group === undefined ? [] : [group])));
    this.#host = groups.size > 0 ? bench.host() : undefined;
    for (const group of groups) {
      const endpoints = setup.endpoints.filter((each) => each.group === group).map(({ id }) => id);
      this.#contexts.push(this.#host!.createContext({ group, endpoints }));
    }
    this.iommu = this.#makeDevice(bench);
    const offered = setup.offered.map((name) => MODEL_NAMES[name]);
    const input = setup.offered.includes('inputRange') ? setup.inputRange : { start: 0n, end: 0xffff_ffff_ffff_ffffn };
    const endpoints = setup.endpoints.map(({ id, regions }) => ({
      id,
      regions: naiveRegions(regions, granuleOf(setup), input),
    }));
    this.model = new ModelDevice({
      pageSizeMask: setup.pageSizeMask,
      inputRange: setup.inputRange,
      domainRange: setup.domainRange,
      probeSize: setup.probeSize,
      bypass: setup.bypass,
      offered: ['VERSION_1', ...offered],
      endpoints,
      maxMappings: setup.maxMappings,
      maxDomains: setup.maxDomains,
    });
    this.#plan = new ProbePlan(setup, this.model, options.thorough ?? false);
    this.#queue = this.#makeQueue(setup.queueSize, RING_BASE, REQUEST_BUFFER_BYTES);
    this.#eventQueue = this.#makeQueue(setup.eventQueueSize, EVENT_BASE, 0x4000);
    this.#start(setup.accepted);
  }

  /** Reserved regions of an endpoint as the model has them. */
  regionsOf(index: number): readonly ModelRegion[] {
    return this.model.state.endpoints[index]?.regions ?? [];
  }

  /** What the configuration and unattached endpoints look like right after the start. */
  checkStart(): Difference {
    return this.#checkConfig() ?? this.#checkRegions() ?? this.#afterKick();
  }

  /** Carries out one operation on both sides; the first difference that shows. */
  apply(op: Op): Difference {
    if (op.op === 'request') return this.#request(op);
    const before = this.#kick();
    if (before !== undefined) return before;
    switch (op.op) {
      case 'access':
        return this.#access(op) ?? this.#checkEvents();
      case 'reset':
        return this.#reset(op);
      case 'config':
        return this.#config(op);
    }
  }

  /** Ends the sequence: kicks what waits, compares a last time, and lets go of the memory. */
  finish(): Difference {
    return this.#kick() ?? this.#afterKick(true) ?? this.#checkMirrors();
  }

  /** Disconnects the device from the memory, which the next world uses again. */
  close(): void {
    this.iommu.close();
    for (const context of this.#contexts) context.close();
  }

  #makeDevice(bench: Bench): VirtioIommu {
    const { setup } = this;
    const ring = [
      ...(setup.indirect ? (['indirect'] as const) : []),
      ...(setup.eventIdx ? (['eventIdx'] as const) : []),
    ];
    return new VirtioIommu({
      memory: bench.memory,
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
      requestQueueSize: setup.queueSize,
      eventQueueSize: setup.eventQueueSize,
      ringFeatures: ring,
      endpoints: setup.endpoints.map(({ id, regions, group }) => {
        const host = this.#contexts.find((context) => context.group === group);
        return { id, reserved: regions, ...(host === undefined ? {} : { host }) };
      }),
    });
  }

  #makeQueue(size: number, base: bigint, bufferBytes: number): DriverQueue {
    return new DriverQueue(this.#bench.memory, { size, base, bufferBytes, eventIdx: this.setup.eventIdx });
  }

  #start(accepted: number): void {
    const { setup, iommu, model } = this;
    const names = namesOf(accepted).filter((name) => setup.offered.includes(name));
    let features = Feature.version1;
    if (setup.indirect) features |= Feature.indirectDesc;
    if (setup.eventIdx) features |= Feature.eventIdx;
    for (const name of names) features |= 1n << BigInt(FEATURES[name]);
    negotiate(iommu.transport, features);
    model.negotiate(['VERSION_1', ...names.map((name) => MODEL_NAMES[name])]);
    this.#queue.reset();
    this.#eventQueue.reset();
    this.#buffers = [];
    this.#wantedEvents = [];
    runQueues(iommu.transport, [this.#queue, this.#eventQueue]);
    this.#running = true;
    this.#refillEvents();
  }

  /** Puts one request into the ring and, unless it shares its kick with the next, kicks and compares. */
  #request(op: RequestOp): Difference {
    const { setup } = this;
    const bytes = requestBytes(op);
    const { request, outOfOrder } = frame(
      op.framing,
      bytes,
      writableBytes(op, setup.probeSize),
      setup.queueSize,
      setup.indirect,
    );
    let head = this.#tryAdd(request);
    if (head < 0) {
      const before = this.#kick();
      if (before !== undefined) return before;
      head = this.#tryAdd(request);
      if (head < 0) throw new Error(`an empty ring of ${setup.queueSize} has no room for a request`);
    }
    const { writableLength } = request;
    const reply = outOfOrder ? undefined : this.#ask(op, bytes, writableLength);
    const status = reply?.status ?? 'NOT_WRITTEN';
    this.#counts.statuses[status] = (this.#counts.statuses[status] ?? 0) + 1;
    this.#counts.requests++;
    this.#waiting.push({ op, head, reply, writableLength });
    this.#plan.note(op);
    return op.more ? undefined : this.#kick();
  }

  /** The model's answer. What a cap refuses is told by records as well (reason UNKNOWN), which the model leaves out. */
  #ask(op: RequestOp, bytes: Uint8Array, writableLength: number): ModelReply {
    const { endpoints } = this.model.state;
    const before = endpoints.map(({ domain }) => domain);
    const reply = this.model.request(bytes, writableLength, PREFILL);
    endpoints.forEach(({ id, domain }, i) => {
      if (domain === before[i]) return;
      this.#arrivals = this.#arrivals.filter((other) => other !== id);
      if (domain !== undefined) this.#arrivals.push(id);
    });
    if (reply.status !== 'NOMEM') return reply;
    if (op.type === T.ATTACH) this.#wantEvent(refusalRecord(op.endpoint, undefined));
    for (const id of op.type === T.MAP ? this.#arrivals : []) {
      const { domain } = endpoints.find((endpoint) => endpoint.id === id)!;
      if (domain?.id === op.domain) this.#wantEvent(refusalRecord(id, op.start));
    }
    return reply;
  }

  #tryAdd(request: Parameters<DriverQueue['add']>[0]): number {
    try {
      return this.#queue.add(request);
    } catch (error) {
      if (error instanceof Error && error.message.startsWith('no ')) return -1;
      throw error;
    }
  }

  /** Kicks if the device wants to hear of what waits, collects the replies and compares. */
  #kick(): Difference {
    const waiting = this.#waiting;
    if (waiting.length === 0) return undefined;
    this.#waiting = [];
    this.#counts.kicks++;
    const queue = this.#queue;
    queue.makeAvailable(...waiting.map(({ head }) => head));
    if (queue.shouldKick()) this.iommu.transport.notify(0);
    const completed = queue.poll();
    if (completed.length !== waiting.length) return `${completed.length} of ${waiting.length} requests came back`;
    for (const { op, head, reply, writableLength } of waiting) {
      const chain = completed.find((each) => each.head === head);
      if (chain === undefined) return `no reply with the head of ${kindOf(op)}`;
      const wanted = new Uint8Array(writableLength).fill(PREFILL);
      if (reply !== undefined) wanted.set(reply.writable);
      const usedLength = reply?.usedLength ?? 0;
      if (chain.usedLength !== usedLength || !same(chain.writable, wanted)) {
        return (
          `${kindOf(op)}: device used length ${chain.usedLength} writable ${show(chain.writable)}, ` +
          `model ${reply?.status ?? 'out of order'} used length ${usedLength} writable ${show(wanted)}`
        );
      }
      if (!chain.readableUnchanged) return `${kindOf(op)}: the device changed the readable part`;
    }
    return this.#afterKick();
  }

  #afterKick(all = false): Difference {
    const refilled = this.#refillEvents();
    if (refilled !== undefined) return refilled;
    for (const { endpoint, iova, write } of this.#plan.take(all)) {
      const difference = this.#probe(endpoint, iova, write);
      if (difference !== undefined) return difference;
    }
    if (this.iommu.transport.status !== 15) return `status is ${this.iommu.transport.status}`;
    const events = this.#checkEvents();
    if (events !== undefined) return events;
    return this.#counts.kicks % 4 === 0 || this.#plan.thorough ? this.#checkMirrors() : undefined;
  }

  /** One byte, both sides. */
  #probe(endpoint: number, iova: bigint, write: boolean): Difference {
    this.#counts.probes++;
    const { core } = this.iommu;
    const wanted = this.model.access(endpoint, iova, write ? 'W' : 'R');
    const found = core.translate(endpoint, iova, 1, write ? 'write' : 'read');
    if (wanted.fault !== undefined) this.#wantEvent(wanted.fault.bytes);
    const seen = found.ok
      ? found.pieces.map(({ kind, gpa, length }) => `${kind} 0x${gpa.toString(16)}+${length}`).join(', ')
      : `FAULT ${found.fault.reason} at 0x${found.fault.iova.toString(16)}`;
    const { result } = wanted;
    const at = iova.toString(16);
    // An id that is no endpoint gives no record, so the model has no reason; the device says `domain`.
    const reason = wanted.fault === undefined ? 'domain' : wanted.fault.reason.toLowerCase();
    const want =
      result === 'FAULT'
        ? `FAULT ${reason} at 0x${at}`
        : result === 'MSI'
          ? `msi 0x${at}+1`
          : `memory 0x${result.toString(16)}+1`;
    if (seen === want) return undefined;
    return `${write ? 'write' : 'read'} of endpoint 0x${endpoint.toString(16)} at 0x${at}: device ${seen}, model ${want}`;
  }

  /** An access of several bytes: the model is asked at its start and at every granule that it touches. */
  #access(op: AccessOp): Difference {
    const { endpoint, iova, write } = op;
    const granule = granuleOf(this.setup);
    const length = Number(minimum(BigInt(op.length), 0x1_0000_0000_0000_0000n - iova));
    if (length < 1) return undefined;
    const last = iova + BigInt(length) - 1n;
    const wanted: { kind: string; gpa: bigint; length: bigint }[] = [];
    let faultAt: bigint | undefined;
    for (let at = iova; at <= last; at = (at / granule + 1n) * granule) {
      const seen = this.model.access(endpoint, at, write ? 'W' : 'R');
      if (seen.result === 'FAULT') {
        faultAt = at;
        if (seen.fault !== undefined) this.#wantEvent(seen.fault.bytes);
        break;
      }
      const kind = seen.result === 'MSI' ? 'msi' : 'memory';
      const gpa = seen.result === 'MSI' ? at : seen.result;
      const bytes = minimum((at / granule + 1n) * granule, last + 1n) - at;
      const before = wanted.at(-1);
      if (before?.kind === kind && before.gpa + before.length === gpa) before.length += bytes;
      else wanted.push({ kind, gpa, length: bytes });
    }
    const found = this.iommu.core.translate(endpoint, iova, length, write ? 'write' : 'read');
    const list = (pieces: readonly { kind: string; gpa: bigint; length: bigint | number }[]): string =>
      pieces.map((piece) => `${piece.kind} 0x${piece.gpa.toString(16)}+${piece.length}`).join(', ');
    const seen = found.ok ? list(found.pieces) : `FAULT at 0x${found.fault.iova.toString(16)}`;
    const want = faultAt === undefined ? list(wanted) : `FAULT at 0x${faultAt.toString(16)}`;
    return seen === want ? undefined : `access: device ${seen}, model ${want}`;
  }

  #reset(op: ResetOp): Difference {
    this.#running = false;
    this.#arrivals = [];
    if (op.system) {
      this.iommu.systemReset();
      this.model.systemReset();
    } else {
      this.iommu.transport.writeStatus(0);
      this.model.deviceReset();
    }
    for (const { endpoint, iova, write } of this.#plan.take(false)) {
      const difference = this.#probe(endpoint, iova, write);
      if (difference !== undefined) return `after the reset: ${difference}`;
    }
    const difference = this.#checkConfig() ?? this.#checkMirrors();
    if (difference !== undefined) return `after the reset: ${difference}`;
    this.model.deviceReset();
    this.#start(op.accepted);
    return this.#afterKick();
  }

  #config(op: ConfigOp): Difference {
    this.iommu.transport.writeConfig(op.offset, op.width, op.value);
    this.model.writeConfig(op.offset, op.width, op.value);
    return this.#checkConfig() ?? this.#checkMirrors() ?? this.#afterKick();
  }

  #checkConfig(): Difference {
    for (let offset = 0; offset < CONFIG_BYTES; offset += 8) {
      const found = this.iommu.transport.readConfig(offset, 8);
      const wanted = this.model.readConfig(offset, 8);
      if (found !== wanted)
        return `config at ${offset}: device 0x${found.toString(16)}, model 0x${wanted.toString(16)}`;
    }
    return undefined;
  }

  #checkRegions(): Difference {
    const list = (regions: readonly ModelRegion[]): string =>
      regions.map(({ kind, start, end }) => `${kind} 0x${start.toString(16)}-0x${end.toString(16)}`).join(', ');
    for (const { id, regions } of this.model.state.endpoints) {
      const found = list(this.iommu.core.reservedRegions(id));
      if (found !== list(regions)) return `regions of endpoint ${id}: device ${found}, naive ${list(regions)}`;
    }
    return undefined;
  }

  #checkMirrors(): Difference {
    for (const context of this.#contexts) {
      this.#counts.mirrorChecks++;
      const difference = compareMirror(this.#bench, this.#host!, context, this.model);
      if (difference !== undefined) return difference;
    }
    return undefined;
  }

  /** The model's record goes into the oldest buffer, as decisions SIL-41 and SIL-42 say. */
  #wantEvent(record: Uint8Array): void {
    if (!this.#running) return;
    const buffer = this.#buffers.shift();
    if (buffer === undefined) return;
    const fits = buffer.writable >= RECORD_BYTES;
    const bytes = new Uint8Array(buffer.writable).fill(buffer.prefill);
    if (fits) bytes.set(record);
    this.#wantedEvents.push({ usedLength: fits ? RECORD_BYTES : 0, bytes });
  }

  #checkEvents(): Difference {
    const wanted = this.#wantedEvents;
    this.#wantedEvents = [];
    const completed = this.#eventQueue.poll();
    if (completed.length !== wanted.length) return `${completed.length} event buffers came back, not ${wanted.length}`;
    for (let i = 0; i < wanted.length; i++) {
      const { usedLength, bytes } = wanted[i]!;
      const chain = completed[i]!;
      this.#counts.events++;
      if (chain.usedLength !== usedLength || !same(chain.writable, bytes)) {
        return `event: device ${chain.usedLength} ${show(chain.writable)}, model ${usedLength} ${show(bytes)}`;
      }
    }
    return undefined;
  }

  #refillEvents(): Difference {
    const difference = this.#checkEvents();
    const queue = this.#eventQueue;
    while (this.#buffers.length < this.setup.eventBuffers) {
      const length = EVENT_BUFFERS[this.#bufferCount % EVENT_BUFFERS.length]!;
      const writable = Math.max(length, 0);
      const prefill = this.#bufferCount & 0xff;
      const readable = new Uint8Array(Math.max(-length, 0));
      // Every third one in two pieces, every fifth in an indirect table.
      const cut = this.#bufferCount % 3 === 0 && writable > 8 ? [8, writable - 8] : [writable];
      const indirect = this.setup.indirect && this.#bufferCount % 5 === 0;
      const descriptors = cut.length + (readable.length > 0 ? 1 : 0);
      if (queue.freeSlots < descriptors) break;
      queue.makeAvailable(queue.add({ readable, writableLength: writable, writableLayout: cut, prefill, indirect }));
      this.#buffers.push({ writable, prefill });
      this.#bufferCount++;
    }
    return difference;
  }
}

/** A fault record of reason UNKNOWN; the ADDRESS flag goes with an address. */
function refusalRecord(endpoint: number, address: bigint | undefined): Uint8Array {
  const bytes = new Uint8Array(RECORD_BYTES);
  const view = new DataView(bytes.buffer);
  if (address !== undefined) view.setUint32(4, 0x100, true);
  view.setUint32(8, endpoint, true);
  view.setBigUint64(16, address ?? 0n, true);
  return bytes;
}

function minimum(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

function show(bytes: Uint8Array): string {
  const text = Buffer.from(bytes.subarray(0, 64)).toString('hex');
  return bytes.length > 64 ? `${text}... (${bytes.length} bytes)` : text === '' ? '(none)' : text;
}

function kindOf(op: RequestOp): string {
  return `request of type ${op.type}`;
}
