import { describe, expect, it } from 'vitest';
import type { TeardownResult } from './teardown-run.ts';
import { runTeardown } from './teardown-run.ts';

const MIB = 2 ** 20;
const RIGHT = { refused: 0, wrongPages: 0, wrongBytes: 0, stale: 0, lostFar: 0, leftInHostTable: 0 };

function teardown(ring: number, policy: 'forward' | 'exact', l2Bytes = 256 * MIB): TeardownResult {
  return runTeardown({ l2Bytes, pattern: 'scattered', policy, ring });
}

describe('teardown of 256 MiB of scattered pages that were gathered, the device live', () => {
  it('with a ring of 1024 takes nothing apart: no page loses its access, not even between host operations', () => {
    expect(teardown(1024, 'exact')).toEqual({
      ...RIGHT,
      ...{ entries: 128, gathered: 128, kicks: 128, demotions: 0, windows: 0, lost: 0 },
    });
  });

  it('with a ring of 256 takes each entry apart once, and everything that is left is right after each kick', () => {
    const result = teardown(256, 'exact');
    expect(result).toMatchObject({ ...RIGHT, entries: 128, gathered: 128, kicks: 256 });
    expect(result.demotions).toBeLessThanOrEqual(128);
    expect(result.windows).toBe(result.demotions);
    // While an entry is replaced, and only then, the rest of it is out of reach: this check can see it.
    expect(result.lost).toBeGreaterThan(0);
  });
});

describe('teardown of a small L2', () => {
  it.each([64, 128, 512])('with a ring of %i takes an entry apart at most once', (ring) => {
    const result = teardown(ring, 'exact', 4 * MIB);
    expect(result).toMatchObject({ ...RIGHT, entries: 2, gathered: 2, kicks: 1024 / ring });
    expect(result.demotions).toBeLessThanOrEqual(2);
  });

  it('is not for memory around the hole of a PC', () => {
    expect(() => teardown(64, 'exact', 3 * 2 ** 30 + 4096)).toThrow(/l2Bytes/);
  });

  it('has nothing to take apart under forward', () => {
    const result = teardown(64, 'forward', 4 * MIB);
    expect(result).toEqual({ ...RIGHT, entries: 1024, gathered: 0, kicks: 16, demotions: 0, windows: 0, lost: 0 });
  });
});
