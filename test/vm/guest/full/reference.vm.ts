// The same guest on QEMU's own virtio-iommu and on ours: the driver sees the same groups and reserved regions and sends the
// same kinds of requests. What differs is named: our device offers other page sizes and input addresses.
import { beforeAll, describe, expect, it } from 'vitest';
import { kernel } from '../../base/packages.ts';
import { readTrace } from '../backend.ts';
import { Facts, troubles } from '../facts.ts';
import type { GuestRun } from '../machine.ts';
import { RNG, runGuest } from '../machine.ts';
import type { ReferenceRun } from '../reference.ts';
import { runReference } from '../reference.ts';
import { MESSAGES, SURVEY, readRandom, script, timeRandom } from '../scripts.ts';

const READS = 200;
const SCRIPT = script(SURVEY, readRandom(192, 60), timeRandom(READS), MESSAGES);
/** Bits of the features that a device of any make may leave out: ring formats and the like. */
const DEVICE_BITS = 0xff_ffffn;

describe.each([
  ['translated', ''],
  ['strict', 'iommu.strict=1'],
  ['passed through', 'iommu.passthrough=1'],
] as const)('a guest that is %s', (_name, append) => {
  let reference: ReferenceRun;
  let facts: Facts;
  let ours: GuestRun;

  beforeAll(async () => {
    reference = await runReference({ kernel: await kernel('6.12'), script: SCRIPT, append });
    facts = new Facts(reference.boot.lines);
    ours = await runGuest({
      config: { endpoints: [{ device: 'rng', addr: '3.0' }], iommu: { pageSizeMask: '0xfffffffffffff000' } },
      script: SCRIPT,
      append,
    });
  });

  it('runs well on both', () => {
    expect([reference.boot.exit, ours.boot.exit]).toEqual(['pass', 'pass']);
    expect([...troubles(facts.messages), ...troubles(ours.facts.messages)]).toEqual([]);
    expect([facts.one('random-status'), ours.facts.one('random-status')]).toEqual(['0', '0']);
  });

  it('has the same group and the same reserved regions', () => {
    expect(ours.facts.group(RNG)).toEqual(facts.group(RNG));
  });

  it('has the same devices, drivers and features of the device type', () => {
    const of = (each: Facts): unknown =>
      each.virtio.map(({ features, ...rest }) => ({ ...rest, features: features & DEVICE_BITS }));
    expect(of(ours.facts)).toEqual(of(facts));
  });

  it('sends the same kinds of requests', async () => {
    const { records } = await readTrace(ours.backend);
    const seen = records.flatMap((record) => {
      if (record.op === 'ATTACH') return ['ATTACH'];
      if (record.op === 'MAP') return [`MAP ${record.virtEnd - record.virtStart + 1n} flags ${record.flags}`];
      return record.op === 'UNMAP' ? [`UNMAP ${record.virtEnd - record.virtStart + 1n}`] : [];
    });
    const expected = reference.requests.map(({ op, fields }) => {
      const bytes = BigInt(fields['virt_end'] ?? 0) - BigInt(fields['virt_start'] ?? 0) + 1n;
      if (op === 'MAP') return `MAP ${bytes} flags ${fields['flags']!}`;
      return op === 'UNMAP' ? `UNMAP ${bytes}` : op;
    });
    expect(new Set(seen)).toEqual(new Set(expected));
    // The first requests depend on nothing but the driver.
    expect(seen.slice(0, 3)).toEqual(expected.slice(0, 3));
    const maps = (kinds: readonly string[]): number => kinds.filter((kind) => kind.startsWith('MAP')).length;
    expect(Math.abs(maps(seen) - maps(expected))).toBeLessThan(40);
  });
});
