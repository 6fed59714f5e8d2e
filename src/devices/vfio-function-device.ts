// What the passthrough function needs of a host's device, as a structural type: host's VfioDevice is one.
// Positions and sizes are bytes, ends exclusive.

/** Kinds of interrupts in the order of their VFIO index. */
export const IRQ_KINDS = ['intx', 'msi', 'msix', 'error', 'request'] as const;

/** A kind of interrupts. */
export type IrqKindName = (typeof IRQ_KINDS)[number];

/** A device of an open host context; methods throw a HostError for what the host refuses. */
export interface PassedDevice {
  /** `ssss:bb:dd.f`. */
  readonly name: string;
  /** Regions 0 to 5 are the BARs, 6 the ROM, 7 configuration space. */
  region(index: number): { readonly size: bigint };
  readRegion(index: number, offset: bigint, into: Uint8Array): void;
  writeRegion(index: number, offset: bigint, from: Uint8Array): void;
  readConfig(offset: number, bytes: 1 | 2 | 4): number;
  writeConfig(offset: number, bytes: 1 | 2 | 4, value: number): void;
  busMaster(): boolean;
  /** Sets or clears the bit and waits until it holds and no transaction is pending; 0 or errno. */
  setBusMaster(on: boolean): number;
  /** 0 or errno; EINVAL or ENOTTY when the device has no reset. */
  reset(): number;
  irqCount(kind: IrqKindName): number;
  setIrqs(kind: IrqKindName, start: number, counters: readonly ({ readonly fd: number } | undefined)[]): void;
  maskIrqs(kind: IrqKindName, start: number, count: number, masked: boolean): void;
  disableIrqs(kind: IrqKindName): void;
}
