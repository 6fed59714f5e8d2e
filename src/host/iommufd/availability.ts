// Whether iommufd can be used on this host at all, told by its files. Nothing is opened.
// Not here: whether a certain device can be used with it, which only opening tells (iommufd.ts).
import { HostFiles } from '../survey-files.ts';

/** Folder of the device files by default. */
export const DEVICE_FOLDER = '/dev';

/** True when /dev/iommu is there and this process may use it; opening may still be refused. */
export function iommufdIsAvailable(deviceFolder: string = DEVICE_FOLDER): boolean {
  return iommufdLack(deviceFolder) === undefined;
}

/** Why iommufd cannot be used, in one sentence; undefined when nothing stands against it. */
export function iommufdLack(deviceFolder: string = DEVICE_FOLDER): string | undefined {
  const state = new HostFiles(deviceFolder).state('iommu');
  if (state === 'usable') return undefined;
  return state === 'absent'
    ? `there is no ${deviceFolder}/iommu: this kernel has no iommufd, or it is not loaded`
    : `no permission for ${deviceFolder}/iommu`;
}
