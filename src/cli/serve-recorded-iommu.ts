// A VirtioIommu that tells of every request: what the driver asked, what it was answered, in the order of the answers.
// The request is copied from the chain before the device takes it and the status is read back from the chain after the
// device wrote it: a guest that changes either meanwhile only spoils its own trace.
// Addresses as on the wire: both ends INCLUSIVE.
import type { DescriptorChain } from '../virtio/chain.ts';
import type { GuestMemory } from '../virtio/memory.ts';
import type { Virtqueue } from '../virtio/virtqueue.ts';
import type { VirtioIommuOptions } from '../iommu/virtio-iommu.ts';
import type { TraceRequest } from '../testing/trace-record.ts';
import { STATUS_NAMES } from '../iommu/status.ts';
import { VirtioIommu } from '../iommu/virtio-iommu.ts';
import { PopResult } from '../virtio/virtqueue.ts';
import {
  VIRTIO_IOMMU_REQUESTQ,
  VIRTIO_IOMMU_T_ATTACH,
  VIRTIO_IOMMU_T_DETACH,
  VIRTIO_IOMMU_T_MAP,
  VIRTIO_IOMMU_T_UNMAP,
  Tail,
} from '../wire/abi.ts';
import { MAX_REQUEST_BYTES, RequestRecord, decodeRequest } from '../wire/request.ts';

/** Hears what the driver does. */
export interface RequestListener {
  /** The driver runs: DRIVER_OK. */
  started(): void;
  /** A request was answered. */
  request(record: TraceRequest): void;
  /** The driver, or the machine, reset the device while the driver ran. */
  reset(): void;
  /** The driver wrote the configuration space. */
  configWrite(offset: number, bytes: Uint8Array): void;
}

/** A {@link VirtioIommu} with a listener. */
export class RecordedIommu extends VirtioIommu {
  readonly #listener: RequestListener;
  #kick = -1;
  #running = false;

  constructor(options: VirtioIommuOptions, listener: RequestListener) {
    super(options);
    this.#listener = listener;
  }

  override driverReady(queues: readonly Virtqueue[]): void {
    this.#running = true;
    this.#kick++;
    this.#listener.started();
    const { memory } = this.core;
    const watched = queues.map((queue) =>
      queue.index === VIRTIO_IOMMU_REQUESTQ
        ? new WatchedQueue(queue, memory, (record) => this.#listener.request({ ...record, kick: this.#kick }))
        : queue,
    );
    super.driverReady(watched);
  }

  override notified(queue: number): void {
    if (queue === VIRTIO_IOMMU_REQUESTQ) this.#kick++;
    super.notified(queue);
  }

  override reset(): void {
    super.reset();
    if (this.#running) this.#listener.reset();
    this.#running = false;
  }

  override writeConfig(offset: number, bytes: Uint8Array): void {
    if (this.#running) this.#listener.configWrite(offset, bytes);
    super.writeConfig(offset, bytes);
  }
}

/** What is known of a chain between pop and push. */
interface Taken {
  readonly record: TraceRequest | undefined;
  /** Guest-physical address of the status, -1 when its four bytes lie in several buffers. */
  readonly status: number;
}

/** The request queue, seen by the device through this. */
class WatchedQueue implements Virtqueue {
  readonly index: number;
  readonly maxSize: number;
  readonly #queue: Virtqueue;
  readonly #memory: GuestMemory;
  readonly #answered: (record: TraceRequest) => void;
  readonly #taken = new Map<number, Taken>();
  readonly #bytes = new Uint8Array(MAX_REQUEST_BYTES);
  readonly #view = new DataView(this.#bytes.buffer);
  readonly #request = new RequestRecord();
  readonly #status = new Uint8Array(1);

  constructor(queue: Virtqueue, memory: GuestMemory, answered: (record: TraceRequest) => void) {
    this.index = queue.index;
    this.maxSize = queue.maxSize;
    this.#queue = queue;
    this.#memory = memory;
    this.#answered = answered;
  }

  get size(): number {
    return this.#queue.size;
  }

  get ready(): boolean {
    return this.#queue.ready;
  }

  pop(chain: DescriptorChain): number {
    const popped = this.#queue.pop(chain);
    if (popped === PopResult.chain) this.#taken.set(chain.head, this.#look(chain));
    return popped;
  }

  available(): number {
    return this.#queue.available();
  }

  push(head: number, length: number): void {
    const taken = this.#taken.get(head);
    this.#taken.delete(head);
    this.#queue.push(head, length);
    // A request that is returned unwritten has no answer, and the format has no record for it.
    if (taken?.record === undefined || length === 0) return;
    const known = taken.status >= 0 && this.#memory.read(taken.status, this.#status, 0, 1);
    const status = known ? STATUS_NAMES[this.#status[0]!] : undefined;
    if (status !== undefined) this.#answered({ ...taken.record, status, usedLength: length });
  }

  publish(): boolean {
    return this.#queue.publish();
  }

  armNotification(): boolean {
    return this.#queue.armNotification();
  }

  #look(chain: DescriptorChain): Taken {
    const { readableLength, writableLength } = chain;
    const length = chain.copyReadable(0, this.#bytes, Math.min(readableLength, MAX_REQUEST_BYTES));
    if (chain.malformed || !decodeRequest(this.#view, length, this.#request)) return { record: undefined, status: -1 };
    const u32 = (value: number): number => Math.min(value, 0xffff_ffff);
    const record = toRecord(this.#request, u32(readableLength), u32(writableLength));
    return { record, status: chain.writableAddress(writableLength - Tail.SIZE, Tail.SIZE) };
  }
}

function toRecord(request: RequestRecord, readable: number, writable: number): TraceRequest {
  const { domain, endpoint, flags } = request;
  const head = { kick: 0, readable, writable, status: 'OK' } as const;
  const range = {
    virtStart: word(request.startHigh, request.startLow),
    virtEnd: word(request.endHigh, request.endLow),
  };
  switch (request.type) {
    case VIRTIO_IOMMU_T_ATTACH:
      return { op: 'ATTACH', ...head, domain, endpoint, flags };
    case VIRTIO_IOMMU_T_DETACH:
      return { op: 'DETACH', ...head, domain, endpoint };
    case VIRTIO_IOMMU_T_MAP:
      return { op: 'MAP', ...head, domain, ...range, physStart: word(request.physHigh, request.physLow), flags };
    case VIRTIO_IOMMU_T_UNMAP:
      return { op: 'UNMAP', ...head, domain, ...range };
    default:
      return { op: 'PROBE', ...head, endpoint };
  }
}

function word(high: number, low: number): bigint {
  return (BigInt(high) << 32n) | BigInt(low);
}
