// Reads checked values out of parsed JSON that nobody vouches for: unknown keys, wrong types and oversized numbers end in a
// VectorProblem that names the key. Work is bounded by the size of the file: nothing here follows nesting of its own accord.

/** Most bytes of one part of a request, and of one event buffer. */
export const MAX_PART_BYTES = 1 << 24;
/** Most descriptors that a layout may ask for: the largest split ring. */
export const MAX_LAYOUT = 32_768;
/** Most requests of one `repeat`. */
export const MAX_REPEAT = 1 << 20;
/** Most cases of one file. */
export const MAX_CASES = 1 << 16;
/** Most requests of one file, repetitions counted. */
export const MAX_REQUESTS = 1 << 23;
/** Most bytes of buffers of one case. */
export const MAX_CASE_BYTES = 1 << 26;

const U64_LIMIT = 0xffff_ffff_ffff_ffffn;

/** What is wrong with a value of a vector file, and at which key. */
export class VectorProblem extends Error {}

/** Takes a value at a key apart, or throws a {@link VectorProblem}. */
export type Read<T> = (value: unknown, key: string) => T;

/** Ends reading with a problem at `key`. */
export function refuse(key: string, problem: string): never {
  throw new VectorProblem(key === '' ? problem : `${key}: ${problem}`);
}

/** A value in a message: short, on one line, and without a look at what is nested in it. */
export function describe(value: unknown): string {
  if (typeof value === 'string') {
    return JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}…` : value);
  }
  if (value === null || typeof value !== 'object') return String(value);
  return Array.isArray(value) ? 'a list' : 'an object';
}

/** The keys of one object; keys that nobody asked for are refused at once. `note` and `effect` are texts in any object. */
export class Fields {
  readonly key: string;
  readonly #values = new Map<string, unknown>();

  constructor(value: unknown, key: string, known: readonly string[]) {
    this.key = key;
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      refuse(key, `${describe(value)} is not an object`);
    }
    for (const [name, item] of Object.entries(value)) {
      const at = join(key, name.length > 40 ? `${name.slice(0, 40)}…` : name);
      if (name === 'note' || name === 'effect') text(item, at);
      else if (!known.includes(name)) refuse(at, 'unknown key');
      else if (item !== undefined) this.#values.set(name, item);
    }
  }

  has(name: string): boolean {
    return this.#values.has(name);
  }

  required<T>(name: string, read: Read<T>): T {
    if (!this.#values.has(name)) refuse(join(this.key, name), 'missing');
    return read(this.#values.get(name), join(this.key, name));
  }

  optional<T>(name: string, read: Read<T>): T | undefined {
    return this.#values.has(name) ? this.required(name, read) : undefined;
  }
}

function join(key: string, name: string): string {
  return key === '' ? name : `${key}.${name}`;
}

/** The text at an object's own key `tag`, which has to be one of `known`: it says what else the object holds. */
export function tagOf<T extends string>(value: unknown, key: string, tag: string, known: readonly T[]): T {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    refuse(key, `${describe(value)} is not an object`);
  }
  if (!Object.hasOwn(value, tag)) refuse(join(key, tag), 'missing');
  const name: unknown = (value as Readonly<Record<string, unknown>>)[tag];
  const found = known.find((candidate) => candidate === name);
  return found ?? refuse(join(key, tag), `${describe(name)} is unknown (known: ${known.join(', ')})`);
}

/** Any text. */
export const text: Read<string> = (value, key) =>
  typeof value === 'string' ? value : refuse(key, `${describe(value)} is not a text`);

/** true or false. */
export const flag: Read<boolean> = (value, key) =>
  typeof value === 'boolean' ? value : refuse(key, `${describe(value)} is not true or false`);

/** One of the given texts. */
export function oneOf<T extends string>(allowed: readonly T[]): Read<T> {
  return (value, key) =>
    allowed.find((candidate) => candidate === value) ??
    refuse(key, `${describe(value)} is not one of ${allowed.join(', ')}`);
}

/** A number or a hex string from 0 to `max`. */
export function wide(max: bigint): Read<bigint> {
  return (value, key) => {
    let number: bigint;
    if (typeof value === 'number' && Number.isSafeInteger(value)) number = BigInt(value);
    else if (typeof value === 'string' && /^0x[0-9a-f]{1,64}$/i.test(value)) number = BigInt(value);
    else return refuse(key, `${describe(value)} is not a whole number below 2^53 or a hex string`);
    if (number < 0n || number > max) refuse(key, `${describe(value)} is not in 0 to 0x${max.toString(16)}`);
    return number;
  };
}

export const u64 = wide(U64_LIMIT);

/** A number or a hex string from `min` to `max`, as a number. */
export function count(min: number, max: number): Read<number> {
  const read = wide(BigInt(max));
  return (value, key) => {
    const number = Number(read(value, key));
    return number >= min ? number : refuse(key, `${describe(value)} is not in ${min} to ${max}`);
  };
}

export const u32 = count(0, 0xffff_ffff);

/** Hex digits, two per byte, at most `max` bytes. */
export function hexBytes(max: number): Read<Uint8Array> {
  return (value, key) => {
    if (typeof value !== 'string' || value.length % 2 !== 0 || /[^0-9a-f]/i.test(value)) {
      return refuse(key, `${describe(value)} is not hex bytes`);
    }
    if (value.length / 2 > max) refuse(key, `${value.length / 2} bytes, at most ${max} have room`);
    return Uint8Array.from({ length: value.length / 2 }, (_, i) => Number.parseInt(value.slice(2 * i, 2 * i + 2), 16));
  };
}

/** A list of at least `min` and at most `max` items. */
export function list<T>(read: Read<T>, min = 0, max = Infinity): Read<T[]> {
  return (value, key) => {
    if (!Array.isArray(value)) return refuse(key, `${describe(value)} is not a list`);
    if (value.length < min) refuse(key, `holds ${value.length} entries, at least ${min} are needed`);
    if (value.length > max) refuse(key, `holds ${value.length} entries, at most ${max} are allowed`);
    return value.map((item: unknown, i) => read(item, `${key}[${i}]`));
  };
}

/** Lengths of descriptors. */
export const layout = list(count(0, MAX_PART_BYTES), 1, MAX_LAYOUT);
