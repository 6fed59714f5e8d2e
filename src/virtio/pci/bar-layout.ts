// Where the registers of a function lie in its BARs. Offsets and sizes in bytes from the start of a BAR.
import { Common, MsixEntry } from './pci-layout.ts';

/** One base address register. */
export interface PciBar {
  /** Number, 0 to 5; one of 64 bits takes the next as well. */
  readonly index: number;
  /** Bytes, a power of two. */
  readonly size: number;
  readonly width: 32 | 64;
}

/** A stretch of a BAR. */
export interface BarRegion {
  readonly offset: number;
  readonly length: number;
}

/** The BARs and what is in them; the second BAR is absent without MSI-X. */
export interface BarLayout {
  readonly bars: readonly PciBar[];
  readonly registerBar: number;
  readonly msixBar: number;
  readonly common: BarRegion;
  readonly isr: BarRegion;
  readonly device: BarRegion;
  readonly notify: BarRegion;
  readonly msixTable: BarRegion;
  readonly msixPba: BarRegion;
}

const PAGE = 4096;
const MIN_REGISTER_BAR = 4 * PAGE;
/** Where the pending bits begin at least. */
const PBA_OFFSET = 0x800;
const NOTIFY_BYTES = 4;

/** Lays a function out: each kind of register on a page of its own, so that a VMM can map or trap it alone. */
export function layoutBars(init: {
  readonly queues: number;
  readonly configLength: number;
  readonly notifyMultiplier: number;
  readonly vectors: number;
  readonly width: 32 | 64;
}): BarLayout {
  const { queues, configLength, notifyMultiplier, vectors, width } = init;
  const notifyAt = 2 * PAGE + Math.max(roundUp(configLength, PAGE), PAGE);
  const notify = {
    offset: notifyAt,
    // [4.1.4.4.1] long enough for the doorbell of the last queue.
    length: Math.max((queues - 1) * notifyMultiplier, 0) + Math.max(NOTIFY_BYTES, notifyMultiplier),
  };
  const msixTable = { offset: 0, length: vectors * MsixEntry.SIZE };
  const msixPba = {
    offset: Math.max(PBA_OFFSET, roundUp(msixTable.length, PAGE / 2)),
    length: roundUp(Math.ceil(vectors / 8), 8),
  };
  const msixBar = width === 64 ? 2 : 1;
  const bars: PciBar[] = [
    { index: 0, size: powerOfTwo(Math.max(notify.offset + notify.length, MIN_REGISTER_BAR)), width },
  ];
  if (vectors > 0) {
    bars.push({ index: msixBar, size: powerOfTwo(Math.max(msixPba.offset + msixPba.length, PAGE)), width });
  }
  return {
    bars,
    registerBar: 0,
    msixBar,
    common: { offset: 0, length: Common.SIZE },
    isr: { offset: PAGE, length: 4 },
    device: { offset: 2 * PAGE, length: configLength },
    notify,
    msixTable,
    msixPba,
  };
}

function roundUp(bytes: number, unit: number): number {
  return Math.ceil(bytes / unit) * unit;
}

function powerOfTwo(bytes: number): number {
  return 2 ** Math.ceil(Math.log2(bytes));
}
