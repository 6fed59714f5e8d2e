// Driver side of a virtio-iommu: brings the device up as Linux does, sends requests and reads fault records.
// Not here: the ring (driver-queue.ts), bytes (requests.ts), what a guest sends (guest-model.ts).
// Ranges at this edge are bigint with INCLUSIVE ends, as on the wire.
import type { GuestMemory } from '../virtio/memory.ts';
import type { CompletedChain } from './driver-request.ts';
import type { ProbeReply, RawReply, Reply } from './driver-reply.ts';
import type { DriverConfig, DriverDevice } from './driver-setup.ts';
import type { KickSource } from './kick.ts';
import type { DriverCommand, FaultReport } from './requests.ts';
import { U64_MAX, checkBigint, checkInteger } from '../base/check.ts';
import { Feature, Status } from '../virtio/features.ts';
import {
  Config,
  Fault,
  Tail,
  VIRTIO_IOMMU_EVENTQ,
  VIRTIO_IOMMU_MAP_F_READ,
  VIRTIO_IOMMU_MAP_F_WRITE,
  VIRTIO_IOMMU_REQUESTQ,
  VIRTIO_IOMMU_S_OK,
  VIRTIO_IOMMU_T_PROBE,
} from '../wire/abi.ts';
import { DriverQueue } from './driver-queue.ts';
import { replyOf } from './driver-reply.ts';
import { LINUX_DRIVER_FEATURES, negotiate, readDriverConfig, runQueues } from './driver-setup.ts';
import { KickTotals, NO_STATUS } from './kick-totals.ts';
import { Kick } from './kick.ts';
import { RequestEncoder, parseFault, parseProperties } from './requests.ts';

const PAGE = 4096n;
const NO_BYTES = new Uint8Array(0);
/** PROBE requests of one notification: their buffers are large, and no driver sends more than one. */
const MAX_PROBES_PER_KICK = 64;

export type { ProbeReply, RawReply, Reply } from './driver-reply.ts';

/** What an {@link IommuDriver} needs. */
export interface IommuDriverOptions {
  readonly device: DriverDevice;
  readonly memory: GuestMemory;
  /** Guest-physical address, a multiple of 4096, of {@link IommuDriver.byteLength} bytes of RAM for rings and buffers. */
  readonly base: bigint;
  /** Entries of the request queue, a power of two; default and maximum: what the device offers. */
  readonly requestQueueSize?: number;
  /** Entries of the event queue, a power of two; default and maximum: what the device offers. */
  readonly eventQueueSize?: number;
  /** Features to accept of those offered; default {@link LINUX_DRIVER_FEATURES}. */
  readonly features?: bigint;
  /**
   * Called while replies are missing after a notification, so that work which the device put off can run; false gives up.
   * Omitted: a reply that is not there when notify() returns counts as missing.
   */
  readonly wait?: () => boolean;
}

/** One driver on one device. Memory of its rings is the driver's alone. */
export class IommuDriver {
  readonly #options: IommuDriverOptions;
  readonly #device: DriverDevice;
  readonly #encoder = new RequestEncoder();
  readonly #sizes: readonly [number, number];
  #features = 0n;
  #config: DriverConfig | undefined;
  #queues: readonly [DriverQueue, DriverQueue] | undefined;
  /** Entry of the kick under way per head, plus one; 0 = none. */
  #entryOf = new Uint16Array(0);
  /** Answers are missing and may still come. */
  #late = false;
  /** Counts over all {@link IommuDriver.sendKick} since construction. */
  readonly totals = new KickTotals();
  /** Fault records that Linux would ignore. */
  ignoredEvents = 0;

  /** The device is not touched before {@link IommuDriver.start}. RangeError naming a queue size, `base` or `features`. */
  constructor(options: IommuDriverOptions) {
    const { device, base, features, requestQueueSize, eventQueueSize } = options;
    const size = (name: string, index: number, value: number | undefined): number => {
      const { maxSize } = device.queue(index);
      return checkInteger(name, value ?? maxSize, 1, maxSize);
    };
    checkBigint('base', base, 0n, U64_MAX);
    if ((checkBigint('features', features ?? LINUX_DRIVER_FEATURES, 0n, U64_MAX) & Feature.ringPacked) !== 0n)
      throw new RangeError('features must not hold RING_PACKED: the rings of this driver are split');
    this.#options = options;
    this.#device = device;
    this.#sizes = [
      size('requestQueueSize', VIRTIO_IOMMU_REQUESTQ, requestQueueSize),
      size('eventQueueSize', VIRTIO_IOMMU_EVENTQ, eventQueueSize),
    ];
  }

  /** Bytes of RAM that a driver needs from its `base` on. */
  static byteLength(requestQueueSize: number, eventQueueSize: number, probeSize: number): number {
    return eventOffset(requestQueueSize, probeSize) + DriverQueue.byteLength(eventQueueSize);
  }

  /** Features that were accepted. */
  get features(): bigint {
    return this.#features;
  }

  /** The configuration as read at {@link IommuDriver.start}; Error before. */
  get config(): DriverConfig {
    return started(this.#config);
  }

  get requestQueue(): DriverQueue {
    return started(this.#queues)[VIRTIO_IOMMU_REQUESTQ];
  }

  get eventQueue(): DriverQueue {
    return started(this.#queues)[VIRTIO_IOMMU_EVENTQ];
  }

  /** Requests that fit into the ring at once. */
  get ringCapacity(): number {
    return this.#indirect ? this.#sizes[0] : this.#sizes[0] >> 1;
  }

  /** True when the device asks for a reset. */
  get needsReset(): boolean {
    return (this.#device.status & Status.needsReset) !== 0;
  }

  /**
   * Resets the device and brings it up: features, queues, DRIVER_OK, then event buffers of 24 bytes in all descriptors,
   * without a notification. Callable again, also after the device asked for a reset.
   * @throws Error when the device refuses the features; RangeError when a queue size is no power of two or `base` no RAM.
   */
  start(): void {
    const device = this.#device;
    const features = device.offeredFeatures & (this.#options.features ?? LINUX_DRIVER_FEATURES);
    negotiate(device, features);
    this.#features = features;
    this.#config = readDriverConfig(device, features);
    this.#queues = this.#makeQueues();
    this.#entryOf = new Uint16Array(this.#sizes[0]);
    this.#late = false;
    runQueues(device, this.#queues);
    this.#fillEventQueue();
  }

  /** ATTACH; `flags` 1 = bypass. */
  attach(domain: number, endpoint: number, flags = 0): Reply {
    return this.#one({ op: 'attach', domain, endpoint, flags });
  }

  /** DETACH. */
  detach(domain: number, endpoint: number): Reply {
    return this.#one({ op: 'detach', domain, endpoint });
  }

  /** MAP of [virtStart, virtEnd], both inclusive; `flags` default READ and WRITE. */
  map(
    domain: number,
    virtStart: bigint,
    virtEnd: bigint,
    physStart: bigint,
    flags = VIRTIO_IOMMU_MAP_F_READ | VIRTIO_IOMMU_MAP_F_WRITE,
  ): Reply {
    return this.#one({ op: 'map', domain, virtStart, virtEnd, physStart, flags });
  }

  /** UNMAP of [virtStart, virtEnd], both inclusive. */
  unmap(domain: number, virtStart: bigint, virtEnd: bigint): Reply {
    return this.#one({ op: 'unmap', domain, virtStart, virtEnd });
  }

  /** PROBE; the properties are empty where Linux would not look at them. */
  probe(endpoint: number): ProbeReply {
    const { probeSize } = this.config;
    const chain = this.#exchange([{ op: 'probe', endpoint }])[0];
    const reply = replyOf(chain, probeSize + Tail.SIZE);
    const seen = reply.usedLength === probeSize + Tail.SIZE && reply.linuxStatus === VIRTIO_IOMMU_S_OK;
    return { ...reply, properties: parseProperties(seen ? chain!.writable : NO_BYTES, probeSize) };
  }

  /** Sends requests with one notification and returns their answers in the same order. RangeError when they do not fit. */
  batch(commands: readonly DriverCommand[]): Reply[] {
    const chains = this.#exchange(commands);
    return commands.map((command, i) => replyOf(chains[i], this.#writableLength(command.op)));
  }

  /** Sends a request of any bytes and any writable length with one notification. */
  raw(readable: Uint8Array, writableLength: number): RawReply {
    const chain = this.#deliver([{ readable, writableLength }])[0];
    return chain ?? { usedLength: -1, writable: new Uint8Array(writableLength) };
  }

  /**
   * Sends the requests of a kick with one notification and waits for their answers, which it counts in
   * {@link IommuDriver.totals}. `statuses[i]` receives the status of entry i ({@link NO_STATUS} without one).
   * Allocates nothing unless the kick holds a PROBE. Returns the number of requests not answered with OK.
   * @throws RangeError naming `kick` when it does not fit into the ring, `statuses` when it is too short.
   */
  sendKick(kick: Kick, statuses?: Uint8Array): number {
    if (statuses !== undefined && statuses.length < kick.count) {
      throw new RangeError(`statuses must have at least ${kick.count} entries, got ${statuses.length}`);
    }
    const queue = this.requestQueue;
    if (this.#late) this.#late = queue.poll().length === 0;
    const room = this.#indirect ? queue.freeSlots : queue.freeSlots >> 1;
    if (kick.count > room) throw new RangeError(`kick holds ${kick.count} requests, the ring has room for ${room}`);
    this.totals.kicks++;
    return holdsProbe(kick) ? this.#sendSlowly(kick, statuses) : this.#sendFast(kick, statuses);
  }

  /** Sends all notifications of a source and returns the number of requests not answered with OK. */
  send(source: KickSource): number {
    const kick = new Kick(this.ringCapacity);
    let refused = 0;
    while (source.next(kick)) refused += this.sendKick(kick);
    return refused;
  }

  /** Reads the fault records that arrived and, as Linux does, gives their buffers back with a notification. */
  events(): FaultReport[] {
    const queue = this.eventQueue;
    const reports: FaultReport[] = [];
    const completed = queue.poll();
    for (const { usedLength, writable } of completed) {
      const report = parseFault(writable, usedLength);
      if (report === undefined) this.ignoredEvents++;
      else reports.push(report);
      queue.makeAvailable(queue.add({ readable: NO_BYTES, writableLength: Fault.SIZE }));
    }
    if (completed.length > 0 && queue.shouldKick()) this.#device.notify(VIRTIO_IOMMU_EVENTQ);
    return reports;
  }

  /** Writes config.bypass (Linux never does). `value` is written as it is, one byte. */
  setBypass(value: number): void {
    this.#device.writeConfig(Config.bypass, 1, BigInt(checkInteger('value', value, 0, 0xff)));
  }

  get #indirect(): boolean {
    return (this.#features & Feature.indirectDesc) !== 0n;
  }

  #makeQueues(): readonly [DriverQueue, DriverQueue] {
    const { memory, base } = this.#options;
    const [requests, events] = this.#sizes;
    const { probeSize } = this.config;
    const eventIdx = (this.#features & Feature.eventIdx) !== 0n;
    const bufferBytes = requestBufferBytes(requests, probeSize);
    const fastFraming = this.#indirect ? 'indirect' : 'direct';
    return [
      new DriverQueue(memory, { size: requests, base, eventIdx, bufferBytes, fastFraming }),
      new DriverQueue(memory, { size: events, base: base + BigInt(eventOffset(requests, probeSize)), eventIdx }),
    ];
  }

  #fillEventQueue(): void {
    const queue = this.eventQueue;
    while (queue.freeSlots > 0) queue.makeAvailable(queue.add({ readable: NO_BYTES, writableLength: Fault.SIZE }));
  }

  #one(command: DriverCommand): Reply {
    return this.batch([command])[0]!;
  }

  #writableLength(op: DriverCommand['op']): number {
    return op === 'probe' ? this.config.probeSize + Tail.SIZE : Tail.SIZE;
  }

  #exchange(commands: readonly DriverCommand[]): (CompletedChain | undefined)[] {
    return this.#deliver(
      commands.map((command) => {
        const length = this.#encoder.encode(command);
        return { readable: this.#encoder.bytes.slice(0, length), writableLength: this.#writableLength(command.op) };
      }),
    );
  }

  /** One notification for all requests; undefined for one without answer. */
  #deliver(requests: readonly { readable: Uint8Array; writableLength: number }[]): (CompletedChain | undefined)[] {
    const queue = this.requestQueue;
    queue.poll();
    if (requests.length > this.ringCapacity) {
      throw new RangeError(`commands must be at most ${this.ringCapacity}, got ${requests.length}`);
    }
    if (requests.filter((request) => request.readable[0] === VIRTIO_IOMMU_T_PROBE).length > MAX_PROBES_PER_KICK) {
      throw new RangeError(`commands must hold at most ${MAX_PROBES_PER_KICK} PROBE requests`);
    }
    const heads = requests.map((request) => queue.add({ ...request, indirect: this.#indirect }));
    queue.makeAvailable(...heads);
    this.#notify(queue);
    const answers = new Map<number, CompletedChain>();
    for (;;) {
      for (const chain of queue.poll()) answers.set(chain.head, chain);
      if (answers.size >= heads.length || this.#options.wait?.() !== true) break;
    }
    if (answers.size < heads.length) this.#late = true;
    return heads.map((head) => answers.get(head));
  }

  #sendFast(kick: Kick, statuses: Uint8Array | undefined): number {
    const queue = this.requestQueue;
    const { bytes } = this.#encoder;
    const entryOf = this.#entryOf;
    for (let i = 0; i < kick.count; i++) {
      const head = queue.addFast(bytes, this.#encoder.encodeEntry(kick, i), Tail.SIZE);
      entryOf[head] = i + 1;
    }
    queue.publish();
    this.#notify(queue);
    let refused = 0;
    let missing = kick.count;
    while (missing > 0) {
      const head = queue.next();
      if (head >= 0) {
        const status = queue.usedLength < Tail.SIZE ? NO_STATUS : queue.statusByte(head, Tail.status);
        refused += this.#account(kick, entryOf[head]! - 1, status, statuses);
        entryOf[head] = 0;
        missing--;
      } else if (this.#options.wait?.() !== true) break;
    }
    return missing === 0 ? refused : refused + this.#accountMissing(kick, statuses);
  }

  #accountMissing(kick: Kick, statuses: Uint8Array | undefined): number {
    this.#late = true;
    let refused = 0;
    for (let head = 0; head < this.#entryOf.length; head++) {
      if (this.#entryOf[head] === 0) continue;
      refused += this.#account(kick, this.#entryOf[head]! - 1, NO_STATUS, statuses);
      this.#entryOf[head] = 0;
    }
    return refused;
  }

  #sendSlowly(kick: Kick, statuses: Uint8Array | undefined): number {
    const requests: { readable: Uint8Array; writableLength: number }[] = [];
    for (let i = 0; i < kick.count; i++) {
      const length = this.#encoder.encodeEntry(kick, i);
      const writableLength = this.#writableLength(kick.op[i] === VIRTIO_IOMMU_T_PROBE ? 'probe' : 'map');
      requests.push({ readable: this.#encoder.bytes.slice(0, length), writableLength });
    }
    let refused = 0;
    this.#deliver(requests).forEach((chain, i) => {
      refused += this.#account(kick, i, replyOf(chain, requests[i]!.writableLength).status, statuses);
    });
    return refused;
  }

  #account(kick: Kick, index: number, status: number, statuses: Uint8Array | undefined): number {
    this.totals.record(kick, index, status);
    if (statuses !== undefined) statuses[index] = status;
    return status === VIRTIO_IOMMU_S_OK ? 0 : 1;
  }

  #notify(queue: DriverQueue): void {
    if (queue.shouldKick()) this.#device.notify(VIRTIO_IOMMU_REQUESTQ);
  }
}

function started<T>(value: T | undefined): T {
  if (value === undefined) throw new Error('the driver is not started');
  return value;
}

function holdsProbe(kick: Kick): boolean {
  for (let i = 0; i < kick.count; i++) if (kick.op[i] === VIRTIO_IOMMU_T_PROBE) return true;
  return false;
}

function requestBufferBytes(size: number, probeSize: number): number {
  return 65536 + size * 256 + MAX_PROBES_PER_KICK * (probeSize + 256);
}

function eventOffset(requestQueueSize: number, probeSize: number): number {
  const bytes = DriverQueue.byteLength(requestQueueSize, requestBufferBytes(requestQueueSize, probeSize));
  return Number(((BigInt(bytes) + PAGE - 1n) / PAGE) * PAGE);
}
