// Tests of the text readers: sysfs reserved_regions and kernel logs of several generations.
import { describe, expect, it } from 'vitest';
import { formatDevice } from '../../src/firmware/device-ref.ts';
import { parseKernelLog } from '../../src/firmware/kernel-log.ts';
import type { HostRegion } from '../../src/firmware/region.ts';
import { parseReservedRegions } from '../../src/firmware/sysfs.ts';

const flat = (regions: readonly HostRegion[]): string[] =>
  regions.map((r) => `${r.base.toString(16)}-${r.limit.toString(16)} ${r.devices.map(formatDevice).join(' ')}`.trim());
const what = (read: { warnings: readonly { what: string }[] }): string =>
  read.warnings.map((warning) => warning.what).join('\n');

describe('reserved_regions', () => {
  it('reads the four types without a warning', () => {
    const text =
      '0x0000000001000000 0x0000000001000fff direct\n0x0000000002000000 0x0000000002ffffff direct-relaxable\n' +
      '0x00000000fee00000 0x00000000feefffff msi\n0x000000fd00000000 0x000000ffffffffff reserved\n';
    const read = parseReservedRegions(text);
    expect(read.regions.map((r) => r.type)).toEqual(['direct', 'direct-relaxable', 'msi', 'reserved']);
    expect(read.regions[3]).toMatchObject({ base: 0xfd00000000n, limit: 0xffffffffffn, where: 'line 4' });
    expect(read.warnings).toEqual([]);
  });

  it('flags a software MSI window inside a relaxable region and keeps both', () => {
    const read = parseReservedRegions(
      '0x0000000001000000 0x0000000010ffffff direct-relaxable\n0x0000000008000000 0x00000000080fffff msi\n',
    );
    expect(read.regions).toHaveLength(2);
    expect(what(read)).toMatch(/msi region lies inside the direct-relaxable region of line 1/);
    expect(what(read)).toMatch(/software MSI window/);
  });

  it.each([
    ['0x1 0x2 direct', 'hex digits, the kernel prints 16'],
    ['0x0000000000002000 0x0000000000001000 direct', 'ends before it starts'],
    ['0x0000000000001000 0x0000000000001fff fancy', 'is not known, taken as reserved'],
    ['root@host:~# 0x0000000000001000 0x0000000000001fff direct', 'beside the region'],
    ['nonsense', 'not a reserved region'],
    ['0x00000000000000001 0x0000000000001fff direct', 'more than 16'],
    ['0x0000000000000000 0xffffffffffffffff reserved', 'whole address space'],
    ['0x0000000000002000 0x0000000000002fff direct\n0x0000000000001000 0x0000000000001fff direct', 'not sorted'],
  ])('flags %j', (text, part) => {
    expect(what(parseReservedRegions(text))).toContain(part);
  });

  it('finds the group in the output of grep and of head, and marks the ISA map', () => {
    const grep = '/sys/kernel/iommu_groups/7/reserved_regions:0x0000000000000000 0x0000000000ffffff direct';
    expect(parseReservedRegions(grep)).toMatchObject({ regions: [{ group: 'group 7', pseudo: true }], warnings: [] });
    const head = '==> /sys/kernel/iommu_groups/12/reserved_regions <==\n0x00000000fee00000 0x00000000feefffff msi\n';
    expect(parseReservedRegions(head)).toMatchObject({ regions: [{ group: 'group 12' }], warnings: [] });
  });

  it('reads a byte order mark and carriage returns without a warning', () => {
    const text = '\ufeff0x0000000001000000 0x0000000001000fff direct\r\n0x00000000fee00000 0x00000000feefffff msi\r\n';
    expect(parseReservedRegions(text)).toMatchObject({ regions: [{ where: 'line 1' }, {}], warnings: [] });
  });

  it('takes an empty text as no regions', () => {
    expect(parseReservedRegions('')).toEqual({ regions: [], warnings: [] });
    expect(() => parseReservedRegions(1 as never)).toThrow(TypeError);
  });
});

describe('kernel log', () => {
  const identity = 'Setting identity map for device 0000:02:00.0 [0x7d000000 - 0x7d000fff]';

  it.each([
    ['no prefix', `IOMMU: ${identity}`],
    ['DMAR', `DMAR: ${identity}`],
    ['seconds', `[   12.345678] DMAR: ${identity}`],
    ['caller id', `[   12.345678][    T1] DMAR: ${identity}`],
    ['delta with a decimal comma', `[  +0,000002] DMAR: ${identity}`],
    ['facility and level', `kern  :info  : [    1.2] DMAR: ${identity}`],
    ['syslog', `Jan  9 10:03:12 host kernel: [    1.2] IOMMU: ${identity}`],
    ['syslog with level', `Jan 09 10:03:12.035211 host kern.info kernel: [    1.2] IOMMU: ${identity}`],
    ['ISO time', `2024-01-09T10:03:12+0100 host kernel: DMAR: ${identity}`],
    ['human time', `[Tue Jan  9 10:03:12 2024] DMAR: ${identity}`],
    ['indentation', `\t\t  [    1.2] DMAR: ${identity}`],
    ['mail quoting', `> > [    1.2] DMAR: ${identity}`],
    ['carriage return', `[    1.2] DMAR: ${identity}\r`],
    ['colours', `\u001b[32m[    1.2] \u001b[0m\u001b[33mDMAR: \u001b[0m${identity}`],
    ['device first (5.1 and 5.2)', `[    1.2] pci 0000:02:00.0: DMAR: Setting identity map [0x7d000000 - 0x7d000fff]`],
    ['text behind', `IOMMU: ${identity} (Smart Array)`],
  ])('reads an identity line with prefix: %s', (_, line) => {
    const log = parseKernelLog(`${line}\n`);
    expect(flat(log.regions)).toEqual(['7d000000-7d000fff 0000:02:00.0']);
    expect(log.warnings).toEqual([]);
  });

  it.each([
    ['at a space', '[    1.2] DMAR: RMRR base:\n0x0000007d000000 end: 0x0000007d000fff\n'],
    [
      'twice, quoted',
      '> May 30 17:32:17 localhost kernel: [    0.1] DMAR:\n> RMRR base: 0x0000007d000000\n> end: 0x0000007d000fff\n',
    ],
    ['inside a number', '[    1.2] DMAR: RMRR base: 0x0000007d000000 end: 0x0000007d0\n00fff\n[    1.3] x\n'],
    ['inside a word', '[    1.2] DMAR: RMRR ba\nse: 0x0000007d000000 end: 0x0000007d000fff\n[    1.3] x\n'],
  ])('joins a record that is wrapped %s', (_, text) => {
    const log = parseKernelLog(text);
    expect(flat(log.regions)).toEqual(['7d000000-7d000fff']);
    expect(log.warnings).toEqual([]);
  });

  it('joins range lines and device lines by range and counts repeats once', () => {
    const log = parseKernelLog(
      [
        'RMRR base: 0x0000007d000000 end: 0x0000007d000fff',
        'RMRR base: 0x0000007e000000 end: 0x0000007e000fff',
        identity,
        identity,
        identity.replace('02:00.0', '03:00.0'),
      ].join('\n'),
    );
    expect(flat(log.regions)).toEqual(['7d000000-7d000fff 0000:02:00.0 0000:03:00.0', '7e000000-7e000fff']);
    expect(log.rmrrBase).toHaveLength(2);
  });

  it('marks the ISA map as no RMRR', () => {
    const log = parseKernelLog(
      'DMAR: Prepare 0-16MiB unity mapping for LPC\nDMAR: Setting identity map for device 0000:00:1f.0 [0x0 - 0xffffff]\n',
    );
    expect(log.lpcWorkaround).toBe(true);
    expect(log.regions[0]?.pseudo).toBe(true);
  });

  it('takes a 9-digit limit literally and flags it with its line', () => {
    const log = parseKernelLog('x\nIOMMU: Setting identity map for device 0000:01:00.4 [0xbdff6000 - 0xbdfffcfff]\n');
    expect(flat(log.regions)).toEqual(['bdff6000-bdfffcfff 0000:01:00.4']);
    for (const part of ['contains the MSI window', 'crosses 4 GiB', 'typo of 0xbdffcfff'])
      expect(what(log)).toContain(part);
    expect(new Set(log.warnings.map(({ where }) => where))).toEqual(new Set(['line 2']));
  });

  it.each([
    ['RMRR base: 0x0000007d000000 end: 0x000', 'cut off inside its limit'],
    ['DMAR: RMRR base: 0x0000', 'cut off or damaged'],
    ['DMAR: Setting identity map for device 0000:02', 'cut off or damaged'],
    ['RMRR base: 0x0000000000000007d000000 end: 0x0000007d000fff', ''],
  ])('does not read a cut record: %j', (text, part) => {
    const log = parseKernelLog(text);
    expect(log.regions).toEqual([]);
    expect(what(log)).toContain(part);
  });

  it('reads both refusal messages, with and without device', () => {
    const log = parseKernelLog(
      [
        'vfio-pci 0000:01:00.1: Device is ineligible for IOMMU domain attach due to platform RMRR requirement. Contact your platform vendor.',
        '[ 1.0] vfio-pci 0000:04:00.1: DMAR: Device is ineligible for IOMMU domain attach due to platform RMRR requirement.  Contact your platform vendor.',
        '[ 2.0] vfio-pci 0000:05:00.0: Firmware has requested this device have a 1:1 IOMMU mapping, rejecting configuring the device without a 1:1 mapping. Contact your platform vendor.',
        'Device is ineligible for IOMMU domain attach...',
        'vfio-pci 0000:01:00.1: Device is ineligible for IOMMU domain attach due to platform RMRR requirement.',
      ].join('\n'),
    );
    expect(log.refusals.map(({ device, rule, line }) => `${device ?? '-'} ${rule} ${line}`)).toEqual([
      '0000:01:00.1 rmrr-locked 1',
      '0000:04:00.1 rmrr-locked 2',
      '0000:05:00.0 require-direct 3',
      '- rmrr-locked 4',
    ]);
    expect(log.refusals[1]?.driver).toBe('vfio-pci');
  });

  it('reads the other facts', () => {
    const log = parseKernelLog(
      [
        '[    0.0] Linux version 5.15.39-1-pve (x@y) #1 SMP',
        '[    0.0] Command line: root=/dev/x intel_iommu=on,relax_rmrr quiet',
        '[    0.0] BIOS-e820: [mem 0x000000007d000000-0x000000007d000fff] reserved',
        '[    0.0] BIOS-e820: 000000007e000000 - 000000007e001000 (ACPI NVS)',
        '[    0.1] DMAR: Host address width 39',
        '[    0.1] DMAR: RMRR base: 0x0000007d000000 end: 0x0000007d000fff',
        '[    0.1] DMAR: RMRR base: 0x0000007e000000 end: 0x0000007e000fff',
        '[    0.1] DMAR: RMRR base: 0x0000007f000000 end: 0x0000007f000fff',
        '[    0.1] DMAR: [Firmware Bug]: No firmware reserved region can cover this RMRR [0x000000007f000000-0x000000007f000fff], contact BIOS vendor for fixes',
        '[    0.1] DMAR: [Firmware Bug]: Your BIOS is broken; bad RMRR [0x000000007f000000-0x000000007f000fff]',
        '               BIOS vendor: Some Vendor; Ver: 1.2; Product Version: P 3',
        '[    0.2] DMAR: [Firmware Bug]: RMRR entry for device 03:00.0 is broken - applying workaround',
        '[    0.3] pci 0000:00:1b.0: Adding to iommu group 4',
        '[    0.4] DMAR: Intel-IOMMU: assuming all RMRRs are relaxable. This can lead to instability or data loss',
        '[    0.5] DMAR: No RMRR found',
      ].join('\n'),
    );
    expect(log).toMatchObject({
      kernel: '5.15.39-1-pve',
      relaxRequested: true,
      relaxAllRmrr: true,
      noRmrr: true,
      hostAddressWidth: 39,
    });
    expect(log.bios).toEqual({ vendor: 'Some Vendor', version: '1.2', product: 'P 3' });
    expect(log.brokenScope).toEqual(['0000:03:00.0']);
    expect([...log.groups]).toEqual([['0000:00:1b.0', '4']]);
    expect(log.notCovered).toHaveLength(1);
    expect(log.badRmrr).toHaveLength(1);
    const map = log.warnings.filter(({ what: text }) => /reserved entry|ACPI NVS/.test(text)).map(({ where }) => where);
    expect(map).toEqual(['line 7', 'line 8']);
  });

  it('flags what older kernels say of bad entries', () => {
    const log = parseKernelLog(
      'IOMMU: RMRR ends before it starts!\nIOMMU: RMRR exceeds permitted address width (39 bits)\n',
    );
    expect(what(log)).toMatch(
      /ends before it starts\nthe kernel says: RMRR exceeds permitted address width \(39 bits\)/,
    );
  });

  it('flags ranges that overlap, but not the ISA map and not neighbours', () => {
    const log = parseKernelLog(
      [
        'DMAR: Setting identity map for device 0000:00:1f.0 [0x0 - 0xffffff]',
        'DMAR: RMRR base: 0x00000000100000 end: 0x000000001fffff',
        'DMAR: RMRR base: 0x0000007d000000 end: 0x0000007d000fff',
        'DMAR: RMRR base: 0x0000007d001000 end: 0x0000007d003fff',
        'DMAR: RMRR base: 0x0000007d003000 end: 0x0000007d004fff',
      ].join('\n'),
    );
    expect(log.warnings).toEqual([
      {
        where: 'line 5',
        what: 'reserved range [0x7d003000-0x7d004fff] overlaps [0x7d001000-0x7d003fff] at line 4',
      },
    ]);
  });

  it('reads the memory definitions of AMD hosts (amd_iommu_dump), old form and with segments', () => {
    const log = parseKernelLog(
      [
        '[ 0.1] AMD-Vi: IVMD_TYPEi\t\t\t devid_start: 0001:00:0c.0 devid_end: 0001:00:0c.0 range_start: 000000007d900000 range_end: 000000007da00000 flags: 7',
        '[ 0.1] AMD-Vi: IVMD_TYPE_RANGE\t\t devid_start: 00:00.0 devid_end: 0f:1f.7 range_start: 0000000075e00000 range_end: 0000000075e20000 flags: 8',
      ].join('\n'),
    );
    expect(flat(log.regions)).toEqual([
      '7d900000-7d9fffff 0001:00:0c.0',
      '75e00000-75e1ffff 0000:00:00.0-0000:0f:1f.7',
    ]);
    expect(log.regions.map(({ platform, exclusion, segment }) => [platform, exclusion, segment])).toEqual([
      ['amd', undefined, 1],
      ['amd', true, 0],
    ]);
    expect(log.warnings).toEqual([]);
  });

  it('reads what Arm kernels say of odd RMR descriptors', () => {
    const log = parseKernelLog(
      [
        '[ 0.1] ACPI: IORT: [Firmware Bug]: RMR descriptor[0x10000800 - 0x100017ff] not aligned to 64K, continue with [0x10000000 - 0x10001fff]',
        '[ 0.1] ACPI: IORT: [Firmware Bug]: RMR descriptor[0x20000000 - 0x2000ffff] overlaps with [0x20008000 - 0x2001ffff], continue anyway',
        '[ 0.1] ACPI: IORT: [Firmware Bug]: RMR descriptor[0x30000000] with zero length, continue anyway',
      ].join('\n'),
    );
    expect(flat(log.regions)).toEqual(['10000800-100017ff', '20000000-2000ffff']);
    expect(log.regions[0]).toMatchObject({
      platform: 'arm',
      effective: { start: 0x10000000n, end: 0x10001fffn },
    });
    for (const part of ['not aligned to 64 KiB', 'overlaps with', 'zero length']) expect(what(log)).toContain(part);
  });

  it('reads groups in the words of both times', () => {
    const log = parseKernelLog(
      '[ 0.3] iommu: Adding device 0000:00:1b.0 to group 4\n[ 0.3] pci 0000:00:1c.0: Adding to iommu group 5\n',
    );
    expect([...log.groups]).toEqual([
      ['0000:00:1b.0', '4'],
      ['0000:00:1c.0', '5'],
    ]);
  });

  it('reads a log with a byte order mark and carriage returns like one without', () => {
    const lines = ['[ 0.1] DMAR: RMRR base: 0x0000007d000000 end: 0x0000007d000fff', `DMAR: ${identity}`];
    const plain = parseKernelLog(lines.join('\n'));
    expect(parseKernelLog(`\ufeff${lines.join('\r\n')}\r\n`)).toEqual(plain);
  });

  it('bounds what it keeps of an endless log', () => {
    const lines = Array.from(
      { length: 20_000 },
      (_, i) => `RMRR base: 0x${(0x1000_0000 + i * 4096).toString(16)} end: 0x${(0x1000_0fff + i * 4096).toString(16)}`,
    );
    const log = parseKernelLog(lines.join('\n'));
    expect(log.regions).toHaveLength(1 << 14);
    expect(what(log)).toContain('further ones are not kept');
  });
});
