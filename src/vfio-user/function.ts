// The PCI function that a server shows to its client, as a structural type: virtio's VirtioPciFunction is one.
// Not here: its registers. Offsets and sizes in bytes.

/** A base address register, or the expansion ROM. */
export interface FunctionBar {
  /** Number, 0 to 5; 6 is the ROM. */
  readonly index: number;
  readonly size: number;
}

/**
 * Interrupts that reach the client without this process: its eventfds are handed to who raises them. A kind is its VFIO index,
 * 0 to 4. No method throws; results are 0 or errno.
 */
export interface DirectInterrupts {
  /** Number of interrupts of a kind that are direct; 0: the server has this kind. */
  count(index: number): number;
  /** VFIO_IRQ_INFO flags of a kind. */
  flags(index: number): number;
  /** Has interrupts from `start` on signal eventfds (-1: none), which stay the caller's; undefined: the kind is switched off. */
  wire(index: number, start: number, eventfds: readonly number[] | undefined): number;
  /** Masks or unmasks `count` interrupts from `start` on. */
  mask(index: number, start: number, count: number, masked: boolean): number;
}

/** A PCI function. No method throws for what a guest asks; `into` and `bytes` are valid during the call only. */
export interface PciFunction {
  readonly bars: readonly FunctionBar[];
  /** Number of MSI-X vectors; the client keeps their table. */
  readonly vectors: number;
  /** Fills `into` from `offset` of configuration space. */
  readConfigBytes(offset: number, into: Uint8Array): void;
  writeConfigBytes(offset: number, bytes: Uint8Array): void;
  readBar(bar: number, offset: number, into: Uint8Array): void;
  writeBar(bar: number, offset: number, bytes: Uint8Array): void;
  /** A reset of the function. */
  reset(): void;
  /** Bytes of configuration space; default {@link CONFIG_BYTES}. */
  readonly configBytes?: number;
  /** Most bytes of a BAR that one message may read or write; default all that a message holds. */
  readonly maxAccess?: number;
  /** Interrupts that do not go through this process; default none. */
  readonly direct?: DirectInterrupts;
}

/** Bytes of the configuration space of a function that is not PCI Express. */
export const CONFIG_BYTES = 256;
