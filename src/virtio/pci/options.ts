// Options of a virtio PCI function, and their checks. Not here: the function.
import { checkFunction, checkInteger, checkOneOf, checkOptions } from '../../base/check.ts';
import { MSIX_MAX_VECTORS, VIRTIO_PCI_VENDOR } from './pci-layout.ts';

/** Where the interrupts of a function go. A callback may run guest code that accesses the function again. */
export interface PciInterrupts {
  /** Send the message of an MSI-X vector; {@link VirtioPciFunction.msixMessage} has address and data. */
  msix(vector: number): void;
  /** INTA changes its level. Omitted: the function has no interrupt pin, and MSI-X is all it can do. */
  intx?(level: boolean): void;
}

/** Address and data that a driver wrote for an MSI-X vector; `masked` also while MSI-X is disabled or masked as a whole. */
export interface MsixMessage {
  readonly address: bigint;
  readonly data: number;
  readonly masked: boolean;
}

/** What a {@link VirtioPciFunction} needs of its surroundings, and what it looks like. */
export interface VirtioPciOptions {
  readonly interrupts: PciInterrupts;
  /** Class code, 24 bits; default 0xff0000, no class. */
  readonly classCode?: number;
  /** Default 0x1af4. */
  readonly subsystemVendorId?: number;
  /** Default 0x1100; [4.1.2.1] SHOULD be 0x40 or higher. */
  readonly subsystemId?: number;
  /** MSI-X vectors, 0 to 2048; default one per queue and one for the configuration. 0: no MSI-X capability. */
  readonly vectors?: number;
  /** Width of the BARs; default 32. */
  readonly barWidth?: 32 | 64;
  /** Bytes between the doorbells of two queues: a power of two from 2 to 4096, or 0 for one doorbell; default 4. */
  readonly notifyMultiplier?: number;
  /**
   * Who keeps the MSI-X table that counts. 'function' (default): the one in this BAR. 'vmm': the VMM shows the guest a table
   * of its own and masks there (QEMU does for vfio-user); every event then goes to `interrupts.msix` at once.
   */
  readonly msixTable?: 'function' | 'vmm';
  /** The driver set or cleared the bus-master bit: called before the device may do DMA, and after it has stopped. */
  readonly onBusMaster?: (on: boolean) => void;
  /** A BAR may have moved, appeared or gone: see {@link VirtioPciFunction.barAddress}. */
  readonly onBarsMoved?: () => void;
}

/** Options with the defaults filled in. */
export type ResolvedPciOptions = Required<VirtioPciOptions>;

const NAMES = [
  'interrupts',
  'classCode',
  'subsystemVendorId',
  'subsystemId',
  'vectors',
  'barWidth',
  'notifyMultiplier',
  'msixTable',
  'onBusMaster',
  'onBarsMoved',
] as const satisfies readonly (keyof VirtioPciOptions)[];

const U16 = 0xffff;

/** @throws TypeError or RangeError that names the option. */
export function resolvePciOptions(options: VirtioPciOptions, queues: number): ResolvedPciOptions {
  checkOptions('options', options, NAMES);
  const { interrupts } = options;
  checkInterrupts(interrupts);
  const nothing = (): void => undefined;
  return {
    interrupts,
    classCode: checkInteger('options.classCode', options.classCode ?? 0xff_0000, 0, 0xff_ffff),
    subsystemVendorId: checkInteger(
      'options.subsystemVendorId',
      options.subsystemVendorId ?? VIRTIO_PCI_VENDOR,
      0,
      U16,
    ),
    subsystemId: checkInteger('options.subsystemId', options.subsystemId ?? 0x1100, 0, U16),
    vectors: checkInteger(
      'options.vectors',
      options.vectors ?? Math.min(queues + 1, MSIX_MAX_VECTORS),
      0,
      MSIX_MAX_VECTORS,
    ),
    barWidth: checkWidth(options.barWidth ?? 32),
    notifyMultiplier: checkMultiplier(options.notifyMultiplier ?? 4),
    msixTable: checkOneOf('options.msixTable', options.msixTable ?? 'function', ['function', 'vmm']),
    onBusMaster: checkFunction('options.onBusMaster', options.onBusMaster ?? nothing),
    onBarsMoved: checkFunction('options.onBarsMoved', options.onBarsMoved ?? nothing),
  };
}

function checkInterrupts(interrupts: Partial<PciInterrupts> | null | undefined): void {
  if (typeof interrupts?.msix !== 'function')
    throw new TypeError('options.interrupts must be an object with a function msix');
  if (interrupts.intx !== undefined && typeof interrupts.intx !== 'function')
    throw new TypeError('options.interrupts.intx must be a function');
}

function checkWidth(width: number): 32 | 64 {
  if (width !== 32 && width !== 64) throw new RangeError(`options.barWidth must be 32 or 64, got ${width}`);
  return width;
}

function checkMultiplier(value: number): number {
  checkInteger('options.notifyMultiplier', value, 0, 4096);
  // [4.1.4.4.1] MUST be an even power of 2, or 0.
  if (value === 1 || (value & (value - 1)) !== 0) {
    throw new RangeError(`options.notifyMultiplier must be 0 or an even power of two, got ${value}`);
  }
  return value;
}
