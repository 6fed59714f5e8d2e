// What host entries cost on a real kernel, in a machine of its own: a table, and the same as JSON.
// Usage: tsx test/vm/host/bench.ts [--kernel 6.1|6.12] [--json]
import { cpus } from 'node:os';
import process from 'node:process';
import { parseArgs } from 'node:util';
import { buildInitramfs } from '../base/initramfs.ts';
import { boot } from '../base/machine.ts';
import type { KernelSeries } from '../base/packages.ts';
import { KERNELS, kernel, qemu } from '../base/packages.ts';
import { productFiles } from '../base/product.ts';
import { readReport } from '../base/report.ts';
import type { Costs, WindowCost } from './contract/cost.ts';

const SECONDS = 900;
const MEMORY_MIB = 1024;
const DEVICES = ['-device', 'intel-iommu,intremap=on', '-device', 'edu,addr=4'];
const MAIN = 'test/vm/host/contract/cost-main.ts';
const MARK = 'costs ';

const { values } = parseArgs({
  options: { kernel: { type: 'string', default: '6.12' }, json: { type: 'boolean', default: false } },
});
await main(values.kernel, values.json);

async function main(name: string, onlyJson: boolean): Promise<void> {
  const series = KERNELS.find((each) => each === name);
  if (series === undefined) throw new RangeError(`--kernel must be one of ${KERNELS.join(', ')}`);
  const { costs, setting } = await measure(series);
  if (!onlyJson) console.log(`${setting}\n\n${windowTable(costs)}\n\n${gibTable(costs)}\n\n${crossover(costs)}\n`);
  console.log(JSON.stringify({ setting, ...costs }));
}

async function measure(series: KernelSeries): Promise<{ costs: Costs; setting: string }> {
  const emulator = await qemu();
  const tree = await kernel(series);
  const initrd = await buildInitramfs({
    kernel: tree,
    modules: [{ name: 'vfio_iommu_type1' }, { name: 'vfio-pci' }],
    files: productFiles(MAIN),
    init: `node /app/${MAIN.replace(/ts$/, 'js')}`,
  });
  const args = [...DEVICES, '-m', String(MEMORY_MIB)];
  const { lines, exit } = await boot({ qemu: emulator, kernel: tree, initrd, args, seconds: SECONDS });
  const note = readReport(lines).notes.find((text) => text.startsWith(MARK));
  if (note === undefined) throw new Error(`the machine ended with ${exit}:\n${lines.slice(-40).join('\n')}`);
  const where = `QEMU ${emulator.version} (TCG, one processor) on ${cpus()[0]?.model ?? 'an unknown processor'}`;
  const setting = `Linux ${tree.version}, VT-d, Node ${process.version}, ${where}`;
  return { costs: JSON.parse(note.slice(MARK.length)) as Costs, setting };
}

function windowTable({ windows }: Costs): string {
  const unit = windows[0]!.map;
  const rows = windows.map((cost) => {
    const { pieces, map, gather, unmap, gatherUnmap } = cost;
    return [pieces, map / unit, gather / unit, map / gather, unmap / unit, gatherUnmap / unit, bothWays(cost)];
  });
  const head = ['pieces', 'map 1:1', 'gather', '1:1/gather', 'unmap 1:1', 'unmap gathered', 'both ways'];
  return `2 MiB, in units of one map of 2 MiB\n${table(head, rows)}`;
}

function gibTable({ gib }: Costs): string {
  const [first] = gib;
  const rows = gib.map(({ way, entries, mapMs, unmapMs }) => {
    return [way, entries, mapMs / first!.mapMs, unmapMs / first!.unmapMs];
  });
  return `1 GiB, in units of single pages\n${table(['', 'entries', 'map', 'unmap'], rows)}`;
}

/** How many times longer 1:1 takes than a gather, from the map to the unmap. */
function bothWays({ map, unmap, gather, gatherUnmap }: WindowCost): number {
  return (map + unmap) / (gather + gatherUnmap);
}

/** The fewest pieces from which on a gather is never dearer. */
function crossover({ windows }: Costs): string {
  const from = (ratio: (cost: WindowCost) => number): string => {
    const last = windows.findLast((cost) => ratio(cost) < 1);
    const first = windows.find(({ pieces }) => pieces > (last?.pieces ?? 0));
    return first === undefined ? 'never' : `from ${first.pieces} pieces on`;
  };
  return `A gather is cheaper ${from(({ map, gather }) => map / gather)} to map, ${from(bothWays)} with the unmap.`;
}

function table(head: readonly string[], rows: readonly (readonly (string | number)[])[]): string {
  const show = (value: string | number): string =>
    typeof value === 'string' || Number.isInteger(value) ? String(value) : value.toPrecision(3);
  const lines = [head, ...rows.map((row) => row.map(show))];
  const widths = head.map((_, i) => Math.max(...lines.map((line) => line[i]!.length)));
  return lines.map((line) => line.map((cell, i) => cell.padStart(widths[i]!)).join('  ')).join('\n');
}
