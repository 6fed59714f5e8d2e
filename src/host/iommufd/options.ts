// Options of IommufdContext.open, checked. Not here: what they do (iommufd.ts).
import { checkBoolean, checkInteger, checkOneOf, checkOptions } from '../../base/check.ts';
import { DEVICE_FOLDER } from './availability.ts';

/**
 * `large`: areas have the largest IOPTEs that fit and can be unmapped whole only. `cut`: the smallest IOPTEs, and an unmap
 * may take any pages, without any loss of access beside them.
 */
export type IommufdMode = 'large' | 'cut';

/** Options of `IommufdContext.open`. */
export interface IommufdOptions {
  /** IOMMU group number, the name of a folder in /sys/kernel/iommu_groups. */
  readonly group: number;
  /** PCI functions (`ssss:bb:dd.f`) to open; default all members of the group that vfio-pci has. */
  readonly devices?: readonly string[];
  /** Default `large`. */
  readonly mode?: IommufdMode;
  /**
   * What RLIMIT_MEMLOCK counts: pages of all processes of the `user` (default), or of this `process` as type 1 does, which
   * takes CAP_SYS_RESOURCE.
   */
  readonly accounting?: 'user' | 'process';
  /** Attach the devices at once, default true; see `IommufdContext.attach`. */
  readonly attached?: boolean;
  /**
   * Use the iommufd that other contexts of the same device folder and accounting have, default true: only then devices can use
   * one address space (`IommufdContext.attachTo`). False: a file of its own.
   */
  readonly share?: boolean;
  /** Folder of the device files, default `/dev`. */
  readonly deviceFolder?: string;
  /** Root of sysfs, default `/sys`. */
  readonly sysfs?: string;
}

/** {@link IommufdOptions} with every default filled in. */
export interface CheckedIommufdOptions {
  readonly group: number;
  readonly devices: readonly string[] | undefined;
  readonly mode: IommufdMode;
  readonly perProcess: boolean;
  readonly attached: boolean;
  readonly share: boolean;
  readonly folder: string;
  readonly sysfs: string;
}

const NAMES = ['group', 'devices', 'mode', 'accounting', 'attached', 'share', 'deviceFolder', 'sysfs'];
const FUNCTION = /^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$/;

/** @throws TypeError or RangeError that names the wrong option. */
export function checkIommufdOptions(options: IommufdOptions): CheckedIommufdOptions {
  checkOptions('options', options, NAMES);
  const { devices, deviceFolder = DEVICE_FOLDER, sysfs = '/sys' } = options;
  if (devices !== undefined) checkNames(devices);
  if (typeof deviceFolder !== 'string') throw new TypeError('options.deviceFolder must be a string');
  if (typeof sysfs !== 'string') throw new TypeError('options.sysfs must be a string');
  return {
    group: checkInteger('options.group', options.group, 0, 2 ** 31 - 1),
    devices,
    mode: checkOneOf('options.mode', options.mode ?? 'large', ['large', 'cut']),
    perProcess: checkOneOf('options.accounting', options.accounting ?? 'user', ['user', 'process']) === 'process',
    attached: checkBoolean('options.attached', options.attached ?? true),
    share: checkBoolean('options.share', options.share ?? true),
    folder: deviceFolder,
    sysfs,
  };
}

function checkNames(devices: readonly string[]): void {
  if (!Array.isArray(devices)) throw new TypeError('options.devices must be an array');
  devices.forEach((name: unknown, i) => {
    if (typeof name !== 'string') throw new TypeError(`options.devices[${i}] must be a string`);
    if (!FUNCTION.test(name)) throw new RangeError(`options.devices[${i}] must be like 0000:00:04.0, got "${name}"`);
  });
}
