// The machine of a run: simulated host, guest memory, the whole device behind a real ring, a driver, and the VMM that
// forwards bus-master writes in the legal order and may pause devices. Checks nothing (trial.ts, reach.ts).
// Unit: 4 KiB page numbers.
import type { SimulatedIommufdContext, SimulatedType1Context } from '../../src/host/simulated.ts';
import { SimulatedAddressSpace, SimulatedHost } from '../../src/host/simulated.ts';
import { isHostError } from '../../src/base/errors.ts';
import type { IommuEvent } from '../../src/iommu/events.ts';
import { VirtioIommu } from '../../src/iommu/virtio-iommu.ts';
import { IommuDriver } from '../../src/testing/iommu-driver.ts';
import { Kick } from '../../src/testing/kick.ts';
import { VIRTIO_IOMMU_T_DETACH } from '../../src/wire/abi.ts';
import { GuestMemory } from '../../src/virtio/memory.ts';
import { contextOptions, endpointOptions, planOptions, policyOf } from './options.ts';
import { Layout } from './layout.ts';
import type { Request, Setup } from './setup.ts';

/** Guest-physical address of the rings: in RAM that no host context sees. */
const RINGS = 1n << 40n;
const QUEUE = 64;
const EVENTS = 4;
const PROBE = 64;
const RING_BYTES = Math.ceil(IommuDriver.byteLength(QUEUE, EVENTS, PROBE) / 4096) * 4096;
/** The rings of one run after the other. */
const RING_MEMORY = new Uint8Array(RING_BYTES);
const KICK = new Kick(QUEUE);

export type SimulatedContext = SimulatedType1Context | SimulatedIommufdContext;

export class Machine {
  readonly setup: Setup;
  readonly host: SimulatedHost;
  readonly memory = new GuestMemory();
  readonly layout: Layout;
  readonly contexts: SimulatedContext[] = [];
  readonly iommu: VirtioIommu;
  readonly driver: IommuDriver;
  readonly statuses = new Uint8Array(QUEUE);
  /** Events of the present step. */
  readonly events: IommuEvent[] = [];
  fatal = 0;
  /** Milliseconds; a host operation takes one. */
  now = 0;
  /** Called when the VMM itself stopped devices or let them go on. */
  onPause: (context: string) => void = () => undefined;
  /** Devices that a pause stopped, by context. */
  readonly #paused = new Map<string, number[]>();

  constructor(setup: Setup) {
    this.setup = setup;
    this.host = new SimulatedHost({
      addressSpace: new SimulatedAddressSpace({ maxMapCount: setup.maxMapCount }),
      memlockLimit: setup.memlock,
    });
    this.layout = new Layout(setup, this.host, this.memory);
    this.memory.addRegion({ gpa: RINGS, size: BigInt(RING_BYTES), windows: [RING_MEMORY] });
    setup.contexts.forEach((context, group) =>
      this.contexts.push(this.host.createContext(contextOptions(group, context))),
    );
    for (const { id, busMaster } of setup.endpoints)
      if (busMaster === false && this.contextOf(id) !== undefined) this.host.setBusMaster(id, false);
    this.iommu = new VirtioIommu({
      memory: this.memory,
      interrupt: { queue: () => undefined, config: () => undefined },
      requestQueueSize: QUEUE,
      eventQueueSize: EVENTS,
      probeSize: PROBE,
      resvOverflow: 'probe-error',
      bypass: setup.bypass,
      now: () => this.now,
      onFatal: (context) => this.#stop(context),
      ...planOptions(setup, { pause: (context) => this.#pause(context), resume: (context) => this.#resume(context) }),
    });
    this.iommu.core.onEvent((event) => this.events.push(event));
    this.driver = new IommuDriver({ device: this.iommu.transport, memory: this.memory, base: RINGS });
  }

  /** Adds the endpoints and starts the driver. */
  start(): void {
    for (const { id, busMaster, reserved } of this.setup.endpoints) {
      const host = this.contextOf(id);
      const regions = reserved.map(([first, end]) => ({
        kind: 'reserved' as const,
        start: BigInt(first) * 4096n,
        end: BigInt(end) * 4096n - 1n,
      }));
      this.iommu.addEndpoint(
        endpointOptions(
          { id, reserved: regions, ...(host === undefined ? {} : { host }) },
          host === undefined ? undefined : busMaster,
        ),
      );
    }
    this.driver.start();
  }

  contextOf(endpoint: number): SimulatedContext | undefined {
    const index = this.setup.contexts.findIndex(({ endpoints }) => endpoints.includes(endpoint));
    return index < 0 ? undefined : this.contexts[index];
  }

  /** Sends requests with one notification; their statuses are in {@link statuses}. */
  kick(requests: readonly Request[]): void {
    KICK.clear();
    for (const request of requests) push(request);
    this.driver.sendKick(KICK, this.statuses);
  }

  /** A write of a Command register, forwarded in the legal order; false when the device had to refuse it. */
  setBusMaster(endpoint: number, on: boolean): boolean {
    if (!on) this.host.setBusMaster(endpoint, false);
    try {
      this.iommu.core.setBusMaster(endpoint, on);
    } catch (error) {
      if (on && isHostError(error)) return false;
      throw error;
    }
    if (on) this.host.setBusMaster(endpoint, true);
    return true;
  }

  /** Reset of the whole machine: devices forget their bus-master bits first, those that the device knows of. */
  systemReset(known: readonly number[]): void {
    for (const endpoint of known) this.setBusMaster(endpoint, false);
    this.iommu.systemReset();
  }

  setPolicy(policy: string): void {
    this.iommu.core.setPolicy(policyOf(policy));
  }

  /** The host cleared bus-master bits on its own: a pause that ends does not bring them back. */
  cleared(context: string): void {
    if (this.#paused.has(context)) this.#paused.set(context, []);
  }

  #pause(context: string): boolean {
    if (this.setup.pause !== 'yes') return false;
    const on = this.#endpointsOf(context).filter((id) => this.host.busMaster(id));
    for (const id of on) this.host.setBusMaster(id, false);
    this.#paused.set(context, on);
    this.onPause(context);
    return true;
  }

  #resume(context: string): void {
    for (const id of this.#paused.get(context) ?? []) this.host.setBusMaster(id, true);
    this.#paused.delete(context);
    this.onPause(context);
  }

  /** What an embedder must do when nothing else stopped the devices. */
  #stop(context: string): void {
    this.fatal++;
    this.#paused.delete(context);
    for (const id of this.#endpointsOf(context)) this.host.setBusMaster(id, false);
    this.onPause(context);
  }

  #endpointsOf(context: string): readonly number[] {
    return this.setup.contexts[this.contexts.findIndex(({ name }) => name === context)]!.endpoints;
  }
}

function push(request: Request): void {
  switch (request.op) {
    case 'map':
      KICK.pushMap(request.domain, request.page, request.target, request.pages, request.flags);
      break;
    case 'unmap':
      KICK.pushUnmap(request.domain, request.page, request.pages);
      break;
    case 'attach':
      KICK.pushAttach(request.domain, request.endpoint, request.flags);
      break;
    case 'detach':
      KICK.pushAttach(request.domain, request.endpoint, 0);
      KICK.op[KICK.count - 1] = VIRTIO_IOMMU_T_DETACH;
  }
}
