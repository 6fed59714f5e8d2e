import { expect, test } from 'vitest';
import { Random } from './random.ts';

test('a seed always gives the same sequence', () => {
  const sequence = (seed: number): number[] => {
    const random = new Random(seed);
    return Array.from({ length: 4 }, () => random.next());
  };
  expect(sequence(1)).toEqual(sequence(1));
  expect(sequence(1)).not.toEqual(sequence(2));
  expect(sequence(1)).toEqual([4148220732, 2747521676, 2050106358, 1735723081]);
});

test('state updates are those of sfc32', () => {
  // Reference with bigint words instead of 32-bit tricks.
  const mask = 0xffff_ffffn;
  let [a, b, c, counter] = [0n, 7n, ~7n & mask, 1n];
  const reference = (): number => {
    const result = (a + b + counter) & mask;
    counter = (counter + 1n) & mask;
    a = b ^ (b >> 9n);
    b = (c + (c << 3n)) & mask;
    c = (((c << 21n) | (c >> 11n)) + result) & mask;
    return Number(result);
  };
  for (let i = 0; i < 12; i++) reference();
  const random = new Random(7);
  for (let i = 0; i < 1000; i++) expect(random.next()).toBe(reference());
});

test('numbers below a bound stay below it and reach every value', () => {
  const random = new Random(3);
  const seen = new Set<number>();
  for (let i = 0; i < 200; i++) seen.add(random.below(5));
  expect([...seen].sort()).toEqual([0, 1, 2, 3, 4]);
  expect(random.below(1)).toBe(0);
});

test('geometric lengths start at 1 and have the asked mean', () => {
  const random = new Random(4);
  let sum = 0;
  let smallest = Infinity;
  for (let i = 0; i < 50_000; i++) {
    const length = random.geometric(4);
    sum += length;
    smallest = Math.min(smallest, length);
  }
  expect(smallest).toBe(1);
  expect(sum / 50_000).toBeGreaterThan(3.9);
  expect(sum / 50_000).toBeLessThan(4.1);
});

test('seeds outside 32 bits are refused by name', () => {
  expect(() => new Random(-1)).toThrow(/seed/);
  expect(() => new Random(2 ** 32)).toThrow(/seed/);
  expect(() => new Random(0.5)).toThrow(TypeError);
  expect(new Random(2 ** 32 - 1).next()).toBeTypeOf('number');
});
