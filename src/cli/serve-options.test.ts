import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { checkConfig } from './serve-config.ts';
import type { ServeFlags, ServeSettings } from './serve-options.ts';
import { serveSettings } from './serve-options.ts';
import { qemuArguments, shellText, viotBody } from './serve-qemu.ts';
import { parsePciAddress, parseReserved } from './serve-values.ts';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'viommu-serve-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

function config(json: unknown): string {
  const path = join(folder, 'vm.json');
  writeFileSync(path, typeof json === 'string' ? json : JSON.stringify(json));
  return path;
}

function settings(flags: Partial<ServeFlags> = {}): ServeSettings {
  return serveSettings({ dir: folder, translation: true, ...flags });
}

const MSI = { start: 0xfee0_0000n, end: 0xfeef_ffffn, kind: 'msi' };

describe('settings', () => {
  it('are those of a small machine by default', () => {
    const { iommu, endpoints, viot, qemu, record, stats } = settings();
    expect(iommu).toMatchObject({ addr: { bdf: 8 }, socket: join(folder, 'iommu.sock') });
    expect(iommu.inputRange.end).toBe(2n ** 48n - 1n);
    expect(endpoints).toMatchObject([
      {
        name: 'rng',
        device: 'rng',
        addr: { bdf: 24 },
        socket: join(folder, 'rng.sock'),
        reserved: [MSI],
        translate: true,
      },
    ]);
    expect([viot, record, stats]).toEqual([join(folder, 'viot.bin'), undefined, undefined]);
    expect(qemu).toEqual({ command: 'qemu-system-x86_64', memory: 256 * 2 ** 20, messageTimeout: 60_000 });
  });

  it('come from the file, and flags win', () => {
    const path = config({
      dir: join(folder, 'elsewhere'),
      iommu: {
        addr: '2.0',
        requestQueueSize: 256,
        bypass: false,
        policy: 'kick',
        pageSizeMask: '0x1000',
        maxDomains: 9,
      },
      endpoints: [
        { device: 'rng', addr: '3.0', reserved: ['0x1000-0x1fff:reserved'], entropy: 'counter', probeUnmapped: 4096 },
        { device: 'rng', addr: '4.0', socket: '/run/second.sock', reserved: ['0x2000-0x2fff:msi'] },
        { device: 'dma', addr: '5.0', translate: false },
      ],
      metrics: '127.0.0.1:9464',
      qemu: { memory: '1G' },
    });
    const made = settings({ config: path, queueSize: 64, bypass: 'on', stats: 'state.sock' });
    expect(made.iommu).toMatchObject({
      addr: { text: '2.0' },
      requestQueueSize: 64,
      bypass: true,
      policy: 'kick',
      pageSizeMask: 0x1000n,
      maxDomains: 9,
    });
    expect(made.endpoints.map(({ name, socket, translate }) => [name, socket, translate])).toEqual([
      ['rng-3.0', join(folder, 'rng-3.0.sock'), true],
      ['rng-4.0', '/run/second.sock', true],
      ['dma', join(folder, 'dma.sock'), false],
    ]);
    expect(made.endpoints.map(({ reserved }) => reserved.map(({ kind }) => kind).join())).toEqual([
      'reserved,msi',
      'msi',
      'msi',
    ]);
    expect(made.endpoints[1]!.reserved).toEqual([{ start: 0x2000n, end: 0x2fffn, kind: 'msi' }]);
    expect(made.endpoints[0]).toMatchObject({ entropy: 'counter', probeUnmapped: 4096n });
    expect([made.stats, made.metrics?.port, made.qemu.memory]).toEqual([join(folder, 'state.sock'), 9464, 2 ** 30]);
  });

  it('give reserved regions to one endpoint or to all', () => {
    const endpoint = (
      addr: string,
    ): { device: 'rng'; addr: ReturnType<typeof parsePciAddress>; socket: undefined } => ({
      device: 'rng',
      addr: parsePciAddress(addr),
      socket: undefined,
    });
    const made = settings({
      endpoint: [endpoint('3.0'), endpoint('4.0')],
      reserved: [
        { addr: undefined, region: parseReserved('1-2') },
        { addr: parsePciAddress('4.0'), region: parseReserved('3-4') },
      ],
      msi: 'none',
    });
    expect(made.endpoints.map(({ reserved }) => reserved.map(({ start }) => start))).toEqual([[1n], [1n, 3n]]);
    expect(() => settings({ reserved: [{ addr: parsePciAddress('9.0'), region: parseReserved('1-2') }] })).toThrow(
      /--reserved: no endpoint is at 9.0/,
    );
  });

  it('keeps the trace and the table apart', () => {
    expect(() => settings({ record: 'one.bin', viot: 'one.bin' })).toThrow(/the trace and the table are one file/);
    expect(() => settings({ record: 'one.bin', viot: 'two.bin' })).not.toThrow();
  });

  it.each([
    [[{ device: 'rng', addr: '1.0' }], /rng and iommu have the same address 1.0/],
    [[{ device: 'rng', addr: '3.0', socket: 'iommu.sock' }], /rng and iommu have the same socket/],
    [[{ device: 'rng', addr: '3.0', socket: 'state.sock' }], /the state and rng have the same socket/],
    [[{ device: 'dma', addr: '3.0', packed: true }], /the endpoint at 3.0 is a dma: "packed" is for rng/],
    [[{ device: 'rng', addr: '3.1' }], /rng is at 3.1: a guest looks for it only when there is a function 0/],
    [
      [
        { device: 'vfio', host: '0000:04:00.0', addr: '4.0' },
        { device: 'vfio', host: '0000:04:00.0', addr: '5.0' },
      ],
      /are the same function of the host, 0000:04:00.0/,
    ],
    [[{ device: 'rng', addr: '3.0', socket: 'x'.repeat(200) }], /a socket's path has at most 107 bytes/],
  ])('%o do not go together', (endpoints, message) => {
    expect(() => settings({ config: config({ endpoints, stats: 'state.sock' }) })).toThrow(message);
  });

  it('take a relative path where only that fits', () => {
    const far = join(folder, 'y'.repeat(60));
    expect(settings({ dir: '.' }).iommu.socket).toBe(resolve('iommu.sock'));
    expect(() => settings({ dir: far.repeat(2) })).toThrow(/107 bytes/);
  });
});

describe('a configuration file', () => {
  it.each([
    ['{', /vm.json: not JSON/],
    [[], /vm.json: /],
    [{ iomu: {} }, /vm.json: Unrecognized key: "iomu"/],
    [{ iommu: { addr: '0.0' } }, /vm.json: iommu.addr: must not be "0.0": that is the host bridge/],
    [{ iommu: { requestQueueSize: 100 } }, /iommu.requestQueueSize: must be a power of two/],
    [{ iommu: { inputRange: '5' } }, /iommu.inputRange: must be START-END/],
    [{ iommu: { policy: 'greedy' } }, /iommu.policy: .*"forward"/],
    [{ iommu: { pageSizeMask: 1.5 } }, /iommu.pageSizeMask: must be a 64-bit number/],
    [{ iommu: { pageSizeMask: true } }, /iommu.pageSizeMask: must be a 64-bit number/],
    [{ endpoints: [] }, /endpoints: /],
    [{ endpoints: [{ device: 'rng' }] }, /endpoints\[0\].addr: /],
    [{ endpoints: [{ device: 'blk', addr: '3.0' }] }, /endpoints\[0\].device: /],
    [{ endpoints: [{ device: 'rng', addr: '3.0', reserved: ['1-2:odd'] }] }, /endpoints\[0\].reserved\[0\]: must be/],
    [{ metrics: '0.0.0.0:80' }, /metrics: must be a loopback address/],
    [{ msi: 'some' }, /msi: must be "none" or START-END/],
    [{ iommu: { packed: 1 }, interval: 0 }, /iommu.packed: .* \(and 1 more\)/],
  ])('%j is refused, with the key', (json, message) => {
    expect(() => settings({ config: config(json) })).toThrow(message);
  });

  it('that is not there is named', () => {
    expect(() => settings({ config: '/nothing/here.json' })).toThrow(/\/nothing\/here.json: ENOENT/);
  });

  it('may be empty', () => {
    expect(checkConfig({}, 'x')).toEqual({});
  });
});

describe('what QEMU is given', () => {
  const two = (): ServeSettings =>
    settings({
      config: config({
        iommu: { addr: '4.1' },
        endpoints: [
          { device: 'dma', addr: '4.0' },
          { device: 'rng', addr: '1e.0', socket: "/it's/r,n.sock" },
        ],
        viot: 'a,b.bin',
      }),
      memory: 3 * 2 ** 30,
    });

  it('is a VIOT table of the functions that are served, without its header', () => {
    const body = viotBody(two());
    expect([...body.subarray(0, 4), body.length]).toEqual([3, 0, 48, 0, 12 + 16 + 24 + 24]);
    const view = new DataView(body.buffer, body.byteOffset, body.length);
    expect([view.getUint8(12), view.getUint16(12 + 6, true)]).toEqual([3, 0x21]);
    const node = (at: number): number[] => [
      view.getUint8(at),
      view.getUint32(at + 4, true),
      view.getUint16(at + 12, true),
      view.getUint16(at + 14, true),
      view.getUint16(at + 16, true),
    ];
    expect([node(28), node(52)]).toEqual([
      [1, 0x20, 0x20, 0x20, 48],
      [1, 0xf0, 0xf0, 0xf0, 48],
    ]);
  });

  it('is memory that can be mapped, the table, and the functions in the order of their addresses', () => {
    const args = qemuArguments(two());
    expect(args.slice(0, 7)).toEqual([
      'qemu-system-x86_64',
      '-nodefaults',
      '-machine',
      'q35,memory-backend=mem',
      '-m',
      '3072M',
      '-object',
    ]);
    expect(args[7]).toBe('memory-backend-memfd,id=mem,size=3072M,share=on');
    expect(args[9]).toMatch(/^sig=VIOT,rev=0,oem_id=VIRTIO,oem_table_id=VIOMMU,data=.*\/a,,b\.bin$/);
    const devices = args.flatMap((word, i) => (word === '-device' ? [JSON.parse(args[i + 1]!) as object] : []));
    expect(devices).toEqual([
      {
        driver: 'vfio-user-pci',
        addr: '4.0',
        multifunction: true,
        socket: { type: 'unix', path: join(folder, 'dma.sock') },
        'x-msg-timeout': 60_000,
      },
      expect.objectContaining({ addr: '4.1', multifunction: true }) as object,
      {
        driver: 'vfio-user-pci',
        addr: '1e.0',
        socket: { type: 'unix', path: "/it's/r,n.sock" },
        'x-msg-timeout': 60_000,
      },
    ]);
  });

  it('is a text that a shell takes apart again', () => {
    const text = shellText(['qemu', '-m', '1G', '-device', `{"a":"it's"}`, '-x']);
    expect(text).toBe(`qemu \\\n  -m 1G \\\n  -device '{"a":"it'\\''s"}' \\\n  -x`);
  });
});
