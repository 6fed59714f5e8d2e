// Fuzzes a server over its real socket: messages in pieces of any length, wrong sizes in the header, clients that leave in
// the middle; what becomes of connection and memory is compared with the oracle. A second server beside it has a client that
// behaves, which must not notice.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { GuestMemory, VirtioIommu } from '../../../src/index.ts';
import { Random } from '../../../src/testing/random.ts';
import { VfioUserServer } from '../../../src/vfio-user.ts';
import { Command } from '../../../src/vfio-user/abi.ts';
import { VirtioPciFunction } from '../../../src/virtio/pci/virtio-pci-function.ts';
import { Client, message } from '../client.ts';
import * as p from '../payloads.ts';
import type { FuzzFiles } from './files.ts';
import type { FuzzMessage } from './generate.ts';
import { Generator } from './generate.ts';
import type { FuzzCounts } from './handler.ts';
import { MAX_MAPS, memoryDifference } from './handler.ts';
import { Oracle } from './oracle.ts';

/** How a stream ends: with a question that the server answers, or with something that ends the connection. */
type Ending = 'question' | 'small' | 'large' | 'short' | 'gone';

/** A server, what it logs, and its oracle. */
class Service {
  readonly memory = new GuestMemory();
  readonly errors: string[] = [];
  readonly server: VfioUserServer;
  readonly oracle: Oracle;
  readonly path: string;
  readonly #pci: VirtioPciFunction;

  constructor(path: string) {
    this.path = path;
    this.server = new VfioUserServer({
      path,
      memory: this.memory,
      maxMaps: MAX_MAPS,
      maxMappedBytes: 2 ** 42,
      log: ({ level, message: text }) => (level === 'error' ? void this.errors.push(text) : undefined),
    });
    const iommu = new VirtioIommu({ memory: this.memory, endpoints: [{ id: 1 }], requestQueueSize: 16 });
    this.#pci = new VirtioPciFunction(iommu.transport, { interrupts: this.server.interrupts, msixTable: 'vmm' });
    this.oracle = new Oracle({
      bars: new Map(this.#pci.bars.map(({ index, size }) => [index, size])),
      vectors: this.#pci.vectors,
      maxMaps: MAX_MAPS,
    });
  }

  serve(): Promise<void> {
    return this.server.serve(this.#pci);
  }

  difference(): string | undefined {
    return memoryDifference(this.memory, this.oracle.maps, this.server.stats().regions);
  }
}

/** Sends bytes in pieces; descriptors go with the first. */
function sendInPieces(client: Client, random: Random, { bytes, fds }: FuzzMessage): void {
  const pieces = random.below(4) === 0 ? 1 + random.below(5) : 1;
  let at = 0;
  for (let i = 0; i < pieces && at < bytes.length; i++) {
    const end = i === pieces - 1 ? bytes.length : Math.min(bytes.length, at + 1 + random.below(bytes.length));
    client.send(bytes.slice(at, end), at === 0 && fds.length > 0 ? fds.map(({ fd }) => fd) : undefined);
    at = end;
  }
}

/** One client: its messages, its end, and what must follow. */
async function oneClient(
  service: Service,
  random: Random,
  generator: Generator,
  counts: FuzzCounts,
): Promise<string | undefined> {
  const { oracle, server } = service;
  const errors = service.errors.length;
  const client = new Client(service.path);
  let over = false;
  for (let i = 1 + random.below(60); i > 0 && !over; i--) {
    const one = generator.next(oracle);
    sendInPieces(client, random, one);
    counts.messages++;
    over = oracle.judge(one.bytes, one.fds) === 'end';
  }
  const ending: Ending = over
    ? 'gone'
    : (['question', 'question', 'small', 'large', 'short', 'gone'] as const)[random.below(6)]!;
  // A client that leaves with unread replies may take the rest of its messages with it, which says nothing.
  if (ending === 'question' || ending === 'short') {
    const reply = await client.request(Command.getInfo, p.info(16));
    if (reply?.errno !== 0) return `no answer to a question: ${service.errors.at(-1) ?? ''}`;
    counts.checks++;
    const difference = service.difference();
    if (difference !== undefined) return difference;
  }
  if (ending === 'small' || ending === 'large') {
    const size = ending === 'small' ? random.below(16) : 0x10_0021 + random.below(1000);
    client.send(message({ id: 1, command: random.below(20), size }));
    over = true;
  } else if (ending === 'short') {
    client.send(message({ id: 1, command: 4, payload: p.info(16) }).subarray(0, 1 + random.below(31)));
  }
  if (over) await client.end;
  client.close();
  await until(() => !server.stats().connected);
  oracle.reset();
  counts.ended++;
  const told = service.errors.length - errors;
  if (told !== (over || ending === 'short' ? 1 : 0)) {
    return `${told} errors logged after ${ending}, over ${over}: ${service.errors.slice(errors).join('; ')}`;
  }
  return service.difference();
}

/** Turns of the event loop until something is so. @throws Error after many. */
async function until(done: () => boolean): Promise<void> {
  for (let i = 0; i < 100_000; i++) {
    if (done()) return;
    await new Promise((resolve) => setImmediate(resolve));
  }
  throw new Error('the server does not see that its client has left');
}

/** Runs clients until so many messages are sent; undefined, or what went wrong. */
export async function fuzzStream(
  messages: number,
  seed: number,
  files: FuzzFiles,
  counts: FuzzCounts,
  progress: (done: number) => void = () => undefined,
): Promise<string | undefined> {
  const folder = mkdtempSync(join(tmpdir(), 'viommu-fuzz-'));
  const [service, other] = [new Service(join(folder, 'a.sock')), new Service(join(folder, 'b.sock'))];
  await service.serve();
  await other.serve();
  const random = new Random(seed);
  const generator = new Generator(random, files);
  const good = new Client(other.path);
  const begin = counts.messages;
  try {
    await good.request(Command.version, p.version(0, 0, p.QEMU_CAPABILITIES));
    const [file] = files.memory;
    const map = message({ id: 0, command: Command.dmaMap, payload: p.dmaMap(0n, 0x4000n, 0x1000n) });
    other.oracle.begun = true;
    other.oracle.judge(map, [file!]);
    await good.request(Command.dmaMap, map.slice(16), [file!.fd]);
    for (let i = 0; counts.messages - begin < messages; i++) {
      const failure = await oneClient(service, random, generator, counts);
      if (failure !== undefined) return `client ${i}: ${failure}`;
      const calm =
        (await good.request(Command.getInfo, p.info(16)))?.errno === 0 ? other.difference() : 'its connection ended';
      if (calm !== undefined) return `client ${i}: the other function: ${calm}`;
      if (i % 200 === 0) progress(counts.messages - begin);
    }
    return undefined;
  } catch (error) {
    return error instanceof Error ? (error.stack ?? error.message) : String(error);
  } finally {
    good.close();
    await service.server.close();
    await other.server.close();
    rmSync(folder, { recursive: true });
  }
}
