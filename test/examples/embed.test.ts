// The example of spec/embedding.md, run against a driver.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { IommuDriver } from '../../src/testing.ts';
import { EMULATED, PASSED, Vmm } from './embed.ts';

const ROOT = join(import.meta.dirname, '../..');
const IOVA = 0x4000_0000n;
const PAGE = 4096n;
const DOMAIN = 1;

let vmm: Vmm;
let driver: IommuDriver;

beforeEach(() => {
  const put: (() => void)[] = [];
  vmm = new Vmm((run) => put.push(run));
  // On a slow machine the time budget of a kick may be over: the VMM's event loop turns while the driver spins.
  const wait = (): boolean => {
    const run = put.shift();
    run?.();
    return run !== undefined;
  };
  driver = new IommuDriver({ device: vmm.iommu.transport, memory: vmm.memory, base: 32n << 20n, wait });
});
afterEach(() => {
  vmm.close();
});

/** As Linux does before a driver of the devices runs. */
function boot(): void {
  driver.start();
  const statuses = [EMULATED, PASSED].map((endpoint) => driver.attach(DOMAIN, endpoint).status);
  statuses.push(driver.map(DOMAIN, IOVA, IOVA + PAGE - 1n, 0x5000n).status);
  expect(statuses).toEqual([0, 0, 0]);
}

describe('the embedding example', () => {
  it('lets the emulated device do DMA and raise its interrupt', () => {
    boot();
    expect(vmm.completeDiskRead(IOVA, Uint8Array.of(7, 8))).toBe(true);
    const seen = new Uint8Array(2);
    vmm.memory.read(0x5000, seen, 0, 2);
    expect([...seen]).toEqual([7, 8]);
    expect(vmm.interrupts).toContain('msi of 24 at 0xfee00000');
  });

  it('lets the passed-through device reach the page only as bus master', () => {
    boot();
    const prober = vmm.host.prober(PASSED);
    expect(prober.read(IOVA, 4)).toBeUndefined();
    vmm.writeBusMaster(true);
    expect(prober.read(IOVA, 4)).toHaveLength(4);
    vmm.writeBusMaster(false);
    expect(prober.read(IOVA, 4)).toBeUndefined();
  });

  it('reports a violation to the guest and to the VMM', () => {
    boot();
    expect(vmm.completeDiskRead(IOVA + PAGE, Uint8Array.of(1))).toBe(false);
    expect(driver.events()).toMatchObject([{ endpoint: EMULATED, address: IOVA + PAGE }]);
    expect(vmm.events).toContainEqual(expect.objectContaining({ type: 'fault', report: 'reported' }));
  });

  it('installs a mapping when the memory behind it is plugged in', () => {
    boot();
    vmm.writeBusMaster(true);
    const gpa = 1n << 32n;
    expect(driver.map(DOMAIN, IOVA + PAGE, IOVA + 2n * PAGE - 1n, gpa).status).toBe(0);
    const prober = vmm.host.prober(PASSED);
    expect(prober.read(IOVA + PAGE, 1)).toBeUndefined();
    vmm.plug(gpa, 1n << 20n);
    expect(prober.read(IOVA + PAGE, 1)).toHaveLength(1);
  });

  it('takes everything back at a reset', () => {
    boot();
    vmm.writeBusMaster(true);
    vmm.reset();
    expect([vmm.iommu.core.stats().domains, vmm.iommu.core.stats().mappings]).toEqual([0, 0]);
    boot();
  });
});

describe('spec/embedding.md', () => {
  it('shows the code that runs here', () => {
    const example = readFileSync(join(ROOT, 'test/examples/embed.ts'), 'utf8').replaceAll(
      '../../src/index.ts',
      'virtio-iommu',
    );
    const text = readFileSync(join(ROOT, 'spec/embedding.md'), 'utf8');
    const blocks = [...text.matchAll(/```ts\n([\s\S]*?)```/g)].map((match) => match[1] ?? '');
    expect(blocks.length).toBeGreaterThan(3);
    const plain = unindented(example);
    expect(blocks.filter((block) => !plain.includes(unindented(block).trim()))).toEqual([]);
  });
});

/** Lines without what stands before and behind them: blocks of the text may be indented less. */
function unindented(code: string): string {
  return code.replaceAll(/^[ \t]+|[ \t]+$/gm, '');
}
