// The rmrr command over files of every kind, a copy of /sys, and a live host below a made-up root.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CliError } from '../../src/cli/errors.ts';
import { rmrrCommand } from '../../src/cli/rmrr.ts';
import type { HostRoots } from '../../src/host/sysfs.ts';
import { readHost, readSysfs } from '../../src/host/sysfs.ts';
import { codes, dmar, ivmd, ivrs, rmrr, scope, structure } from './acpi-builder.ts';

let root = '';
const file = (name: string): string => join(root, name);
function put(name: string, content: string | Uint8Array): string {
  mkdirSync(dirname(file(name)), { recursive: true });
  writeFileSync(file(name), content);
  return file(name);
}

interface Result {
  readonly out: string;
  readonly code: number;
}
interface ReportJson {
  regions: { source: string; base: string; limit: string; segment: number; type: string; devices: string[] }[];
  warnings: { where: string; what: string }[];
  components: string[][];
  reservedMemory: Record<string, { subtype: number; start: string; end: string }[]>;
  holes: { start: string; end: string }[];
  devices: { device: string; verdict: string; class: string | null }[];
  relaxRmrr: string;
  kernel: string;
}

function run(...args: string[]): Result {
  return runAt({}, ...args);
}

function runAt(more: HostRoots, ...args: string[]): Result {
  let out = '';
  let code = 0;
  const io = {
    write: (text: string) => void (out += text),
    setExitCode: (value: number) => void (code = value),
    roots: { sys: file('sys'), proc: file('proc'), ...more },
  };
  const command = rmrrCommand(io).exitOverride();
  for (const sub of command.commands) sub.exitOverride().configureOutput({ writeErr: () => undefined });
  command.parse(args, { from: 'user' });
  return { out, code };
}
const json = (...args: string[]): ReportJson => JSON.parse(run(...args, '--json').out) as ReportJson;

const table = dmar([
  rmrr(0x7d000000n, 0x7d000fffn, [
    scope(1, 0, [
      [0x1c, 7],
      [0, 0],
    ]),
    scope(1, 0, [[0x1d, 0]]),
  ]),
  rmrr(0x7e000000n, 0x7e000fffn, [scope(1, 0, [[0x1d, 0]])]),
]);

/** Makes a function of a fake /sys: real directory, link in bus/pci/devices, class, group link. */
function pci(path: string, classCode: string, group?: number, files: Record<string, string> = {}): void {
  const name = path.split('/').at(-1)!;
  put(`sys/devices/${path}/class`, `${classCode}\n`);
  for (const [key, value] of Object.entries(files)) put(`sys/devices/${path}/${key}`, value);
  mkdirSync(file('sys/bus/pci/devices'), { recursive: true });
  symlinkSync(`../../../devices/${path}`, file(`sys/bus/pci/devices/${name}`));
  if (group === undefined) return;
  mkdirSync(file(`sys/kernel/iommu_groups/${group}/devices`), { recursive: true });
  symlinkSync(file(`sys/devices/${path}`), file(`sys/kernel/iommu_groups/${group}/devices/${name}`));
}

beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'rmrr-'));
  put('dmar.aml', table);
  put('ivrs.aml', ivrs([ivmd({ type: 0x21, flags: 8, deviceId: 0x300, start: 0x71000000n, length: 0x1000n })]));
  put('free', '0x00000000fee00000 0x00000000feefffff msi\n');
  put('none.aml', ivrs([]));
  put('log.txt', '[ 0.1] Linux version 5.15.1 (x)\n[ 0.2] DMAR: RMRR base: 0x0000007d000000 end: 0x0000007d000fff\n');
  put('regions', '0x000000007d000000 0x000000007d000fff direct\n0x00000000fee00000 0x00000000feefffff msi\n');
  pci('pci0000:00/0000:00:1c.7', '0x060400', undefined, { secondary_bus_number: '1\n', subordinate_bus_number: '1\n' });
  pci('pci0000:00/0000:00:1c.7/0000:01:00.0', '0x088000', 3);
  pci('pci0000:00/0000:00:1d.0', '0x0c0320', 4);
  pci('pci0000:00/0000:00:03.0', '0x020000', 5);
  put(
    'sys/kernel/iommu_groups/3/reserved_regions',
    '0x000000007d000000 0x000000007d000fff direct\n0x00000000fee00000 0x00000000feefffff msi\n',
  );
  put(
    'sys/kernel/iommu_groups/4/reserved_regions',
    '0x000000007d000000 0x000000007d000fff direct-relaxable\n0x000000007e000000 0x000000007e000fff direct-relaxable\n0x00000000fee00000 0x00000000feefffff msi\n',
  );
  put('sys/kernel/iommu_groups/5/reserved_regions', '0x00000000fee00000 0x00000000feefffff msi\n');
  put('sys/firmware/acpi/tables/DMAR', table);
  put('proc/sys/kernel/osrelease', '6.12.107-amd64\n');
  put('proc/cmdline', 'root=/dev/x intel_iommu=on,relax_rmrr\n');
});
afterAll(() => {
  rmSync(root, { recursive: true, force: true });
});

describe('rmrr report', () => {
  it('gives the documented JSON for a table', () => {
    const report = json('report', '--dmar', file('dmar.aml'));
    expect(report.regions).toMatchObject([
      {
        source: 'dmar',
        base: '0x7d000000',
        limit: '0x7d000fff',
        segment: 0,
        type: 'direct',
        devices: ['0000:00/1c.7/00.0', '0000:00:1d.0'],
      },
      {
        source: 'dmar',
        base: '0x7e000000',
        limit: '0x7e000fff',
        segment: 0,
        type: 'direct',
        devices: ['0000:00:1d.0'],
      },
    ]);
    expect(report.warnings).toEqual([]);
    expect(report.components).toEqual([['0000:00/1c.7/00.0', '0000:00:1d.0']]);
    expect(report.reservedMemory['0000:00:1d.0']).toEqual([
      { subtype: 0, start: '0x7d000000', end: '0x7d000fff' },
      { subtype: 0, start: '0x7e000000', end: '0x7e000fff' },
      { subtype: 1, start: '0xfee00000', end: '0xfeefffff' },
    ]);
    expect(report.holes.map(({ start, end }) => `${start}-${end}`)).toEqual([
      '0x7d000000-0x7d000fff',
      '0x7e000000-0x7e000fff',
      '0xfee00000-0xfeefffff',
    ]);
  });

  it('is the default subcommand and mixes sources', () => {
    const report = json(
      '--dmar',
      file('dmar.aml'),
      '--ivrs',
      file('ivrs.aml'),
      '--sysfs',
      file('regions'),
      '--dmesg',
      file('log.txt'),
    );
    expect(report.regions.map(({ source }) => source)).toEqual(['dmar', 'dmar', 'ivrs', 'sysfs', 'sysfs', 'dmesg']);
    expect(report.kernel).toBe('5.15');
  });

  it('finds the members of a group beside its reserved_regions', () => {
    const report = json('report', '--sysfs', file('sys/kernel/iommu_groups/3/reserved_regions'));
    expect(report.regions[0]).toMatchObject({ source: 'sysfs', devices: ['0000:01:00.0'] });
    expect(Object.keys(json('report', '--sysfs', file('regions')).reservedMemory)).toEqual(['group of regions']);
  });

  it('resolves a table on a copy of /sys and names classes', () => {
    const report = json('report', '--dmar', file('dmar.aml'), '--sysfs', file('sys'), '--kernel', '6.12');
    expect(report.regions[0]).toMatchObject({ type: 'direct', devices: ['0000:01:00.0', '0000:00:1d.0'] });
    expect(report.regions[1]).toMatchObject({ type: 'direct-relaxable', devices: ['0000:00:1d.0'] });
    expect(report.devices.map(({ device, verdict, class: kind }) => `${device} ${verdict} ${kind ?? ''}`)).toEqual([
      '0000:00:03.0 assignable Ethernet controller',
      '0000:00:1d.0 relaxable USB controller',
      '0000:01:00.0 refused System peripheral',
    ]);
    expect(report.warnings).toEqual([]);
  });

  it('reads the live host when no source is given', () => {
    const report = json('report');
    expect(report).toMatchObject({ kernel: '6.12', relaxRmrr: 'requested' });
    expect(report.regions.filter(({ source }) => source === 'dmar')).toHaveLength(2);
    expect(report.devices).toHaveLength(3);
  });

  it('reads the log of a live host where it may, without its annotations', () => {
    put(
      'dev/kmsg',
      '6,1,100,-;Linux version 6.6.1 (x)\n6,339,5140900,-;DMAR: RMRR base: 0x0000007d000000 end: 0x0000007d000fff\n SUBSYSTEM=acpi\n' +
        '4,340,106509326,-,caller=T1;vfio-pci 0000:00:03.0: Firmware has requested this device have a 1:1 IOMMU mapping\n',
    );
    expect(readHost({ sys: file('sys'), proc: file('proc'), dev: file('dev') }).kernelLog).toBe(
      '[    0.000100] Linux version 6.6.1 (x)\n[    5.140900] DMAR: RMRR base: 0x0000007d000000 end: 0x0000007d000fff\n' +
        '[  106.509326] vfio-pci 0000:00:03.0: Firmware has requested this device have a 1:1 IOMMU mapping\n',
    );
    expect(readHost({ sys: file('sys'), proc: file('proc') }).kernelLog).toBeUndefined();
    expect(readHost({ sys: file('sys'), dev: file('nowhere') }).kernelLog).toBeUndefined();
    const report = JSON.parse(runAt({ dev: file('dev') }, 'report', '--json').out) as ReportJson;
    expect(report.regions.some(({ source }) => source === 'dmesg')).toBe(true);
    expect(report.devices.find(({ device }) => device === '0000:00:03.0')?.verdict).toBe('refused');
    expect(report.kernel).toBe('6.12');
  });

  it('judges a log without version by the wording of its refusal', () => {
    put(
      'old.log',
      'vfio-pci 0000:01:00.1: Device is ineligible for IOMMU domain attach due to platform RMRR requirement.\n',
    );
    const { out } = run('report', '--dmesg', file('old.log'));
    expect(out).toContain('judged for Linux 6.5');
    expect(out).toContain('REFUSED (EPERM): 0000:01:00.1');
    expect(out).toContain('worded as in 3.17 to ~6.5');
    expect(json('report', '--dmesg', file('old.log'), '--kernel', '6.12').kernel).toBe('6.12');
  });

  it('takes the directory of one group', () => {
    const report = json('report', '--sysfs', file('sys/kernel/iommu_groups/3'));
    expect(report.regions[0]).toMatchObject({ source: 'sysfs', devices: ['0000:01:00.0'] });
  });

  it('says in its first lines which devices are refused, why, and what to do', () => {
    const { out } = run('report', '--dmar', file('dmar.aml'), '--sysfs', file('sys'), '--kernel', '6.12');
    const head = out.split('\n').slice(2, 9).join('\n');
    for (const part of ['REFUSED (EINVAL): 0000:01:00.0', 'why     ', 'memory  0x7d000000-0x7d000fff', 'to do   1. '])
      expect(head).toContain(part);
    expect(out).toContain('ASSIGNABLE, THOUGH MEMORY IS RESERVED: 0000:00:1d.0');
    expect(out).toContain('ASSIGNABLE: 0000:00:03.0: nothing is reserved for it');
    const named = run('report', '--dmar', file('dmar.aml'), '--device', '00:1d.0').out;
    expect(named).toContain('Other devices: 1 refused');
  });

  it('names the RAM that the holes cost', () => {
    const report = JSON.parse(run('report', '--dmar', file('dmar.aml'), '--ram', '4G', '--json').out) as {
      layout: { lost: string };
    };
    expect(report.layout.lost).toBe('0x2000');
    expect(run('report', '--dmar', file('dmar.aml'), '--ram', '4G').out).toContain('Lost: 8 KiB in 2 places');
  });

  it('has examples in its help', () => {
    for (const command of [rmrrCommand(), ...rmrrCommand().commands]) {
      let help = '';
      command.configureOutput({ writeOut: (text) => void (help += text) });
      command.outputHelp();
      expect(help).toContain('$ virtio-iommu rmrr report --dmar');
      expect(help).toContain('Exit status: 0');
    }
  });

  it('ends with status 1 exactly when a named device is not assignable', () => {
    const source = ['--dmar', file('dmar.aml')];
    expect(run('report', ...source).code).toBe(0);
    expect(run('report', ...source, '--device', '00:1d.0').code).toBe(1);
    expect(run('report', ...source, '--device', '00:1d.0', '--class', '00:1d.0=0x0c0320').code).toBe(0);
    expect(run('report', ...source, '--device', '00:1d.0', '--kernel', '3.10').code).toBe(0);
    expect(run('report', ...source, '--device', '00:1d.0', '--relax-rmrr').code).toBe(0);
    expect(run('report', ...source, '--device', '0000:00/1c.7/00.0').code).toBe(1);
    expect(run('report', ...source, '--device', '0000:00:03.0').code).toBe(0);
    expect(run('report', '--sysfs', file('sys'), '--device', '0000:00:03.0', '--device', '0000:01:00.0').code).toBe(1);
    expect(run('report', '--sysfs', file('sys'), '--device', '0000:09:00.0').code).toBe(1);
    expect(run('report', '--sysfs', file('regions'), '--device', '0000:09:00.0').code).toBe(1);
    expect(run('report', '--sysfs', file('free'), '--device', '0000:09:00.0').code).toBe(0);
  });

  it('prints a text with regions, verdicts per kernel, sharing, remedies and warnings', () => {
    const { out } = run('report', '--dmar', file('dmar.aml'), '--kernel', '5.10');
    for (const part of [
      '0x7d000000-0x7d000fff',
      'REFUSED (EPERM) ~: 0000:00/1c.7/00.0, 0000:00:1d.0',
      'memory  0x7d000000-0x7d000fff, 0x7e000000-0x7e000fff',
      'to do   1. class: ',
      '~6.6 and later',
      'Sharing',
      'approximate',
      'Device is ineligible',
    ])
      expect(out).toContain(part);
  });

  it.each<[string, () => string[], RegExp]>([
    ['a missing file', () => ['--dmar', file('nothing')], /nothing: cannot be read \(ENOENT\)/],
    ['a directory', () => ['--dmar', root], /is a directory/],
    ['another table', () => ['--dmar', file('ivrs.aml')], /not a readable DMAR table \(.*"IVRS"\)/],
    ['a text as table', () => ['--iort', file('log.txt')], /not a readable IORT table/],
    ['a table as sysfs', () => ['--sysfs', file('dmar.aml')], /no line of reserved_regions/],
    ['a directory without groups', () => ['--sysfs', file('proc')], /no IOMMU groups/],
    ['a table as log', () => ['--dmesg', file('dmar.aml')], /not a text/],
    ['a bad version', () => ['--kernel', 'new'], /--kernel/],
    ['a bad device', () => ['--device', 'eth0'], /--device/],
    ['a bad class', () => ['--class', '00:02.0=vga'], /--class/],
    ['a bad platform', () => ['--arch', 'mips'], /--arch/],
    ['a bad mode', () => ['--mode', 'x'], /--mode/],
    ['a bad window', () => ['--msi', '2-1'], /--msi/],
    ['a bad width', () => ['--input-bits', '65'], /--input-bits/],
  ])('refuses %s in one line with status 2', (_, args, message) => {
    let error: unknown;
    try {
      run('report', ...args());
    } catch (caught) {
      error = caught;
    }
    expect(error).toBeInstanceOf(CliError);
    expect(error).toMatchObject({ exitCode: 2 });
    expect((error as Error).message).toMatch(message);
    expect((error as Error).message).not.toContain('\n');
  });
});

describe('rmrr diff, holes, graph', () => {
  it('compares sources', () => {
    const diff = JSON.parse(run('diff', '--dmar', file('dmar.aml'), '--dmesg', file('log.txt'), '--json').out) as {
      diff: { differences: { base: string; missing: string }[] };
    };
    expect(diff.diff.differences).toMatchObject([{ base: '0x7e000000', missing: 'dmesg' }]);
    expect(run('diff', '--dmar', file('dmar.aml'), '--sysfs', file('sys')).out).toContain('same firmware memory');
    expect(run('diff', '--dmar', file('dmar.aml')).out).toContain('Two kinds of sources');
  });

  it('cuts RAM and judges a hot-added device', () => {
    const holes = JSON.parse(run('holes', '--dmar', file('dmar.aml'), '--ram', '4G', '--json').out) as {
      ram: { start: string; end: string }[];
      lost: string;
    };
    expect(holes.lost).toBe('0x2000');
    expect(holes.ram[1]).toEqual({ start: '0x7d001000', end: '0x7dffffff' });
    const text = run('holes', '--dmar', file('dmar.aml'), '--ram-range', '0-0x7dffffff', '--device', '00:1d.0').out;
    expect(text).toContain('refuse it: the guest has RAM at [0x7d000000, 0x7d000fff]');
    expect(run('holes', '--dmar', file('dmar.aml'), '--mode', 'translated').out).toContain('none');
  });

  it('keeps text and picture of a huge table short', () => {
    const scopes = Array.from({ length: 3000 }, (_, i) => scope(1, i >> 8, [[(i >> 3) & 31, i & 7]]));
    const many = Array.from({ length: 400 }, (_, i) => {
      const base = 0x20000000n + BigInt(i) * 0x2000n;
      return rmrr(base, base + 0xfffn, [scope(1, 0, [[i % 32, i >> 5]])]);
    });
    put('huge.aml', dmar([rmrr(0x1000000n, 0x1000fffn, scopes), ...many]));
    const text = run('report', '--dmar', file('huge.aml')).out;
    expect(text).toContain('more rows, see --json');
    expect(text.length).toBeLessThan(300_000);
    const svg = run('graph', '--dmar', file('huge.aml'), '--svg', '-').out;
    expect(svg).toContain('devices tied by shared memory, 400 of them drawn');
    expect(svg.length).toBeLessThan(1_000_000);
  });

  it('draws the ties and escapes what firmware wrote', () => {
    run('graph', '--dmar', file('dmar.aml'), '--svg', file('out.svg'));
    const svg = readFileSync(file('out.svg'), 'utf8');
    expect(svg).toMatch(/^<svg xmlns/);
    expect(svg.match(/<path /g)).toHaveLength(3);
    expect(run('graph', '--dmar', file('dmar.aml'), '--svg', '-').out).toBe(svg);
    expect(run('graph', '--dmar', file('dmar.aml')).out).toContain('0000:00/1c.7/00.0');
    put(
      'evil.aml',
      dmar([structure(4, [0, 0, 0, 1, ...codes('<b>&"')]), rmrr(0x1000000n, 0x1000fffn, [scope(5, 0, [[2, 0]], 1)])]),
    );
    expect(run('graph', '--dmar', file('evil.aml'), '--svg', '-').out).toContain('>acpi:&lt;b&gt;&amp;&quot;<');
    expect(run('graph', '--ivrs', file('none.aml'), '--svg', '-').out).toContain(
      'No device has firmware-reserved memory',
    );
    expect(() => run('graph', '--dmar', file('dmar.aml'), '--svg', join(root, 'no', 'dir.svg'))).toThrow(
      /cannot be written/,
    );
  });
});

describe('sysfs access', () => {
  it('reads devices, bridges and groups, also from config space and dangling links', () => {
    const config = new Uint8Array(64);
    config.set([1], 0x0e);
    config.set([0, 5, 6], 0x18);
    put('copy/bus/pci/devices/0000:00:02.0/config', config);
    symlinkSync('../../../devices/pci0000:00/0000:00:04.0/0000:07:00.0', file('copy/bus/pci/devices/0000:07:00.0'));
    symlinkSync('../../../devices/pci0000:00/0000:00:04.0', file('copy/bus/pci/devices/0000:00:04.0'));
    put('copy/kernel/iommu_groups/0/devices/0000:07:00.0', '');
    put('copy/kernel/iommu_groups/0/devices/dprc.2', '');
    const { devices, groups } = readSysfs(file('copy'));
    expect(groups).toEqual([{ id: '0', reservedRegions: undefined, devices: ['0000:07:00.0', 'dprc.2'] }]);
    expect(
      devices.map(({ name, secondaryBus, subordinateBus, group }) => [name, secondaryBus, subordinateBus, group]),
    ).toEqual([
      ['0000:00:02.0', 5, 6, undefined],
      ['0000:00:04.0', 7, undefined, undefined],
      ['0000:07:00.0', undefined, undefined, '0'],
    ]);
  });

  it('takes missing places as missing facts', () => {
    expect(readSysfs(file('nowhere'))).toEqual({ devices: [], groups: [] });
    expect(readHost({ sys: file('nowhere'), proc: file('nowhere') })).toMatchObject({
      kernel: undefined,
      unreadable: [],
    });
  });

  it('walks devices without bus, and groups without kernel', () => {
    put('flat/devices/pci0000:00/0000:00:01.0/0000:01:00.0/class', '0x030000\n');
    put('flat/iommu_groups/9/reserved_regions', '');
    put('flat/iommu_groups/9/devices/0000:01:00.0', '');
    const { devices } = readSysfs(file('flat'));
    expect(devices).toMatchObject([
      { name: '0000:00:01.0', secondaryBus: 1 },
      { name: '0000:01:00.0', classCode: 0x030000, group: '9' },
    ]);
  });
});
