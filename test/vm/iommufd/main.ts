// Runs the iommufd backend on real kernels that have iommufd, in virtual machines: the contract cases that the simulated
// one passes, and scenarios with DMA. Builds the kernel first where the cache has none (10 minutes or more).
// Usage: tsx test/vm/iommufd/main.ts [--kernel 6.12|7.2|all] [--iommu vtd|amd] [--only NAME] [--lines]
// `--only` picks one of the machines below, `--lines` prints all that they say. Exit status 1 when a check failed.
import { parseArgs } from 'node:util';
import type { CpioFile } from '../base/cpio.ts';
import { buildInitramfs } from '../base/initramfs.ts';
import type { Boot } from '../base/machine.ts';
import { boot } from '../base/machine.ts';
import type { KernelTree } from '../base/packages.ts';
import { qemu } from '../base/packages.ts';
import { productFiles } from '../base/product.ts';
import { readReport } from '../base/report.ts';
import { withRmrrs } from '../host/dmar.ts';
import { EDU_RMRR, USB_RMRR } from '../host/rmrr-regions.ts';
import { IOMMUFD_CASES } from '../../../src/host/simulated/iommufd-cases.ts';
import type { IommufdSeries } from './kernel.ts';
import { iommufdKernel } from './kernel.ts';

/** For a loaded machine; an idle one needs a minute. */
const SECONDS = 600;
const PROGRAM = '/app/test/vm/iommufd/guest-main.js';
const IOMMU = {
  vtd: ['-device', 'intel-iommu,intremap=on'],
  // Without dma-remap QEMU 11 lets DMA of its own devices through as it is, over the guest's kernel.
  amd: ['-cpu', 'EPYC', '-device', 'amd-iommu,intremap=on,dma-remap=on'],
} as const;
type IommuName = keyof typeof IOMMU;
const EDU = 'edu,dma_mask=0xffffffffffffffff';
const TWO_EDU = ['-device', `${EDU},addr=4`, '-device', `${EDU},addr=5`];
const FOUR_EDU = [...TWO_EDU, '-device', `${EDU},addr=6`, '-device', `${EDU},addr=7`];
const EDU_AND_USB = ['-device', `${EDU},addr=4`, '-device', 'qemu-xhci,addr=5'];

interface Machine {
  readonly args: readonly string[];
  readonly init: string;
  readonly append?: string;
  readonly early?: ReadonlyMap<string, CpioFile>;
}

const { values } = parseArgs({
  options: {
    kernel: { type: 'string', default: '6.12' },
    iommu: { type: 'string', default: 'vtd' },
    only: { type: 'string' },
    lines: { type: 'boolean', default: false },
  },
});
process.exitCode = await main(values.kernel, values.iommu, values.only, values.lines);

async function main(series: string, iommu: string, only: string | undefined, lines: boolean): Promise<number> {
  const all: readonly IommufdSeries[] = ['6.12', '7.2'];
  const wanted = all.filter((each) => series === 'all' || each === series);
  if (wanted.length === 0) throw new RangeError('--kernel must be 6.12, 7.2 or all');
  if (iommu !== 'vtd' && iommu !== 'amd') throw new RangeError('--iommu must be vtd or amd');
  let failed = 0;
  for (const each of wanted) failed += await onKernel(each, iommu, only, lines);
  console.log(failed === 0 ? 'all checks held' : `${failed} checks failed`);
  return failed === 0 ? 0 : 1;
}

/** Runs the machines of one kernel; returns the number of failures. */
async function onKernel(
  series: IommufdSeries,
  iommu: IommuName,
  only: string | undefined,
  lines: boolean,
): Promise<number> {
  const kernel = iommufdKernel(series, (text) => console.log(text));
  console.log(`kernel ${kernel.version} (linux-source ${kernel.packageVersion}), QEMU ${(await qemu()).version}`);
  const makers: Readonly<Record<string, () => Machine | Promise<Machine>>> = {
    main: () => ({ args: [...IOMMU[iommu], ...FOUR_EDU], init: mainScript() }),
    // AMD's way to say the same needs other machines.
    ...(iommu === 'vtd' ? { interrupts: withoutRemapping, reserved: () => withReserved(kernel) } : {}),
  };
  if (only !== undefined && makers[only] === undefined)
    throw new RangeError(`--only must be of ${Object.keys(makers).join(', ')}`);
  const files = productFiles('test/vm/iommufd/guest-main.ts');
  let failed = 0;
  for (const [name, make] of Object.entries(makers)) {
    if (only !== undefined && only !== name) continue;
    failed += told(name, await run(kernel, files, await make()), lines);
  }
  return failed;
}

/** The cases with a limit of locked memory are each run in a process that was started with it. */
function mainScript(): string {
  const limits = new Set(IOMMUFD_CASES.flatMap(({ memlock }) => (memlock === undefined ? [] : [memlock])));
  const limited = [...limits].map(
    (pages) => `( ulimit -l ${pages * 4}; node ${PROGRAM} contract ${pages} ) || failed=1`,
  );
  return [
    'failed=0',
    `node ${PROGRAM} contract || failed=1`,
    ...limited,
    `node ${PROGRAM} dma cut many memory random registers refusals shared shared-device || failed=1`,
    'dmesg | grep -E "BUG|Oops|WARNING|Call Trace" && failed=1',
    'exit $failed',
  ].join('\n');
}

function withoutRemapping(): Machine {
  return { args: ['-device', 'intel-iommu,intremap=off', ...TWO_EDU], init: `node ${PROGRAM} interrupts` };
}

/** Firmware has reserved memory for the edu device and for a USB controller: the machine's own table, with two lines more. */
async function withReserved(kernel: KernelTree): Promise<Machine> {
  const args = [...IOMMU.vtd, ...EDU_AND_USB];
  const init = "od -An -v -tx1 /sys/firmware/acpi/tables/DMAR | tr -d ' \\n'";
  const { lines } = await run(kernel, new Map(), { args, init });
  const digits = lines.map((line) => /444d4152(?:[0-9a-f]{2})+/.exec(line)?.[0]).find((found) => found !== undefined);
  if (digits === undefined) throw new Error(`no DMAR table from the machine: ${lines.join('\n')}`);
  const regions = [EDU_RMRR, USB_RMRR];
  return {
    args,
    init: `node ${PROGRAM} reserved`,
    append: regions.map(({ base }) => `memmap=1M$0x${base.toString(16)}`).join(' '),
    early: new Map([['kernel/firmware/acpi/DMAR.aml', withRmrrs(Buffer.from(digits, 'hex'), regions)]]),
  };
}

async function run(kernel: KernelTree, files: ReadonlyMap<string, CpioFile>, machine: Machine): Promise<Boot> {
  const { args, init, append, early } = machine;
  const initrd = await buildInitramfs({ kernel, modules: [], files, init, ...(early === undefined ? {} : { early }) });
  const more = append === undefined ? {} : { append };
  return boot({ qemu: await qemu(), kernel, initrd, args, seconds: SECONDS, ...more });
}

/** Prints what a machine reported; returns the number of failures, at least 1 when it did not end well. */
function told(name: string, { exit, seconds, lines }: Boot, all: boolean): number {
  const { results, notes } = readReport(lines);
  const failures = results.filter(({ ok }) => !ok);
  if (all) console.log(lines.join('\n'));
  for (const note of notes) console.log(`  ${note}`);
  for (const failure of failures) console.log(`  FAILED ${failure.name}: ${failure.detail ?? ''}`);
  const passed = results.length - failures.length;
  console.log(`${name}: ${passed} passed, ${failures.length} failed, ${exit} after ${seconds.toFixed(1)} s`);
  const ended = exit === 'pass' || (exit === 'fail' && failures.length > 0);
  if (!ended && !all) console.log(lines.slice(-40).join('\n'));
  return Math.max(failures.length, ended && results.length > 0 ? 0 : 1);
}
