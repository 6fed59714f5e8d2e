// Where the bytes of an entropy device come from. Not here: the device.
import { checkOneOf } from '../base/check.ts';

/** Fills all of `into`. */
export type EntropySource = (into: Uint8Array) => void;

/** `crypto`: the host's random numbers; `counter`: 0, 1, … 255, 0, … over all requests, for tests. */
export const ENTROPY_NAMES = ['crypto', 'counter'] as const;

/** Name of an entropy source. */
export type EntropyName = (typeof ENTROPY_NAMES)[number];

/** Most bytes that one call of Web Crypto gives. */
export const MAX_ENTROPY_BYTES = 65_536;

/** The source for a name, or the function itself. @throws RangeError naming `entropy` for another value. */
export function entropySource(entropy: EntropyName | EntropySource): EntropySource {
  if (typeof entropy === 'function') return entropy;
  return checkOneOf('entropy', entropy, ENTROPY_NAMES) === 'counter' ? counter() : random;
}

function random(into: Uint8Array): void {
  crypto.getRandomValues(into as Uint8Array<ArrayBuffer>);
}

function counter(): EntropySource {
  let next = 0;
  return (into) => {
    for (let i = 0; i < into.length; i++) into[i] = next++ & 0xff;
    next &= 0xff;
  };
}
