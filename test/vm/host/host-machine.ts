// The machines of the host tests: this package compiled, with its addon and Node, in an initial file system; the scenarios
// run in one process there (guest-main.ts), and their reports become tests here.
import type { CpioFile } from '../base/cpio.ts';
import { buildInitramfs, discardInitramfs } from '../base/initramfs.ts';
import type { Boot } from '../base/machine.ts';
import { boot } from '../base/machine.ts';
import type { KernelFlavour, KernelSeries } from '../base/packages.ts';
import { kernel, qemu } from '../base/packages.ts';
import { productFiles } from '../base/product.ts';
import { withRmrrs } from './dmar.ts';
import { EDU_RMRR, USB_RMRR } from './rmrr-regions.ts';

/** For a loaded machine; an idle one needs a third of it. */
const SECONDS = 480;

/** A machine for the scenarios of one kind. */
export interface HostMachine {
  readonly series: KernelSeries;
  /** Default `cloud`. */
  readonly flavour?: KernelFlavour;
  /** Key of `SCENARIOS`. */
  readonly kind: string;
  /** IOMMU, devices, processor and memory, behind the defaults of machine.ts. */
  readonly args: readonly string[];
  readonly append?: string;
  readonly early?: ReadonlyMap<string, CpioFile>;
  /** Lines of shell before the scenarios. */
  readonly before?: string;
}

/** The device for DMA; a group of two functions, of which the second one has a host driver; a device with a reset of its own. */
const DEVICES = [
  ...['-device', 'edu,addr=4,dma_mask=0xffffffffffffffff'],
  ...['-device', 'pci-testdev,addr=5.0,multifunction=on', '-device', 'pci-serial,addr=5.1'],
  ...['-device', 'nvme,serial=1,addr=6'],
];

/** MiB of the machine for all but the installation scenario; Node alone takes 100. */
const MEMORY = 768;

/** Intel's IOMMU with interrupt remapping. */
const VTD = ['-device', 'intel-iommu,intremap=on'];

/** AMD's; without `dma-remap` QEMU 11 lets DMA through untranslated, whatever the guest's page tables say. */
const AMD = ['-cpu', 'EPYC', '-device', 'amd-iommu,intremap=on,dma-remap=on'];

/** A machine for `main` or `contract`; `installed` is the size of the installation scenario in MiB. */
export function bootKind(
  kind: string,
  series: KernelSeries,
  iommu: 'vtd' | 'amd' = 'vtd',
  installed = 256,
): Promise<Boot> {
  const args = [...(iommu === 'vtd' ? VTD : AMD), ...DEVICES, '-m', String(MEMORY + installed)];
  const flavour = iommu === 'vtd' ? 'cloud' : 'full';
  return bootHost({ series, flavour, kind, args, before: `export VIOMMU_INSTALL_MIB=${installed}` });
}

/** Compiles, packs, boots and waits for the end. */
export async function bootHost(machine: HostMachine): Promise<Boot> {
  const { series, flavour = 'cloud', kind, args, append, early, before = '' } = machine;
  const emulator = await qemu();
  const tree = await kernel(series, flavour);
  console.log(`QEMU ${emulator.version}, kernel ${tree.version} (${tree.packageVersion})`);
  const initrd = await buildInitramfs({
    kernel: tree,
    modules: [{ name: 'vfio_iommu_type1' }, { name: 'vfio-pci' }],
    files: productFiles('test/vm/host/guest-main.ts'),
    init: `${before}\nnode /app/test/vm/host/guest-main.js ${kind} || { dmesg | grep -E 'DMAR|AMD-Vi|vfio|BUG|Oops|memory|Call' | tail -n 40; exit 1; }\n`,
    ...(early === undefined ? {} : { early }),
  });
  return boot({
    qemu: emulator,
    kernel: tree,
    initrd,
    args,
    seconds: SECONDS,
    ...(append === undefined ? {} : { append }),
  }).finally(() => discardInitramfs(initrd));
}

/** A machine in which firmware has reserved memory for the edu device and for a USB controller. */
export async function bootRmrr(series: KernelSeries): Promise<Boot> {
  const args = [...VTD, '-device', 'edu,addr=4', '-device', 'qemu-xhci,addr=5'];
  const table = withRmrrs(await (dmar ??= dmarOf(args)), [EDU_RMRR, USB_RMRR]);
  const reserve = [EDU_RMRR, USB_RMRR].map(({ base }) => `memmap=1M$0x${base.toString(16)}`);
  return bootHost({
    series,
    kind: 'rmrr',
    args,
    append: reserve.join(' '),
    early: new Map([['kernel/firmware/acpi/DMAR.aml', table]]),
  });
}

let dmar: Promise<Uint8Array> | undefined;

/** The DMAR table that QEMU makes for these devices; the kernel that prints it does not matter. */
async function dmarOf(args: readonly string[]): Promise<Uint8Array> {
  const tree = await kernel('6.1');
  const init = "od -An -v -tx1 /sys/firmware/acpi/tables/DMAR | tr -d ' \\n'";
  const initrd = await buildInitramfs({ kernel: tree, modules: [], files: new Map(), init });
  const machine = boot({ qemu: await qemu(), kernel: tree, initrd, args, seconds: SECONDS });
  const { exit, lines } = await machine.finally(() => discardInitramfs(initrd));
  const digits = lines.map((line) => /444d4152(?:[0-9a-f]{2})+/.exec(line)?.[0]).find((found) => found !== undefined);
  if (exit !== 'pass' || digits === undefined) throw new Error(`no DMAR table from the machine: ${lines.join('\n')}`);
  return Buffer.from(digits, 'hex');
}
