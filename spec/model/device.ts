// The naive reference model of the device: requests as bytes, one after the other, no ring, no host.
// It answers as decisions.md says. Plain on purpose: what is compared with it may be clever, it may not.
import type { Direction, ModelAccess } from './access.ts';
import { access } from './access.ts';
import { attach, detach } from './attach.ts';
import { readLe, writeLe } from './bytes.ts';
import { map, unmap } from './map.ts';
import { probe } from './probe.ts';
import type { FeatureName, ModelOptions, ModelState, StatusName } from './state.ts';
import { STATUS, inputRangeOf, isNegotiated, isOffered } from './state.ts';

/** What one request gave back. */
export interface ModelReply {
  /** Status name, or NOT_WRITTEN when the buffer came back untouched with used length 0. */
  readonly status: StatusName | 'NOT_WRITTEN';
  readonly usedLength: number;
  /** The whole writable part as the driver finds it, prefill where nothing was written; empty with NOT_WRITTEN. */
  readonly writable: Uint8Array;
}

const T = { ATTACH: 1, DETACH: 2, MAP: 3, UNMAP: 4, PROBE: 5 } as const;
/** Bytes of the readable part per request type. */
const READABLE: Readonly<Record<number, number>> = {
  [T.ATTACH]: 20,
  [T.DETACH]: 20,
  [T.MAP]: 36,
  [T.UNMAP]: 28,
  [T.PROBE]: 72,
};
const TAIL_BYTES = 4;
/** A PROBE with more room than this behind its properties cannot be meant; zeroing it would be work without a bound. */
const PROBE_SLACK = 65_536;
const CONFIG_BYTES = 40;
const BYPASS_OFFSET = 36;

export class ModelDevice {
  readonly state: ModelState;

  constructor(options: ModelOptions) {
    const endpoints = options.endpoints.map(({ id, regions }) => ({ id, regions, domain: undefined }));
    this.state = { options, endpoints, negotiated: [], bypass: options.bypass };
  }

  get offered(): readonly FeatureName[] {
    return this.state.options.offered;
  }

  /** The driver sets FEATURES_OK with these features; false when one of them was not offered. */
  negotiate(accepted: readonly FeatureName[]): boolean {
    if (accepted.some((feature) => !isOffered(this.state, feature))) return false;
    this.state.negotiated = [...accepted];
    return true;
  }

  /** Device reset: nothing is attached, nothing negotiated; bypass stays. */
  deviceReset(): void {
    for (const endpoint of this.state.endpoints) endpoint.domain = undefined;
    this.state.negotiated = [];
  }

  /** System reset: a device reset, and bypass has its initial value again. */
  systemReset(): void {
    this.deviceReset();
    this.state.bypass = this.state.options.bypass;
  }

  access(endpointId: number, iova: bigint, direction: Direction): ModelAccess {
    return access(this.state, endpointId, iova, direction);
  }

  /** One request: its readable bytes, how many bytes are writable, and what stands in each of them. */
  request(readable: Uint8Array, writableLength: number, prefill = 0): ModelReply {
    const type = readable[0];
    const needed = type === undefined ? undefined : READABLE[type];
    const mapUnmap = type === T.MAP || type === T.UNMAP;
    if (type === undefined || needed === undefined) return NOT_WRITTEN;
    if (mapUnmap && !isNegotiated(this.state, 'MAP_UNMAP')) return NOT_WRITTEN;
    if (type === T.PROBE && !isNegotiated(this.state, 'PROBE')) return NOT_WRITTEN;
    if (readable.length < needed || writableLength < TAIL_BYTES) return NOT_WRITTEN;
    const tail = writableLength - TAIL_BYTES;
    if (type === T.PROBE) {
      if (tail > this.state.options.probeSize + PROBE_SLACK) return NOT_WRITTEN;
      const writable = probe(this.state, readable, writableLength);
      return { status: statusName(writable[tail]!), usedLength: writableLength, writable };
    }
    const status = this.#execute(type, readable);
    const writable = new Uint8Array(writableLength).fill(prefill);
    // The used length is 4 wherever the tail stands, so the first four bytes are written too.
    writable.fill(0, 0, TAIL_BYTES);
    writable.fill(0, tail);
    writable[tail] = STATUS[status];
    return { status, usedLength: TAIL_BYTES, writable };
  }

  #execute(type: number, readable: Uint8Array): StatusName {
    if (type === T.ATTACH) return attach(this.state, readable);
    if (type === T.DETACH) return detach(this.state, readable);
    if (type === T.MAP) return map(this.state, readable);
    return unmap(this.state, readable);
  }

  /** The 40 bytes of configuration space. */
  config(): Uint8Array {
    const bytes = new Uint8Array(CONFIG_BYTES);
    const { options, bypass } = this.state;
    writeLe(bytes, 0, 8, options.pageSizeMask);
    const input = inputRangeOf(this.state);
    writeLe(bytes, 8, 8, input.start);
    writeLe(bytes, 16, 8, input.end);
    const domains = isOffered(this.state, 'DOMAIN_RANGE') ? options.domainRange : { start: 0, end: 0xffff_ffff };
    writeLe(bytes, 24, 4, BigInt(domains.start));
    writeLe(bytes, 28, 4, BigInt(domains.end));
    writeLe(bytes, 32, 4, isOffered(this.state, 'PROBE') ? BigInt(options.probeSize) : 0n);
    if (isOffered(this.state, 'BYPASS_CONFIG')) bytes[BYPASS_OFFSET] = bypass ? 1 : 0;
    return bytes;
  }

  /** Little-endian value of `size` bytes; beyond the end zero. */
  readConfig(offset: number, size: number): bigint {
    return readLe(this.config(), offset, size);
  }

  /** Only a 0 or 1 for the bypass byte has an effect, and only with BYPASS_CONFIG negotiated. */
  writeConfig(offset: number, size: number, value: bigint): void {
    if (!isNegotiated(this.state, 'BYPASS_CONFIG')) return;
    if (offset > BYPASS_OFFSET || offset + size <= BYPASS_OFFSET) return;
    const byte = (value >> BigInt(8 * (BYPASS_OFFSET - offset))) & 255n;
    if (byte === 0n || byte === 1n) this.state.bypass = byte === 1n;
  }
}

const NOT_WRITTEN: ModelReply = { status: 'NOT_WRITTEN', usedLength: 0, writable: new Uint8Array(0) };

function statusName(code: number): StatusName {
  for (const [name, value] of Object.entries(STATUS)) if (value === code) return name as StatusName;
  throw new RangeError(`no status has the code ${code}`);
}
