// Opens the host context of a group with the better of the two kernel interfaces: iommufd where it can be used (no limit
// of entries), else VFIO type1. Not here: the contexts themselves, and what a refusal means (refusals.ts).
import { checkBoolean, checkFunction, checkInteger, checkOneOf, checkOptions } from '../base/check.ts';
import type { HostErrorCode } from '../base/errors.ts';
import { HostError, isHostError } from '../base/errors.ts';
import { checkDevice, findGroup } from './reserved.ts';
import { isVfioPci } from './survey-drivers.ts';
import { readSysfs } from './sysfs.ts';

/** The kernel interface of a context. */
export type Backend = 'type1' | 'iommufd';

/** Which backend was taken, and why. */
export interface BackendChoice {
  readonly backend: Backend;
  /** One sentence for a log. */
  readonly reason: string;
}

/** Options of `openHostContext`; exactly one of `device` and `group`. */
export interface OpenHostOptions {
  /** The PCI function to pass through, `ssss:bb:dd.f`; its whole group is opened. */
  readonly device?: string;
  /** IOMMU group number. */
  readonly group?: number;
  /** Default `auto`: iommufd where the kernel has it and it opens, else type1. */
  readonly backend?: 'auto' | Backend;
  /** PCI functions to open; default all members of the group that a VFIO driver has, and `device`. */
  readonly devices?: readonly string[];
  /** Type1 only: see `VfioType1Options.windowPieces`. */
  readonly windowPieces?: number;
  /** Iommufd only: see `IommufdOptions.mode`. */
  readonly mode?: 'large' | 'cut';
  /** Iommufd only: see `IommufdOptions.accounting`. */
  readonly accounting?: 'user' | 'process';
  /** Iommufd only: see `IommufdOptions.share`. */
  readonly share?: boolean;
  /** Root of sysfs, default `/sys`. */
  readonly sysfs?: string;
  /** Root of the device files, default `/dev`. */
  readonly dev?: string;
  /** Told once which backend was taken. What it throws reaches the caller, after the context was closed. */
  readonly onChoice?: (choice: BackendChoice) => void;
}

/** The group that is meant, and what to open of it. */
export interface BackendTarget {
  readonly group: number;
  readonly devices?: readonly string[];
  readonly sysfs?: string;
}

/** The ways to open a context; `undefined` from `iommufdLack` means that iommufd can be tried. */
export interface Backends<T1, T2> {
  readonly type1: (options: BackendTarget) => T1;
  readonly iommufd: (options: BackendTarget) => T2;
  /** Why iommufd cannot be used at all. */
  readonly iommufdLack: () => string | undefined;
}

const OPTIONS = [
  'device',
  'group',
  'backend',
  'devices',
  'windowPieces',
  'mode',
  'accounting',
  'share',
  'sysfs',
  'dev',
  'onChoice',
];
/** Codes of an interface that is missing or does not fit: after them the other one is tried. */
const NEXT: readonly HostErrorCode[] = ['ERR_VIOMMU_HOST_UNAVAILABLE', 'ERR_VIOMMU_HOST_INCOMPATIBLE'];

/** {@link Backends} chosen by `options`; see `openHostContext`. */
export function openWith<T1 extends Closeable, T2 extends Closeable>(
  options: OpenHostOptions,
  backends: Backends<T1, T2>,
): T1 | T2 {
  const { backend, onChoice } = checkOpen(options);
  const target = targetOf(options);
  const { context, choice } = chosen(backend, target, backends);
  try {
    onChoice?.(choice);
  } catch (error) {
    context.close();
    throw error;
  }
  return context;
}

interface Closeable {
  close(): void;
}

interface Chosen<T> {
  readonly context: T;
  readonly choice: BackendChoice;
}

function chosen<T1, T2>(
  backend: 'auto' | Backend,
  target: BackendTarget,
  { type1, iommufd, iommufdLack }: Backends<T1, T2>,
): Chosen<T1 | T2> {
  const asked = 'asked for by the caller';
  if (backend === 'type1') return { context: type1(target), choice: { backend, reason: asked } };
  if (backend === 'iommufd') return { context: iommufd(target), choice: { backend, reason: asked } };
  const lack = iommufdLack();
  if (lack !== undefined) return { context: type1(target), choice: { backend: 'type1', reason: lack } };
  let refusal: HostError;
  try {
    const reason = 'the kernel has iommufd, which has no limit of entries';
    return { context: iommufd(target), choice: { backend: 'iommufd', reason } };
  } catch (error) {
    if (!isHostError(error) || !NEXT.includes(error.code)) throw error;
    refusal = error;
  }
  const reason = `iommufd cannot be used: ${refusal.message}`;
  return { context: secondTry(() => type1(target), refusal), choice: { backend: 'type1', reason } };
}

/** When both fail, the error must tell of both: either may be the one to repair. */
function secondTry<T>(open: () => T, first: HostError): T {
  try {
    return open();
  } catch (error) {
    if (!isHostError(error)) throw error;
    const { code, errno, syscall } = error;
    const both = new HostError(code, `${error.message} (and with iommufd: ${first.message})`, { errno, syscall });
    both.cause = error;
    throw both;
  }
}

function targetOf({ device, group, devices, sysfs }: OpenHostOptions): BackendTarget {
  const rest = sysfs === undefined ? {} : { sysfs };
  if (device === undefined) return { group: group!, ...(devices === undefined ? {} : { devices }), ...rest };
  const snapshot = readSysfs(sysfs ?? '/sys');
  const { id, devices: members } = findGroup(snapshot, { device });
  if (devices !== undefined) return { group: Number(id), devices, ...rest };
  const drivers = new Map(snapshot.devices.map((each) => [each.name, each.driver]));
  // With `device` even when no driver has it: then the error says to bind it.
  const open = members.filter((name) => name === device || isVfioPci(drivers.get(name)));
  return { group: Number(id), devices: open, ...rest };
}

function checkOpen(options: OpenHostOptions): {
  readonly backend: 'auto' | Backend;
  readonly onChoice: OpenHostOptions['onChoice'];
} {
  checkOptions('options', options, OPTIONS);
  const { device, group, backend = 'auto', sysfs, dev, onChoice, devices } = options;
  if ((device === undefined) === (group === undefined)) {
    throw new TypeError('options must hold exactly one of device and group');
  }
  if (device !== undefined) checkDevice('options.device', device);
  if (group !== undefined) checkInteger('options.group', group, 0, 2 ** 31 - 1);
  // Whichever backend is taken: a wrong option of the other one is a mistake too.
  if (options.windowPieces !== undefined) checkInteger('options.windowPieces', options.windowPieces, 0, 2 ** 31 - 1);
  if (options.mode !== undefined) checkOneOf('options.mode', options.mode, ['large', 'cut']);
  if (options.accounting !== undefined) checkOneOf('options.accounting', options.accounting, ['user', 'process']);
  if (options.share !== undefined) checkBoolean('options.share', options.share);
  if (sysfs !== undefined && typeof sysfs !== 'string') throw new TypeError('options.sysfs must be a string');
  if (dev !== undefined && typeof dev !== 'string') throw new TypeError('options.dev must be a string');
  if (onChoice !== undefined) checkFunction('options.onChoice', onChoice);
  if (devices !== undefined) checkDevices(devices, device);
  return { backend: checkOneOf('options.backend', backend, ['auto', 'type1', 'iommufd']), onChoice };
}

function checkDevices(devices: readonly string[], device: string | undefined): void {
  if (!Array.isArray(devices)) throw new TypeError('options.devices must be an array');
  devices.forEach((name: string, i) => {
    checkDevice(`options.devices[${i}]`, name);
  });
  if (device !== undefined && !devices.includes(device)) {
    throw new RangeError(`options.devices must hold options.device ${device}`);
  }
}
