// A segment: the requests of a pass whose host operations are committed together, with the replies that wait for it.
// Columns are typed arrays as long as the queue; nothing is allocated per request.
import type { ContextMirror } from '../coalesce/mirror.ts';
import type { RefusalSink } from '../coalesce/planner.ts';
import type { Domain } from './domain.ts';
import { reportMapRefusal } from './refusal.ts';
import type { IommuState } from './state.ts';
import { statusOfErrno } from './status.ts';

/** Pseudo status: return the buffer unwritten, used length 0. */
export const UNWRITTEN = -1;
/** Pseudo status: commit the segment, then decide the request again. */
export const COMMIT_FIRST = -2;

/** Replies that wait for a commit, in ring order. */
export class Segment implements RefusalSink {
  /** Number of waiting replies; the next request's token is this number. */
  count = 0;
  /** True when a host operation is planned. */
  planned = false;
  readonly head: Uint16Array;
  /** Status on the wire; UNWRITTEN allowed. */
  readonly status: Int8Array;
  /** Guest-physical address of the 4 tail bytes. */
  readonly tail: Float64Array;
  /** Request type. */
  readonly type: Uint8Array;
  /** First granule of a planned MAP. */
  readonly #start: Float64Array;
  readonly #domain: (Domain | undefined)[];
  readonly #dirty: Domain[] = [];
  readonly #state: IommuState;

  constructor(state: IommuState, capacity: number) {
    this.#state = state;
    this.head = new Uint16Array(capacity);
    this.status = new Int8Array(capacity);
    this.tail = new Float64Array(capacity);
    this.type = new Uint8Array(capacity);
    this.#start = new Float64Array(capacity);
    this.#domain = new Array<Domain | undefined>(capacity).fill(undefined);
  }

  /** The token under which the request at hand plans its host operations. */
  get token(): number {
    return this.count;
  }

  /** Notes that the request at hand is a MAP whose mapping starts at granule `start` and that it plans an operation. */
  planMap(domain: Domain, start: number): void {
    this.#start[this.count] = start;
    this.#domain[this.count] = domain;
    this.planUnmap(domain);
  }

  /** Notes that the request at hand plans an operation. */
  planUnmap(domain: Domain): void {
    this.planned = true;
    if (domain.planner.pending === 0) this.#dirty.push(domain);
  }

  /** Carries out all planned operations; statuses of refused MAPs change, their mappings leave the guest's table. */
  commit(): void {
    this.planned = false;
    for (const domain of this.#dirty) domain.planner.commit(domain.mirrors, this);
    this.#dirty.length = 0;
  }

  /** Forgets the waiting replies. */
  clear(): void {
    this.#domain.fill(undefined, 0, this.count);
    this.count = 0;
  }

  mapRefused(token: number, errno: number, mirror: ContextMirror): void {
    const state = this.#state;
    const domain = this.#domain[token]!;
    const start = this.#start[token]!;
    domain.table.remove(start);
    state.mappings--;
    this.status[token] = statusOfErrno(errno);
    reportMapRefusal(state, domain, mirror.name, errno, state.granule.addressOf(start));
  }
}
