// `virtio-iommu host` on made-up machines: the overview, the screen about a device, JSON, exit status, hostile files.
import { execFileSync } from 'node:child_process';
import { mkdirSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import type { HostDevice, HostOverview } from '../src/cli/host-json.ts';
import { HostDeviceJson, HostOverviewJson } from '../src/cli/host-json.ts';
import { deviceText, overviewText } from '../src/cli/host-text.ts';
import { hostCommand } from '../src/cli/host.ts';
import { toResvMem } from '../src/firmware/resv-mem.ts';
import { parseReservedRegions } from '../src/firmware/sysfs.ts';
import { ARM_MSI, FakeMachine, HYPERTRANSPORT, INTERRUPTS_PLAIN, MSI, limits, region } from './cli-host-tree.ts';

const machines: FakeMachine[] = [];
afterEach(() => {
  for (const machine of machines.splice(0)) machine.remove();
});

function bare(): FakeMachine {
  const machine = new FakeMachine();
  machines.push(machine);
  return machine;
}

interface Result {
  readonly out: string;
  readonly code: number | undefined;
}

function run(args: readonly string[], columns = 80): Result {
  let out = '';
  let code: number | undefined;
  const io = {
    write: (text: string) => void (out += text),
    setExitCode: (value: number) => void (code = value),
    columns,
  };
  const command = hostCommand(io).exitOverride();
  command.configureOutput({ writeErr: () => undefined, writeOut: (text) => void (out += text) });
  command.parse([...args], { from: 'user' });
  return { out, code };
}

function device(machine: FakeMachine, name: string, ...args: string[]): HostDevice {
  const { out, code } = run([name, ...args, ...machine.options, '--json']);
  const parsed = HostDeviceJson.parse(JSON.parse(out));
  expect(code).toBe(parsed.canPass ? 0 : 1);
  expect(parsed.canPass).toBe(!parsed.checks.some(({ state }) => state === 'problem'));
  for (const columns of [60, 80, 120]) checkText(deviceText(parsed, columns), columns);
  return parsed;
}

function overview(machine: FakeMachine): HostOverview {
  const { out, code } = run([...machine.options, '--json']);
  expect(code).toBeUndefined();
  const parsed = HostOverviewJson.parse(JSON.parse(out));
  for (const columns of [60, 80, 120]) checkText(overviewText(parsed, columns), columns);
  return parsed;
}

/** Printable, and no line wider than asked for but for commands and for single words that are too long. */
function checkText(text: string, columns: number): void {
  expect(text).toMatch(/^[ -~\n]+\n$/);
  for (const line of text.split('\n')) {
    if (line.length <= columns || /^ {2}(echo|iommu|const|chown|modprobe|QEMU)/.test(line)) continue;
    const word = line.slice(line.lastIndexOf(' ') + 1);
    expect([word.length > 24, line.length - word.length <= columns], line).toEqual([true, true]);
  }
}

function check(
  judged: HostDevice,
  name: HostDevice['checks'][number]['name'],
): { state: string; what: string; remedies: string[] } {
  const found = judged.checks.filter((each) => each.name === name);
  expect(found.length, name).toBeGreaterThan(0);
  return found[0]!;
}

const NIC = '0000:01:00.0';

/** A PC whose network card vfio-pci has. */
function readyPc(kernel?: string): FakeMachine {
  const machine = bare().pc(kernel).vfio(13);
  machine.put('proc/self/limits', limits('unlimited'));
  return machine
    .pci('0000:00:1c.0', { classCode: '0x060400', group: 12, driver: 'pcieport', headerType: 1 })
    .pci(NIC, {
      group: 13,
      driver: 'vfio-pci',
      iommu: 'dmar0',
      files: { vendor: '0x8086\n', device: '0x10d3\n', reset_method: 'flr bus\n' },
    })
    .group(12, MSI)
    .group(13, MSI);
}

/** The same with the card in the hands of the host. */
function hostPc(reserved = MSI, more: { classCode?: string; kernel?: string } = {}): FakeMachine {
  return bare()
    .pc(more.kernel)
    .vfio()
    .put('proc/self/limits', limits('unlimited'))
    .pci(NIC, { group: 13, driver: 'e1000e', ...(more.classCode === undefined ? {} : { classCode: more.classCode }) })
    .group(13, reserved);
}

describe('host DEVICE', () => {
  it('that is ready says so, with exit status 0 and no command', () => {
    const machine = readyPc();
    expect(device(machine, NIC)).toMatchObject({
      device: NIC,
      verdict: 'ready',
      class: 'Ethernet controller',
      ids: '8086:10d3',
      driver: 'vfio-pci',
      group: '13',
      commands: [],
      backend: { choice: 'type1' },
      reserved: [{ start: '0xfee00000', end: '0xfeefffff', kind: 'msi' }],
    });
    expect(run([NIC, ...machine.options]).out).toMatchInlineSnapshot(`
      "0000:01:00.0  Ethernet controller [8086:10d3], group 13, driver vfio-pci
      CAN BE PASSED THROUGH NOW

      ok       device           an ordinary function
      ok       iommu            dmar0 (VT-d) translates for it, default domain DMA-FQ
      ok       group            alone in group 13
      ok       driver           vfio-pci has it
      ok       firmware memory  no reserved memory binds it
      ok       reserved memory  the endpoint reports 0xfee00000-0xfeefffff msi
      ok       interrupts       interrupt remapping is on
      ok       backend          type1: there is no /dev/iommu: this kernel has no
                                iommufd, or it is not loaded
      ok       permission       this user may open /dev/vfio/13
      ok       locked memory    no limit for this process (RLIMIT_MEMLOCK)
      ok       entries          65535 for each container
      ok       windows          vm.max_map_count 65530: about 32765 scattered pieces
                                gathered at a time
      ok       address width    at most 39 bits of I/O virtual address (512 GiB):
                                input_range ends there
      ok       reset            it can be reset: flr bus

      Use, with ID the endpoint id that the guest sees
        const context = openHostContext({ device: '0000:01:00.0' });
        iommu.addEndpoint(passthroughEndpoint({ context, device: '0000:01:00.0', id: ID }));
        QEMU without this package: -device vfio-pci,host=0000:01:00.0
      "
    `);
  });

  it('takes the short spelling', () => {
    expect(device(readyPc(), '01:00.0').device).toBe(NIC);
  });

  it('that the host has needs a driver, with the commands in order', () => {
    const machine = hostPc();
    const judged = device(machine, NIC);
    expect(judged).toMatchObject({ verdict: 'steps', canPass: true });
    expect(check(judged, 'driver')).toMatchObject({ state: 'todo', what: `the host's e1000e has ${NIC}` });
    expect(judged.commands).toEqual([
      `echo vfio-pci > /sys/bus/pci/devices/${NIC}/driver_override`,
      `echo ${NIC} > /sys/bus/pci/devices/${NIC}/driver/unbind`,
      `echo ${NIC} > /sys/bus/pci/drivers_probe`,
    ]);
  });

  it('on a host without VFIO starts with loading it', () => {
    const machine = bare().pc().pci(NIC, { group: 13 }).group(13, MSI);
    const judged = device(machine, NIC);
    expect(judged.commands).toEqual([
      'modprobe vfio-pci',
      'modprobe vfio_iommu_type1',
      `echo vfio-pci > /sys/bus/pci/devices/${NIC}/driver_override`,
      `echo ${NIC} > /sys/bus/pci/drivers_probe`,
    ]);
    expect(check(judged, 'backend')).toMatchObject({ state: 'todo', remedies: ['modprobe vfio-pci'] });
  });

  it('that is not there, is a bridge, or has no IOMMU cannot be passed', () => {
    const machine = readyPc().pci('0000:02:00.0', { driver: 'nvme' });
    expect(check(device(machine, '0000:09:00.0'), 'device').what).toContain('no such PCI function');
    expect(check(device(machine, '0000:00:1c.0'), 'device').what).toContain('bridge');
    expect(check(device(machine, '0000:02:00.0'), 'iommu')).toMatchObject({ state: 'problem' });
    expect(run(['0000:09:00.0', ...machine.options]).code).toBe(1);
  });

  it('behind a group without an IOMMU (noiommu) cannot be passed', () => {
    const machine = readyPc().put('sys/kernel/iommu_groups/13/name', 'vfio-noiommu\n');
    expect(check(device(machine, NIC), 'iommu').what).toContain('enable_unsafe_noiommu_mode');
    expect(overview(machine).groups[1]?.functions[0]?.state).toBe('no');
  });
});

describe('firmware memory', () => {
  const RMRR = region(0x7d000000, 0x7dffffff, 'direct') + MSI;

  it.each([
    ['6.12.95-amd64', 'EINVAL'],
    ['6.1.0-56-cloud-amd64', 'EPERM'],
    ['5.15.0', 'EPERM'],
  ])('of type direct keeps a device on Linux %s with %s', (kernel, errno) => {
    const judged = device(hostPc(RMRR, { kernel }), NIC);
    expect(judged).toMatchObject({ verdict: 'no', canPass: false, commands: [] });
    expect(check(judged, 'firmware memory')).toMatchObject({ state: 'problem' });
    expect(check(judged, 'firmware memory').what).toContain(errno);
    expect(check(judged, 'firmware memory').remedies.join()).toContain('virtual function');
    expect(judged.reserved).toEqual([
      { start: '0x7d000000', end: '0x7dffffff', kind: 'reserved' },
      { start: '0xfee00000', end: '0xfeefffff', kind: 'msi' },
    ]);
  });

  it('of a member keeps the whole group', () => {
    const machine = hostPc(RMRR).pci('0000:01:00.1', { classCode: '0x0c0330', group: 13 });
    expect(device(machine, '0000:01:00.1').verdict).toBe('no');
  });

  it('of type direct-relaxable is noted, and reported to the guest', () => {
    const judged = device(
      hostPc(region(0x7d000000, 0x7dffffff, 'direct-relaxable') + MSI, { classCode: '0x0c0330' }),
      NIC,
    );
    expect(check(judged, 'firmware memory').state).toBe('note');
    expect(judged.reserved).toContainEqual({ start: '0x7d000000', end: '0x7dffffff', kind: 'reserved' });
    expect(judged.canPass).toBe(true);
  });

  it('of an x86 host with a software MSI window, as a guest has it, still shows the x86 window', () => {
    expect(device(hostPc(ARM_MSI), NIC).reserved).toEqual([{ start: '0xfee00000', end: '0xfeefffff', kind: 'msi' }]);
    const arm = hostPc(ARM_MSI).put('proc/cpuinfo', 'CPU implementer : 0x41\n');
    expect(device(arm, NIC).reserved).toEqual([]);
    expect(device(hostPc(ARM_MSI).put('proc/cpuinfo', ''), NIC).reserved).toEqual([]);
  });

  it('is told where the list is missing or cannot be trusted', () => {
    const old = hostPc();
    old.put('sys/kernel/iommu_groups/13/reserved_regions', 'x'.repeat(3));
    expect(check(device(old, NIC), 'reserved memory')).toMatchObject({ state: 'problem' });
    const none = bare().pc().vfio().pci(NIC, { group: 13 });
    expect(check(device(none, NIC), 'reserved memory').what).toContain('Linux 4.11');
  });

  it('of more regions than the default probe_size holds names the size', () => {
    const many = Array.from({ length: 30 }, (_, i) =>
      region(0x1000000 * (i + 1), 0x1000000 * (i + 1) + 0xfff, 'reserved'),
    );
    expect(check(device(hostPc(many.join('') + MSI), NIC), 'reserved memory')).toMatchObject({
      state: 'note',
      remedies: ['give the device probeSize 744 or more'],
    });
  });
});

describe('the group', () => {
  const MATE = '0000:01:00.1';
  it('must be free of host drivers', () => {
    const machine = readyPc().pci(MATE, { group: 13, driver: 'snd_hda_intel', classCode: '0x040300' });
    const judged = device(machine, NIC);
    expect(judged.verdict).toBe('steps');
    expect(check(judged, 'group')).toMatchObject({ state: 'todo' });
    expect(judged.commands.join('\n')).toContain(`echo ${MATE} > /sys/bus/pci/devices/${MATE}/driver/unbind`);
    expect(judged.commands.join('\n')).not.toContain(NIC);
    expect(judged.members).toMatchObject([{ role: 'vfio' }, { role: 'host', driver: 'snd_hda_intel' }]);
  });

  it.each([
    ['pci-stub', 0, '6.12', 'harmless'],
    ['vfio-pci', 0, '6.12', 'vfio'],
    ['mlx5_vfio_pci', 0, '6.12', 'vfio'],
    ['vfio-platform', 0, '6.12', 'harmless'],
    ['pcieport', 1, '6.12', 'bridge'],
    ['shpchp', 1, '6.12', 'host'],
    ['shpchp', 1, '5.19', 'host'],
    ['shpchp', 1, '5.18', 'bridge'],
    ['vfiofake', 0, '6.12', 'host'],
    [undefined, 0, '6.12', 'free'],
  ])('has a member with driver %s (header type %i) on Linux %s as %s', (driver, headerType, kernel, role) => {
    const machine = readyPc(kernel).pci(MATE, { group: 13, headerType, ...(driver === undefined ? {} : { driver }) });
    const judged = device(machine, NIC);
    expect(judged.members[1]?.role).toBe(role);
    expect(judged.verdict).toBe(role === 'host' ? 'steps' : 'ready');
  });

  it('may hold what is no PCI function', () => {
    const machine = readyPc().folder('sys/kernel/iommu_groups/13/devices/serial8250');
    const judged = device(machine, NIC);
    expect(judged.members[1]).toMatchObject({ name: 'serial8250', class: 'not PCI' });
    expect(overview(machine).groups[1]?.others).toEqual(['serial8250']);
  });

  it('split by pcie_acs_override, or tied to others by firmware memory, is noted', () => {
    const line = 'root=/dev/sda1 pcie_acs_override=downstream,multifunction\n';
    expect(check(device(readyPc().put('proc/cmdline', line), NIC), 'isolation').what).toContain('pcie_acs_override');
    const shared = region(0x7d000000, 0x7dffffff, 'direct-relaxable') + MSI;
    const machine = hostPc(shared).pci('0000:02:00.0', { group: 14 }).group(14, shared);
    expect(check(device(machine, NIC), 'isolation').what).toContain('0000:02:00.0');
  });
});

describe('virtual functions', () => {
  const VF = '0000:01:10.0';
  const withVf = (driver: string): FakeMachine =>
    readyPc()
      .pci('0000:01:00.1', { group: 15, driver, files: { sriov_numvfs: '2\n' } })
      .pci(VF, { group: 16, driver: 'vfio-pci', physfn: '0000:01:00.1' })
      .group(15, MSI)
      .group(16, MSI)
      .put('dev/vfio/16', '');

  it('can be passed while the host has the physical one', () => {
    expect(device(withVf('igb'), VF).verdict).toBe('ready');
  });

  it('need a token when VFIO has the physical one', () => {
    expect(check(device(withVf('vfio-pci'), VF), 'device')).toMatchObject({ state: 'problem' });
  });

  it('are lost with the physical one', () => {
    expect(check(device(withVf('igb'), '0000:01:00.1'), 'device')).toMatchObject({ state: 'note' });
  });
});

describe('interrupt remapping', () => {
  const without = (allow: string): FakeMachine =>
    readyPc()
      .put('proc/interrupts', INTERRUPTS_PLAIN)
      .put('sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts', allow);

  it('is needed, or the risk accepted', () => {
    expect(check(device(readyPc(), NIC), 'interrupts').state).toBe('ok');
    expect(check(device(without('N\n'), NIC), 'interrupts').state).toBe('problem');
    expect(check(device(without('0\n'), NIC), 'interrupts').state).toBe('problem');
    expect(check(device(without('Y\n'), NIC), 'interrupts').state).toBe('note');
    expect(device(without('1\n'), NIC).canPass).toBe(true);
  });

  it('is seen in the kernel log too', () => {
    const machine = without('N\n').put('dev/kmsg', '6,1,100000,-;DMAR-IR: Enabled IRQ remapping in x2apic mode\n');
    expect(check(device(machine, NIC), 'interrupts').state).toBe('ok');
  });

  it('is not guessed', () => {
    const machine = readyPc().put('proc/interrupts', '           CPU0\n  0: 1 XT-PIC timer\n');
    const judged = device(machine, NIC);
    expect(check(judged, 'interrupts').state).toBe('unknown');
    expect(judged.verdict).toBe('ready');
    expect(run([NIC, ...machine.options]).out).toContain('(not certain: interrupts)');
  });
});

describe('the backend', () => {
  const cdev = (): FakeMachine => readyPc().put('dev/iommu', '').folder('sys/module/iommufd');

  it('is iommufd where kernel and device have it', () => {
    const machine = cdev().folder(`sys/bus/pci/devices/${NIC}/vfio-dev/vfio0`).put('dev/vfio/devices/vfio0', '');
    const judged = device(machine, NIC);
    expect(judged).toMatchObject({ verdict: 'ready', backend: { choice: 'iommufd' } });
    expect(check(judged, 'entries').what).toBe('no limit of entries');
    expect(device(machine, NIC, '--backend', 'type1').backend).toEqual({
      choice: 'type1',
      reason: 'asked for by the caller',
    });
    expect(overview(machine).backend.choice).toBe('iommufd');
  });

  it('is type1 where the kernel makes no device files', () => {
    expect(device(cdev(), NIC).backend).toMatchObject({
      choice: 'type1',
      reason: expect.stringContaining('/dev/vfio/devices') as string,
    });
    const missing = cdev().folder(`sys/bus/pci/devices/${NIC}/vfio-dev/vfio3`);
    expect(device(missing, NIC).backend.reason).toBe('the kernel makes no /dev/vfio/devices/vfio3');
    expect(check(device(missing, NIC, '--backend', 'iommufd'), 'backend').state).toBe('problem');
  });

  it('is not certain before vfio-pci has the device', () => {
    const machine = hostPc().put('dev/iommu', '');
    expect(device(machine, NIC).backend).toMatchObject({
      choice: 'iommufd',
      reason: expect.stringContaining('once vfio-pci') as string,
    });
  });

  it('that is asked for and missing is a problem', () => {
    expect(check(device(readyPc(), NIC, '--backend', 'iommufd'), 'backend')).toMatchObject({ state: 'problem' });
    expect(device(readyPc(), NIC, '--backend', 'auto').canPass).toBe(true);
  });
});

describe('memory', () => {
  const locked = (text: string, status?: string): FakeMachine => {
    const machine = readyPc().put('proc/self/limits', limits(text));
    return status === undefined ? machine : machine.put('proc/self/status', status);
  };
  const GIB = 2 ** 30;

  it.each([
    ['8388608', [], 'todo'],
    [String(64 * 2 ** 20 - 1), [], 'todo'],
    [String(64 * 2 ** 20), [], 'ok'],
    [String(4 * GIB - 1), ['--ram', '4G'], 'todo'],
    [String(4 * GIB), ['--ram', '4G'], 'ok'],
    ['unlimited', ['--ram', '8G'], 'ok'],
    ['garbage', [], 'unknown'],
  ])('limit %s of locked memory with %j is %s', (text, args, state) => {
    expect(check(device(locked(text), NIC, ...args), 'locked memory').state).toBe(state);
  });

  it('already locked counts, and CAP_IPC_LOCK lifts the limit', () => {
    const some = locked(String(4 * GIB), 'VmLck:\t    4 kB\nCapEff:\t0000000000000000\n');
    expect(check(device(some, NIC, '--ram', '4G'), 'locked memory').state).toBe('todo');
    const capable = locked('65536', 'VmLck:\t0 kB\nCapEff:\t000001ffffffffff\n');
    expect(check(device(capable, NIC, '--ram', '4G'), 'locked memory').what).toContain('CAP_IPC_LOCK');
    const almost = locked('65536', 'VmLck:\t0 kB\nCapEff:\t0000000000003fff\n');
    expect(check(device(almost, NIC, '--ram', '4G'), 'locked memory').state).toBe('todo');
  });

  it('of the guest must be there', () => {
    expect(check(device(readyPc(), NIC, '--ram', '8G'), 'memory').state).toBe('ok');
    expect(check(device(readyPc(), NIC, '--ram', '12G'), 'memory').state).toBe('todo');
    expect(check(device(readyPc(), NIC, '--ram', '16G'), 'memory').state).toBe('problem');
    const huge = readyPc().put('sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages', '7168\n');
    expect(check(device(huge, NIC, '--ram', '14G'), 'memory').state).toBe('ok');
  });

  it('limits of entries, windows and address bits are told', () => {
    const judged = device(readyPc(), NIC);
    expect(check(judged, 'entries')).toMatchObject({ state: 'ok', what: '65535 for each container' });
    expect(check(judged, 'windows').what).toContain('32765');
    expect(check(judged, 'address width').what).toContain('39 bits');
    const small = readyPc()
      .put('sys/module/vfio_iommu_type1/parameters/dma_entry_limit', '65534\n')
      .put('proc/sys/vm/max_map_count', '65529\n');
    expect(check(device(small, NIC), 'entries').remedies[0]).toContain('echo 65535 >');
    expect(check(device(small, NIC), 'windows').state).toBe('note');
  });

  it.each([
    ['d2008c40660462', 39],
    ['8d2008c40660462', 39],
    ['c9008020660262', 39],
    ['19ed008c40780c66', 57],
    ['d2078c106f0466', 48],
    ['0', 1],
  ])('VT-d capabilities %s mean %i address bits', (cap, bits) => {
    const machine = readyPc().put('sys/class/iommu/dmar0/intel-iommu/cap', `${cap}\n`);
    expect(overview(machine).iommus[0]?.addressBits).toBe(cap === '0' ? null : bits);
  });
});

describe('permission and reset', () => {
  it('are told', () => {
    const machine = readyPc().put(`sys/bus/pci/devices/${NIC}/reset_method`, '\n');
    expect(check(device(machine, NIC), 'reset').state).toBe('note');
    expect(check(device(machine, NIC), 'permission').state).toBe('ok');
    // What Linux shows of a function that it cannot reset, and what a copy may lack.
    const bareFunction = hostPc();
    expect(device(bareFunction, NIC).checks.some(({ name }) => name === 'reset')).toBe(false);
    bareFunction.put(`sys/bus/pci/devices/${NIC}/enable`, '0\n');
    expect(check(device(bareFunction, NIC), 'reset').state).toBe('note');
    expect(check(device(readyPc(), NIC), 'reset').what).toBe('it can be reset: flr bus');
    const gone = bare()
      .pc()
      .vfio()
      .pci(NIC, { group: 13, driver: 'vfio-pci', files: { reset: '' } })
      .group(13, MSI);
    expect(check(device(gone, NIC), 'permission').state).toBe('unknown');
    expect(check(device(gone, NIC), 'reset').what).toBe('it can be reset');
  });

  it('of the display that the firmware used is noted', () => {
    const machine = hostPc(MSI, { classCode: '0x030000' }).put(`sys/bus/pci/devices/${NIC}/boot_vga`, '1\n');
    expect(check(device(machine, NIC), 'host use').what).toContain('console');
  });
});

describe('host', () => {
  it('shows groups, functions and limits at 80 and at 120 columns', () => {
    const machine = readyPc()
      .pci('0000:00:02.0', { classCode: '0x030000', group: 1, driver: 'i915' })
      .pci('0000:03:00.0', { classCode: '0x010700', group: 14, driver: 'hpsa' })
      .pci('0000:03:00.1', { classCode: '0x088000', group: 14, driver: 'hpilo' })
      .pci('0000:04:00.0', { classCode: '0x010802', driver: 'nvme' })
      .group(1, region(0x7b800000, 0x7fffffff, 'direct-relaxable') + MSI)
      .group(14, region(0x75f6f000, 0x77f84fff, 'direct') + MSI);
    const seen = overview(machine);
    expect(seen.groups.map(({ id }) => id)).toEqual(['1', '12', '13', '14']);
    expect(seen.groups.flatMap(({ functions }) => functions.map(({ state }) => state))).toEqual([
      'bind',
      'bridge',
      'ready',
      'refused',
      'refused',
    ]);
    expect(seen.groups[0]?.reserved).toContainEqual({
      start: '0x7b800000',
      end: '0x7fffffff',
      type: 'direct-relaxable',
    });
    expect(seen.ungrouped).toMatchObject([{ name: '0000:04:00.0', state: 'no', classCode: '0x010802' }]);
    expect(run(machine.options, 80).out).toMatchInlineSnapshot(`
      "kernel      Linux 6.12.95-amd64
      IOMMU       dmar0 (VT-d, 39 bits)
      interrupts  remapping on
      backend     type1: there is no /dev/iommu: this kernel has no iommufd, or it is
                  not loaded
      files       /dev/vfio/vfio usable, /dev/iommu absent
      modules     vfio loaded, vfio_pci loaded, vfio_iommu_type1 loaded, iommufd not
                  loaded
      entries     65535 (dma_entry_limit)
      locking     no limit; vm.max_map_count 65530
      memory      15.6 GiB, 11.7 GiB free; huge pages of 2 MiB: 500 of 512 free
      reserved    in every group: 0xfee00000-0xfeefffff msi

      group  function      class                            driver    pass through
          1  0000:00:02.0  VGA compatible controller        i915      bind first
             0x7b800000-0x7fffffff direct-relaxable
         12  0000:00:1c.0  PCI bridge                       pcieport  - (bridge)
         13  0000:01:00.0  Ethernet controller              vfio-pci  ready
         14  0000:03:00.0  Serial Attached SCSI controller  hpsa      refused
             0000:03:00.1  System peripheral                hpilo     refused
             0x75f6f000-0x77f84fff direct

      bind first: a driver of the host has it, or another member of its group;
      details: virtio-iommu host FUNCTION
      In no group, so no IOMMU translates for them: 0000:04:00.0
      "
    `);
    expect(run(machine.options, 120).out).toMatchInlineSnapshot(`
      "kernel      Linux 6.12.95-amd64
      IOMMU       dmar0 (VT-d, 39 bits)
      interrupts  remapping on
      backend     type1: there is no /dev/iommu: this kernel has no iommufd, or it is not loaded
      files       /dev/vfio/vfio usable, /dev/iommu absent
      modules     vfio loaded, vfio_pci loaded, vfio_iommu_type1 loaded, iommufd not loaded
      entries     65535 (dma_entry_limit)
      locking     no limit; vm.max_map_count 65530
      memory      15.6 GiB, 11.7 GiB free; huge pages of 2 MiB: 500 of 512 free
      reserved    in every group: 0xfee00000-0xfeefffff msi

      group  function      class                            driver    pass through
          1  0000:00:02.0  VGA compatible controller        i915      bind first
             0x7b800000-0x7fffffff direct-relaxable
         12  0000:00:1c.0  PCI bridge                       pcieport  - (bridge)
         13  0000:01:00.0  Ethernet controller              vfio-pci  ready
         14  0000:03:00.0  Serial Attached SCSI controller  hpsa      refused
             0000:03:00.1  System peripheral                hpilo     refused
             0x75f6f000-0x77f84fff direct

      bind first: a driver of the host has it, or another member of its group; details: virtio-iommu host FUNCTION
      In no group, so no IOMMU translates for them: 0000:04:00.0
      "
    `);
  });

  it('says once what every group has', () => {
    const machine = readyPc()
      .group(12, MSI + HYPERTRANSPORT)
      .group(13, MSI + HYPERTRANSPORT);
    const text = run(machine.options).out;
    expect(text.match(/0xfee00000/g)).toHaveLength(1);
    expect(text.replace(/\s+/g, ' ')).toContain('0xfd00000000-0xffffffffff reserved');
  });

  it.each([
    ['GenuineIntel', '', {}, ['turn VT-d on in the firmware', 'boot with intel_iommu=on']],
    ['AuthenticAMD', '', {}, ['turn AMD-Vi (IOMMU) on']],
    ['AuthenticAMD', 'amd_iommu=off', {}, ['take amd_iommu=off off', 'turn AMD-Vi']],
    ['GenuineIntel', 'intel_iommu=on', { DMAR: 'x' }, ['the kernel log (DMAR)']],
    ['GenuineIntel', '', { DMAR: 'x' }, ['boot with intel_iommu=on']],
    ['AuthenticAMD\nflags : hypervisor', '', { IVRS: 'x' }, ['CONFIG_AMD_IOMMU']],
    ['AuthenticAMD', 'amd_iommu=off', { IVRS: 'x' }, ['take amd_iommu=off off']],
    ['CPU implementer', '', { IORT: 'x' }, ['driver of the SMMU']],
    ['GenuineIntel\nflags : fpu hypervisor', '', {}, ['this is a virtual machine']],
    ['none of these', '', {}, ['turn VT-d, AMD-Vi or the SMMU on']],
  ])('without an IOMMU says what to do (%s, %s, %j)', (cpu, line, tables, ways) => {
    const machine = bare().pc().put('proc/cpuinfo', `vendor_id : ${cpu}\n`).put('proc/cmdline', `root=x ${line}\n`);
    machine.pci(NIC, { driver: 'e1000e' });
    for (const [name, bytes] of Object.entries(tables)) machine.put(`sys/firmware/acpi/tables/${name}`, bytes);
    const { toDo, groups } = overview(machine);
    expect(groups).toEqual([]);
    expect(toDo).toHaveLength(ways.length);
    for (const [i, way] of ways.entries()) expect(toDo[i]).toContain(way);
    expect(run(machine.options).out).toContain('No IOMMU is in use on this machine');
    const judged = device(machine, NIC);
    expect(judged.verdict).toBe('no');
    expect(check(judged, 'iommu').remedies).toEqual(toDo);
  });

  it('reads the machine it runs on', () => {
    const { out, code } = run(['--json']);
    expect(code).toBeUndefined();
    HostOverviewJson.parse(JSON.parse(out));
    expect(run([]).out).toContain('Linux');
    expect(run(['0000:00:1e.7', '--json']).code).toBe(1);
  });

  it('keeps copies apart from the machine it runs on', () => {
    const machine = readyPc();
    const seen = HostOverviewJson.parse(JSON.parse(run(['--sysfs', machine.path('sys'), '--json']).out));
    expect(seen).toMatchObject({
      kernel: null,
      interruptRemapping: 'unknown',
      limits: { lockLimit: null, memoryTotal: null },
    });
    expect(seen.vfio).toMatchObject({ container: 'absent', dmaEntryLimit: 65535 });
    // A copy of a whole machine, with `sys` in it, is found too.
    expect(HostOverviewJson.parse(JSON.parse(run(['--sysfs', machine.root, '--json']).out)).groups).toEqual(
      seen.groups,
    );
  });
});

describe('wrong usage', () => {
  it.each([
    [['nonsense'], /no PCI function such as/],
    [['0000:00:1f.8'], /no PCI function such as/],
    [['0000:00:20.0'], /no PCI function such as/],
    [['0000:00:00.0-0000:00:01.0'], /no PCI function such as/],
    [['0000:01:00.0', '--ram', 'much'], /is not a size/],
    [['0000:01:00.0', '--ram', '0'], /is not a size/],
    [['--backend', 'vfio'], /none of auto, type1, iommufd/],
    [['--sysfs', '/nowhere/at/all'], /--sysfs .* is no directory/],
    [['--proc', '/dev/null'], /--proc .* is no directory/],
    [['a', 'b'], /too many arguments/],
    [['--frob'], /unknown option/],
  ])('%j', (args, message) => {
    expect(() => run(args)).toThrow(message);
  });

  it('has help with examples and the exit status', () => {
    let help = '';
    expect(() => (help = run(['--help']).out)).toThrow();
    expect(help).toBe('');
    const command = hostCommand();
    let text = '';
    command.configureOutput({ writeOut: (part) => void (text += part) });
    command.outputHelp();
    for (const part of ['Examples:', '--ram 16G', '--sysfs', 'Exit status: 0', '2 for usage'])
      expect(text).toContain(part);
  });
});

describe('hostile files', () => {
  const ODD = [
    '',
    '\0',
    '\u001b[31mred\n',
    '\uffff',
    'x'.repeat(5000),
    '-1',
    '0x',
    '99999999999999999999',
    '\n\n',
    'Y N',
  ];
  const FILES = [
    'sys/kernel/iommu_groups/13/reserved_regions',
    'sys/kernel/iommu_groups/13/type',
    'sys/kernel/iommu_groups/13/name',
    `sys/bus/pci/devices/${NIC}/class`,
    `sys/bus/pci/devices/${NIC}/config`,
    `sys/bus/pci/devices/${NIC}/vendor`,
    `sys/bus/pci/devices/${NIC}/reset_method`,
    `sys/bus/pci/devices/${NIC}/sriov_numvfs`,
    `sys/bus/pci/devices/${NIC}/boot_vga`,
    'sys/module/vfio_iommu_type1/parameters/dma_entry_limit',
    'sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts',
    'sys/class/iommu/dmar0/intel-iommu/cap',
    'sys/firmware/acpi/tables/DMAR',
    'sys/firmware/acpi/tables/IVRS',
    'sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages',
    'proc/cpuinfo',
    'proc/cmdline',
    'proc/interrupts',
    'proc/meminfo',
    'proc/modules',
    'proc/self/status',
    'proc/self/limits',
    'proc/sys/vm/max_map_count',
    'proc/sys/kernel/osrelease',
    'dev/kmsg',
  ];

  it('of any content never end the command', () => {
    const machine = readyPc();
    fc.assert(
      fc.property(
        fc.array(
          fc.tuple(fc.constantFrom(...FILES), fc.oneof(fc.constantFrom(...ODD), fc.string({ unit: 'binary' }))),
          {
            maxLength: 12,
          },
        ),
        (changes) => {
          for (const [file, content] of changes) machine.put(file, content);
          device(machine, NIC);
          overview(machine);
        },
      ),
      { numRuns: 25 },
    );
  });

  it('that are huge, no files at all, or point nowhere are missing facts', () => {
    const machine = bare().pc().vfio().pci(NIC, { group: 13, driver: 'vfio-pci' });
    machine.put('sys/kernel/iommu_groups/13/reserved_regions', '');
    truncateSync(machine.path('sys/kernel/iommu_groups/13/reserved_regions'), 2 ** 32);
    machine.put('proc/interrupts', '');
    truncateSync(machine.path('proc/interrupts'), 2 ** 33);
    machine.folder('sys/kernel/iommu_groups/13/type');
    execFileSync('mkfifo', [machine.path('proc/modules'), machine.path('sys/kernel/iommu_groups/13/name')]);
    machine
      .link('sys/class/iommu/dmar1', '/nowhere')
      .link('sys/bus/pci/devices/0000:05:00.0', '../../gone/0000:05:00.0');
    machine.link('sys/kernel/iommu_groups/13/devices/0000:05:00.0', '../../gone').link('sys/module/iommufd', 'iommufd');
    machine.link('proc/loop', 'loop');
    expect(check(device(machine, NIC), 'reserved memory').what).toContain('Linux 4.11');
    expect(device(machine, NIC).members).toHaveLength(2);
    overview(machine);
  });

  it('with names that a terminal or a shell would obey stay text', () => {
    const evil = `x\u001b[2J'$(id)`;
    const machine = readyPc().pci('0000:01:00.1', { group: 13, driver: evil });
    mkdirSync(join(machine.path('sys/kernel/iommu_groups/13/devices'), '; rm -rf ~'));
    const judged = device(machine, NIC);
    expect(judged.members.map(({ driver }) => driver)).toContain(evil);
    expect(judged.commands.join('\n')).not.toMatch(/\$\(|rm -rf/);
    overview(machine);
  });

  it('of a large machine are all told', () => {
    const machine = bare().pc().vfio();
    for (let i = 0; i < 400; i++) {
      const bus = (i >> 5).toString(16).padStart(2, '0');
      const slot = (i & 31).toString(16).padStart(2, '0');
      machine.pci(`0000:${bus}:${slot}.0`, { group: i }).group(i, MSI);
    }
    expect(HostOverviewJson.parse(JSON.parse(run([...machine.options, '--json']).out)).groups).toHaveLength(400);
  });
});

const folder = process.env['VIOMMU_EXTRA_DATA'];
describe.skipIf(folder === undefined || folder === '')('real reserved_regions', () => {
  it.each(['amd', 'hp-dl388g8-group19'])('of %s reach the endpoint', async (name) => {
    const { readFileSync } = await import('node:fs');
    const text = readFileSync(join(folder ?? '', 'rmrr/sysfs', `${name}.reserved_regions`), 'utf8');
    const judged = device(hostPc(text), NIC);
    const expected = toResvMem(parseReservedRegions(text).regions, { probeSize: 1 << 20 });
    expect(judged.reserved?.map(({ start, end, kind }) => ({ start: BigInt(start), end: BigInt(end), kind }))).toEqual(
      expected.reserved,
    );
    expect(judged.canPass).toBe(!/ direct$/m.test(text));
  });

  it('of an Arm board forward no software MSI window', async () => {
    const { readFileSync } = await import('node:fs');
    const text = readFileSync(join(folder ?? '', 'rmrr/sysfs/arm-lx2160-fslmc-group0.reserved_regions'), 'utf8');
    const { reserved } = device(hostPc(text).put('proc/cpuinfo', 'CPU implementer : 0x41\n'), NIC);
    expect(reserved?.some(({ kind }) => kind === 'msi')).toBe(false);
    expect(reserved?.length).toBeGreaterThan(0);
  });
});
