// One guest for each thing that can be otherwise: kernel flavour, rings, page sizes, input addresses, reserved regions,
// places of the functions. Every row boots, reads through the translation and shows what its row says.
import { beforeAll, describe, expect, it } from 'vitest';
import type { ServeConfig } from '../backend.ts';
import { probedRegions } from '../expected.ts';
import { counts, troubles } from '../facts.ts';
import { fullKernel } from '../kernels.ts';
import type { GuestRun } from '../machine.ts';
import { RNG, functionAt, runGuest } from '../machine.ts';
import { MESSAGES, SURVEY, readRandom, script } from '../scripts.ts';

const BYTES = 192;
const PACKED = 1n << 34n;
const SCRIPT = script(SURVEY, readRandom(BYTES, 60), MESSAGES);

interface Row {
  readonly name: string;
  readonly iommu?: NonNullable<ServeConfig['iommu']>;
  readonly rng?: Partial<NonNullable<ServeConfig['endpoints']>[number]>;
  readonly msi?: string;
  readonly append?: string;
  readonly full?: true;
  /** Kernel messages that must be there. */
  readonly messages?: readonly string[];
  readonly type?: string;
  /** Regions where they are not those of a PROBE. */
  readonly regions?: readonly string[];
  readonly packed?: true;
}

const MSI = '0xfee00000-0xfeefffff:msi';

const ROWS: readonly Row[] = [
  { name: 'the full flavour of the kernel', full: true },
  {
    name: 'the full flavour, packed rings, a queue of 64',
    full: true,
    iommu: queue(64, true),
    rng: packed(),
    packed: true,
  },
  { name: 'a request queue of 64', iommu: queue(64) },
  { name: 'a request queue of 256', iommu: queue(256) },
  { name: 'packed rings, a queue of 64', iommu: queue(64, true), rng: packed(), packed: true },
  { name: 'packed rings, a queue of 256', iommu: queue(256, true), rng: packed(), packed: true },
  { name: 'packed rings, a queue of 1024', iommu: queue(1024, true), rng: packed(), packed: true },
  { name: 'pages of 4 KiB only', iommu: { pageSizeMask: '0x1000' }, messages: ['page mask: 0x1000'] },
  { name: 'pages of 4 KiB and 2 MiB', iommu: { pageSizeMask: '0x201000' }, messages: ['page mask: 0x201000'] },
  {
    name: 'pages of every size',
    iommu: { pageSizeMask: '0xfffffffffffff000' },
    messages: ['page mask: 0xfffffffffffff000'],
  },
  {
    name: 'a granule of 1 byte',
    iommu: { pageSizeMask: '0xffffffffffffffff' },
    messages: ['page mask: 0xffffffffffffffff'],
  },
  {
    name: 'input addresses of 28 bits: the MSI region lies outside and is not told',
    iommu: { inputRange: '0-0xfffffff' },
    messages: ['input address: 28 bits'],
    regions: ['0x8000000-0x80fffff:msi'],
  },
  { name: 'input addresses of 39 bits', iommu: { inputRange: '0-0x7fffffffff' }, messages: ['input address: 39 bits'] },
  { name: 'addresses that begin at 16 MiB', iommu: { inputRange: '0x1000000-0xffffffffffff' } },
  { name: 'a machine whose endpoints begin blocked', iommu: { bypass: false } },
  { name: 'an IOMMU that comes after its endpoint', iommu: { addr: '1e.0' } },
  { name: 'strict invalidation', append: 'iommu.strict=1', type: 'DMA' },
  {
    name: 'no MSI region: the kernel shows a window of its own',
    msi: 'none',
    regions: ['0x8000000-0x80fffff:msi'],
  },
  { name: 'a reserved region of one page', rng: { reserved: ['0x12345000-0x12345fff:reserved', MSI] } },
  {
    name: 'twenty reserved regions',
    rng: { reserved: [...Array.from({ length: 19 }, (_, i) => region(0x10_0000_0000 + i * 0x20_0000, 0x1000)), MSI] },
  },
  {
    name: 'a write to what is not mapped',
    rng: { probeUnmapped: '0x7000200000', probeAccess: 'write' },
    messages: ['0x7000200000 [W]'],
  },
];

describe.each(ROWS)('$name', (row) => {
  const rng = { device: 'rng', addr: '3.0', entropy: 'counter', ...row.rng } as const;
  let run: GuestRun;

  beforeAll(async () => {
    run = await runGuest({
      config: {
        endpoints: [rng],
        ...(row.iommu === undefined ? {} : { iommu: row.iommu }),
        ...(row.msi === undefined ? {} : { msi: row.msi }),
      },
      script: SCRIPT,
      ...(row.append === undefined ? {} : { append: row.append }),
      ...(row.full === undefined ? {} : { kernel: await fullKernel() }),
    });
    console.log(`kernel ${run.facts.one('kernel')}, machine ${run.boot.seconds.toFixed(1)} s`);
  });

  it('works, translated', () => {
    expect(run.boot.exit).toBe('pass');
    expect(run.facts.random).toHaveLength(BYTES);
    expect(counts(run.facts.random)).toBe(true);
    expect(troubles(run.facts.messages)).toEqual([]);
    const { dma } = functionAt(run.report, '3.0');
    expect(dma!.accesses).toBeGreaterThan(10);
    expect(dma!.identical).toBe(0);
    const refused = Object.entries(run.report.iommu.statuses).filter(([name, count]) => name !== 'OK' && count > 0);
    // Linux asks for the host bridge as well where the driver for it is there; it is no endpoint of ours.
    expect(refused.filter(([name]) => name !== 'NOENT')).toEqual([]);
  });

  it('shows what it should', () => {
    const group = run.facts.group(RNG);
    expect(group.type).toBe(row.type ?? 'DMA-FQ');
    const regions = probedRegions(row.regions ?? rng.reserved ?? [], row.iommu?.inputRange);
    expect(group.reserved).toEqual(regions.map(({ start, end, kind }) => ({ start, end, type: kind })));
    for (const message of row.messages ?? []) expect(run.facts.messages.join('\n')).toContain(message);
    for (const { features } of run.facts.virtio) expect((features & PACKED) !== 0n).toBe(row.packed === true);
  });
});

describe.each([
  ['may pass', true],
  ['are blocked', false],
] as const)('a granule above the page of the guest, while endpoints without a domain %s', (_name, bypass) => {
  let run: GuestRun;

  beforeAll(async () => {
    run = await runGuest({
      config: {
        endpoints: [{ device: 'rng', addr: '3.0', entropy: 'counter' }],
        iommu: { pageSizeMask: '0x4000', bypass },
      },
      script: script(SURVEY, readRandom(BYTES, bypass ? 60 : 15), MESSAGES),
    });
  });

  it('is refused by the driver, and serve has warned', () => {
    expect(run.facts.groups).toEqual([]);
    expect(run.facts.messages.join('\n')).toContain('granule 0x4000 larger than system page size 0x1000');
    expect(run.log).toContain('warning: a granule of 16384 bytes');
    expect(run.report.iommu.requests).toMatchObject({ attach: 0, map: 0 });
  });

  it(bypass ? 'leaves the endpoint untranslated' : 'leaves the endpoint without DMA', () => {
    const { dma } = functionAt(run.report, '3.0');
    expect(run.facts.random).toHaveLength(bypass ? BYTES : 0);
    expect(dma!.identical).toBe(dma!.accesses);
    expect(dma!.accesses > 0).toBe(bypass);
    expect(dma!.refused > 0).toBe(!bypass);
  });
});

describe('three endpoints with different regions', () => {
  const own = {
    '3.0': ['0x9000000-0x90fffff:reserved', MSI],
    '4.0': ['0xa000000-0xa0fffff:reserved', '0xfee00000-0xfee00fff:msi'],
    '5.0': [MSI],
  } as const;
  let run: GuestRun;

  beforeAll(async () => {
    run = await runGuest({
      config: {
        endpoints: [
          { device: 'rng', addr: '3.0', entropy: 'counter', reserved: own['3.0'] },
          { device: 'rng', addr: '4.0', entropy: 'counter', reserved: own['4.0'] },
          { device: 'dma', addr: '5.0', reserved: own['5.0'] },
        ],
      },
      script: SCRIPT,
    });
  });

  it('have a group each, with their own regions', () => {
    expect(run.facts.groups).toHaveLength(3);
    for (const [addr, regions] of Object.entries(own)) {
      const group = run.facts.group(`0000:00:0${addr}`);
      expect(group.devices).toHaveLength(1);
      expect(group.reserved).toEqual(
        probedRegions(regions).map(({ start, end, kind }) => ({ start, end, type: kind })),
      );
    }
  });

  it('have a domain each', () => {
    expect(run.report.iommu.requests).toMatchObject({ probe: 3, attach: 3 });
    for (const addr of ['3.0', '4.0']) expect(functionAt(run.report, addr).dma!.identical).toBe(0);
  });
});

function queue(requestQueueSize: number, packed = false): NonNullable<ServeConfig['iommu']> {
  return { requestQueueSize, packed };
}

function packed(): { packed: true } {
  return { packed: true };
}

function region(start: number, bytes: number): string {
  return `0x${start.toString(16)}-0x${(start + bytes - 1).toString(16)}:reserved`;
}
