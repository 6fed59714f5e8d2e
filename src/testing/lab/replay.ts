// Replays a recorded trace against the device, through a real ring, with a simulated host behind every endpoint.
// Kicks are those of the trace; what the endpoints did is done again and compared.
import type { Policy } from '../../coalesce/settings.ts';
import { STATUS_NAMES } from '../../iommu/status.ts';
import type { Reply } from '../iommu-driver.ts';
import type { DriverCommand, FaultReport } from '../requests.ts';
import type { TraceRecord, TraceRequest } from '../trace-record.ts';
import { isTraceRequest } from '../trace-record.ts';
import type { Trace } from '../trace.ts';
import { traceEndpointIds } from '../trace.ts';
import { replayAccess } from './replay-access.ts';
import { inStep } from './in-step.ts';
import type { LabMachine } from './machine.ts';
import { replayMachine } from './replay-machine.ts';

/** Most differences that a result lists; all are counted. */
export const MAX_DIFFERENCES = 100;

/** Something that went otherwise than recorded. */
export interface Difference {
  /** Number of the record, from 0 for the one after the header. */
  readonly record: number;
  readonly op: string;
  readonly what: string;
  readonly recorded: string;
  readonly seen: string;
}

/** What a replay does. */
export interface ReplayOptions {
  readonly policy: Policy;
  /** Most live entries per host container. */
  readonly limit: number;
  readonly progress?: (done: number, total: number) => void;
  /** Milliseconds; for `seconds` only. */
  readonly clock: () => number;
}

/** What a replay saw. */
export interface ReplayResult {
  readonly trace: string;
  readonly policy: Policy;
  readonly limit: number;
  readonly requests: number;
  readonly kicks: number;
  /** Requests by status name. */
  readonly statuses: Readonly<Record<string, number>>;
  readonly differences: readonly Difference[];
  readonly differenceCount: number;
  /** Requests that were not answered OK. */
  readonly refused: number;
  readonly hostEntriesPeak: number;
  readonly hostMapCalls: number;
  readonly hostUnmapCalls: number;
  /** Virtual windows that gathered scattered pages into one entry. */
  readonly gatherWindows: number;
  /** Moments in which a live mapping that no request touched had no access. */
  readonly windows: number;
  /** Live at the end of the trace, before the reset that follows it. */
  readonly liveAtEnd: number;
  readonly leftInGuestTable: number;
  readonly leftInHostTable: number;
  readonly seconds: number;
}

/** Tables up to this size are compared with the host after every kick, larger ones every 256 kicks. */
const SMALL_TABLE = 96;

/** Replays a whole trace. */
export function replayTrace(trace: Trace, options: ReplayOptions): ReplayResult {
  const started = options.clock();
  const machine = replayMachine(trace, options.limit, options.policy);
  const replay = new Replay(machine, trace, options);
  replay.run();
  return replay.finish((options.clock() - started) / 1000);
}

class Replay {
  readonly #machine: LabMachine;
  readonly #trace: Trace;
  readonly #options: ReplayOptions;
  readonly #differences: Difference[] = [];
  readonly #statuses = new Map<string, number>();
  readonly #ids: readonly number[];
  #differenceCount = 0;
  #requests = 0;
  #kicks = 0;
  #events: FaultReport[] = [];
  /** Requests of the kick that is being collected, and the number of the first. */
  #pending: TraceRequest[] = [];
  #first = 0;

  constructor(machine: LabMachine, trace: Trace, options: ReplayOptions) {
    this.#machine = machine;
    this.#trace = trace;
    this.#options = options;
    this.#ids = traceEndpointIds(trace);
  }

  run(): void {
    const { records } = this.#trace;
    this.#machine.driver.start();
    const reported = new Set(records.flatMap((record) => (record.op === 'BM' ? [record.endpoint] : [])));
    for (const id of this.#machine.contexts.keys()) if (!reported.has(id)) this.#machine.setBusMaster(id, true);
    records.forEach((record, index) => {
      if (isTraceRequest(record)) {
        this.#collect(record, index);
      } else {
        this.#kick();
        this.#happen(record, index);
      }
      if (index % 4096 === 0) this.#options.progress?.(index, records.length);
    });
    this.#kick();
    this.#compareTables(records.length);
  }

  finish(seconds: number): ReplayResult {
    const machine = this.#machine;
    const { core } = machine.iommu;
    const { contexts } = core.stats();
    const peak = Math.max(0, ...contexts.map((context) => context.domainEntriesPeak));
    const calls = machine.hostCalls;
    const liveAtEnd = core.stats().mappings;
    core.setBypass(0); // so that what a reset leaves in the host is nothing
    machine.iommu.transport.writeStatus(0);
    const result: ReplayResult = {
      trace: this.#trace.header.trace ?? 'unnamed',
      policy: this.#options.policy,
      limit: this.#options.limit,
      requests: this.#requests,
      kicks: this.#kicks,
      statuses: Object.fromEntries(this.#statuses),
      differences: this.#differences,
      differenceCount: this.#differenceCount,
      refused: this.#requests - (this.#statuses.get('OK') ?? 0),
      hostEntriesPeak: peak,
      hostMapCalls: calls.map,
      hostUnmapCalls: calls.unmap,
      gatherWindows: contexts.reduce((sum, context) => sum + context.gathersMade, 0),
      windows: contexts.reduce((sum, context) => sum + context.windows.count, 0),
      liveAtEnd,
      leftInGuestTable: core.stats().mappings,
      leftInHostTable: machine.entriesNow,
      seconds,
    };
    machine.close();
    return result;
  }

  #collect(record: TraceRequest, index: number): void {
    const [head] = this.#pending;
    const full = this.#pending.length >= this.#machine.driver.ringCapacity;
    if (head !== undefined && (head.kick !== record.kick || full)) this.#kick();
    if (this.#pending.length === 0) this.#first = index;
    this.#pending.push(record);
  }

  /** Sends the collected requests with one notification and compares the answers. */
  #kick(): void {
    const batch = this.#pending;
    if (batch.length === 0) return;
    this.#pending = [];
    this.#kicks++;
    const [only] = batch;
    if (batch.length === 1 && only?.op === 'PROBE') {
      const reply = this.#machine.driver.probe(only.endpoint);
      this.#compare(only, reply, this.#first);
      const seen = reply.properties.regions.length;
      this.#expect(this.#first, 'PROBE', 'regions', only.reservedRegions ?? seen, seen);
    } else {
      const replies = this.#machine.driver.batch(batch.map(toCommand));
      batch.forEach((record, i) => this.#compare(record, replies[i]!, this.#first + i));
    }
    this.#events.push(...this.#machine.driver.events());
    const small = this.#machine.iommu.core.state.mappings <= SMALL_TABLE;
    if (small || this.#kicks % 256 === 0) this.#compareTables(this.#first);
  }

  #compare(record: TraceRequest, reply: Reply, index: number): void {
    this.#requests++;
    const seen = STATUS_NAMES[reply.status] ?? 'unanswered';
    this.#statuses.set(seen, (this.#statuses.get(seen) ?? 0) + 1);
    this.#expect(index, record.op, 'status', record.status, seen);
    this.#expect(index, record.op, 'used length', record.usedLength ?? reply.usedLength, reply.usedLength);
  }

  #compareTables(index: number): void {
    for (const id of this.#ids) {
      if (!inStep(this.#machine, id)) this.#differ(index, 'host', `table of endpoint ${id}`, 'in step', 'differs');
    }
  }

  #happen(record: Exclude<TraceRecord, TraceRequest>, index: number): void {
    const { iommu, driver } = this.#machine;
    switch (record.op) {
      case 'BM':
        if (this.#machine.contexts.has(record.endpoint)) this.#machine.setBusMaster(record.endpoint, record.on);
        break;
      case 'RESET':
        iommu.transport.writeStatus(0);
        driver.start();
        break;
      case 'CFG':
        iommu.transport.writeConfig(record.offset, record.size, record.value);
        break;
      default: {
        this.#events.push(...driver.events());
        const difference = replayAccess(iommu.core, record, this.#events);
        if (difference !== undefined) this.#differ(index, record.op, ...difference);
      }
    }
  }

  #expect(index: number, op: string, what: string, recorded: string | number, seen: string | number): void {
    if (recorded !== seen) this.#differ(index, op, what, String(recorded), String(seen));
  }

  #differ(record: number, op: string, what: string, recorded: string, seen: string): void {
    this.#differenceCount++;
    if (this.#differences.length < MAX_DIFFERENCES) this.#differences.push({ record, op, what, recorded, seen });
  }
}

function toCommand(record: TraceRequest): DriverCommand {
  switch (record.op) {
    case 'ATTACH':
      return { op: 'attach', domain: record.domain, endpoint: record.endpoint, flags: record.flags };
    case 'DETACH':
      return { op: 'detach', domain: record.domain, endpoint: record.endpoint };
    case 'MAP': {
      const { domain, virtStart, virtEnd, physStart, flags } = record;
      return { op: 'map', domain, virtStart, virtEnd, physStart, flags };
    }
    case 'UNMAP':
      return { op: 'unmap', domain: record.domain, virtStart: record.virtStart, virtEnd: record.virtEnd };
    case 'PROBE':
      return { op: 'probe', endpoint: record.endpoint };
  }
}
