// The functions of `virtio-iommu serve`: the IOMMU and what is behind it, each on a socket, each with the guest memory that
// its own client maps. Not here: the protocol (vfio-user), what a person sees of it (serve-status.ts, serve-report.ts).
import { setImmediate } from 'node:timers';
import { DmaEngine } from '../devices/dma-engine.ts';
import type { DmaAccess } from '../devices/dma-access.ts';
import { UntranslatedDma } from '../devices/dma-access.ts';
import { RING_ADDRESS_END } from '../devices/dma-ring-memory.ts';
import { VirtioRng } from '../devices/virtio-rng.ts';
import type { VirtioIommuOptions } from '../iommu/virtio-iommu.ts';
import { VirtioIommu } from '../iommu/virtio-iommu.ts';
import type { RingFeatureName } from '../virtio/device.ts';
import { GuestMemory } from '../virtio/memory.ts';
import type { PciInterrupts } from '../virtio/pci/virtio-pci-function.ts';
import { VirtioPciFunction } from '../virtio/pci/virtio-pci-function.ts';
import type { PciFunction } from '../vfio-user/function.ts';
import { CliError } from './errors.ts';
import { eventLine } from './serve-events.ts';
import type { ServeLog } from './serve-log.ts';
import type { AccessCounts } from './serve-observed-dma.ts';
import { ObservedDma } from './serve-observed-dma.ts';
import type { EndpointSettings, ServeSettings } from './serve-options.ts';
import { RecordedIommu } from './serve-recorded-iommu.ts';
import { ServeRecorder } from './serve-recorder.ts';
import { TraceWriter } from './serve-trace.ts';
import { ServeHosts } from './serve-vfio.ts';

/** A PCI function as a server wants it. */
export type ServedPci = PciFunction;

/** What a server is made of. */
export interface FunctionServerOptions {
  readonly path: string;
  readonly memory: GuestMemory;
  readonly log: (text: string) => void;
  /** Refuse files that can be shrunk. */
  readonly requireSealed: boolean;
}

/** Serves one function on one socket. */
export interface FunctionServer {
  readonly interrupts: PciInterrupts;
  serve(pci: ServedPci): Promise<void>;
  stats(): FunctionServerStats;
  close(): Promise<void>;
}

/** What every server counts. */
export interface FunctionServerStats {
  readonly connected: boolean;
  readonly connections: number;
  readonly messages: number;
  readonly badMessages: number;
  readonly mappedBytes: number | bigint;
}

/** One function and its server. */
export interface ServedFunction {
  readonly name: string;
  readonly device: 'iommu' | EndpointSettings['device'];
  readonly addr: string;
  readonly endpoint: number | undefined;
  readonly socket: string;
  readonly server: FunctionServer;
  readonly pci: ServedPci;
  /** Counters of the device, and of its DMA where that is translated. */
  readonly stats: () => object;
  readonly dma: () => AccessCounts | undefined;
}

/** How work goes on outside the call that began it; without `defer` all is done inside. */
export type Later = Pick<VirtioIommuOptions, 'defer'>;

const GRANULE_OF_LINUX = 4096n;

/** Everything that is served. */
export class ServeMachine {
  readonly iommu: VirtioIommu;
  readonly functions: readonly ServedFunction[];
  readonly writer: TraceWriter | undefined;
  readonly #recorder: ServeRecorder | undefined;
  readonly #log: ServeLog;
  readonly #later: Later;
  readonly #hosts: ServeHosts;
  #closed = false;

  /**
   * Nothing listens yet; `hosts` is closed with the machine. @throws CliError for settings that do not go together, or a trace file
   * that cannot be written; HostError when a device does not answer.
   */
  constructor(
    settings: ServeSettings,
    makeServer: (options: FunctionServerOptions) => FunctionServer,
    log: ServeLog,
    { defer }: Later = { defer: (run) => void setImmediate(run) },
    hosts = new ServeHosts([], log),
  ) {
    this.#log = log;
    this.#hosts = hosts;
    this.#later = defer === undefined ? {} : { defer };
    const failed = (reason: string): void => log.say(`record: nothing more is written: ${reason}`);
    this.writer = settings.record === undefined ? undefined : new TraceWriter(settings.record, { failed });
    this.#recorder = this.writer === undefined ? undefined : new ServeRecorder(this.writer, settings);
    const connect = (name: string, path: string): { memory: GuestMemory; server: FunctionServer } => {
      const memory = new GuestMemory();
      return {
        memory,
        server: makeServer({
          path,
          memory,
          log: (text) => log.limited(name, text),
          requireSealed: settings.requireSealed,
        }),
      };
    };
    const { memory, server } = connect('iommu', settings.iommu.socket);
    this.iommu = this.#makeIommu(settings, memory);
    this.functions = [
      this.#iommuFunction(settings, server),
      ...settings.endpoints.map((each) => this.#endpointFunction(each, connect(each.name, each.socket))),
    ];
    this.#watch(settings);
  }

  /** Resolves when every socket listens. @throws what the servers throw; those that listen are closed then. */
  async listen(): Promise<void> {
    for (const each of this.functions) await each.server.serve(each.pci);
    this.writer?.begin(); // not before the sockets are ours: the trace of another process stays as it is
  }

  /** Closes every socket and ends the trace. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    try {
      await Promise.all(this.functions.map(({ server }) => server.close()));
    } finally {
      this.iommu.close();
      this.#recorder?.close();
      this.#hosts.close();
    }
  }

  #makeIommu(settings: ServeSettings, memory: GuestMemory): VirtioIommu {
    const { iommu, endpoints } = settings;
    const options: VirtioIommuOptions = {
      memory,
      interrupt: { queue: () => undefined, config: () => undefined },
      endpoints: endpoints.map((each) => this.#hosts.endpoint(each)),
      inputRange: iommu.inputRange,
      ringFeatures: ringFeatures(iommu.packed),
      ...this.#later,
      ...optional('requestQueueSize', iommu.requestQueueSize),
      ...optional('eventQueueSize', iommu.eventQueueSize),
      ...optional('pageSizeMask', iommu.pageSizeMask),
      ...optional('domainRange', iommu.domainRange),
      ...optional('probeSize', iommu.probeSize),
      ...optional('bypass', iommu.bypass),
      ...optional('policy', iommu.policy),
      ...optional('resvOverflow', iommu.reservedOverflow),
      ...optional('maxMappings', iommu.maxMappings),
      ...optional('maxDomains', iommu.maxDomains),
      ...(iommu.faults === undefined
        ? {}
        : {
            faults: { ...optional('burst', iommu.faults.burst), ...optional('perSecond', iommu.faults.perSecond) },
          }),
    };
    try {
      return this.#recorder === undefined ? new VirtioIommu(options) : new RecordedIommu(options, this.#recorder);
    } catch (error) {
      throw error instanceof RangeError ? new CliError(error.message) : error;
    }
  }

  /** A reset of this function is what QEMU makes of a reset of the machine: config.bypass comes back as well (D-CFG-4). */
  #iommuFunction(settings: ServeSettings, server: FunctionServer): ServedFunction {
    const { iommu } = this;
    const { addr, socket } = settings.iommu;
    const pci = virtioFunction(iommu.transport, server.interrupts, () => undefined);
    const reset = (): void => {
      const { bypass } = iommu.core.state;
      iommu.systemReset();
      pci.reset();
      const { bypass: now } = iommu.core.state;
      if (bypass !== now) this.#recorder?.bypassRestored(now);
    };
    return {
      name: 'iommu',
      device: 'iommu',
      addr: addr.text,
      endpoint: undefined,
      socket,
      server,
      pci: withReset(pci, reset),
      stats: () => iommu.core.stats(),
      dma: () => undefined,
    };
  }

  #endpointFunction(
    settings: EndpointSettings,
    { memory, server }: { memory: GuestMemory; server: FunctionServer },
  ): ServedFunction {
    const { name, device, addr, socket } = settings;
    const head = { name, device, addr: addr.text, endpoint: addr.bdf, socket, server };
    if (device === 'vfio') {
      const pci = this.#hosts.function(settings, this.#log, (on) => this.#busMaster(addr.bdf, on));
      return { ...head, pci, stats: () => pci.stats(), dma: () => undefined };
    }
    const { core } = this.iommu;
    const recorder = this.#recorder;
    const observed = settings.translate
      ? new ObservedDma(
          core,
          core.dmaView(addr.bdf, undefined, memory),
          recorder && ((iova, length, write, pieces) => recorder.access(addr.bdf, iova, length, write, pieces)),
        )
      : undefined;
    const dma = observed ?? new UntranslatedDma(memory);
    const made = device === 'rng' ? this.#makeRng(settings, dma, server) : this.#makeEngine(settings, dma);
    return { ...head, ...made, dma: () => observed?.stats() };
  }

  #makeRng(settings: EndpointSettings, dma: DmaAccess, server: FunctionServer): Pick<ServedFunction, 'pci' | 'stats'> {
    const rng = new VirtioRng({
      dma,
      ringFeatures: ringFeatures(settings.packed),
      ...this.#later,
      ...optional('entropy', settings.entropy),
      ...optional('queueSize', settings.queueSize),
      ...optional('maxBytes', settings.maxBytes),
      ...optional('probeUnmapped', settings.probeUnmapped),
      ...optional('probeAccess', settings.probeAccess),
    });
    const pci = virtioFunction(rng.transport, server.interrupts, (on) => {
      this.#busMaster(settings.addr.bdf, on);
      rng.setDmaAllowed(on);
    });
    return { pci, stats: () => rng.stats() };
  }

  #makeEngine(settings: EndpointSettings, dma: DmaAccess): Pick<ServedFunction, 'pci' | 'stats'> {
    const engine = new DmaEngine({ dma, onBusMaster: (on) => this.#busMaster(settings.addr.bdf, on) });
    return { pci: engine, stats: () => engine.stats() };
  }

  #busMaster(endpoint: number, on: boolean): void {
    if (this.#closed) return;
    this.iommu.core.setBusMaster(endpoint, on);
    this.#recorder?.busMaster(endpoint, on);
  }

  #watch(settings: ServeSettings): void {
    const { core } = this.iommu;
    const names = new Map(settings.endpoints.map(({ addr, name }) => [addr.bdf, `${name} (${addr.text})`]));
    const nameOf = (id: number): string => names.get(id) ?? `endpoint ${id}`;
    core.onEvent((event) => this.#log.limited(event.type, eventLine(event, nameOf)));
    this.#recorder?.follow(this.iommu);
    if (this.#recorder?.alike === false)
      this.#log.say('record: the endpoints have different reserved regions, a replay knows only those that all have');
    if (
      settings.iommu.inputRange.end >= BigInt(RING_ADDRESS_END) &&
      settings.endpoints.some(({ device }) => device === 'rng')
    )
      this.#log.say('warning: the input range ends above 2^53: a virtio device cannot reach addresses from there on');
    const granule = core.state.geometry.pageSizeMask & -core.state.geometry.pageSizeMask;
    if (granule > GRANULE_OF_LINUX) {
      const stays = core.state.initialBypass === 1 ? 'and stay untranslated' : 'and get no DMA';
      this.#log.say(
        `warning: a granule of ${granule} bytes is more than a page of x86: Linux will refuse the endpoints, ${stays}`,
      );
    }
  }
}

function virtioFunction(
  device: VirtioIommu['transport'],
  interrupts: PciInterrupts,
  onBusMaster: (on: boolean) => void,
): VirtioPciFunction {
  return new VirtioPciFunction(device, { interrupts, msixTable: 'vmm', onBusMaster });
}

/** The same function with another reset. */
function withReset(pci: VirtioPciFunction, reset: () => void): ServedPci {
  return {
    bars: pci.bars,
    vectors: pci.vectors,
    readConfigBytes: (offset, into) => pci.readConfigBytes(offset, into),
    writeConfigBytes: (offset, bytes) => pci.writeConfigBytes(offset, bytes),
    readBar: (bar, offset, into) => pci.readBar(bar, offset, into),
    writeBar: (bar, offset, bytes) => pci.writeBar(bar, offset, bytes),
    reset,
  };
}

function ringFeatures(packed: boolean | undefined): readonly RingFeatureName[] {
  return ['indirect', 'eventIdx', 'ringReset', ...(packed === true ? (['packed'] as const) : [])];
}

function optional<K extends string, T>(key: K, value: T | undefined): Partial<Record<K, T>> {
  return value === undefined ? {} : ({ [key]: value } as Record<K, T>);
}
