// A guest with one endpoint, its IOMMU (or a floor in its place) and the Linux-like driver that kicks it.
// Rings lie at guest-physical 0 in a buffer of their own. Guest RAM lies above; mappings point into it page by page, in an
// order in which no two neighbours are contiguous, so that no policy could join them.
import type { HostContext } from '../src/host/context.ts';
import { SimulatedHost } from '../src/host/simulated.ts';
import type { Domain } from '../src/iommu/domain.ts';
import { VirtioIommu } from '../src/iommu/virtio-iommu.ts';
import type { DriverDevice } from '../src/testing/driver-setup.ts';
import { IommuDriver } from '../src/testing/iommu-driver.ts';
import { Kick } from '../src/testing/kick.ts';
import { GuestMemory } from '../src/virtio/memory.ts';
import { FloorDevice } from './floor.ts';
import { NullHost } from './hosts.ts';
import { ringOnlyDevice } from './ring-only.ts';
import { TimedDevice } from './timed-device.ts';

/**
 * What stands behind the ring: nothing (a bare loop), a checked ring with nothing behind it, the device without a host
 * context, with one that costs nothing, with the simulated kernel. Host contexts are planned 1:1 (policy `forward`).
 */
export const BACKENDS = ['floor', 'ring only', 'no host', 'null host', 'null host, exact', 'type1'] as const;
export type Backend = (typeof BACKENDS)[number];

/** Requests per notification. */
export const PER_KICK = 128;
/** First I/O virtual page of all mappings: 4 GiB, above the MSI window. */
export const FIRST_PAGE = 2 ** 20;
export const ENDPOINT = 8;
export const DOMAIN = 1;

const QUEUE_SIZE = 1024;
const RING_BYTES = 4 * 2 ** 20;
const RAM_GPA = 0x1000_0000n;
const RAM_PAGES = 2 ** 16;
const READ_WRITE = 3;
const MSI = { kind: 'msi', start: 0xfee0_0000n, end: 0xfeef_ffffn } as const;

/** One machine under test, attached and running. */
export class Rig {
  readonly device: TimedDevice;
  readonly driver: IommuDriver;
  /** The device behind the ring; undefined for the floor and for the ring alone. */
  readonly iommu: VirtioIommu | undefined;
  readonly #kick = new Kick(PER_KICK);

  constructor(backend: Backend) {
    const memory = new GuestMemory();
    const ring = new ArrayBuffer(RING_BYTES);
    memory.addRegion({ gpa: 0n, size: BigInt(RING_BYTES), windows: [ring] });
    let inner: DriverDevice;
    if (backend === 'floor') inner = new FloorDevice(memory, ring, QUEUE_SIZE);
    else if (backend === 'ring only') inner = ringOnlyDevice(memory, QUEUE_SIZE);
    else {
      this.iommu = makeIommu(memory, backend);
      inner = this.iommu.transport;
    }
    this.device = new TimedDevice(inner);
    this.driver = new IommuDriver({ device: this.device, memory, base: 0n });
    this.driver.start();
    if (this.iommu !== undefined && this.driver.attach(DOMAIN, ENDPOINT).status !== 0) throw new Error('ATTACH failed');
  }

  /** The guest's domain; Error without a device. */
  get domain(): Domain {
    const domain = this.iommu?.core.state.domains.get(DOMAIN);
    if (domain === undefined) throw new Error('there is no domain');
    return domain;
  }

  /** Maps 4 KiB each at pages[from..from + PER_KICK) (counted from {@link FIRST_PAGE}) with one notification. */
  map(pages: Uint32Array, from: number): void {
    const kick = this.#kick;
    kick.clear();
    for (let i = from; i < from + PER_KICK; i++) {
      kick.pushMap(DOMAIN, FIRST_PAGE + pages[i]!, physPage(pages[i]!), 1, READ_WRITE);
    }
    this.#send();
  }

  /** Unmaps 4 KiB each, as {@link Rig.map}. */
  unmap(pages: Uint32Array, from: number): void {
    const kick = this.#kick;
    kick.clear();
    for (let i = from; i < from + PER_KICK; i++) kick.pushUnmap(DOMAIN, FIRST_PAGE + pages[i]!, 1);
    this.#send();
  }

  #send(): void {
    const refused = this.driver.sendKick(this.#kick);
    if (refused !== 0) throw new Error(`${refused} requests were refused`);
  }
}

function physPage(page: number): number {
  return Number(RAM_GPA >> 12n) + ((page * 0x9e3b) & (RAM_PAGES - 1));
}

function makeIommu(memory: GuestMemory, backend: 'no host' | 'null host' | 'null host, exact' | 'type1'): VirtioIommu {
  const size = BigInt(RAM_PAGES) * 4096n;
  let host: HostContext | undefined;
  if (backend === 'type1') {
    const machine = new SimulatedHost({ entryLimit: 2 ** 31 - 1 });
    const { hva, windows } = machine.addressSpace.mmap({ length: size, kind: 'memfd' });
    memory.addRegion({ gpa: RAM_GPA, size, windows, hva });
    host = machine.createContext({ group: 1, endpoints: [ENDPOINT] });
  } else {
    memory.addRegion({ gpa: RAM_GPA, size, hva: 0x7f00_0000_0000n, file: { pageSize: 4096 } });
    if (backend !== 'no host') host = new NullHost();
  }
  return new VirtioIommu({
    memory,
    interrupt: { queue: () => undefined, config: () => undefined },
    // Quiet under `exact`: everything is joined and gathered.
    endpoints: [{ id: ENDPOINT, reserved: [MSI], busMaster: false, ...(host === undefined ? {} : { host }) }],
    requestQueueSize: QUEUE_SIZE,
    // Far more mappings than pages of RAM: memory is mapped many times over.
    maxInstalled: 64,
    policy: backend === 'null host, exact' ? 'exact' : 'forward',
  });
}
