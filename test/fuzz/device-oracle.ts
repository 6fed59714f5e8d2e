// What the whole device must do for a driver that does anything: status bits, features, queue setup, requests through the
// naive ring and the reference model, fault records. Not here: making the driver's mischief (ring-fuzz.ts).
import type { ModelDevice } from '../../spec/model/device.ts';
import type { FeatureName as ModelFeature } from '../../spec/model/state.ts';
import type { FuzzMemory } from './fuzz-memory.ts';
import type { OracleChain, RingPlace } from './ring-oracle.ts';
import { OracleRing, writeChain } from './ring-oracle.ts';

const S = { ACKNOWLEDGE: 1, DRIVER: 2, DRIVER_OK: 4, FEATURES_OK: 8, NEEDS_RESET: 64, FAILED: 128 } as const;
const DRIVER_BITS = S.ACKNOWLEDGE | S.DRIVER | S.DRIVER_OK | S.FEATURES_OK | S.FAILED;
const RECORD_BYTES = 24;
const TAIL_BYTES = 4;
const CONFIG_BYTES = 40;
const PREFILL = 0;
const IDLE: RingPlace = { size: 0, desc: 0n, avail: 0n, used: 0n };
const BITS: readonly (readonly [ModelFeature, bigint])[] = [
  ['INPUT_RANGE', 1n << 0n],
  ['DOMAIN_RANGE', 1n << 1n],
  ['MAP_UNMAP', 1n << 2n],
  ['BYPASS', 1n << 3n],
  ['PROBE', 1n << 4n],
  ['MMIO', 1n << 5n],
  ['BYPASS_CONFIG', 1n << 6n],
  ['RING_INDIRECT_DESC', 1n << 28n],
  ['RING_EVENT_IDX', 1n << 29n],
  ['VERSION_1', 1n << 32n],
];
const INDIRECT = 1n << 28n;
const EVENT_IDX = 1n << 29n;
const VERSION_1 = 1n << 32n;
const PROBE_TYPE = 5;

/** The device as it must be. */
export class DeviceOracle {
  status = 0;
  /** Requests that the model decided. */
  served = 0;
  readonly statuses: Record<string, number> = {};
  readonly #memory: FuzzMemory;
  readonly #model: ModelDevice;
  readonly #offered: bigint;
  #features = 0n;
  readonly #places: RingPlace[] = [IDLE, IDLE];
  readonly #enabled = [false, false];
  readonly #rings: (OracleRing | undefined)[] = [undefined, undefined];

  constructor(memory: FuzzMemory, model: ModelDevice, offered: bigint) {
    this.#memory = memory;
    this.#model = model;
    this.#offered = offered;
  }

  /** True when a kick of the request queue is looked at. */
  get live(): boolean {
    return (this.status & (S.DRIVER_OK | S.NEEDS_RESET)) === S.DRIVER_OK && this.#rings[0] !== undefined;
  }

  enabled(index: number): boolean {
    return this.#enabled[index] === true;
  }

  setDriverFeatures(features: bigint): void {
    if ((this.status & S.FEATURES_OK) === 0) this.#features = features;
  }

  writeStatus(value: number): void {
    if ((value & 0xff) === 0) {
      this.#forget();
      this.#model.deviceReset();
      return;
    }
    const added = value & ~this.status & DRIVER_BITS;
    this.status |= added & ~(S.FEATURES_OK | S.DRIVER_OK);
    const sound = (this.#features & ~this.#offered) === 0n && (this.#features & VERSION_1) !== 0n;
    if ((added & S.FEATURES_OK) !== 0 && sound) {
      this.status |= S.FEATURES_OK;
      this.#model.negotiate(BITS.filter(([, bit]) => (this.#features & bit) !== 0n).map(([name]) => name));
    }
    if ((added & S.DRIVER_OK) === 0) return;
    if ((this.status & (S.FEATURES_OK | S.NEEDS_RESET)) !== S.FEATURES_OK) return;
    this.status |= S.DRIVER_OK;
    for (const index of [0, 1]) if (this.#enabled[index] === true) this.#startRing(index);
    this.#serve();
  }

  systemReset(): void {
    this.#forget();
    this.#model.systemReset();
  }

  setupQueue(index: number, place: RingPlace): void {
    if (this.#enabled[index] === false) this.#places[index] = place;
  }

  enableQueue(index: number): void {
    if (this.#enabled[index] !== false) return;
    this.#enabled[index] = true;
    if ((this.status & S.DRIVER_OK) !== 0) this.#startRing(index);
  }

  resetQueue(index: number): void {
    if (this.#enabled[index] === undefined) return;
    this.#enabled[index] = false;
    this.#places[index] = IDLE;
    this.#rings[index] = undefined;
  }

  notify(index: number): void {
    if (index === 0 && this.live && this.#enabled[0] === true) this.#serve();
  }

  writeConfig(offset: number, width: number, value: bigint): void {
    if (offset >= 0 && offset + width <= CONFIG_BYTES) this.#model.writeConfig(offset, width, value);
  }

  /** A fault record on its way to the driver. */
  report(record: Uint8Array): void {
    const ring = this.#rings[1];
    if ((this.status & S.DRIVER_OK) === 0 || ring === undefined) return;
    ring.serveOne((chain) => {
      if (chain.outOfOrder || chain.writableLength < RECORD_BYTES) return 0;
      writeChain(this.#memory, chain, record, 0, RECORD_BYTES);
      return RECORD_BYTES;
    });
    if (ring.broken) this.status |= S.NEEDS_RESET;
  }

  #startRing(index: number): void {
    const { INDIRECT_USABLE, EVENTS } = {
      INDIRECT_USABLE: (this.#features & INDIRECT) !== 0n,
      EVENTS: (this.#features & EVENT_IDX) !== 0n,
    };
    this.#rings[index] = new OracleRing(this.#memory, this.#places[index]!, INDIRECT_USABLE, EVENTS);
  }

  #forget(): void {
    this.status = 0;
    this.#features = 0n;
    for (const index of [0, 1]) this.resetQueue(index);
  }

  #serve(): void {
    const ring = this.#rings[0];
    if (ring === undefined) return;
    ring.serve((chain) => this.#answer(chain));
    if (ring.broken) this.status |= S.NEEDS_RESET;
  }

  #answer(chain: OracleChain): number {
    this.served++;
    if (chain.outOfOrder) return this.#count('NOT_WRITTEN', 0);
    const { readable, writableLength } = chain;
    const reply = this.#model.request(readable, writableLength, PREFILL);
    if (reply.usedLength > 0) {
      const { writable } = reply;
      if (readable[0] === PROBE_TYPE) {
        writeChain(this.#memory, chain, writable, 0, writableLength);
      } else {
        // The first four bytes and the tail; where they overlap only once.
        const tail = writableLength - TAIL_BYTES;
        writeChain(this.#memory, chain, writable, 0, Math.min(TAIL_BYTES, tail));
        writeChain(this.#memory, chain, writable, tail, writableLength);
      }
    }
    return this.#count(reply.status, reply.usedLength);
  }

  #count(status: string, usedLength: number): number {
    this.statuses[status] = (this.statuses[status] ?? 0) + 1;
    return usedLength;
  }
}
