// The program of the guest's VFIO user: this project's host side (VfioType1Context) on this project's virtio-iommu. 64 MiB
// of scattered pages are mapped for the DMA engine, each page a MAP of its own, and the engine copies through them.
// Runs in the guest, as root, on plain Node. Usage: node vfio-main.js; exit status 0 when every check held.
import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { HostBatch, HostRight } from '../../../src/host/context.ts';
import { GuestRam } from '../../../src/host/guest-ram.ts';
import { VfioType1Context } from '../../../src/host/vfio-type1.ts';
import { Reporter } from '../base/reporter.ts';
import { bindToVfio, groupOf } from '../host/guest-env.ts';
import { Engine } from './engine.ts';

const PAGE = 4096;
const BOTH = HostRight.read | HostRight.write;
/** Pages that are mapped: every second one of memory twice the size, so that no two are neighbours. */
const PAGES = 16_384;
const WINDOW_PAGES = 512;
/** First I/O virtual page of the scattered memory, and of two pages that are contiguous: above the MSI window. */
const SCATTERED = 0x10_0000;
const TARGET = 0x20_0000;
const TARGET_PAGES = WINDOW_PAGES;

const report = new Reporter('vfio');
try {
  main(process.argv[2] ?? '0000:00:05.0');
} catch (error) {
  report.result({ name: 'runs to its end', ok: false, detail: String(error instanceof Error ? error.stack : error) });
}
process.exitCode = report.failed === 0 ? 0 : 1;

function main(name: string): void {
  bindToVfio(name);
  const group = groupOf(name);
  const ram = GuestRam.create({ size: BigInt((2 * PAGES + TARGET_PAGES) * PAGE), preallocate: true });
  const context = VfioType1Context.open({ group, windowPieces: PAGES });
  report.note(
    `Node ${process.version}, ${name} in group ${group}, ${JSON.stringify(context.limits.usableRanges, textOf)}`,
  );
  const bytes = Buffer.from(ram.windows[0]!, 0);
  const target = 2 * PAGES * PAGE;
  const va = Number(ram.hva / BigInt(PAGE));
  const engine = new Engine(context.devices[0]!);
  engine.start();
  for (let i = 0; i < PAGES; i++) bytes.writeUInt32LE(0xc0de_0000 + i, 2 * i * PAGE);

  check('reserved regions are holes in what can be mapped', () => {
    const holes = readFileSync(`/sys/kernel/iommu_groups/${group}/reserved_regions`, 'utf8').trim().split('\n');
    const { usableRanges } = context.limits;
    for (const [start = '', end = ''] of holes.map((line) => line.split(' '))) {
      assert.ok(
        usableRanges.every((each) => each.end < BigInt(start) || each.start > BigInt(end)),
        `${start} ${end}`,
      );
    }
  });
  check(`${PAGES} scattered pages are mapped`, () => {
    const batch = scattered(va);
    assert.equal(context.buildWindows(batch, 0), batch.count);
    const begin = performance.now();
    assert.equal(context.apply(batch, 0), batch.count);
    const seconds = (performance.now() - begin) / 1000;
    report.note(`${PAGES} MAP requests in ${seconds.toFixed(2)} s, ${((seconds / PAGES) * 1e6).toFixed(0)} us each`);
    const one = new HostBatch();
    one.map(TARGET, TARGET_PAGES, va + 2 * PAGES, BOTH);
    assert.equal(context.apply(one, 0), 1);
  });
  check('the engine reads each of them by its own address', () => {
    for (let window = 0; window < PAGES / WINDOW_PAGES; window++) {
      bytes.fill(0, target, target + TARGET_PAGES * PAGE);
      const source = (SCATTERED + window * WINDOW_PAGES) * PAGE;
      assert.equal(engine.run('copy', BigInt(source), BigInt(TARGET) * BigInt(PAGE), WINDOW_PAGES * PAGE), 'done');
      for (let i = 0; i < WINDOW_PAGES; i++)
        assert.equal(bytes.readUInt32LE(target + i * PAGE), 0xc0de_0000 + window * WINDOW_PAGES + i);
    }
  });
  check('the engine writes by address, and nothing beside', () => {
    const page = 777;
    assert.equal(engine.run('write', 0n, BigInt((SCATTERED + page) * PAGE), PAGE), 'done');
    assert.equal(bytes.readUInt32LE(2 * page * PAGE), 0);
    assert.equal(bytes.readUInt32LE(2 * (page - 1) * PAGE), 0xc0de_0000 + page - 1);
    assert.equal(bytes.readUInt32LE(2 * (page + 1) * PAGE), 0xc0de_0000 + page + 1);
  });
  check('an access past the end is refused', () => {
    const end = BigInt((SCATTERED + PAGES) * PAGE);
    assert.equal(engine.run('read', end - 4n, 0n, 4), 'done');
    assert.equal(engine.run('read', end - 4n, 0n, 8), 'sourceRefused');
    assert.equal(engine.run('write', 0n, end, 4), 'targetRefused');
  });
  check('a write to memory that is mapped for reading is refused', () => {
    const readOnly = new HostBatch();
    readOnly.map(TARGET + TARGET_PAGES, 1, va + 1, HostRight.read);
    assert.equal(context.apply(readOnly, 0), 1);
    const at = BigInt((TARGET + TARGET_PAGES) * PAGE);
    assert.equal(engine.run('read', at, 0n, 8), 'done');
    assert.equal(engine.run('write', 0n, at, 8), 'targetRefused');
  });
  check('the first, a middle and the last page cannot be reached after their unmap', () => {
    const begin = performance.now();
    const batch = new HostBatch();
    for (let i = 0; i < PAGES / WINDOW_PAGES; i++) batch.unmap(SCATTERED + i * WINDOW_PAGES, WINDOW_PAGES);
    assert.equal(context.apply(batch, 0), batch.count);
    const seconds = (performance.now() - begin) / 1000;
    report.note(`${PAGES} pages unmapped in ${seconds.toFixed(2)} s, ${((seconds / PAGES) * 1e6).toFixed(0)} us each`);
    for (const page of [0, PAGES / 2 + 1, PAGES - 1])
      assert.equal(engine.run('read', BigInt((SCATTERED + page) * PAGE), 0n, 4), 'sourceRefused');
  });
  context.close();
  ram.close();
  check('the group is free again', () => {
    assert.deepEqual(
      readdirSync('/dev/vfio').filter((each) => each === String(group)),
      [String(group)],
    );
    VfioType1Context.open({ group }).close();
  });
}

/** Windows of {@link WINDOW_PAGES} pages each, none of whose pages is the neighbour of another in memory. */
function scattered(va: number): HostBatch {
  const batch = new HostBatch();
  for (let i = 0; i < PAGES; i++) {
    if (i % WINDOW_PAGES === 0) batch.gather(SCATTERED + i, WINDOW_PAGES, BOTH);
    batch.piece(va + 2 * i, 1);
  }
  return batch;
}

function check(name: string, run: () => void): void {
  try {
    run();
    report.result({ name, ok: true });
  } catch (error) {
    report.result({ name, ok: false, detail: String(error instanceof Error ? error.stack : error) });
  }
}

function textOf(_key: string, value: unknown): unknown {
  return typeof value === 'bigint' ? `0x${value.toString(16)}` : value;
}
