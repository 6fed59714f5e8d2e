// QEMU's own virtio-iommu, driven by the same guest: what a device does that the driver has long known. Its trace is read
// into the requests that it served. Not here: our device (machine.ts).
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { buildInitramfs } from '../base/initramfs.ts';
import type { Boot } from '../base/machine.ts';
import { boot } from '../base/machine.ts';
import type { KernelTree } from '../base/packages.ts';
import { qemu } from '../base/packages.ts';
import { removedLater } from './backend.ts';

/** A request that QEMU's device served; numbers as its trace has them, ends INCLUSIVE. */
export interface ReferenceRequest {
  readonly op: 'ATTACH' | 'DETACH' | 'MAP' | 'UNMAP';
  readonly fields: Readonly<Record<string, number>>;
}

/** How a guest ran on QEMU's device. */
export interface ReferenceRun {
  readonly boot: Boot;
  readonly requests: readonly ReferenceRequest[];
}

const EVENTS = ['attach', 'detach', 'map', 'unmap'] as const;
const LINE = /^virtio_iommu_(attach|detach|map|unmap) (.*)$/gm;

/** Boots a guest with QEMU's virtio-iommu at 00:01.0 and a translated virtio-rng at 00:03.0. */
export async function runReference(options: {
  kernel: KernelTree;
  script: string;
  append?: string;
}): Promise<ReferenceRun> {
  const { kernel, script, append = '' } = options;
  const folder = mkdtempSync(join(tmpdir(), 'virtio-iommu-reference-'));
  try {
    const trace = join(folder, 'trace.txt');
    const modules = [{ name: 'virtio-iommu' }, { name: 'virtio-rng' }];
    const initrd = await buildInitramfs({ kernel, modules, files: new Map(), init: script });
    removedLater(dirname(initrd));
    const args = ['-m', '256M', '-device', 'virtio-iommu-pci,addr=1.0'];
    args.push('-device', 'virtio-rng-pci,iommu_platform=on,disable-legacy=on,addr=3.0');
    args.push('-D', trace, ...EVENTS.flatMap((event) => ['-trace', `virtio_iommu_${event}`]));
    const done = await boot({ qemu: await qemu(), kernel, initrd, append, args, seconds: 240 });
    return { boot: done, requests: readRequests(readFileSync(trace, 'utf8')) };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function readRequests(text: string): ReferenceRequest[] {
  return [...text.matchAll(LINE)].map(([, event = '', rest = '']) => ({
    op: event.toUpperCase() as ReferenceRequest['op'],
    fields: Object.fromEntries([...rest.matchAll(/(\w+)=(\w+)/g)].map(([, key = '', value]) => [key, Number(value)])),
  }));
}
