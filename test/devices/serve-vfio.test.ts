// `serve` with functions of the host: settings, contexts by group, the bus-master bit on its way, what the status says. The host is
// simulated, its devices are fakes, /sys is a made-up one.
import { afterAll, describe, expect, it } from 'vitest';
import { toPrometheus } from '../../src/cli/serve-prometheus.ts';
import { serveReport, toJson } from '../../src/cli/serve-report.ts';
import { ServeLog } from '../../src/cli/serve-log.ts';
import { ServeMachine } from '../../src/cli/serve-machine.ts';
import type { ServeFlags } from '../../src/cli/serve-options.ts';
import { serveSettings } from '../../src/cli/serve-options.ts';
import { statusTable } from '../../src/cli/serve-status.ts';
import { parseHostFunction, parsePciAddress } from '../../src/cli/serve-values.ts';
import type { HostAccess } from '../../src/cli/serve-vfio.ts';
import { ServeHosts } from '../../src/cli/serve-vfio.ts';
import { checkConfig } from '../../src/cli/serve-config.ts';
import { Errno, HostError } from '../../src/base/errors.ts';
import type { OpenHostOptions } from '../../src/host/open-host.ts';
import { SimulatedHost } from '../../src/host/simulated.ts';
import { FakeMachine, MSI, region } from '../cli-host-tree.ts';
import { FakePassedDevice } from './passed-device.ts';
import { FakeServer } from './serve-rig.ts';

const tree = new FakeMachine();
tree
  .pci('0000:00:04.0', { group: 4, driver: 'vfio-pci' })
  .pci('0000:00:05.0', { group: 5, driver: 'vfio-pci' })
  .pci('0000:00:05.1', { group: 5, driver: 'vfio-pci' })
  .group(4, region(0x1000, 0x1fff, 'direct-relaxable') + MSI)
  .group(5, MSI);
afterAll(() => tree.remove());

const EDU = { device: 'vfio', addr: parsePciAddress('4.0'), socket: undefined, host: '0000:00:04.0' } as const;

/** Opens simulated contexts with fake devices, and notes what was asked. */
class Hosts implements HostAccess {
  readonly sysfs = tree.path('sys');
  readonly asked: OpenHostOptions[] = [];
  readonly host = new SimulatedHost();
  readonly devices = new Map<string, FakePassedDevice>();
  readonly closed: string[] = [];
  refuse = false;

  readonly open: HostAccess['open'] = (options) => {
    this.asked.push(options);
    if (this.refuse) {
      throw new HostError('ERR_VIOMMU_HOST_INCOMPATIBLE', 'firmware wants it mapped 1:1 (RMRR)', {
        errno: Errno.EINVAL,
        syscall: 'VFIO_GROUP_SET_CONTAINER',
      });
    }
    const names = options.device === '0000:00:04.0' ? ['0000:00:04.0'] : ['0000:00:05.0', '0000:00:05.1'];
    const endpoints = names.map((name) => 8 * Number(name.slice(8, 10)) + Number(name.slice(11)));
    const context = this.host.createContext({ group: names.length, endpoints, busMaster: false });
    const devices = names.map((name) => Object.assign(new FakePassedDevice(), { name }));
    devices.forEach((device) => this.devices.set(device.name, device));
    options.onChoice?.({ backend: 'type1', reason: 'a test' });
    const close = context.close.bind(context);
    return Object.assign(context, {
      devices,
      close: () => {
        this.closed.push(context.name);
        close();
      },
    });
  };
}

function settingsOf(flags: Partial<ServeFlags>): ReturnType<typeof serveSettings> {
  return serveSettings({ dir: tree.root, translation: true, ...flags });
}

interface Made {
  readonly machine: ServeMachine;
  readonly hosts: Hosts;
  readonly servers: FakeServer[];
  readonly lines: string[];
}

function make(flags: Partial<ServeFlags>): Made {
  const hosts = new Hosts();
  const lines: string[] = [];
  const servers: FakeServer[] = [];
  const log = new ServeLog((line) => lines.push(line));
  const settings = settingsOf(flags);
  const makeServer = (options: FakeServer['options']): FakeServer => {
    servers.push(new FakeServer(options));
    return servers.at(-1)!;
  };
  const machine = new ServeMachine(settings, makeServer, log, {}, new ServeHosts(settings.endpoints, log, hosts));
  return { machine, hosts, servers, lines };
}

describe('settings of a function of the host', () => {
  it('have a socket and a name of their own, and the MSI region of the host', () => {
    const [edu] = settingsOf({ endpoint: [EDU] }).endpoints;
    expect(edu).toMatchObject({ name: 'vfio', host: '0000:00:04.0', reserved: [], socket: tree.path('vfio.sock') });
  });

  it('come from a file', () => {
    const { endpoints } = checkConfig(
      { endpoints: [{ device: 'vfio', host: '04:00.0', addr: '4.0', backend: 'type1' }] },
      'vm.json',
    );
    expect(endpoints).toMatchObject([{ host: '0000:04:00.0', backend: 'type1' }]);
    expect(() => checkConfig({ endpoints: [{ device: 'vfio', host: 'x', addr: '4.0' }] }, 'vm.json')).toThrow(
      /host: must/,
    );
    expect(() => checkConfig({ endpoints: [{ device: 'vfio', backend: 'x', addr: '4.0' }] }, 'vm.json')).toThrow(
      /backend/,
    );
  });

  it.each([
    ['0000:00:04.0', '0000:00:04.0'],
    ['00:04.7', '0000:00:04.7'],
    ['10000:E1:1F.3', '10000:e1:1f.3'],
  ])('host %s', (text, name) => expect(parseHostFunction(text)).toBe(name));

  it.each(['', '4.0', '0000:00:04.8', '0000:00:20.0', '000:00:04.0', '0000:00:04.0x', '0000:0:04.0'])(
    'not host %s',
    (text) => {
      expect(() => parseHostFunction(text)).toThrow(RangeError);
    },
  );

  it.each([
    [{ endpoint: [{ ...EDU, host: undefined as never }] }, /names no "host"/],
    [{ endpoint: [{ ...EDU, device: 'rng' as const }] }, /for vfio/],
    [{ endpoint: [EDU], translation: false }, /untranslated/],
  ])('are refused where they make no sense', (flags, message) => {
    expect(() => settingsOf(flags)).toThrow(message);
  });
});

describe('a function of the host', () => {
  it('is an endpoint with the reserved regions of its group, and those that are asked for', () => {
    const { machine, hosts, lines } = make({
      endpoint: [EDU],
      reserved: [{ addr: EDU.addr, region: { start: 0x5000n, end: 0x5fffn, kind: 'reserved' } }],
    });
    expect(machine.iommu.core.reservedRegions(0x20)).toMatchObject([
      { start: 0x1000n, end: 0x1fffn, kind: 'reserved' },
      { start: 0x5000n, end: 0x5fffn, kind: 'reserved' },
      { start: 0xfee0_0000n, end: 0xfeef_ffffn, kind: 'msi' },
    ]);
    expect(hosts.asked).toMatchObject([{ device: '0000:00:04.0', backend: 'auto' }]);
    expect(lines).toEqual(['vfio (4.0): 0000:00:04.0 in group 4, type1: a test']);
  });

  it('tells the IOMMU of bus master before the device has it', async () => {
    const { machine, hosts } = make({ endpoint: [EDU] });
    const device = hosts.devices.get('0000:00:04.0')!;
    const { pci } = machine.functions[1]!;
    const quiet = (): boolean => machine.iommu.core.stats().contexts[0]!.quiet;
    const seen: boolean[] = [];
    device.refuse = (call) => {
      if (call.startsWith('write 4')) seen.push(quiet());
      return false;
    };
    expect(quiet()).toBe(true);
    pci.writeConfigBytes(4, Uint8Array.of(4, 0));
    pci.writeConfigBytes(4, Uint8Array.of(0, 0));
    expect([seen, quiet()]).toEqual([[false, false], true]);
    await machine.close();
  });

  it('shares the context of its group', async () => {
    const at = (addr: string, host: string): typeof EDU => ({ ...EDU, addr: parsePciAddress(addr), host }) as never;
    const { machine, hosts } = make({ endpoint: [at('5.0', '0000:00:05.0'), at('5.1', '0000:00:05.1'), EDU] });
    expect(hosts.asked.map(({ device }) => device)).toEqual(['0000:00:05.0', '0000:00:04.0']);
    expect(machine.iommu.core.stats().contexts.map(({ endpoints }) => endpoints)).toEqual([[0x28, 0x29], [0x20]]);
    expect(machine.functions.map(({ name }) => name)).toEqual(['iommu', 'vfio-5.0', 'vfio-5.1', 'vfio-4.0']);
    await machine.close();
    expect(hosts.closed).toHaveLength(2);
  });

  it('is reset when its client is gone, and its context is closed at the end', async () => {
    const { machine, hosts, servers } = make({ endpoint: [EDU] });
    await machine.listen();
    servers[1]!.pci!.writeConfigBytes(4, Uint8Array.of(4, 0));
    await machine.close();
    const device = hosts.devices.get('0000:00:04.0')!;
    expect(device.calls).toContain('reset');
    expect([device.busMaster(), hosts.closed]).toEqual([false, [expect.any(String)]]);
    await machine.close();
    expect(hosts.closed).toHaveLength(1);
  });

  it('is shown with its host context', async () => {
    const { machine } = make({ endpoint: [EDU, { device: 'rng', addr: parsePciAddress('3.0'), socket: undefined }] });
    const report = serveReport(machine, 1, 0);
    expect(report.functions.map(({ host }) => host?.state ?? null)).toEqual([null, 'bypass', null]);
    expect(report.functions[1]).toMatchObject({
      dma: null,
      stats: { host: '0000:00:04.0' },
      host: { quiet: true, entries: 0 },
    });
    expect(JSON.parse(toJson(report))).toBeTruthy();
    expect(statusTable(report)).toContain('0 host entries, quiet');
    expect(toPrometheus(report)).toContain('virtio_iommu_host_entries{function="vfio",addr="4.0"} 0');
    await machine.close();
  });

  it('that the host refuses ends with its words, and nothing stays open', () => {
    const hosts = new Hosts();
    const log = new ServeLog(() => undefined);
    const { endpoints } = settingsOf({
      endpoint: [{ ...EDU, addr: parsePciAddress('5.0'), host: '0000:00:05.0' }, EDU],
    });
    const open = hosts.open;
    const access: HostAccess = {
      sysfs: hosts.sysfs,
      open: (options) => {
        hosts.refuse = options.device === '0000:00:04.0';
        return open(options);
      },
    };
    expect(() => new ServeHosts(endpoints, log, access)).toThrow(/RMRR/);
    expect(hosts.closed).toHaveLength(1);
  });

  it('is opened once for a group: two backends are a mistake', () => {
    const hosts = new Hosts();
    const { endpoints } = settingsOf({
      endpoint: [
        { ...EDU, addr: parsePciAddress('5.0'), host: '0000:00:05.0' },
        { ...EDU, addr: parsePciAddress('5.1'), host: '0000:00:05.1' },
      ],
    });
    const [first, second] = endpoints;
    const log = new ServeLog(() => undefined);
    expect(() => new ServeHosts([{ ...first!, backend: 'type1' }, second!], log, hosts)).toThrow(/type1 was asked/);
    expect(hosts.closed).toHaveLength(1);
    expect(() => new ServeHosts([{ ...first!, host: '0000:00:09.0' }], log, hosts)).toThrow(/no PCI function/);
  });
});
