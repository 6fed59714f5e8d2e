// What an emulated device behind the same IOMMU can do: its DMA is translated, its violation reaches the guest as a fault.
import { VIRTIO_IOMMU_MAP_F_READ } from '../../wire/abi.ts';
import { PAGE_BYTES } from '../run-cursor.ts';
import type { Checks } from './checks.ts';
import type { LabMachine } from './machine.ts';

const PAGE = BigInt(PAGE_BYTES);
const IOVA = 0x7000_0000n;
const L1_PAGE = 0x330;
const WRITE_FAULT = 0x102;
const MAPPING = 2;

/** DMA both ways through the translation, and one write to a read-only page. */
export function checkEmulatedDevice(machine: LabMachine, endpoint: number, domain: number, checks: Checks): void {
  const { driver, memory, iommu } = machine;
  const view = iommu.core.dmaView(endpoint);
  const gpa = BigInt(L1_PAGE) * PAGE;
  driver.batch([
    { op: 'map', domain, virtStart: IOVA, virtEnd: IOVA + PAGE - 1n, physStart: gpa, flags: 3 },
    {
      op: 'map',
      domain,
      virtStart: IOVA + PAGE,
      virtEnd: IOVA + 2n * PAGE - 1n,
      physStart: gpa + 2n * PAGE,
      flags: VIRTIO_IOMMU_MAP_F_READ,
    },
  ]);
  const data = Uint8Array.from({ length: 64 }, (_, i) => i * 3 + 1);
  checks.that('the emulated device writes', view.write(IOVA + 0x100n, data) === 'ok');
  const seen = new Uint8Array(data.length);
  memory.read(L1_PAGE * PAGE_BYTES + 0x100, seen, 0, seen.length);
  checks.that('its bytes arrive where the guest mapped them', same(seen, data));
  const back = new Uint8Array(data.length);
  checks.that('the emulated device reads them back', view.read(IOVA + 0x100n, back) === 'ok' && same(back, data));
  checks.that('its write to a read-only page is refused', view.write(IOVA + PAGE + 8n, data) === 'fault');
  const fault = driver.events().find((report) => report.reason === MAPPING);
  checks.that(
    'the violation arrives as a fault event',
    fault?.endpoint === endpoint && fault.flags === WRITE_FAULT && fault.address === IOVA + PAGE + 8n,
  );
  const unmapped = driver.unmap(domain, IOVA, IOVA + 2n * PAGE - 1n);
  checks.that('UNMAP of both pages', unmapped.status === 0);
  checks.that('a read after UNMAP is refused', view.read(IOVA + 0x100n, back) === 'fault');
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}
