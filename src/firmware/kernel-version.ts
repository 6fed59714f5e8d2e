// Linux versions as far as the rules for reserved memory depend on them. Not a full version parser: two numbers count.

/** Major and minor number of a Linux version. */
export interface KernelVersion {
  readonly major: number;
  readonly minor: number;
}

/** The rules of a time: which devices with firmware-reserved memory VFIO refuses. */
export type KernelEra = 'none' | 'usb' | 'usb-display' | 'typed' | 'require-direct';

/** One era with the versions it spans. */
export interface EraSpan {
  readonly era: KernelEra;
  readonly kernels: string;
  /** A version inside the era, for tables of verdicts. */
  readonly sample: KernelVersion;
}

/** All eras in order. Edges with a `~` are approximate, not read in source code: 4.1 (display exemption) and 6.6. */
export const KERNEL_ERAS: readonly EraSpan[] = [
  { era: 'none', kernels: 'before 3.17', sample: { major: 3, minor: 16 } },
  { era: 'usb', kernels: '3.17 to ~4.0', sample: { major: 3, minor: 18 } },
  { era: 'usb-display', kernels: '~4.1 to 5.2', sample: { major: 4, minor: 19 } },
  { era: 'typed', kernels: '5.3 to ~6.5', sample: { major: 5, minor: 15 } },
  { era: 'require-direct', kernels: '~6.6 and later', sample: { major: 6, minor: 12 } },
];

/** Newest kernel that still has the refusal message of 3.17 to about 6.5: what a log with that message comes from at most. */
export const NEWEST_OLD_RULE: KernelVersion = { major: 6, minor: 5 };

/** Newest kernel whose source the rules were read in; the default where no version is known. */
export const NEWEST_KERNEL: KernelVersion = { major: 7, minor: 2 };

/** Reads `6.12`, `6.12.107`, `5.15.39-1-pve`; undefined when the text does not start with two numbers. */
export function parseKernelVersion(text: string): KernelVersion | undefined {
  const match = /^v?(\d{1,3})\.(\d{1,4})(?!\d)/.exec(text.trim());
  return match === null ? undefined : { major: Number(match[1]), minor: Number(match[2]) };
}

/** True when `kernel` is `major.minor` or later. */
export function atLeast(kernel: KernelVersion, major: number, minor: number): boolean {
  return kernel.major > major || (kernel.major === major && kernel.minor >= minor);
}

/** The rules that hold in a kernel version. */
export function eraOf(kernel: KernelVersion): KernelEra {
  if (!atLeast(kernel, 3, 17)) return 'none';
  if (!atLeast(kernel, 4, 1)) return 'usb';
  if (!atLeast(kernel, 5, 3)) return 'usb-display';
  return atLeast(kernel, 6, 6) ? 'require-direct' : 'typed';
}

/** `6.12`. */
export function formatKernel(kernel: KernelVersion): string {
  return `${kernel.major}.${kernel.minor}`;
}
