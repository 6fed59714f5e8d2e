// What a passed-through device can do, seen at the host's IOMMU: right pages, right bytes, right rights, nothing else.
import { VIRTIO_IOMMU_MAP_F_READ } from '../../wire/abi.ts';
import type { L2Layout } from '../l2-memory.ts';
import { L1_OWN_BYTES, l2PageAt } from '../l2-memory.ts';
import { PAGE_BYTES } from '../run-cursor.ts';
import type { Checks } from './checks.ts';
import type { LabMachine } from './machine.ts';
import type { PageHole } from './reserved-holes.ts';
import { inHole } from './reserved-holes.ts';
import type { Stamps } from './stamps.ts';

const PAGE = BigInt(PAGE_BYTES);
/** An L1 page for single mappings; L2's pages never lie there. */
const SPARE_PAGE = 0x310;
const L1_OWN_PAGES = Number(L1_OWN_BYTES) / PAGE_BYTES;
/** An IOVA above all of L2's RAM. */
const SPARE_IOVA = 0x100_0000_0000n;
const WORD = Uint8Array.of(0xd3, 0x71, 0xce, 0x11);

/** What probing all of L2's RAM found. */
export interface ProbeResult {
  /** Pages in reserved regions, and how many of them the device reaches all the same. */
  readonly reserved: number;
  readonly reservedReached: number;
  readonly unreachable: number;
  /** Reachable pages that are not the page that L1 gave. */
  readonly wrong: number;
  readonly stamped: number;
  readonly wrongBytes: number;
}

/** Before any driver: firmware does DMA in bypass, IOVA = guest-physical address. */
export function checkBypass(machine: LabMachine, endpoint: number, holes: readonly PageHole[], checks: Checks): void {
  const { prober, memory } = proberOf(machine, endpoint);
  machine.setBusMaster(endpoint, true);
  let page = SPARE_PAGE;
  while (inHole(holes, page)) page++;
  if (page >= L1_OWN_PAGES) return; // all of L1's own memory is reserved for the device
  const bytes = Uint8Array.of(0xb0, 0x07);
  memory.write(page * PAGE_BYTES, bytes, 0, bytes.length);
  const seen = prober.read(BigInt(page) * PAGE, bytes.length);
  checks.that('boot in bypass: the device reads L1 memory at IOVA = GPA', seen?.[0] === 0xb0 && seen[1] === 0x07);
}

/** Reads every page of L2's RAM as the device would. */
export function probeAllPages(
  machine: LabMachine,
  endpoint: number,
  layout: L2Layout,
  stamps: Stamps,
  holes: readonly PageHole[],
): ProbeResult {
  const { prober } = proberOf(machine, endpoint);
  const host = hostPages(machine);
  let reserved = 0;
  let reservedReached = 0;
  let unreachable = 0;
  let wrong = 0;
  let stamped = 0;
  let wrongBytes = 0;
  for (let index = 0; index < layout.pages; index++) {
    const l2Page = l2PageAt(index);
    const seen = prober.physicalPageAt(l2Page, true);
    if (holes.length > 0 && inHole(holes, l2Page)) {
      reserved++;
      if (seen >= 0) reservedReached++;
      continue;
    }
    if (seen < 0) {
      unreachable++;
      continue;
    }
    if (seen !== host(layout.physPageOf(l2Page))) wrong++;
    if (!stamps.has(index)) continue;
    stamped++;
    if (!stamps.matches(index, prober.read(BigInt(l2Page) * PAGE, 8))) wrongBytes++;
  }
  return { reserved, reservedReached, unreachable, wrong, stamped, wrongBytes };
}

/** The device writes into L2 and past L2's RAM. */
export function checkLiveDevice(machine: LabMachine, endpoint: number, layout: L2Layout, checks: Checks): void {
  const { prober, memory } = proberOf(machine, endpoint);
  const seen = new Uint8Array(WORD.length);
  if (prober.physicalPageAt(0, true) >= 0) {
    checks.that('the device writes to L2 memory', prober.write(0x40n, WORD));
    memory.read(layout.physPageOf(0) * PAGE_BYTES + 0x40, seen, 0, WORD.length);
    checks.that('the bytes arrive in the right page', equal(seen, WORD));
  }
  const past = BigInt(l2PageAt(layout.pages - 1) + 1) * PAGE;
  checks.that('a write past L2 memory is blocked', !prober.write(past, WORD));
  checks.that('a read past L2 memory is blocked', prober.read(past, WORD.length) === undefined);
}

/** The device reads a read-only page, cannot write to it, and reaches it no longer after UNMAP. */
export function checkReadOnly(machine: LabMachine, endpoint: number, domain: number, checks: Checks): void {
  const { prober, memory } = proberOf(machine, endpoint);
  const { driver } = machine;
  const kept = Uint8Array.of(1, 2, 3, 4);
  const seen = new Uint8Array(kept.length);
  const gpa = BigInt(SPARE_PAGE) * PAGE;
  const mapped = driver.map(domain, SPARE_IOVA, SPARE_IOVA + PAGE - 1n, gpa, VIRTIO_IOMMU_MAP_F_READ);
  checks.that('MAP of a read-only page', mapped.status === 0);
  memory.write(SPARE_PAGE * PAGE_BYTES, kept, 0, kept.length);
  checks.that('a read-only page can be read', equal(prober.read(SPARE_IOVA, kept.length), kept));
  checks.that('a write to a read-only page is blocked', !prober.write(SPARE_IOVA, WORD));
  memory.read(SPARE_PAGE * PAGE_BYTES, seen, 0, seen.length);
  checks.that('a read-only page keeps its bytes', equal(seen, kept));
  checks.that('UNMAP of the page', driver.unmap(domain, SPARE_IOVA, SPARE_IOVA + PAGE - 1n).status === 0);
  checks.that('a read after UNMAP is blocked', prober.read(SPARE_IOVA, kept.length) === undefined);
}

function equal(seen: Uint8Array | undefined, wanted: Uint8Array): boolean {
  return seen?.length === wanted.length && wanted.every((byte, i) => seen[i] === byte);
}

function proberOf(
  machine: LabMachine,
  endpoint: number,
): { prober: ReturnType<LabMachine['host']['prober']>; memory: LabMachine['memory'] } {
  return { prober: machine.host.prober(endpoint), memory: machine.memory };
}

/** Host page behind an L1 page, -1 without one; remembers the region of the last one, since pages come in runs. */
export function hostPages(machine: LabMachine): (l1Page: number) => number {
  const regions = machine.memory.regions.flatMap((region) => {
    if (region.hva === undefined) return [];
    const first = Number(region.gpa) / PAGE_BYTES;
    return [{ first, end: first + Number(region.size) / PAGE_BYTES, va: Number(region.hva) / PAGE_BYTES }];
  });
  const { addressSpace } = machine.host;
  return (l1Page) => {
    const region = regions.find(({ first, end }) => l1Page >= first && l1Page < end);
    return region === undefined ? -1 : addressSpace.physicalPageOf(region.va + (l1Page - region.first));
  };
}
