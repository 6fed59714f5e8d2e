// Serves the request queue: one pass takes chains, decides them in ring order, and replies segment by segment.
// process* files decide; this file counts, replies, and never decides.
import { DescriptorChain } from '../virtio/chain.ts';
import type { GuestMemory } from '../virtio/memory.ts';
import type { Virtqueue } from '../virtio/virtqueue.ts';
import { PopResult } from '../virtio/virtqueue.ts';
import * as abi from '../wire/abi.ts';
import { encodeTail } from '../wire/reply.ts';
import * as requests from '../wire/request.ts';
import { RequestRecord, decodeWords } from '../wire/request.ts';
import { processAttach } from './attach.ts';
import { processDetach } from './detach.ts';
import { processMap } from './map.ts';
import type { ProbeAnswer } from './probe.ts';
import { processProbe } from './probe.ts';
import * as segments from './segment.ts';
import { Segment } from './segment.ts';
import type { IommuState } from './state.ts';
import { countStatus } from './stats.ts';
import { processUnmap } from './unmap.ts';

// Own constants are folded into the code, imported ones are loaded and checked at each use.
const { VIRTIO_IOMMU_T_ATTACH, VIRTIO_IOMMU_T_MAP, VIRTIO_IOMMU_T_PROBE, VIRTIO_IOMMU_T_UNMAP } = abi;
const { SIZE: TAIL_BYTES } = abi.Tail;
const { MAX_REQUEST_BYTES } = requests;
const { COMMIT_FIRST, UNWRITTEN } = segments;
const { chain: POPPED, empty: EMPTY } = PopResult;

/** Result of {@link RequestQueue.serve}. */
export const Served = { all: 0, more: 1, broken: 2 } as const;

/** What the queue needs of its surroundings. */
export interface RequestQueuePort {
  readonly queue: Virtqueue;
  readonly memory: GuestMemory;
  /** Raises the queue's interrupt. */
  signal(): void;
}

/**
 * Takes requests from one virtqueue. Not reentrant; an interrupt or an event may reset the queue in the middle of
 * {@link serve}, which then ends without touching guest memory again.
 */
export class RequestQueue {
  readonly #state: IommuState;
  readonly #port: RequestQueuePort;
  readonly #segment: Segment;
  readonly #chain = new DescriptorChain();
  readonly #request = new RequestRecord();
  readonly #bytes = new Uint8Array(MAX_REQUEST_BYTES);
  readonly #words = new Uint32Array(this.#bytes.buffer);
  readonly #tail = new Uint8Array(TAIL_BYTES);
  readonly #answer: ProbeAnswer = { status: 0, properties: undefined };
  #abandoned = false;
  /** The request at hand was an ATTACH or DETACH, whose cost the guest chooses by the size of its domains. */
  #heavy = false;

  constructor(state: IommuState, port: RequestQueuePort) {
    this.#state = state;
    this.#port = port;
    this.#segment = new Segment(state, port.queue.maxSize);
  }

  /**
   * Serves up to `limit` requests, or until the clock passes `deadline` (ms; Infinity: no look at the clock).
   * Replies are visible, and the driver is interrupted if it wants that, when this returns.
   */
  serve(limit: number, deadline: number): number {
    const { queue } = this.#port;
    const { now } = this.#state.options;
    let result: number = Served.all;
    for (let served = 0; ; served++) {
      if (served === limit) {
        result = Served.more;
        break;
      }
      if (this.#abandoned) break;
      const popped = queue.pop(this.#chain);
      if (popped !== POPPED) {
        if (popped !== EMPTY) result = Served.broken;
        break;
      }
      this.#handle();
      if (this.#segment.count === this.#segment.head.length) this.#flush();
      if (deadline !== Infinity && (this.#heavy || served % CLOCK_EVERY === CLOCK_EVERY - 1)) {
        this.#heavy = false;
        this.#flush(); // only the host takes long
        if (now() < deadline) continue;
        result = Served.more;
        break;
      }
    }
    this.#flush();
    this.#publish();
    return result;
  }

  /** The queue was reset: its chains are the driver's again, so none is answered, now or later. For good. */
  abandon(): void {
    this.#abandoned = true;
  }

  /** One request: copied once, decoded, decided, answered or left waiting for the commit. */
  #handle(): void {
    const chain = this.#chain;
    // [5.13.6] T-OP-2: the request is in the readable part, its answer goes into the writable one.
    const sound = !chain.malformed && this.#decode(chain);
    // [5.13.6.2] D-OP-2: an unknown type goes back unwritten; T-OP-1: so does what cannot be parsed.
    if (!sound || chain.writableLength < TAIL_BYTES) {
      this.#state.counters.requests[0]!++;
      this.#wait(UNWRITTEN);
      return;
    }
    const { type } = this.#request;
    this.#state.counters.requests[type]!++;
    if (type === VIRTIO_IOMMU_T_PROBE) this.#handleProbe();
    else this.#wait(this.#decide(type));
  }

  /** Takes the request out of guest memory: in place when it stands there as whole words, else through a copy. */
  #decode(chain: DescriptorChain): boolean {
    const length = chain.readableLength > MAX_REQUEST_BYTES ? MAX_REQUEST_BYTES : chain.readableLength;
    const gpa = chain.readableAddress(length);
    if (gpa >= 0) {
      const window = this.#port.memory.windowAt(gpa);
      const offset = gpa - window.start;
      if (window.ram && length <= window.end - gpa && (offset & 3) === 0)
        return decodeWords(window.longs, offset >>> 2, length, this.#request);
    }
    return decodeWords(this.#words, 0, chain.copyReadable(0, this.#bytes, length), this.#request);
  }

  #decide(type: number): number {
    const state = this.#state;
    if (type === VIRTIO_IOMMU_T_MAP || type === VIRTIO_IOMMU_T_UNMAP) {
      const status = this.#process(type);
      if (status !== COMMIT_FIRST) return status;
      state.counters.segmentCuts++;
      this.#flush();
      return this.#abandoned ? UNWRITTEN : this.#process(type);
    }
    this.#flush();
    if (this.#abandoned) return UNWRITTEN;
    this.#heavy = true;
    return type === VIRTIO_IOMMU_T_ATTACH ? processAttach(state, this.#request) : processDetach(state, this.#request);
  }

  #process(type: number): number {
    // Two calls, so that each can be inlined.
    if (type === VIRTIO_IOMMU_T_MAP) return processMap(this.#state, this.#request, this.#segment);
    return processUnmap(this.#state, this.#request, this.#segment);
  }

  /** Leaves the reply of the request at hand to the next commit; a tail in several pieces is written at once. */
  #wait(status: number): void {
    const chain = this.#chain;
    const segment = this.#segment;
    const i = segment.count;
    const { writableLength } = chain;
    segment.head[i] = chain.head;
    segment.status[i] = status;
    segment.type[i] = this.#request.type;
    segment.count = i + 1;
    if (status === UNWRITTEN) return;
    chain.writableAddressInto(writableLength - TAIL_BYTES, TAIL_BYTES, segment.tail, i);
    if (segment.tail[i]! < 0 || writableLength !== TAIL_BYTES) {
      segment.commit();
      segment.tail[i] = WRITTEN;
      if (this.#abandoned) return;
      encodeTail(this.#tail, 0, segment.status[i]);
      // D-RING-4: used length counts from the first writable byte, so those bytes are written too.
      if (writableLength > TAIL_BYTES) chain.write(0, ZEROES, Math.min(TAIL_BYTES, writableLength - TAIL_BYTES));
      chain.write(writableLength - TAIL_BYTES, this.#tail, TAIL_BYTES);
      this.#flush();
    }
  }

  #handleProbe(): void {
    this.#flush();
    if (this.#abandoned) return;
    const chain = this.#chain;
    const answer = this.#answer;
    const { writableLength } = chain;
    processProbe(this.#state, this.#request, writableLength, answer);
    if (answer.status === UNWRITTEN) {
      this.#wait(UNWRITTEN);
      return;
    }
    const reply = new Uint8Array(writableLength);
    if (answer.properties !== undefined) reply.set(answer.properties);
    // The tail stands in the last 4 bytes; everything before it is written, so the used length is the whole part.
    encodeTail(reply, writableLength - TAIL_BYTES, answer.status);
    chain.write(0, reply, writableLength);
    this.#port.queue.push(chain.head, writableLength);
    countStatus(this.#state, VIRTIO_IOMMU_T_PROBE, answer.status);
  }

  /** Commits the segment, then writes its statuses and stages its used entries, in ring order. */
  #flush(): void {
    const segment = this.#segment;
    if (segment.count === 0) return;
    segment.commit();
    this.#state.counters.segments++;
    for (let i = 0; i < segment.count && !this.#abandoned; i++) this.#reply(i);
    segment.clear();
    this.#publish();
  }

  #reply(i: number): void {
    const { queue, memory } = this.#port;
    const segment = this.#segment;
    const status = segment.status[i]!;
    if (status === UNWRITTEN) {
      this.#state.counters.unwritten++;
      queue.push(segment.head[i]!, 0);
      return;
    }
    // [5.13.6.2] D-OP-1: the status, OK when it was done. D-OP-4: the upper bytes of the word are tail.reserved.
    if (segment.tail[i] !== WRITTEN) {
      if (!memory.writeWord(segment.tail[i]!, status)) {
        encodeTail(this.#tail, 0, status);
        memory.write(segment.tail[i]!, this.#tail, 0, TAIL_BYTES);
      }
    }
    // [5.13.6] T-OP-3: answered through the used ring.
    queue.push(segment.head[i]!, TAIL_BYTES);
    countStatus(this.#state, segment.type[i]!, status);
  }

  #publish(): void {
    if (!this.#abandoned && this.#port.queue.publish()) this.#port.signal();
  }
}

const WRITTEN = -2;
/** Requests between two looks at the clock. */
const CLOCK_EVERY = 32;
const ZEROES = new Uint8Array(TAIL_BYTES);
