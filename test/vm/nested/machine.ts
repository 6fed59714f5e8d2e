// The L0 machine: a host with an emulated VT-d and the edu device as its "physical" device, in which this package's `serve`
// passes that device on. Not here: what is checked (direct.ts, nested.ts, which run in the machine).
import { buildInitramfs } from '../base/initramfs.ts';
import type { Boot } from '../base/machine.ts';
import { boot } from '../base/machine.ts';
import { kernel, qemu } from '../base/packages.ts';
import { productFiles } from '../base/product.ts';
import { dependencyFiles, innerQemuFiles, l1Initrd } from './files.ts';

const PROGRAM = 'test/vm/nested/inner-main.ts';
const DEVICES = [
  ...['-device', 'intel-iommu,intremap=on', '-device', 'edu,addr=4,dma_mask=0xffffffffffffffff'],
  // Registers that are served are a conversation of three processes.
  ...['-smp', '2', '-accel', 'tcg,thread=multi'],
];

/** One level: a client that is a test. Time-out for a loaded machine. */
export function bootDirect(onLine?: (line: string) => void): Promise<Boot> {
  return bootL0('direct', { memory: 1024, seconds: 600, nested: false, ...(onLine === undefined ? {} : { onLine }) });
}

/** Two levels: the client is QEMU in the L0 machine, which boots L1. An idle machine of two cores needs some five minutes. */
export function bootNested(onLine?: (line: string) => void): Promise<Boot> {
  return bootL0('nested', { memory: 3072, seconds: 3600, nested: true, ...(onLine === undefined ? {} : { onLine }) });
}

interface L0Options {
  /** MiB. */
  readonly memory: number;
  readonly seconds: number;
  readonly nested: boolean;
  readonly onLine?: (line: string) => void;
}

async function bootL0(kind: string, { memory, seconds, nested, onLine }: L0Options): Promise<Boot> {
  const emulator = await qemu();
  const tree = await kernel('6.12');
  console.log(`QEMU ${emulator.version}, kernel ${tree.version} (${tree.packageVersion})`);
  const inner = nested ? innerQemuFiles(emulator, tree, await l1Initrd(tree)) : [];
  const initrd = await buildInitramfs({
    kernel: tree,
    modules: [{ name: 'vfio_iommu_type1' }, { name: 'vfio-pci' }],
    files: new Map([...productFiles(PROGRAM, 'src/cli/main.ts'), ...dependencyFiles(), ...inner]),
    init: `node /app/${PROGRAM.replace(/ts$/, 'js')} ${kind} || { dmesg | grep -E 'DMAR|vfio|BUG|Oops|memory|Call' | tail -n 40; exit 1; }\n`,
  });
  return boot({
    qemu: emulator,
    kernel: tree,
    initrd,
    append: 'intel_iommu=on',
    args: [...DEVICES, '-m', String(memory)],
    seconds,
    ...(onLine === undefined ? {} : { onLine }),
  });
}
