// How long one request takes through the whole way: a kick of another process over the vfio-user socket, MAP or UNMAP of
// 4 KiB from its ring, the reply on the socket. And whether many of them make this process grow.
// The client is a second process that waits for each reply, as a guest does.
// Run: node --expose-gc --import tsx bench/vfio-user.ts [--requests 1000000] [--json FILE]; exit status 1 above a limit.
import { fork } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type { NativeAddon, NativeSocket } from '../src/host/native-api.ts';
import { GuestRam } from '../src/host/guest-ram.ts';
import { loadNative } from '../src/host/native.ts';
import { GuestMemory, VirtioIommu } from '../src/index.ts';
import { IommuDriver } from '../src/testing/iommu-driver.ts';
import { Kick } from '../src/testing/kick.ts';
import { PciDriver } from '../src/testing/pci-driver.ts';
import { VfioUserServer } from '../src/vfio-user.ts';
import { Command } from '../src/vfio-user/abi.ts';
import { VirtioPciFunction } from '../src/virtio/pci/virtio-pci-function.ts';
import { dmaMap } from '../test/vfio-user/payloads.ts';
import { RemoteFunction, SyncClient } from '../test/vfio-user/sync-client.ts';
import { describeMachine } from './machine.ts';
import { machineText } from './report.ts';

const LIMIT_US = 60;
/** A process may use this much more at the end than after its warm-up. */
const GROWTH_BYTES = 16 * 2 ** 20;
const RAM = 1n << 26n;
const ENDPOINT = 0x18;
const WARM_UP = 20_000;
/** Requests whose time is kept; the rest only counts. */
const KEPT = 200_000;
const IOVA_PAGES = 4096;

/** What the client process tells. */
interface Told {
  readonly phase: 'ready' | 'warm' | 'done';
  /** Round trips in microseconds: median, 99th percentile. */
  readonly round?: readonly [number, number];
  readonly refused?: number;
}

/** In the client process: the driver of a guest, one request for each kick. */
async function runClient(path: string, requests: number): Promise<void> {
  const { NativeSocket } = loadNative();
  const client = new SyncClient(NativeSocket.connect(path));
  client.negotiate();
  const ram = GuestRam.create({ size: RAM, preallocate: true });
  const memory = new GuestMemory();
  memory.addRegion(ram.region(0n));
  client.request(Command.dmaMap, dmaMap(0n, RAM), [ram.duplicateFd()]);
  const driver = new IommuDriver({
    device: new PciDriver(new RemoteFunction(client) as never),
    memory,
    base: 0x100_0000n,
    requestQueueSize: 256,
    wait: () => true,
  });
  driver.start();
  if (driver.attach(0, ENDPOINT).status !== 0) throw new Error('ATTACH was refused');
  const kick = new Kick(1);
  const times = new Float64Array(KEPT);
  let refused = 0;
  const send = (count: number, keep: boolean): void => {
    for (let i = 0; i < count; i++) {
      kick.clear();
      const page = ((i >> 1) % IOVA_PAGES) + 0x1000;
      if ((i & 1) === 0) kick.pushMap(0, page, 16, 1, 3);
      else kick.pushUnmap(0, page, 1);
      const begin = performance.now();
      refused += driver.sendKick(kick);
      if (keep && i < KEPT) times[i] = (performance.now() - begin) * 1000;
    }
  };
  const tell = (told: Told): Promise<void> =>
    new Promise((resolve) => {
      process.once('message', () => resolve());
      process.send?.(told);
    });
  send(WARM_UP, false);
  await tell({ phase: 'warm' });
  send(requests, true);
  const [median, p99] = quantiles(times.subarray(0, Math.min(KEPT, requests)));
  await tell({ phase: 'done', round: [median, p99], refused });
  process.disconnect();
}

/** Times in microseconds from before the first read of a message to after the write of its reply. */
interface Stopwatch {
  readonly times: Float64Array;
  count: number;
  running: boolean;
}

/** Puts a stopwatch around the calls of the addon: two clock readings in what is measured. */
function stopwatch(addon: NativeAddon): Stopwatch {
  const watch = { times: new Float64Array(KEPT), count: 0, running: false };
  const { prototype } = addon.NativeSocket as unknown as { prototype: NativeSocket };
  type Method<K extends 'receive' | 'send'> = (this: NativeSocket, ...args: Parameters<NativeSocket[K]>) => number;
  const method = <K extends 'receive' | 'send'>(name: K): Method<K> =>
    Object.getOwnPropertyDescriptor(prototype, name)!.value as Method<K>;
  const [receive, send] = [method('receive'), method('send')];
  let begin = 0;
  prototype.receive = function (into, start, end, limit) {
    if (start > 0) return receive.call(this, into, start, end, limit);
    const now = performance.now();
    const count = receive.call(this, into, start, end, limit);
    if (count > 0) begin = now;
    return count;
  };
  prototype.send = function (from, start, end, descriptors) {
    const count = send.call(this, from, start, end, descriptors);
    if (watch.running && watch.count < KEPT) watch.times[watch.count++] = (performance.now() - begin) * 1000;
    return count;
  };
  return watch;
}

/** Memory of this process after a collection. */
function usage(): { rss: number; heap: number; external: number } {
  globalThis.gc?.();
  const { rss, heapUsed, external } = process.memoryUsage();
  return { rss, heap: heapUsed, external };
}

function quantiles(values: Float64Array): [median: number, p99: number] {
  const sorted = Float64Array.from(values).sort();
  const at = (part: number): number => sorted[Math.floor(part * (sorted.length - 1))]!;
  return [at(0.5), at(0.99)];
}

async function runServer(requests: number, json: string | undefined): Promise<void> {
  const machine = describeMachine([]);
  const watch = stopwatch(loadNative());
  const memory = new GuestMemory();
  const path = join(tmpdir(), `viommu-bench-${process.pid}.sock`);
  const server = new VfioUserServer({ path, memory });
  const iommu = new VirtioIommu({ memory, endpoints: [{ id: ENDPOINT }] });
  const pci = new VirtioPciFunction(iommu.transport, { interrupts: server.interrupts, msixTable: 'vmm' });
  await server.serve(pci);
  const child = fork(fileURLToPath(import.meta.url), ['--client', path, '--requests', String(requests)]);
  let before = usage();
  let begin = 0;
  const told = await new Promise<Told>((resolve, reject) => {
    child.on('exit', (code) => reject(new Error(`the client ended with status ${code}`)));
    child.on('message', (message: Told) => {
      if (message.phase === 'done') {
        resolve(message);
        return;
      }
      before = usage();
      watch.running = true;
      begin = performance.now();
      child.send('go');
    });
  });
  const seconds = (performance.now() - begin) / 1000;
  watch.running = false;
  const after = usage();
  child.removeAllListeners('exit');
  child.send('go');
  const stats = server.stats();
  await server.close();
  const maps = watch.times.subarray(0, watch.count).filter((_time, i) => i % 2 === 0);
  const unmaps = watch.times.subarray(0, watch.count).filter((_time, i) => i % 2 === 1);
  const result = {
    machine: { ...machine, command: 'node --expose-gc --import tsx bench/vfio-user.ts' },
    requests,
    refused: told.refused ?? -1,
    seconds,
    microseconds: { map: quantiles(maps), unmap: quantiles(unmaps), roundTrip: told.round ?? [0, 0], limit: LIMIT_US },
    bytes: { before, after },
    messages: stats.messages,
  };
  print(result);
  if (json !== undefined) writeFileSync(json, `${JSON.stringify(result, null, 2)}\n`);
  const grown = Math.max(after.rss - before.rss, after.heap - before.heap);
  const good = result.microseconds.map[0] <= LIMIT_US && grown <= GROWTH_BYTES && result.refused === 0;
  process.exitCode = good ? 0 : 1;
}

interface Result {
  readonly machine: Parameters<typeof machineText>[0];
  readonly requests: number;
  readonly refused: number;
  readonly seconds: number;
  readonly microseconds: Readonly<Record<'map' | 'unmap' | 'roundTrip', readonly number[]>> & {
    readonly limit: number;
  };
  readonly bytes: Readonly<Record<'before' | 'after', { rss: number; heap: number; external: number }>>;
}

function print({ machine, requests, refused, seconds, microseconds, bytes }: Result): void {
  console.log(machineText(machine));
  console.log(`${requests} requests, one for each kick, ${refused} refused, ${seconds.toFixed(1)} s\n`);
  const rows = [
    ['microseconds', 'median', 'p99', 'limit'],
    ['MAP, socket read to reply written', ...microseconds.map.map(fixed), `<= ${microseconds.limit}`],
    ['UNMAP, socket read to reply written', ...microseconds.unmap.map(fixed), ''],
    ['round trip as the client sees it', ...microseconds.roundTrip.map(fixed), ''],
    ['', '', '', ''],
    ['MiB', 'before', 'after', 'limit'],
    ['resident', mib(bytes.before.rss), mib(bytes.after.rss), `+ ${mib(GROWTH_BYTES)}`],
    ['heap', mib(bytes.before.heap), mib(bytes.after.heap), `+ ${mib(GROWTH_BYTES)}`],
    ['external', mib(bytes.before.external), mib(bytes.after.external), ''],
  ];
  const widths = [0, 1, 2, 3].map((column) => Math.max(...rows.map((row) => row[column]!.length)));
  for (const row of rows) {
    const cells = row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)));
    console.log(cells.join('  ').trimEnd());
  }
}

function fixed(value: number): string {
  return value.toFixed(1);
}

function mib(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(1);
}

const { values } = parseArgs({
  options: {
    client: { type: 'string' },
    requests: { type: 'string', default: '1000000' },
    json: { type: 'string' },
  },
});
if (values.client !== undefined) await runClient(values.client, Number(values.requests));
else await runServer(Number(values.requests), values.json);
