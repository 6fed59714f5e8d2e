// Argument checks for public entry points: each failure is a TypeError or a RangeError that names the argument.

/** Largest unsigned 64-bit value. */
export const U64_MAX = 0xffff_ffff_ffff_ffffn;

/** Largest unsigned 32-bit value. */
export const U32_MAX = 0xffff_ffff;

/** Formats an address or size for messages: `0x1f000`. */
export function hex(value: bigint | number): string {
  return `0x${value.toString(16)}`;
}

/**
 * Returns `value` when it is an integer in [min, max], both inclusive.
 * @throws TypeError when it is not an integer number, RangeError when it is outside; both name `name`.
 */
export function checkInteger(name: string, value: unknown, min: number, max: number): number {
  if (typeof value !== 'number' || !Number.isInteger(value)) {
    throw new TypeError(`${name} must be an integer, got ${describe(value)}`);
  }
  if (value < min || value > max) {
    throw new RangeError(`${name} must be in [${min}, ${max}], got ${value}`);
  }
  return value;
}

/**
 * Returns `value` when it is a bigint in [min, max], both inclusive.
 * @throws TypeError when it is not a bigint, RangeError when it is outside; both name `name`.
 */
export function checkBigint(name: string, value: unknown, min: bigint, max: bigint): bigint {
  if (typeof value !== 'bigint') throw new TypeError(`${name} must be a bigint, got ${describe(value)}`);
  if (value < min || value > max) {
    throw new RangeError(
      `${name} must be in [${hex(min)}, ${hex(max)}], got ${value < 0n ? String(value) : hex(value)}`,
    );
  }
  return value;
}

/** Returns `value` when it is a boolean; throws a TypeError that names `name` otherwise. */
export function checkBoolean(name: string, value: unknown): boolean {
  if (typeof value !== 'boolean') throw new TypeError(`${name} must be a boolean, got ${describe(value)}`);
  return value;
}

/** Returns `value` when it is a function; throws a TypeError that names `name` otherwise. */
export function checkFunction<T>(name: string, value: T): T {
  if (typeof value !== 'function') throw new TypeError(`${name} must be a function, got ${describe(value)}`);
  return value;
}

/** Returns `value` when it is one of `allowed`; throws a RangeError that names `name` and lists the choices otherwise. */
export function checkOneOf<T extends string>(name: string, value: unknown, allowed: readonly T[]): T {
  for (const candidate of allowed) if (candidate === value) return candidate;
  throw new RangeError(`${name} must be one of ${allowed.join(', ')}, got ${describe(value)}`);
}

/**
 * Checks that `value` is a plain options object whose keys are all in `known`, so that a misspelled option is an error.
 * @throws TypeError that names `name` or the unknown key.
 */
export function checkOptions(name: string, value: unknown, known: readonly string[]): void {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new TypeError(`${name} must be an object, got ${describe(value)}`);
  }
  for (const key of Object.keys(value)) {
    if (!known.includes(key)) throw new TypeError(`${name}.${key} is not an option (known: ${known.join(', ')})`);
  }
}

/** Marks a branch that the types rule out. */
export function assertNever(value: never): never {
  throw new TypeError(`unexpected value ${describe(value)}`);
}

function describe(value: unknown): string {
  if (value === null) return 'null';
  if (typeof value === 'string') return JSON.stringify(value);
  if (typeof value === 'number' || typeof value === 'bigint' || typeof value === 'boolean') return String(value);
  return typeof value;
}
