// `virtio-iommu serve` as a process: what it prints, what it leaves, how it ends, and a guest's drivers on its sockets.
import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { closeSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createConnection, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { serveDocument, serveMetrics } from '../src/cli/serve-sockets.ts';
import { GuestRam } from '../src/host/guest-ram.ts';
import { loadNative } from '../src/host/native.ts';
import { DriverQueue } from '../src/testing/driver-queue.ts';
import { negotiate, runQueues } from '../src/testing/driver-setup.ts';
import { IommuDriver } from '../src/testing/iommu-driver.ts';
import { PciDriver } from '../src/testing/pci-driver.ts';
import { Command } from '../src/vfio-user/abi.ts';
import { Feature } from '../src/virtio/features.ts';
import { GuestMemory } from '../src/virtio/memory.ts';
import type { VirtioPciFunction } from '../src/virtio/pci/virtio-pci-function.ts';
import { describeNative } from './native/addon.ts';
import { run } from './run-cli.ts';
import { dmaMap } from './vfio-user/payloads.ts';
import { RemoteFunction, SyncClient } from './vfio-user/sync-client.ts';

const MAIN = fileURLToPath(new URL('../src/cli/main.ts', import.meta.url));
const RNG = 0x18;
const RAM = 1n << 24n;
const RING_IOVA = 0xffff_fff0_0000n;
const RING_GPA = 0x10_0000n;
const RING_BYTES = 0x2_0000n;
const UNMAPPED = 0x70_0020_0000n;

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'viommu-serve-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

/** A process that serves. */
class Served {
  stdout = '';
  stderr = '';
  readonly #child: ChildProcess;
  readonly #end: Promise<number | null>;

  constructor(...args: string[]) {
    const child = spawn(process.execPath, ['--import', 'tsx', MAIN, 'serve', '--dir', folder, ...args]);
    child.stdout.setEncoding('utf8').on('data', (text: string) => (this.stdout += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (this.stderr += text));
    this.#end = new Promise((resolve) => child.on('close', resolve));
    this.#child = child;
  }

  /** Objects that were printed, one a line. */
  get events(): Record<string, unknown>[] {
    const lines = this.stdout.split('\n').slice(0, -1);
    return lines.map((line) => JSON.parse(line) as Record<string, unknown>);
  }

  /** Waits for a text on standard output. */
  async until(text: string): Promise<this> {
    while (!this.stdout.includes(text)) {
      await new Promise((resolve) => setTimeout(resolve, 20));
      if (this.#child.exitCode !== null) throw new Error(`ended with ${this.#child.exitCode}: ${this.stderr}`);
    }
    return this;
  }

  /** Sends a signal, if any, and waits for the end. */
  end(signal?: NodeJS.Signals): Promise<number | null> {
    if (signal !== undefined) this.#child.kill(signal);
    return this.#end;
  }
}

let served: Served | undefined;
const rams: GuestRam[] = [];
afterEach(async () => {
  await served?.end('SIGKILL');
  served = undefined;
  for (const ram of rams.splice(0)) ram.close();
});

async function start(...args: string[]): Promise<Served> {
  served = new Served(...args);
  return served.until(args.includes('--json') ? '"ready"' : '\nready\n');
}

/** All that a server on a Unix socket says. */
function ask(path: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    const socket = createConnection(path);
    socket.setEncoding('utf8').on('data', (part: string) => (text += part));
    socket.on('end', () => resolve(text)).on('error', reject);
  });
}

/** One machine's memory and the functions that it reaches. */
class Guest {
  readonly ram = GuestRam.create({ size: RAM });
  readonly memory = new GuestMemory();
  readonly clients: SyncClient[] = [];

  constructor() {
    rams.push(this.ram);
    this.memory.addRegion(this.ram.region(0n));
  }

  connect(socket: string): PciDriver {
    const client = new SyncClient(loadNative().NativeSocket.connect(join(folder, socket)));
    client.negotiate();
    const fd = this.ram.duplicateFd();
    client.request(Command.dmaMap, dmaMap(0n, RAM), [fd]);
    closeSync(fd);
    this.clients.push(client);
    return new PciDriver(new RemoteFunction(client) as unknown as VirtioPciFunction);
  }

  /** The entropy driver: its ring at I/O virtual addresses that `iommu` maps. */
  ring(): DriverQueue {
    const view = new GuestMemory();
    const window = this.memory.windowAt(Number(RING_GPA));
    const windows = [window.bytes.subarray(Number(RING_GPA), Number(RING_GPA + RING_BYTES))];
    view.addRegion({ gpa: RING_IOVA, size: RING_BYTES, windows });
    return new DriverQueue(view, { size: 16, base: RING_IOVA, bufferBytes: 0x1_0000 });
  }
}

/** A guest asks for random bytes; they come when the process has had time for it. */
async function entropy(rng: PciDriver, ring: DriverQueue, bytes: number): Promise<Uint8Array | undefined> {
  ring.makeAvailable(ring.add({ readable: new Uint8Array(0), writableLength: bytes }));
  rng.notify(0);
  for (let i = 0; i < 500; i++) {
    const [chain] = ring.poll();
    if (chain !== undefined) return chain.writable.subarray(0, chain.usedLength);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return undefined;
}

describeNative('serve', () => {
  it('serves a guest, tells what happens, and leaves a trace that replays', async () => {
    const trace = join(folder, 'trace.ndjson.gz');
    const probe = ['--rng-probe-unmapped', `${UNMAPPED}`, '--entropy', 'counter'];
    const files = ['--record', trace, '--stats', 'state.sock', '--metrics', '127.0.0.1:0'];
    const process = await start('--json', '--quiet', '--reserved', '3.0=0x1000-0x1fff:reserved', ...probe, ...files);
    const [configured, ready] = process.events;
    expect(configured).toMatchObject({
      event: 'configured',
      functions: [
        { name: 'iommu', addr: '1.0', endpoint: null, socket: join(folder, 'iommu.sock') },
        { name: 'rng', addr: '3.0', endpoint: RNG, socket: join(folder, 'rng.sock') },
      ],
    });
    for (const name of ['iommu.sock', 'rng.sock', 'state.sock'])
      expect(statSync(join(folder, name)).mode & 0o777).toBe(0o600);
    expect(readFileSync(join(folder, 'viot.bin'))).toHaveLength(52);

    const guest = new Guest();
    const device = guest.connect('iommu.sock');
    const iommu = new IommuDriver({ device, memory: guest.memory, base: 0x80_0000n, requestQueueSize: 64 });
    iommu.start();
    expect(iommu.probe(RNG).properties.regions).toMatchObject([{ start: 0x1000n }, { start: 0xfee0_0000n }]);
    expect(iommu.attach(1, RNG).status).toBe(0);
    expect(iommu.map(1, RING_IOVA, RING_IOVA + RING_BYTES - 1n, RING_GPA).status).toBe(0);
    const rng = guest.connect('rng.sock');
    const ring = guest.ring();
    negotiate(rng, Feature.version1 | Feature.accessPlatform);
    runQueues(rng, [ring]);
    expect(await entropy(rng, ring, 5)).toEqual(Uint8Array.of(0, 1, 2, 3, 4));
    expect(iommu.events()).toMatchObject([{ endpoint: RNG, address: UNMAPPED, flags: 0x101 }]);

    const state = JSON.parse(await ask(join(folder, 'state.sock'))) as unknown;
    expect(state).toMatchObject({
      iommu: {
        requests: { attach: 1, map: 1, probe: 1 },
        statuses: { OK: 3 },
        counters: { faultsReported: 1 },
        mappings: 1,
      },
      functions: [
        { server: { connected: true, badMessages: 0, mappedBytes: Number(RAM) } },
        {
          dma: { identical: 0, refused: 1 },
          translation: { domain: 1, bypass: false },
          stats: { bytes: 5, probe: 'fault' },
        },
      ],
    });
    const [, url = ''] = (ready as { also: string[] }).also;
    const metrics = await fetch(url);
    expect(await metrics.text()).toContain('virtio_iommu_requests_total{type="map"} 1\n');

    guest.clients[0]!.request(Command.deviceReset);
    expect(JSON.parse(await ask(join(folder, 'state.sock')))).toMatchObject({ iommu: { mappings: 0, domains: 0 } });
    expect(await process.end('SIGTERM')).toBe(0);
    expect(process.stderr).toMatch(
      /^fault: rng \(3\.0\) read at 0x7000200000 refused \(mapping\), the guest was told$/m,
    );
    expect(process.events.map(({ event }) => event)).toEqual(['configured', 'ready', 'stopped']);
    for (const name of ['iommu.sock', 'rng.sock', 'state.sock']) expect(existsSync(join(folder, name))).toBe(false);
    const replayed = await run('replay', trace, '--json');
    expect([replayed.status, JSON.parse(replayed.stdout)]).toMatchObject([0, { requests: 3, differenceCount: 0 }]);
  });

  it('goes on when a client breaks the protocol, takes the next one, keeps its sockets, and ends at SIGINT', async () => {
    const process = await start('--interval', '0.05');
    const path = join(folder, 'iommu.sock');
    const socket = loadNative().NativeSocket.connect(path);
    socket.send(new Uint8Array(16), 0, 16, undefined);
    await process.until('1 s: ');
    socket.close();
    new SyncClient(loadNative().NativeSocket.connect(path)).negotiate();
    expect(process.stdout).toMatch(/-device '\{"driver":"vfio-user-pci","addr":"1.0",.*\n.*rng.sock/);

    const second = await run('serve', '--quiet', '--dir', folder);
    expect([second.status, second.stderr]).toEqual([
      1,
      expect.stringMatching(/^error: .*iommu\.sock is in use[^\n]*\n$/),
    ]);
    const third = await run('serve', '--quiet', '--dir', folder, '--iommu', '1.0=other.sock');
    expect([third.status, third.stderr]).toEqual([1, expect.stringMatching(/^error: .*rng\.sock is in use[^\n]*\n$/)]);
    expect([existsSync(path), existsSync(join(folder, 'other.sock'))]).toEqual([true, false]);

    expect(await process.end('SIGINT')).toBe(0);
    expect(process.stdout).toMatch(
      /^1 s: 0 requests \(0 not OK\), 0 mappings, 0 domains, 0 faults, iommu \w+, rng waits$/m,
    );
    expect(process.stdout).toMatch(/^stopped after \d+ s: /m);
    expect(process.stderr).toMatch(/^error: .*iommu.sock: /m);
    expect([existsSync(path), existsSync(join(folder, 'rng.sock'))]).toEqual([false, false]);
  });
});

describe('serve --dry-run', () => {
  it('prints the arguments of QEMU, writes the VIOT table, and ends', async () => {
    const { status, stdout, stderr } = await run(
      'serve',
      '--dry-run',
      '--dir',
      folder,
      '--viot',
      'dry.bin',
      '--memory',
      '1G',
    );
    expect([status, stderr]).toEqual([0, '']);
    expect(stdout).toContain('-object memory-backend-memfd,id=mem,size=1024M,share=on');
    expect(stdout).toContain(`data=${folder}/dry.bin`);
    expect(readFileSync(join(folder, 'dry.bin'))).toHaveLength(52);
  });

  it('prints one JSON object with --json', async () => {
    const { stdout } = await run('serve', '--dry-run', '--json', '--dir', folder, '--endpoint', 'dma@5.0');
    expect(JSON.parse(stdout)).toMatchObject({ functions: [{ name: 'iommu' }, { name: 'dma', endpoint: 0x28 }] });
  });

  it('takes a configuration file', async () => {
    const path = join(folder, 'vm.json');
    writeFileSync(path, JSON.stringify({ endpoints: [{ device: 'rng', addr: '7.0' }], qemu: { command: 'my-qemu' } }));
    const { stdout } = await run('serve', '--dry-run', '--dir', folder, '--config', path);
    expect(stdout).toMatch(/my-qemu[^]*"addr":"7\.0"/);
  });

  it.each([
    [['--endpoint', 'blk@3.0'], /must be rng or dma.*@ADDR/],
    [['--endpoint', 'rng@0.0'], /must not be "0.0": that is the host bridge/],
    [['--endpoint', 'rng@3.0='], /names no socket/],
    [['--endpoint', 'rng@1.0'], /rng and iommu have the same address/],
    [['--reserved', '9.0=1-2:msi'], /no endpoint is at 9\.0/],
    [['--reserved', '1-2:odd'], /START-END:reserved/],
    [['--msi', '5'], /must be START-END/],
    [['--metrics', '192.168.0.1:80'], /must be a loopback address/],
    [['--queue-size', '100'], /must be a power of two/],
    [['--policy', 'greedy'], /policy "greedy" is not available/],
    [['--bypass', 'maybe'], /Allowed choices are on, off/],
    [['--page-size-mask', '-1'], /must be a 64-bit number/],
    [['--interval', '0'], /must be a number of seconds/],
    [['--config', '/nothing.json'], /\/nothing\.json: ENOENT/],
    [['extra'], /too many arguments/],
  ])('%j is a usage error with one clear line', async (args, message) => {
    const { status, stdout, stderr } = await run('serve', '--dry-run', '--dir', folder, ...args);
    expect([status, stdout]).toEqual([2, '']);
    expect(stderr.trim().split('\n')).toHaveLength(1);
    expect(stderr).toMatch(message);
  });

  it('ends with 1 when the table cannot be written', async () => {
    const { status, stderr } = await run('serve', '--dry-run', '--dir', join(folder, 'missing'));
    expect([status, stderr]).toEqual([1, expect.stringMatching(/^error: .*viot\.bin: ENOENT[^\n]*\n$/) as string]);
  });

  it('hides what is for tests', async () => {
    const { stdout } = await run('serve', '--help');
    expect(stdout).toContain('--record <file>');
    expect(stdout).not.toMatch(/--no-translation|--rng-probe/);
  });
});

describe('the state', () => {
  it('is a document on a Unix socket, which replaces one that nobody listens on', async () => {
    const path = join(folder, 'doc.sock');
    let count = 0;
    const listening = await serveDocument(path, () => JSON.stringify({ count: ++count }));
    expect([await ask(path), await ask(path)]).toEqual(['{"count":1}\n', '{"count":2}\n']);
    await expect(serveDocument(path, () => '')).rejects.toThrow(/another process listens there/);
    const slow = createConnection(path);
    await new Promise((resolve) => slow.once('connect', resolve));
    await listening.close();
    slow.destroy();
    expect(existsSync(path)).toBe(false);
    writeFileSync(path, '');
    await expect(serveDocument(path, () => '')).rejects.toThrow(/exists and is not a socket/);
    rmSync(path);
  });

  it('is Prometheus text on a loopback port, and nothing else', async () => {
    const listening = await serveMetrics({ host: '127.0.0.1', port: 0 }, () => 'a 1\n');
    const answer = await fetch(listening.place);
    expect([answer.status, answer.headers.get('content-type'), await answer.text()]).toEqual([
      200,
      'text/plain; version=0.0.4; charset=utf-8',
      'a 1\n',
    ]);
    expect((await fetch(new URL('/', listening.place))).status).toBe(404);
    expect((await fetch(listening.place, { method: 'POST', body: 'x' })).status).toBe(405);
    await listening.close();
    await expect(fetch(listening.place)).rejects.toThrow();
    const taken = createServer().listen(0, '127.0.0.1');
    await new Promise((resolve) => taken.once('listening', resolve));
    const { port } = taken.address() as { port: number };
    await expect(serveMetrics({ host: '127.0.0.1', port }, () => '')).rejects.toThrow(/EADDRINUSE/);
    taken.close();
  });
});
