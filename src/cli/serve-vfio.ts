// Functions of the host that `virtio-iommu serve` passes on: their host contexts, one for each IOMMU group, their endpoints and
// their PCI functions. Not here: the contexts (host), the functions (devices/vfio-function.ts), what is shown of them
// (serve-vfio-report.ts). Ranges have INCLUSIVE ends.
import type { PassedDevice } from '../devices/vfio-function.ts';
import { VfioFunction } from '../devices/vfio-function.ts';
import type { HostContext } from '../host/context.ts';
import type { OpenHostOptions } from '../host/open-host.ts';
import { openHostContext } from '../host/open-host.ts';
import { groupOfDevice, passthroughEndpoint } from '../host/reserved.ts';
import type { EndpointInit } from '../iommu/endpoints.ts';
import { CliError } from './errors.ts';
import type { ServeLog } from './serve-log.ts';
import type { EndpointSettings } from './serve-options.ts';

/** A host context with the devices of its group. */
type OpenedContext = HostContext & { readonly devices: readonly PassedDevice[] };

/** How contexts are opened, and where /sys is; tests have ways of their own. */
export interface HostAccess {
  readonly open: (options: OpenHostOptions) => OpenedContext;
  readonly sysfs?: string;
}

/** The host contexts of all passed-through functions. */
export class ServeHosts {
  readonly #contexts = new Map<number, { readonly context: OpenedContext; readonly backend: string }>();
  readonly #access: HostAccess;

  /**
   * Opens the group of each passed-through function; those that are emulated need nothing.
   * @throws HostError that says what is wrong with the host and what to do, CliError for settings that do not go together; nothing
   * stays open then.
   */
  constructor(endpoints: readonly EndpointSettings[], log: ServeLog, access: HostAccess = { open: openHostContext }) {
    this.#access = access;
    try {
      for (const each of endpoints) if (each.host !== undefined) this.#open(each, each.host, log);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** The endpoint as the IOMMU takes it: of a passed-through function with what the host reserves, and its context. */
  endpoint({ addr, reserved, host }: EndpointSettings): EndpointInit {
    if (host === undefined) return { id: addr.bdf, reserved };
    const { context } = this.#contextOf(host);
    const found = passthroughEndpoint({ context, device: host, id: addr.bdf, ...this.#sysfs });
    return { ...found, reserved: [...found.reserved, ...reserved] };
  }

  /** The PCI function of a passed-through endpoint. @throws CliError when the group has not opened the device. */
  function({ name, host }: EndpointSettings, log: ServeLog, onBusMaster: (on: boolean) => void): VfioFunction {
    const { context } = this.#contextOf(host!);
    const device = context.devices.find((each) => each.name === host);
    if (device === undefined) throw new CliError(`${name}: ${context.name} has no device ${host!}`, 1);
    return new VfioFunction({ device, onBusMaster, log: (text) => log.limited(name, `${name}: ${text}`) });
  }

  /** Closes every context; nothing is mapped for any device afterwards. */
  close(): void {
    for (const { context } of this.#contexts.values()) context.close();
    this.#contexts.clear();
  }

  get #sysfs(): { readonly sysfs?: string } {
    const { sysfs } = this.#access;
    return sysfs === undefined ? {} : { sysfs };
  }

  #open({ name, addr, backend = 'auto' }: EndpointSettings, device: string, log: ServeLog): void {
    const group = groupOfDevice(device, this.#access.sysfs);
    const before = this.#contexts.get(group);
    if (before !== undefined) {
      if (before.backend === backend) return;
      throw new CliError(`${name}: ${device} is in group ${group}, for which ${before.backend} was asked`);
    }
    const context = this.#access.open({
      device,
      backend,
      ...this.#sysfs,
      onChoice: (choice) =>
        log.say(`${name} (${addr.text}): ${device} in group ${group}, ${choice.backend}: ${choice.reason}`),
    });
    this.#contexts.set(group, { context, backend });
  }

  #contextOf(device: string): { readonly context: OpenedContext } {
    return this.#contexts.get(groupOfDevice(device, this.#access.sysfs))!;
  }
}
