// Which addresses are looked at after a kick: around what the requests named, edges of mappings and of regions, any.
// The choice depends on the model's state and on how many looks there were, not on chance, so that it can be repeated.
import type { ModelDevice } from '../../spec/model/device.ts';
import type { RequestOp, Setup } from './sequence.ts';
import { T, U64, granuleOf } from './sequence.ts';

export interface ProbePoint {
  readonly endpoint: number;
  readonly iova: bigint;
  readonly write: boolean;
}

/** Points per kick unless thorough. */
const POINTS = 12;
const KEPT_NOTES = 24;

export class ProbePlan {
  readonly thorough: boolean;
  readonly #setup: Setup;
  readonly #model: ModelDevice;
  readonly #fixed: bigint[];
  #named: bigint[] = [];
  #state = 0x2545_f491;

  constructor(setup: Setup, model: ModelDevice, thorough: boolean) {
    this.#setup = setup;
    this.#model = model;
    this.thorough = thorough;
    const { start, end } = setup.inputRange;
    this.#fixed = [start, end, setup.arena, setup.arena + granuleOf(setup), 0n, U64, 1n << 32n, 1n << 53n];
    for (const { regions } of model.state.endpoints)
      for (const region of regions) this.#fixed.push(region.start, region.end);
  }

  /** Remembers the addresses that a request names. */
  note(op: RequestOp): void {
    if (op.type !== T.MAP && op.type !== T.UNMAP) return;
    if (this.#named.length >= KEPT_NOTES)
      this.#named[this.#below(KEPT_NOTES)] = this.#below(2) === 0 ? op.start : op.end;
    else this.#named.push(op.start, op.end);
  }

  /** The points for now; forgets what was noted. */
  take(all: boolean): ProbePoint[] {
    const points = this.thorough ? this.#everything() : this.#some(all ? 4 * POINTS : POINTS);
    this.#named = [];
    return points;
  }

  #some(count: number): ProbePoint[] {
    const points: ProbePoint[] = [];
    for (let i = 0; i < count; i++) {
      const base = this.#address();
      const iova = base + BigInt(this.#below(3) - 1);
      points.push({ endpoint: this.#endpoint(), iova: clamp(iova), write: this.#below(2) === 1 });
    }
    return points;
  }

  #address(): bigint {
    const choice = this.#below(10);
    if (choice < 4 && this.#named.length > 0) return this.#named[this.#below(this.#named.length)]!;
    const { endpoints } = this.#model.state;
    if (choice < 8 && endpoints.length > 0) {
      const mappings = endpoints[this.#below(endpoints.length)]!.domain?.mappings ?? [];
      if (mappings.length > 0) {
        const mapping = mappings[this.#below(mappings.length)]!;
        return this.#below(2) === 0 ? mapping.virtStart : mapping.virtEnd;
      }
    }
    if (choice < 9) return this.#fixed[this.#below(this.#fixed.length)]!;
    return this.#setup.arena + BigInt(this.#below(64)) * granuleOf(this.#setup) + BigInt(this.#below(2));
  }

  #endpoint(): number {
    const { endpoints } = this.#setup;
    // Now and then an id that is no endpoint.
    const i = this.#below(endpoints.length * 8 + 1);
    return i === endpoints.length * 8 ? 0x7777 : endpoints[i % endpoints.length]!.id;
  }

  #everything(): ProbePoint[] {
    const addresses = new Set([...this.#fixed, ...this.#named]);
    for (const { domain } of this.#model.state.endpoints) {
      for (const { virtStart, virtEnd } of domain?.mappings ?? []) addresses.add(virtStart).add(virtEnd);
    }
    const points: ProbePoint[] = [];
    for (const { id } of this.#setup.endpoints) {
      for (const address of addresses) {
        for (const offset of [-1n, 0n, 1n]) {
          const iova = clamp(address + offset);
          points.push({ endpoint: id, iova, write: false }, { endpoint: id, iova, write: true });
        }
      }
    }
    return points;
  }

  /** xorshift32. */
  #below(bound: number): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return (x >>> 0) % bound;
  }
}

function clamp(address: bigint): bigint {
  return address < 0n ? 0n : address > U64 ? U64 : address;
}
