// What the L0 machine needs beside this package: the packages that the command line imports, and a QEMU with L1's kernel.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, readdirSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { CpioFile } from '../base/cpio.ts';
import { buildInitramfs } from '../base/initramfs.ts';
import type { KernelTree, QemuTree } from '../base/packages.ts';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
/** Program and libraries, firmware, and what L1 boots from. */
const QEMU_FOLDER = 'qemu';
/** Firmware that q35 with a kernel and without a display uses. */
const FIRMWARE = ['bios-256k.bin', 'kvmvapic.bin', 'linuxboot_dma.bin', 'linuxboot.bin', 'pvh.bin'];

/** The command by which the L0 machine starts QEMU; the machine's arguments follow. */
export const INNER_QEMU = [
  `/${QEMU_FOLDER}/lib/ld-linux-x86-64.so.2`,
  ...['--library-path', `/${QEMU_FOLDER}/lib`],
  `/${QEMU_FOLDER}/qemu`,
  ...['-L', `/${QEMU_FOLDER}/share`],
];
/** What L1 boots from. */
export const L1_KERNEL = `/${QEMU_FOLDER}/vmlinuz`;
export const L1_INITRD = `/${QEMU_FOLDER}/initrd`;

/** Packages that this one depends on, with theirs, below /app/node_modules; and the version that the command line tells. */
export function dependencyFiles(): Map<string, CpioFile> {
  const files = new Map<string, CpioFile>([['app/package.json', { from: join(ROOT, 'package.json') }]]);
  const wanted = dependenciesOf(ROOT);
  const seen = new Set<string>();
  for (let name = wanted.shift(); name !== undefined; name = wanted.shift()) {
    if (seen.has(name)) continue;
    seen.add(name);
    const folder = join(ROOT, 'node_modules', name);
    for (const path of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
      if (/\.(c?js|mjs|json)$/.test(path)) files.set(`app/node_modules/${name}/${path}`, { from: join(folder, path) });
    }
    wanted.push(...dependenciesOf(folder));
  }
  return files;
}

function dependenciesOf(folder: string): string[] {
  const { dependencies = {} } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as {
    dependencies?: Record<string, string>;
  };
  return Object.keys(dependencies);
}

/** QEMU with the libraries that it is linked to and its firmware, and L1's kernel and initial file system. */
export function innerQemuFiles(qemu: QemuTree, kernel: KernelTree, initrd: string): Map<string, CpioFile> {
  const [loader = '', flag = '', libraries = '', program = '', ...folders] = qemu.command;
  const listed = execFileSync(loader, [flag, libraries, '--list', program], { encoding: 'utf8' });
  const files = new Map<string, CpioFile>([
    [`${QEMU_FOLDER}/qemu`, { from: program, mode: 0o755 }],
    [`${QEMU_FOLDER}/lib/${basename(loader)}`, { from: realpathSync(loader), mode: 0o755 }],
    [L1_KERNEL.slice(1), { from: kernel.vmlinuz }],
    [L1_INITRD.slice(1), { from: initrd }],
  ]);
  for (const [, name = '', path = ''] of listed.matchAll(/^\s*(\S+) => (\/\S+) \(/gm)) {
    files.set(`${QEMU_FOLDER}/lib/${name}`, { from: realpathSync(path), mode: 0o755 });
  }
  for (const folder of folders.filter((each) => each !== '-L' && existsSync(each))) {
    const names = readdirSync(folder).filter((name) => FIRMWARE.includes(name));
    for (const name of names) files.set(`${QEMU_FOLDER}/share/${name}`, { from: join(folder, name) });
  }
  return files;
}

const L1_SCRIPT = `
name=0000:00:04.0
echo vfio-pci > /sys/bus/pci/devices/$name/driver_override
echo $name > /sys/bus/pci/drivers_probe
group=$(basename "$(readlink /sys/bus/pci/devices/$name/iommu_group)")
printf '\\n@@ {"note":"L1: kernel %s, group %s, type %s"}\\n' "$(uname -r)" "$group" "$(cat /sys/kernel/iommu_groups/$group/type)"
/bin/l1-edu $name $group
status=$?
dmesg | grep -iE 'iommu|vfio|viot|BUG|Oops' | tail -n 20
exit $status
`;

/** L1's initial file system: the drivers of the IOMMU and VFIO, and a program that drives the device. */
export async function l1Initrd(kernel: KernelTree): Promise<string> {
  return buildInitramfs({
    kernel,
    modules: [
      { name: 'virtio-iommu' },
      { name: 'vfio_iommu_type1', args: 'allow_unsafe_interrupts=1' },
      { name: 'vfio-pci' },
    ],
    files: new Map([['bin/l1-edu', { content: compiled('l1-edu.c'), mode: 0o755 }]]),
    init: L1_SCRIPT,
  });
}

/** A static program. @throws Error with the compiler's words. */
function compiled(source: string): Uint8Array {
  const folder = mkdtempSync(join(tmpdir(), 'virtio-iommu-c-'));
  try {
    const program = join(folder, 'program');
    const path = fileURLToPath(new URL(source, import.meta.url));
    execFileSync('gcc', ['-O2', '-static', '-Wall', '-Wextra', '-Werror', '-o', program, path], { stdio: 'inherit' });
    return readFileSync(program);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
