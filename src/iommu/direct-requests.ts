// Requests given as bytes, without a ring: for embedders with queues of their own.
// The same process* files decide; a request is its own segment here.
import * as abi from '../wire/abi.ts';
import { encodeTail } from '../wire/reply.ts';
import { MAX_REQUEST_BYTES, RequestRecord, decodeRequest } from '../wire/request.ts';
import { processAttach } from './attach.ts';
import { processDetach } from './detach.ts';
import { processMap } from './map.ts';
import type { ProbeAnswer } from './probe.ts';
import { processProbe } from './probe.ts';
import { Segment, UNWRITTEN } from './segment.ts';
import type { IommuState } from './state.ts';
import { countStatus } from './stats.ts';
import { processUnmap } from './unmap.ts';

/** Carries out single requests. */
export class DirectRequests {
  readonly #state: IommuState;
  readonly #segment: Segment;
  readonly #request = new RequestRecord();
  readonly #bytes = new Uint8Array(MAX_REQUEST_BYTES);
  readonly #view = new DataView(this.#bytes.buffer);
  readonly #answer: ProbeAnswer = { status: 0, properties: undefined };

  constructor(state: IommuState) {
    this.#state = state;
    this.#segment = new Segment(state, 1);
  }

  /** Decides the request in `readable`, writes the reply into `writable`, returns the used length. */
  handle(readable: Uint8Array, writable: Uint8Array): number {
    const { counters } = this.#state;
    const length = Math.min(readable.length, MAX_REQUEST_BYTES);
    this.#bytes.set(readable.subarray(0, length));
    if (!decodeRequest(this.#view, length, this.#request) || writable.length < abi.Tail.SIZE) {
      counters.requests[0]!++;
      counters.unwritten++;
      return 0;
    }
    counters.requests[this.#request.type]!++;
    const status = this.#decide(this.#request.type, writable);
    if (status === UNWRITTEN) {
      counters.unwritten++;
      return 0;
    }
    countStatus(this.#state, this.#request.type, status);
    encodeTail(writable, writable.length - abi.Tail.SIZE, status);
    if (this.#request.type === abi.VIRTIO_IOMMU_T_PROBE) return writable.length;
    // D-RING-4: used length counts from the first writable byte, so those bytes are written too.
    writable.fill(0, 0, Math.min(abi.Tail.SIZE, writable.length - abi.Tail.SIZE));
    return abi.Tail.SIZE;
  }

  #decide(type: number, writable: Uint8Array): number {
    const state = this.#state;
    switch (type) {
      case abi.VIRTIO_IOMMU_T_ATTACH:
        return processAttach(state, this.#request);
      case abi.VIRTIO_IOMMU_T_DETACH:
        return processDetach(state, this.#request);
      case abi.VIRTIO_IOMMU_T_PROBE: {
        processProbe(state, this.#request, writable.length, this.#answer);
        if (this.#answer.status !== UNWRITTEN) {
          writable.fill(0);
          if (this.#answer.properties !== undefined) writable.set(this.#answer.properties);
        }
        return this.#answer.status;
      }
      default: {
        const segment = this.#segment;
        const process = type === abi.VIRTIO_IOMMU_T_MAP ? processMap : processUnmap;
        segment.status[0] = process(state, this.#request, segment);
        segment.count = 1;
        segment.commit();
        segment.clear();
        return segment.status[0];
      }
    }
  }
}
