// Byte sizes as people write them on a command line.
import { InvalidArgumentError } from 'commander';

const UNITS: Readonly<Record<string, number>> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };
const SIZE = /^(\d{1,16})([KMGT]?)(?:i?B)?$/i;

/** Parses `256M`, `16G`, `4096`; K, M, G and T are powers of 1024. */
export function parseSize(text: string): number {
  const match = SIZE.exec(text.trim());
  const unit = UNITS[match?.[2]?.toUpperCase() ?? 'x'];
  const bytes = match === null || unit === undefined ? NaN : Number(match[1]) * unit;
  if (!Number.isSafeInteger(bytes) || bytes <= 0) {
    throw new InvalidArgumentError(`"${text}" is not a size (examples: 256M, 4G, 65536)`);
  }
  return bytes;
}

/** `16 GiB`, `256 MiB`, `4 KiB`, `17 B`: the largest unit that divides the size. */
export function formatSize(bytes: number): string {
  for (const [name, unit] of [
    ['TiB', 2 ** 40],
    ['GiB', 2 ** 30],
    ['MiB', 2 ** 20],
    ['KiB', 2 ** 10],
  ] as const) {
    if (bytes >= unit && bytes % unit === 0) return `${bytes / unit} ${name}`;
  }
  return `${bytes} B`;
}

/** Parses a decimal integer in [min, max]. */
export function integerArgument(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = /^\d{1,15}$/.test(text) ? Number(text) : NaN;
    if (!(value >= min && value <= max)) throw new InvalidArgumentError(`must be an integer in [${min}, ${max}]`);
    return value;
  };
}
