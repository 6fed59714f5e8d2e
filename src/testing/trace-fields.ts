// Kinds of values in a `viommu-trace/1` line and how each is checked, read and written.
// On disk: addresses and 64-bit values are hex strings, ids, lengths and flags numbers, all ends INCLUSIVE.
import type { AddressRange } from '../base/ranges.ts';
import { U32_MAX, hex } from '../base/check.ts';

/** One kind of value; `decode` returns undefined when the JSON value is not of this kind. */
export interface Kind<T> {
  /** What is expected, for messages: "must be <expect>". */
  readonly expect: string;
  decode(value: unknown): T | undefined;
  encode(value: T): unknown;
}

/** One key of a line and the property that holds it. */
export interface Field {
  readonly key: string;
  readonly name: string;
  readonly kind: Kind<unknown>;
  /** The key may be missing. */
  readonly optional?: true;
  /** Value of a missing key; written only when `keep` is set or the value differs. */
  readonly fallback?: unknown;
  readonly keep?: true;
}

/** A line that is not of its format: `message` says what was expected. */
export class FieldError extends Error {}

/** Builds the object that `fields` describe from a parsed line; unknown keys are ignored. Throws {@link FieldError}. */
export function decodeFields(fields: readonly Field[], json: object, into: Record<string, unknown>): void {
  const source = json as Record<string, unknown>;
  for (const field of fields) {
    const value = source[field.key];
    if (value === undefined) {
      if (field.optional === undefined) throw new FieldError(`"${field.key}" is missing`);
      if (field.fallback !== undefined) into[field.name] = field.fallback;
      continue;
    }
    const decoded = field.kind.decode(value);
    if (decoded === undefined) throw new FieldError(`"${field.key}" must be ${field.kind.expect}, got ${show(value)}`);
    into[field.name] = decoded;
  }
}

/** The reverse of {@link decodeFields}: adds the keys in the order of `fields` to `into`. */
export function encodeFields(fields: readonly Field[], from: object, into: Record<string, unknown>): void {
  const source = from as Record<string, unknown>;
  for (const field of fields) {
    const value = source[field.name];
    if (value === undefined || (value === field.fallback && field.keep === undefined)) continue;
    into[field.key] = field.kind.encode(value);
  }
}

function show(value: unknown): string {
  const text = JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 60)}...` : text;
}

const identity = (value: unknown): unknown => value;

/** An integer in [min, max], both inclusive. */
export function integer(min: number, max: number): Kind<number> {
  return {
    expect: `an integer in [${min}, ${max}]`,
    decode: (value) =>
      typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max ? value : undefined,
    encode: identity,
  };
}

/** One of a closed set of strings or numbers. */
export function oneOf<T extends string | number>(choices: readonly T[]): Kind<T> {
  return {
    expect: `one of ${choices.map((choice) => JSON.stringify(choice)).join(', ')}`,
    decode: (value) => choices.find((choice) => choice === value),
    encode: identity,
  };
}

/** A list of values of one kind. */
export function listOf<T>(item: Kind<T>): Kind<readonly T[]> {
  return {
    expect: `a list, each item ${item.expect}`,
    decode(value) {
      if (!Array.isArray(value)) return undefined;
      const items = value.map((entry: unknown) => item.decode(entry));
      return items.includes(undefined) ? undefined : (items as T[]);
    },
    encode: (value) => value.map((entry) => item.encode(entry)),
  };
}

export const u8 = integer(0, 0xff);
export const u32 = integer(0, U32_MAX);
export const count = integer(0, Number.MAX_SAFE_INTEGER);

export const text: Kind<string> = {
  expect: 'a string',
  decode: (value) => (typeof value === 'string' ? value : undefined),
  encode: identity,
};

export const flag: Kind<boolean> = {
  expect: 'true or false',
  decode: (value) => (typeof value === 'boolean' ? value : undefined),
  encode: identity,
};

/** Seconds, any finite number from 0 on. */
export const seconds: Kind<number> = {
  expect: 'a number of seconds',
  decode: (value) => (typeof value === 'number' && Number.isFinite(value) && value >= 0 ? value : undefined),
  encode: identity,
};

const HEX = /^0x[0-9a-fA-F]{1,16}$/;

/** An unsigned 64-bit value as a hex string. */
export const u64: Kind<bigint> = {
  expect: 'a hex string of at most 64 bits like "0x1000"',
  decode: (value) => (typeof value === 'string' && HEX.test(value) ? BigInt(value) : undefined),
  encode: hex,
};

/** A 64-bit value other than zero. */
export const nonZeroU64: Kind<bigint> = {
  expect: 'a hex string of at most 64 bits that is not zero',
  decode(value) {
    const decoded = u64.decode(value);
    return decoded === 0n ? undefined : decoded;
  },
  encode: hex,
};

/** `[start, end]` in hex, start <= end, end inclusive. */
export const addressRange: Kind<AddressRange> = {
  expect: 'a pair of hex strings [start, end] with start <= end',
  decode(value) {
    if (!Array.isArray(value) || value.length !== 2) return undefined;
    const start = u64.decode(value[0]);
    const end = u64.decode(value[1]);
    return start === undefined || end === undefined || end < start ? undefined : { start, end };
  },
  encode: (range) => [hex(range.start), hex(range.end)],
};
