// PCI topology of a sysfs snapshot, and what scope paths, bridge scopes and ranges of a table mean on it (Linux's
// dmar_match_pci_path and is_downstream_to_pci_bridge). Bus ranges have INCLUSIVE ends.
import type { DeviceRef } from './device-ref.ts';
import { formatDevice, formatRid, parseDeviceName, ridOf } from './device-ref.ts';
import type { SysfsDevice, SysfsGroup, SysfsSnapshot } from './sysfs.ts';
import type { WarningList } from './warnings.ts';

/** A snapshot's functions by name, their groups, and which bus hangs below which bridge. */
export class PciTopology {
  readonly #devices = new Map<string, SysfsDevice>();
  readonly #byBus = new Map<string, SysfsDevice[]>();
  readonly #groups = new Map<string, SysfsGroup>();
  readonly #groupOf = new Map<string, string>();
  readonly #childBuses = new Set<string>();

  constructor(snapshot: SysfsSnapshot) {
    for (const device of snapshot.devices) {
      const ref = parseDeviceName(device.name);
      if (ref?.kind !== 'pci') continue;
      this.#devices.set(device.name, device);
      const bus = busKey(ref.segment, ref.rid >> 8);
      const onBus = this.#byBus.get(bus);
      if (onBus === undefined) this.#byBus.set(bus, [device]);
      else onBus.push(device);
      if (device.secondaryBus !== undefined) this.#childBuses.add(busKey(ref.segment, device.secondaryBus));
      if (device.group !== undefined) this.#groupOf.set(device.name, device.group);
    }
    for (const group of snapshot.groups) {
      this.#groups.set(group.id, group);
      for (const name of group.devices) this.#groupOf.set(name, group.id);
    }
  }

  /** Names of all functions. */
  get names(): IterableIterator<string> {
    return this.#devices.keys();
  }

  device(name: string): SysfsDevice | undefined {
    return this.#devices.get(name);
  }

  /** Id of the IOMMU group of a device. */
  groupOf(name: string): string | undefined {
    return this.#groupOf.get(name);
  }

  /** Members of the device's group, itself included; only itself when it has no group. */
  mates(name: string): readonly string[] {
    const group = this.#groupOf.get(name);
    const members = group === undefined ? undefined : this.#groups.get(group)?.devices;
    return members === undefined || members.length === 0 ? [name] : members;
  }

  /**
   * The functions that a name of a table means here; undefined (with a warning) when none is present, empty (with a
   * warning) when Linux ignores the scope. Virtual functions are in no scope. Names that are no PCI names come back.
   */
  resolve(ref: DeviceRef, where: string, warnings: WarningList): DeviceRef[] | undefined {
    switch (ref.kind) {
      case 'path':
        return this.#resolvePath(ref, where, warnings);
      case 'pci':
        return this.#resolveOneHop(ref, where, warnings);
      case 'pci-range':
        return this.#resolveRange(ref, where, warnings);
      case 'acpi':
      case 'stream':
      case 'group':
        return [ref];
    }
  }

  #resolvePath(ref: DeviceRef & { kind: 'path' }, where: string, warnings: WarningList): DeviceRef[] | undefined {
    let bus = ref.startBus;
    if (this.#childBuses.has(busKey(ref.segment, bus))) {
      warnings.add(where, `${formatDevice(ref)} does not start on a root bus: Linux matches no device`);
      return [];
    }
    for (const [i, hop] of ref.path.entries()) {
      const name = formatRid(ref.segment, ridOf(bus, hop.device, hop.function));
      const device = hop.device > 31 || hop.function > 7 ? undefined : this.#devices.get(name);
      if (device === undefined) {
        warnings.add(where, `${formatDevice(ref)}: no device ${name} is present`);
        return undefined;
      }
      if (i === ref.path.length - 1) return this.#scoped(ref.bridge === true, device, where, warnings);
      if (device.secondaryBus === undefined) {
        warnings.add(where, `${formatDevice(ref)}: ${name} is not a bridge whose secondary bus is known`);
        return undefined;
      }
      bus = device.secondaryBus;
    }
    return [];
  }

  #resolveOneHop(ref: DeviceRef & { kind: 'pci' }, where: string, warnings: WarningList): DeviceRef[] | undefined {
    const name = formatDevice(ref);
    const device = this.#devices.get(name);
    if (device === undefined) {
      warnings.add(where, `${name} is named but not present`);
      return undefined;
    }
    if (device.virtualFunction) {
      warnings.add(where, `${name} is a virtual function, which Linux looks up in no scope`);
      return [];
    }
    if (this.#childBuses.has(busKey(ref.segment, ref.rid >> 8))) {
      warnings.add(where, `scope of ${name} is broken (one hop that is not on a root bus): Linux takes it literally`);
    }
    return this.#scoped(ref.bridge === true, device, where, warnings);
  }

  #resolveRange(ref: DeviceRef & { kind: 'pci-range' }, where: string, warnings: WarningList): DeviceRef[] | undefined {
    const found: DeviceRef[] = [];
    for (const name of this.#devices.keys()) {
      const device = parseDeviceName(name);
      if (device?.kind !== 'pci' || device.segment !== ref.segment) continue;
      if (device.rid >= ref.first && device.rid <= ref.last) found.push(device);
    }
    if (found.length === 0) warnings.add(where, `no device of ${formatDevice(ref)} is present`);
    return found.length === 0 ? undefined : found;
  }

  /** Applies the scope type: header type must fit (class 06xx excepted), a bridge means what is behind it too. */
  #scoped(bridge: boolean, device: SysfsDevice, where: string, warnings: WarningList): DeviceRef[] {
    const ref = parseDeviceName(device.name);
    if (ref?.kind !== 'pci') return [];
    const { headerType } = device;
    const isBridgeClass = device.classCode !== undefined && device.classCode >> 16 === 0x06;
    const endpointMisfit = !bridge && headerType !== undefined && headerType !== 0;
    const bridgeMisfit = bridge && headerType === 0 && !isBridgeClass;
    if (endpointMisfit || bridgeMisfit) {
      warnings.add(where, `scope type does not match the header type of ${device.name}: Linux ignores the scope`);
      return [];
    }
    return bridge ? [ref, ...this.#behind(ref.segment, device)] : [ref];
  }

  #behind(segment: number, bridge: SysfsDevice): DeviceRef[] {
    const first = bridge.secondaryBus;
    if (first === undefined) return [];
    const found: DeviceRef[] = [];
    for (let bus = first; bus <= Math.min(bridge.subordinateBus ?? first, 0xff); bus++) {
      for (const device of this.#byBus.get(busKey(segment, bus)) ?? []) {
        const ref = parseDeviceName(device.name);
        if (ref !== undefined) found.push(ref);
      }
    }
    return found;
  }
}

function busKey(segment: number, bus: number): string {
  return `${segment}:${bus}`;
}
