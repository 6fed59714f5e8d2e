// Runs one vector case against the reference model, at request level: no ring, no descriptors, no notifications.
// What a model without a ring cannot see is counted in `unseen` and never taken for passed.
import type {
  Check,
  DeviceInit,
  Num,
  Operation,
  PropertyInit,
  RawOp,
  RequestOp,
  VectorCase,
} from '../vector-format.ts';
import type { ModelFault } from './access.ts';
import { readLe } from './bytes.ts';
import { ModelDevice } from './device.ts';
import { encodeRequest } from './encode.ts';
import { reportedRegions } from './regions.ts';
import type { FeatureName, ModelOptions, ModelRegion } from './state.ts';
import { STATUS } from './state.ts';

export interface CaseResult {
  readonly id: string;
  readonly outcome: 'pass' | 'fail' | 'skip';
  readonly why: string;
  /** Aspects that the model cannot see: descriptor layouts, unmodified readable memory. */
  readonly unseen: number;
}

const DEFAULT_FEATURES: readonly FeatureName[] = [
  ...(['VERSION_1', 'RING_INDIRECT_DESC', 'INPUT_RANGE', 'DOMAIN_RANGE'] as const),
  ...(['MAP_UNMAP', 'PROBE', 'MMIO', 'BYPASS_CONFIG'] as const),
];
const MSI = { subtype: 1, start: '0xfee00000', end: '0xfeefffff' };
const DEFAULT_ENDPOINTS: NonNullable<DeviceInit['endpoints']> = [
  { id: 8, resv: [] },
  { id: 9, resv: [] },
  { id: 16, resv: [MSI] },
  { id: 17, resv: [{ subtype: 0, start: '0x80000000', end: '0x8fffffff' }, MSI] },
];

type RegionInit = NonNullable<DeviceInit['endpoints']>[number]['resv'][number];

class Failure extends Error {}
class Skip extends Error {}

export function runCase(each: VectorCase): CaseResult {
  const run = new CaseRun(each.device ?? {});
  try {
    run.execute(each);
    return { id: each.id, outcome: 'pass', why: '', unseen: run.unseen };
  } catch (error) {
    if (error instanceof Skip) return { id: each.id, outcome: 'skip', why: error.message, unseen: run.unseen };
    if (error instanceof Failure) return { id: each.id, outcome: 'fail', why: error.message, unseen: run.unseen };
    throw error;
  }
}

interface Seen {
  readonly status: string;
  readonly usedLength: number;
  readonly writable: Uint8Array;
  readonly prefill: number;
}

interface EventBuffer {
  readonly size: number;
  readonly writable: boolean;
}

class CaseRun {
  unseen = 0;
  readonly #device: ModelDevice;
  readonly #accepted: readonly FeatureName[];
  readonly #probeSize: number;
  #driverOk: boolean;
  /** The driver has to be initialised again before the next request. */
  #fresh = false;
  #buffers: EventBuffer[] = [];
  #buffersUsed = 0;
  #events: ModelFault[] = [];
  #last: Seen | undefined;

  constructor(init: DeviceInit) {
    const offered = [
      ...DEFAULT_FEATURES.filter((name) => !(init.offer_remove ?? []).includes(name)),
      ...((init.offer_add ?? []) as FeatureName[]),
    ];
    this.#accepted = offered.filter((name) => !(init.accept_remove ?? []).includes(name));
    const options = modelOptions(init, offered);
    this.#probeSize = options.probeSize;
    this.#device = new ModelDevice(options);
    const state = init.state ?? 'DRIVER_OK';
    this.#driverOk = state === 'DRIVER_OK';
    if (state === 'FEATURES_OK' || state === 'DRIVER_OK') this.#device.negotiate(this.#accepted);
  }

  execute(each: VectorCase): void {
    for (const op of each.setup) {
      for (const seen of this.#perform(op)) {
        if (seen.status !== 'OK' && seen.status !== 'N/A') throw new Failure(`setup ${op.op} gave ${seen.status}`);
      }
    }
    const { status, used_len: usedLengths, checks } = each.expect;
    const results = this.#perform(each.request);
    results.forEach((seen, i) => {
      const entry = each.request.op === 'batch' ? status[i] : status;
      const allowed = entry as readonly string[];
      if (!allowed.includes(seen.status)) throw new Failure(`${seen.status} instead of ${allowed.join(' or ')}`);
      if (usedLengths !== undefined && !usedLengths.includes(seen.usedLength)) {
        throw new Failure(`used length ${seen.usedLength} instead of ${usedLengths.join(' or ')}`);
      }
    });
    const underTest = results.at(-1);
    this.#last = underTest;
    for (const check of checks ?? []) {
      if (check.when !== undefined && !check.when.includes(underTest?.status ?? '')) continue;
      this.#check(check);
    }
  }

  #perform(op: Operation): Seen[] {
    switch (op.op) {
      case 'req':
      case 'raw':
        return [this.#request(op)];
      case 'batch':
        return op.requests.map((request) => this.#request(request));
      case 'repeat':
        return Array.from({ length: op.count }, (_, i) => this.#request(stepped(op.request, op.step, i)));
      case 'ring':
        throw new Skip('a damaged ring needs a ring');
      case 'access':
        this.#access(op.endpoint, op.iova, op.dir);
        break;
      case 'event_buffers':
        if (op.layout !== undefined || op.notify === false) this.unseen++;
        this.#buffers.push(...op.sizes.map((size) => ({ size, writable: op.readable !== true })));
        break;
      case 'config_write':
        this.#device.writeConfig(op.offset, op.size, toBigint(op.value));
        break;
      case 'device_reset':
        this.#reset(() => this.#device.deviceReset());
        break;
      case 'system_reset':
        this.#reset(() => this.#device.systemReset());
        break;
      default:
        break;
    }
    return [{ status: 'N/A', usedLength: 0, writable: new Uint8Array(0), prefill: 0 }];
  }

  #reset(act: () => void): void {
    act();
    this.#buffers = [];
    this.#events = [];
    this.#driverOk = false;
    this.#fresh = true;
  }

  #initialise(): void {
    this.#device.negotiate(this.#accepted);
    this.#driverOk = true;
    this.#fresh = false;
  }

  #request(op: RequestOp | RawOp): Seen {
    if (op.op === 'req' && op.order === 'writable_first') throw new Skip('descriptor order needs a ring');
    if (this.#fresh) this.#initialise();
    const encoded = encodeRequest(op, this.#probeSize);
    if (encoded.framed) this.unseen++;
    const writable = new Uint8Array(encoded.writableLength).fill(encoded.prefill);
    if (!this.#driverOk) return { status: 'NOT_CONSUMED', usedLength: 0, writable, prefill: encoded.prefill };
    const reply = this.#device.request(encoded.readable, encoded.writableLength, encoded.prefill);
    writable.set(reply.writable);
    const { usedLength } = reply;
    const changed = encoded.statusAt.find((offset) => writable[offset] !== encoded.prefill);
    const at = changed ?? encoded.statusAt.at(-1);
    const status = usedLength === 0 || at === undefined ? 'NOT_WRITTEN' : nameOf(writable[at]!);
    return { status, usedLength, writable, prefill: encoded.prefill };
  }

  #access(endpoint: Num, iova: Num, dir: 'R' | 'W'): string {
    const { result, fault } = this.#device.access(Number(endpoint), toBigint(iova), dir);
    if (fault !== undefined) this.#report(fault);
    return typeof result === 'bigint' ? `0x${result.toString(16)}` : result;
  }

  /** A record goes into the oldest buffer; without one, or when it does not fit, it is dropped. */
  #report(fault: ModelFault): void {
    if (!this.#driverOk) return;
    const buffer = this.#buffers.shift();
    if (buffer === undefined) return;
    this.#buffersUsed++;
    if (buffer.writable && buffer.size >= fault.bytes.length) this.#events.push(fault);
  }

  #check(check: Check): void {
    switch (check.check) {
      case 'access': {
        const result = this.#access(check.endpoint, check.iova, check.dir);
        const allowed = check.result.map((each) => (each.startsWith('0x') ? `0x${BigInt(each).toString(16)}` : each));
        if (!allowed.includes(result)) throw new Failure(`access ${check.iova} ${check.dir} gave ${result}`);
        return;
      }
      case 'req': {
        const seen = this.#request(check.request);
        if (!check.status.includes(seen.status)) {
          throw new Failure(`check request gave ${seen.status} instead of ${check.status.join(' or ')}`);
        }
        return;
      }
      case 'config':
      case 'config_nonzero': {
        const value = this.#device.readConfig(check.offset, check.size);
        const good = check.check === 'config' ? check.value.some((each) => toBigint(each) === value) : value !== 0n;
        if (!good) throw new Failure(`config ${check.offset}/${check.size} is 0x${value.toString(16)}`);
        return;
      }
      case 'features': {
        const offered: readonly string[] = this.#device.offered;
        const missing = (check.must_include ?? []).filter((name) => !offered.includes(name));
        const pair = check.not_together ?? [];
        if (missing.length > 0) throw new Failure(`not offered: ${missing.join(' ')}`);
        if (pair.length > 0 && pair.every((name) => offered.includes(name))) throw new Failure('offered together');
        return;
      }
      case 'event':
        this.#checkEvent(check);
        return;
      case 'event_buffers_used':
        if (this.#buffersUsed > check.max) throw new Failure(`${this.#buffersUsed} event buffers used`);
        return;
      case 'readable_unmodified':
        this.unseen++;
        return;
      case 'reinit':
        this.#device.deviceReset();
        this.#initialise();
        return;
      default:
        this.#checkReply(check);
    }
  }

  #checkEvent(check: Extract<Check, { check: 'event' }>): void {
    const event = this.#events.shift();
    if (!check.present.includes(event !== undefined)) throw new Failure(event === undefined ? 'no event' : 'an event');
    if (event === undefined) return;
    const { bytes } = event;
    const wrong: string[] = [];
    if (check.reason?.includes(bytes[0]!) === false) wrong.push(`reason ${bytes[0]!}`);
    if (check.endpoint !== undefined && Number(check.endpoint) !== event.endpoint) wrong.push('endpoint');
    const flags = Number(readLe(bytes, 4, 4));
    if (check.flags_any_of?.map(Number).includes(flags) === false) wrong.push(`flags ${flags}`);
    if (check.address !== undefined && toBigint(check.address) !== readLe(bytes, 16, 8)) wrong.push('address');
    if (check.used_len !== undefined && check.used_len !== bytes.length) wrong.push('used length');
    if (wrong.length > 0) throw new Failure(`event: ${wrong.join(', ')}`);
  }

  #checkReply(check: Check): void {
    const seen = this.#last;
    if (seen === undefined) throw new Failure(`${check.check} without a request`);
    const properties = seen.writable.subarray(0, -4);
    switch (check.check) {
      case 'properties': {
        const { list, end } = parseProperties(properties);
        const found = list.map(propertyKey).sort().join(' ');
        const wanted = check.list.map(wantedKey).sort().join(' ');
        if (found !== wanted) throw new Failure(`properties ${found} instead of ${wanted}`);
        if (check.zero_pad === true && properties.subarray(end).some((byte) => byte !== 0))
          throw new Failure('padding');
        return;
      }
      case 'properties_well_formed':
        parseProperties(properties);
        return;
      case 'property_reserved_zero':
        for (const each of parseProperties(properties).list) if (each.reserved) throw new Failure('reserved bits set');
        return;
      case 'no_property_written':
        if (properties.some((byte) => byte !== 0 && byte !== seen.prefill)) throw new Failure('a property was written');
        return;
      case 'tail_reserved_zero':
        if (seen.writable.subarray(-3).some((byte) => byte !== 0)) throw new Failure('tail.reserved is not zero');
        return;
      default:
        throw new Failure(`${check.check} is not known`);
    }
  }
}

interface ParsedProperty {
  readonly type: number;
  readonly length: number;
  readonly subtype: number;
  readonly start: bigint;
  readonly end: bigint;
  readonly reserved: boolean;
}

/** Reads properties up to type 0 or the end; `end` is where they stop. */
function parseProperties(bytes: Uint8Array): { list: ParsedProperty[]; end: number } {
  const list: ParsedProperty[] = [];
  let at = 0;
  while (at + 4 <= bytes.length) {
    const head = Number(readLe(bytes, at, 2));
    const length = Number(readLe(bytes, at + 2, 2));
    if ((head & 0xfff) === 0) break;
    if (length < 20 || at + 4 + length > bytes.length) throw new Failure(`property at ${at} is ${length} bytes long`);
    list.push({
      type: head & 0xfff,
      length,
      subtype: bytes[at + 4]!,
      start: readLe(bytes, at + 8, 8),
      end: readLe(bytes, at + 16, 8),
      reserved: head >> 12 !== 0 || readLe(bytes, at + 5, 3) !== 0n,
    });
    at += 4 + length;
  }
  return { list, end: at };
}

function propertyKey({ type, length, subtype, start, end }: ParsedProperty): string {
  return `${type}/${length}/${subtype}/${start.toString(16)}-${end.toString(16)}`;
}

function wantedKey(wanted: PropertyInit): string {
  return propertyKey({ ...wanted, start: toBigint(wanted.start), end: toBigint(wanted.end), reserved: false });
}

function modelOptions(init: DeviceInit, offered: readonly FeatureName[]): ModelOptions {
  const [inputStart, inputEnd] = init.input_range ?? ['0x0', '0xffffffffffff'];
  const [firstDomain, lastDomain] = init.domain_range ?? [0, 31];
  const pageSizeMask = toBigint(init.page_size_mask ?? '0x40201000');
  const inputRange = { start: toBigint(inputStart), end: toBigint(inputEnd) };
  const reachable = offered.includes('INPUT_RANGE') ? inputRange : { start: 0n, end: (1n << 64n) - 1n };
  return {
    pageSizeMask,
    inputRange,
    domainRange: { start: Number(firstDomain), end: Number(lastDomain) },
    probeSize: init.probe_size ?? 512,
    bypass: init.bypass === 1,
    offered,
    endpoints: (init.endpoints ?? DEFAULT_ENDPOINTS).map(({ id, resv }) => ({
      id: Number(id),
      regions: reportedRegions(resv.map(regionOf), pageSizeMask & -pageSizeMask, reachable),
    })),
    ...(init.limits?.mappings === undefined ? {} : { maxMappings: init.limits.mappings }),
  };
}

function regionOf({ subtype, start, end }: RegionInit): ModelRegion {
  return { kind: subtype === 1 ? 'msi' : 'reserved', start: toBigint(start), end: toBigint(end) };
}

function stepped(request: RequestOp, step: Record<string, Num>, times: number): RequestOp {
  const fields: Record<string, unknown> = { ...request };
  for (const [name, amount] of Object.entries(step)) {
    const value = toBigint(fields[name] as Num) + toBigint(amount) * BigInt(times);
    fields[name] = `0x${value.toString(16)}`;
  }
  return fields as unknown as RequestOp;
}

function toBigint(value: Num): bigint {
  return BigInt(value);
}

function nameOf(code: number): string {
  return Object.entries(STATUS).find(([, value]) => value === code)?.[0] ?? `status ${code}`;
}
