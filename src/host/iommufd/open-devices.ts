// Opens the devices of a group through their own files (/dev/vfio/devices, which /sys names) and binds them to an iommufd.
// Not here: attaching them (iommufd.ts). Reads no more of /sys than it needs, since a large machine has much of it.
import type { NativeDevice, NativeIommufd } from '../native-api.ts';
import { guarded, hostError } from '../refusals.ts';
import { isVfioPci } from '../survey-drivers.ts';
import { HostFiles } from '../survey-files.ts';
import { VfioDevice } from '../vfio-device.ts';
import type { CheckedIommufdOptions } from './options.ts';
import { bindVerdict, fileMissingVerdict, noDeviceVerdict, otherGroupVerdict } from './verdicts.ts';

/** A device with the handle that attaches it. */
export interface BoundDevice {
  readonly device: VfioDevice;
  readonly native: NativeDevice;
}

const ENOENT = 2;
const NOT_OPENED = { call: 'open device', errno: ENOENT };

/**
 * Opens the devices that `options` name, or all of the group that vfio-pci has.
 * @throws HostError that says what is wrong; then none stays open.
 */
export function openDevices(native: NativeIommufd, options: CheckedIommufdOptions): BoundDevice[] {
  const sysfs = new HostFiles(options.sysfs);
  const group = `kernel/iommu_groups/${options.group}`;
  const members = sysfs.list(`${group}/devices`);
  const names = options.devices ?? members.filter((name) => isVfioPci(sysfs.link(`${group}/devices/${name}/driver`)));
  if (names.length === 0) {
    const groups = sysfs.list('kernel/iommu_groups').length;
    throw hostError(noDeviceVerdict(options.group, members, groups), NOT_OPENED);
  }
  const opened: BoundDevice[] = [];
  try {
    for (const name of names) {
      const stranger = members.length > 0 && !members.includes(name);
      if (stranger) throw hostError(otherGroupVerdict(name, options.group, members), NOT_OPENED);
      opened.push(openDevice(native, name, options.folder, sysfs, group));
    }
    return opened;
  } catch (error) {
    for (const { device } of opened) device.close();
    throw error;
  }
}

function openDevice(native: NativeIommufd, name: string, folder: string, sysfs: HostFiles, group: string): BoundDevice {
  const path = `bus/pci/devices/${name}`;
  const file = sysfs.list(`${path}/vfio-dev`)[0];
  if (file === undefined) throw hostError(fileMissingVerdict(name, sysfs.link(`${path}/driver`)), NOT_OPENED);
  const handle = guarded(
    () => native.bind(`${folder}/vfio/devices/${file}`),
    (failure) => {
      const reserved = directRegions(sysfs.text(`${group}/reserved_regions`) ?? '');
      return hostError(bindVerdict(name, failure, reserved), failure);
    },
  );
  try {
    return { device: new VfioDevice(name, handle), native: handle };
  } catch (error) {
    handle.close();
    throw error;
  }
}

/** Lines of `reserved_regions` that make a device unusable; relaxable ones do not. */
function directRegions(text: string): string[] {
  return text.split('\n').flatMap((line) => {
    const match = /^0x0*([0-9a-f]+) 0x0*([0-9a-f]+) direct$/.exec(line.trim());
    return match === null ? [] : [`0x${match[1]}-0x${match[2]}`];
  });
}
