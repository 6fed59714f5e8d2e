// A made-up machine for the host tests: /sys, /proc and /dev of a temporary folder, as Linux lays them out.
import { existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

/** A PCI function. */
export interface FakeFunction {
  readonly classCode?: string;
  readonly group?: number;
  readonly driver?: string;
  /** 0 endpoint, 1 bridge. */
  readonly headerType?: number;
  readonly iommu?: string;
  readonly physfn?: string;
  readonly files?: Readonly<Record<string, string>>;
}

export const MSI = '0x00000000fee00000 0x00000000feefffff msi\n';
export const HYPERTRANSPORT = '0x000000fd00000000 0x000000ffffffffff reserved\n';
export const ARM_MSI = '0x0000000008000000 0x00000000080fffff msi\n';

/** One line of reserved_regions. */
export function region(start: number | bigint, end: number | bigint, type: string): string {
  const digits = (value: number | bigint): string => `0x${value.toString(16).padStart(16, '0')}`;
  return `${digits(start)} ${digits(end)} ${type}\n`;
}

/** Hundreds of small files: on a disk making and removing them takes much longer than reading. */
const FOLDER = existsSync('/dev/shm') ? '/dev/shm' : tmpdir();

/** The folder of one machine. */
export class FakeMachine {
  readonly root = mkdtempSync(join(FOLDER, 'viommu-host-'));

  get roots(): { readonly sys: string; readonly proc: string; readonly dev: string } {
    return { sys: this.path('sys'), proc: this.path('proc'), dev: this.path('dev') };
  }

  /** The options that point the command here. */
  get options(): string[] {
    const { sys, proc, dev } = this.roots;
    return ['--sysfs', sys, '--proc', proc, '--dev', dev];
  }

  path(name: string): string {
    return join(this.root, name);
  }

  put(name: string, content: string | Uint8Array): this {
    mkdirSync(dirname(this.path(name)), { recursive: true });
    writeFileSync(this.path(name), content);
    return this;
  }

  folder(name: string): this {
    mkdirSync(this.path(name), { recursive: true });
    return this;
  }

  link(name: string, to: string): this {
    mkdirSync(dirname(this.path(name)), { recursive: true });
    symlinkSync(to, this.path(name));
    return this;
  }

  /** A function below /sys/devices, its link in /sys/bus/pci, its group, driver and IOMMU. */
  pci(
    name: string,
    { classCode = '0x020000', group, driver, headerType = 0, iommu, physfn, files = {} }: FakeFunction,
  ): this {
    const at = `sys/devices/pci0000:00/${name}`;
    const config = new Uint8Array(256);
    config[0x0e] = headerType;
    this.put(`${at}/class`, `${classCode}\n`).put(`${at}/config`, config);
    for (const [file, content] of Object.entries(files)) this.put(`${at}/${file}`, content);
    if (driver !== undefined) this.link(`${at}/driver`, `../../../bus/pci/drivers/${driver}`);
    if (iommu !== undefined) this.link(`${at}/iommu`, `../../virtual/iommu/${iommu}`);
    if (physfn !== undefined) this.link(`${at}/physfn`, `../${physfn}`);
    this.link(`sys/bus/pci/devices/${name}`, `../../../devices/pci0000:00/${name}`);
    if (group === undefined) return this;
    this.link(`${at}/iommu_group`, `../../../kernel/iommu_groups/${group}`);
    return this.link(`sys/kernel/iommu_groups/${group}/devices/${name}`, `../../../../devices/pci0000:00/${name}`);
  }

  group(id: number, reserved: string, type = 'DMA-FQ'): this {
    const at = `sys/kernel/iommu_groups/${id}`;
    return this.put(`${at}/reserved_regions`, reserved).put(`${at}/type`, `${type}\n`);
  }

  /** VFIO and type1 loaded, with the device file of each group given. */
  vfio(...groups: readonly number[]): this {
    this.folder('sys/module/vfio').folder('sys/module/vfio_pci').put('dev/vfio/vfio', '');
    this.put('sys/module/vfio_iommu_type1/parameters/dma_entry_limit', '65535\n');
    this.put('sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts', 'N\n');
    for (const id of groups) this.put(`dev/vfio/${id}`, '');
    return this;
  }

  /** What a PC with VT-d says of itself. */
  pc(kernel = '6.12.95-amd64', interrupts = INTERRUPTS_REMAPPED): this {
    return this.put('proc/sys/kernel/osrelease', `${kernel}\n`)
      .put('proc/cmdline', 'BOOT_IMAGE=/vmlinuz root=/dev/sda1 intel_iommu=on\n')
      .put('proc/cpuinfo', 'processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu vme\n')
      .put('proc/interrupts', interrupts)
      .put('proc/meminfo', 'MemTotal:       16384000 kB\nMemFree:  1 kB\nMemAvailable:   12288000 kB\n')
      .put('proc/self/status', 'Name:\tnode\nVmLck:\t       0 kB\nCapEff:\t0000000000000000\n')
      .put('proc/self/limits', limits('8388608'))
      .put('proc/sys/vm/max_map_count', '65530\n')
      .put('sys/class/iommu/dmar0/intel-iommu/cap', 'd2008c40660462\n')
      .put('sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages', '512\n')
      .put('sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages', '500\n')
      .folder('dev');
  }

  remove(): void {
    rmSync(this.root, { recursive: true, force: true });
  }
}

/** /proc/self/limits with a soft limit of locked memory. */
export function limits(locked: string): string {
  return [
    'Limit                     Soft Limit           Hard Limit           Units     ',
    'Max open files            1024                 524288               files     ',
    `Max locked memory         ${locked.padEnd(20)} ${locked.padEnd(20)} bytes     `,
    'Max address space         unlimited            unlimited            bytes     ',
    '',
  ].join('\n');
}

export const INTERRUPTS_REMAPPED = [
  '           CPU0       CPU1       ',
  '   0:         12          0  IR-IO-APIC    2-edge      timer',
  ' 120:          0          0  IR-PCI-MSI-0000:00:1f.2    0-edge      ahci',
  ' NMI:          1          1   Non-maskable interrupts',
  '',
].join('\n');

export const INTERRUPTS_PLAIN = INTERRUPTS_REMAPPED.replaceAll('IR-', '');
