// A device and its driver for one vector case: builds the device that the case asks for, brings it up, and talks to it
// through two virtqueues in guest memory. Only the memory of rings and buffers is backed: accesses need addresses only.
import { hex } from '../../base/check.ts';
import type { FeatureName } from '../../iommu/options.ts';
import { FEATURES } from '../../iommu/options.ts';
import { VirtioIommu } from '../../iommu/virtio-iommu.ts';
import type { RingFeatureName } from '../../virtio/device.ts';
import { Status } from '../../virtio/features.ts';
import { GuestMemory } from '../../virtio/memory.ts';
import * as abi from '../../wire/abi.ts';
import type { CompletedChain, DriverRequest } from '../driver-request.ts';
import type { DriverDevice, QueuePlace } from '../driver-setup.ts';
import { negotiate, runQueues } from '../driver-setup.ts';
import { needsTable } from './damage.ts';
import { FEATURE_BITS, featureMask } from './names.ts';
import { QueuePort } from './queue-port.ts';
import { DEFAULT_PREFILL } from './read-request.ts';
import type { Reply } from './reply.ts';
import { replyOf } from './reply.ts';
import type { RigTransport, RunOptions } from './rig-transport.ts';
import { connectTransport } from './rig-transport.ts';
import type {
  AccessSpec,
  ChainSpec,
  ConfigPlace,
  DeviceSpec,
  EventBuffersSpec,
  Malform,
  VectorCase,
} from './vector-types.ts';

/** Where rings and buffers lie: guest memory of the default device begins again at 4 GiB. */
const BASE = 0x1_0000_0000n;
const PAGE = 4096;

const RING_FEATURES: Readonly<Partial<Record<string, RingFeatureName>>> = {
  RING_INDIRECT_DESC: 'indirect',
  RING_EVENT_IDX: 'eventIdx',
  RING_RESET: 'ringReset',
  RING_PACKED: 'packed',
};

/** One device under test with its driver. */
export class Rig {
  readonly device: VirtioIommu;
  readonly #transport: RigTransport;
  readonly #requests: QueuePort;
  readonly #events: QueuePort;
  readonly #accepted: bigint;
  readonly #indirect: boolean;
  readonly #scratch: bigint;
  /** The device was reset: the driver brings it up before it sends anything. */
  #fresh = false;
  #refusal = '';
  #used: CompletedChain[] = [];

  /** @throws Error, TypeError or RangeError when there is no such device. */
  constructor(wanted: DeviceSpec, bufferBytes: VectorCase['bufferBytes'], options: RunOptions = {}) {
    const spec = options.ring === 'packed' ? withPacked(wanted) : wanted;
    const size = spec.queueSize;
    const memory = new GuestMemory();
    const eventsAt = BASE + BigInt(pages(QueuePort.byteLength(size, bufferBytes.requests)));
    this.#scratch = eventsAt + BigInt(pages(QueuePort.byteLength(size, bufferBytes.events)));
    memory.addRegion({ gpa: BASE, size: this.#scratch + BigInt(PAGE) - BASE });
    this.device = buildDevice(memory, spec);
    this.#transport = connectTransport(options.transport ?? 'none', this.device.transport);
    this.#accepted = featureMask(spec.accepted);
    this.#indirect = spec.accepted.includes('RING_INDIRECT_DESC');
    const eventIdx = spec.accepted.includes('RING_EVENT_IDX');
    const ring = spec.accepted.includes('RING_PACKED') ? 'packed' : 'split';
    this.#requests = new QueuePort(memory, ring, { size, base: BASE, bufferBytes: bufferBytes.requests, eventIdx });
    this.#events = new QueuePort(memory, ring, { size, base: eventsAt, bufferBytes: bufferBytes.events, eventIdx });
    this.#bringUp(spec.state);
  }

  /** Feature bits that the device offers. */
  get offeredFeatures(): bigint {
    return this.#driver.offeredFeatures;
  }

  /** Why the device did not take the driver's features; empty when it did. */
  get refusal(): string {
    return this.#refusal;
  }

  /** False when the device wrote to a buffer that it may only read. */
  get readableUntouched(): boolean {
    this.#collect();
    return this.#requests.readableUntouched && this.#events.readableUntouched;
  }

  /** Makes requests available together and notifies once; one reply per request. @throws Error when they do not fit. */
  send(chains: readonly ChainSpec[]): Reply[] {
    this.#prepare();
    const direct = chains.reduce((total, chain) => total + descriptorCount(chain), 0);
    const crowded = this.#indirect && direct > this.#requests.queue.freeSlots;
    const heads = chains.map((chain) => this.#requests.add(driverRequest(chain, crowded)));
    this.#requests.queue.makeAvailable(...heads);
    return this.#finish(chains, heads);
  }

  /** Sends a request through a ring that is damaged in one way. */
  sendDamaged(chain: ChainSpec, malform: Malform): Reply {
    this.#prepare();
    const head = this.#requests.add({
      ...driverRequest(chain, false),
      ...(needsTable(malform) ? { indirect: true } : {}),
    });
    this.#requests.makeDamaged(head, malform, this.#scratch);
    return this.#finish([chain], [head])[0]!;
  }

  /** Gives the device buffers for fault records. */
  addEventBuffers({ sizes, layout, readable, notify }: EventBuffersSpec): void {
    this.#prepare();
    const heads = sizes.map((size) => this.#events.add(eventRequest(size, layout, readable)));
    this.#events.queue.makeAvailable(...heads);
    if (notify) this.#driver.notify(abi.VIRTIO_IOMMU_EVENTQ);
  }

  /** Event buffers that the device has used, oldest first, since the list was last taken. */
  takeEvents(): CompletedChain[] {
    this.#collect();
    return this.#used.splice(0);
  }

  /** One byte read or written by an endpoint: the guest-physical address in hex, FAULT or MSI. */
  access({ endpoint, iova, write }: AccessSpec): string {
    const result = this.device.core.translate(endpoint, iova, 1, write ? 'write' : 'read');
    if (!result.ok) return 'FAULT';
    const [piece] = result.pieces;
    return piece?.kind === 'msi' ? 'MSI' : hex(piece!.gpa);
  }

  /** Reads the configuration space; a width that is no power of two goes byte by byte. */
  readConfig({ offset, size }: ConfigPlace): bigint {
    const driver = this.#driver;
    if (size === 1 || size === 2 || size === 4 || size === 8) return driver.readConfig(offset, size);
    let value = 0n;
    for (let i = 0; i < size; i++) value |= driver.readConfig(offset + i, 1) << BigInt(8 * i);
    return value;
  }

  /** Writes the configuration space; widths as {@link Rig.readConfig}. */
  writeConfig({ offset, size }: ConfigPlace, value: bigint): void {
    const driver = this.#driver;
    if (size === 1 || size === 2 || size === 4 || size === 8) driver.writeConfig(offset, size, value);
    else for (let i = 0; i < size; i++) driver.writeConfig(offset + i, 1, (value >> BigInt(8 * i)) & 0xffn);
  }

  /** Resets the device, or the whole machine. @throws Error when the device is not in its initial state then. */
  reset(kind: 'device' | 'system'): void {
    if (kind === 'device') {
      this.#driver.writeStatus(0);
    } else {
      this.device.systemReset();
      this.#transport.machineReset();
    }
    this.#requests.reset();
    this.#events.reset();
    this.#used = [];
    this.#fresh = true;
    const { status } = this.#driver;
    if (status !== 0) throw new Error(`the device status is ${hex(status)} after a reset`);
  }

  /** Device reset and full initialisation. @throws Error when it does not work. */
  reinitialise(): void {
    this.reset('device');
    this.#prepare();
    const { status } = this.#driver;
    const running = Status.featuresOk | Status.driverOk;
    if ((status & running) !== running || (status & (Status.needsReset | Status.failed)) !== 0) {
      throw new Error(`the device status is ${hex(status)} after initialisation${this.#refusal}`);
    }
  }

  get #driver(): DriverDevice {
    return this.#transport.driver;
  }

  #prepare(): void {
    if (this.#fresh) this.#bringUp('DRIVER_OK');
  }

  #bringUp(state: DeviceSpec['state']): void {
    const driver = this.#driver;
    this.#fresh = false;
    this.#refusal = '';
    try {
      if (state === 'FEATURES_OK' || state === 'DRIVER_OK') negotiate(driver, this.#accepted);
      else if (state === 'DRIVER') driver.writeStatus(Status.acknowledge | Status.driver);
    } catch (error) {
      // The case sees it in its requests, which stay where they are.
      this.#refusal = ` (${error instanceof Error ? error.message : String(error)})`;
    }
    const queues = [this.#requests.queue, this.#events.queue];
    if (state === 'DRIVER_OK' && this.#refusal === '') runQueues(driver, queues);
    else queues.forEach((queue, index) => setUp(driver, queue, index));
  }

  #finish(chains: readonly ChainSpec[], heads: readonly number[]): Reply[] {
    const driver = this.#driver;
    if (this.#requests.queue.shouldKick()) driver.notify(abi.VIRTIO_IOMMU_REQUESTQ);
    const completed = new Map(this.#requests.poll().map((chain) => [chain.head, chain]));
    const needsReset = (driver.status & Status.needsReset) !== 0;
    return chains.map((chain, i) => replyOf(chain, completed.get(heads[i]!), needsReset));
  }

  #collect(): void {
    this.#requests.poll();
    this.#used.push(...this.#events.poll());
  }
}

/** A driver may tell the device where its queues are before DRIVER_OK; they must rest all the same. */
function setUp(driver: DriverDevice, { size, desc, avail, used }: QueuePlace, index: number): void {
  driver.setupQueue(index, { size, desc, avail, used });
  driver.enableQueue(index);
}

/** The same device with packed rings offered and accepted. */
function withPacked(spec: DeviceSpec): DeviceSpec {
  const also = (names: readonly string[]): string[] => [...new Set([...names, 'RING_PACKED'])];
  return { ...spec, offered: also(spec.offered), accepted: also(spec.accepted) };
}

function buildDevice(memory: GuestMemory, spec: DeviceSpec): VirtioIommu {
  const bits: Readonly<Record<string, number>> = FEATURE_BITS;
  const features: FeatureName[] = [];
  const ringFeatures: RingFeatureName[] = [];
  for (const name of spec.offered) {
    const own = (Object.keys(FEATURES) as FeatureName[]).find((candidate) => FEATURES[candidate] === bits[name]);
    const ring = RING_FEATURES[name];
    if (own !== undefined) features.push(own);
    else if (ring !== undefined) ringFeatures.push(ring);
    else if (name !== 'VERSION_1') throw new Error(`this device cannot offer ${name}`);
  }
  if (!spec.offered.includes('VERSION_1')) throw new Error('this device always offers VERSION_1');
  return new VirtioIommu({
    memory,
    interrupt: { queue: () => undefined, config: () => undefined },
    features,
    ringFeatures,
    pageSizeMask: spec.pageSizeMask,
    // Without their feature the ranges are not limited (T-CFG-2, T-CFG-3).
    ...(features.includes('inputRange') ? { inputRange: spec.inputRange } : {}),
    ...(features.includes('domainRange') ? { domainRange: spec.domainRange } : {}),
    probeSize: spec.probeSize,
    bypass: spec.bypass,
    requestQueueSize: spec.queueSize,
    eventQueueSize: spec.queueSize,
    endpoints: spec.endpoints,
    ...(spec.maxMappings === undefined ? {} : { maxMappings: spec.maxMappings }),
    resvOverflow: 'probe-error',
    faults: { perSecond: Infinity },
  });
}

function driverRequest(chain: ChainSpec, crowded: boolean): DriverRequest {
  const { readable, writableLength, prefill, readableLayout, writableLayout } = chain;
  return {
    readable,
    writableLength,
    prefill,
    indirect: chain.indirect ?? crowded,
    indirectTableWriteFlag: chain.indirectTableWriteFlag,
    writableFirst: chain.writableFirst,
    ...(readableLayout === undefined ? {} : { readableLayout }),
    ...(writableLayout === undefined ? {} : { writableLayout }),
  };
}

function eventRequest(size: number, layout: readonly number[] | undefined, readable: boolean): DriverRequest {
  const lengths = layout ?? [size];
  return readable
    ? { readable: new Uint8Array(size).fill(DEFAULT_PREFILL), writableLength: 0, readableLayout: lengths }
    : { readable: new Uint8Array(0), writableLength: size, writableLayout: lengths, prefill: DEFAULT_PREFILL };
}

/** Descriptors that a chain takes without a table. */
function descriptorCount(chain: ChainSpec): number {
  if (chain.indirect === true) return 1;
  if (chain.indirect === 'tail') return 2;
  const readables = chain.readableLayout?.length ?? Math.min(chain.readable.length, 1);
  return readables + (chain.writableLayout?.length ?? Math.min(chain.writableLength, 1));
}

function pages(bytes: number): number {
  return Math.ceil(bytes / PAGE) * PAGE;
}
