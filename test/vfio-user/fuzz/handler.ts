// Fuzzes the message handler: a session with a real virtio-iommu behind it, message by message, against the oracle; beside
// it a second function whose client behaves, which must not notice.
import type { GuestMemory } from '../../../src/index.ts';
import { GuestMemory as Memory, VirtioIommu } from '../../../src/index.ts';
import { Random } from '../../../src/testing/random.ts';
import { ClientMemory } from '../../../src/vfio-user/client-memory.ts';
import { DmaTable } from '../../../src/vfio-user/dma-table.ts';
import { SignalTable } from '../../../src/vfio-user/interrupts.ts';
import { Reply, Request } from '../../../src/vfio-user/message.ts';
import { ProtocolError } from '../../../src/vfio-user/protocol-error.ts';
import { Session } from '../../../src/vfio-user/session.ts';
import { VirtioPciFunction } from '../../../src/virtio/pci/virtio-pci-function.ts';
import type { FuzzFiles } from './files.ts';
import { tag } from './files.ts';
import type { FuzzMessage } from './generate.ts';
import { Generator } from './generate.ts';
import type { OracleMap, Verdict } from './oracle.ts';
import { Oracle } from './oracle.ts';

/** Most mappings; low, so that the limit is met. */
export const MAX_MAPS = 8;

/** What a run did. */
export interface FuzzCounts {
  messages: number;
  ended: number;
  refused: number;
  mapped: number;
  checks: number;
}

/** One function with its session. */
class Side {
  readonly memory: GuestMemory = new Memory();
  readonly table: DmaTable;
  readonly client: ClientMemory;
  readonly signals = { msix: new SignalTable(), error: new SignalTable() };
  readonly pci: VirtioPciFunction;
  readonly oracle: Oracle;
  readonly #request = new Request();
  readonly #reply = new Reply();
  #session: Session;

  constructor() {
    const iommu = new VirtioIommu({ memory: this.memory, endpoints: [{ id: 1 }], requestQueueSize: 16 });
    this.pci = new VirtioPciFunction(iommu.transport, {
      interrupts: { msix: (vector) => this.signals.msix.raise(vector) },
      msixTable: 'vmm',
    });
    this.table = new DmaTable(
      this.memory,
      { maxMaps: MAX_MAPS, maxBytes: 2 ** 42, requireSealed: false },
      () => undefined,
    );
    this.client = new ClientMemory(this.table, () => undefined);
    this.oracle = new Oracle({
      bars: new Map(this.pci.bars.map(({ index, size }) => [index, size])),
      vectors: this.pci.vectors,
      maxMaps: MAX_MAPS,
    });
    this.#session = this.#begin();
  }

  #begin(): Session {
    return new Session({
      pci: this.pci,
      table: this.table,
      signals: this.signals,
      client: this.client,
      maxMaps: MAX_MAPS,
      onAgreed: () => undefined,
      onReset: () => undefined,
    });
  }

  /** What the server does when a connection ends. */
  end(): void {
    this.client.end();
    this.pci.reset();
    this.signals.msix.clearAll();
    this.signals.error.clearAll();
    if (this.table.unmapAll() !== 0) throw new Error('memory stays');
    this.oracle.reset();
    this.#session = this.#begin();
  }

  /** Gives a message to the session; the oracle's words. @throws whatever is not a broken protocol. */
  give({ bytes, fds }: FuzzMessage): Verdict {
    const request = this.#request;
    request.reserve(bytes.length, 0);
    request.bytes.set(bytes);
    request.size = bytes.length;
    request.descriptors = { count: fds.length, at: (i) => fds[i]?.fd ?? -1 };
    try {
      const length = this.#session.handle(request, this.#reply);
      return length === 0 ? 'none' : checkReply(bytes, this.#reply.bytes.subarray(0, length));
    } catch (error) {
      if (error instanceof ProtocolError) return 'end';
      throw error;
    } finally {
      request.shrink();
    }
  }

  /** Has the server ask the client for something now and then. */
  ask(random: Random): void {
    const [map] = this.oracle.maps;
    if (map === undefined || this.oracle.asked.size > 3) return;
    const count = 1 + random.below(64);
    const reading = random.below(2) === 0;
    const moved = reading
      ? this.client.dmaRead(map.start, count)
      : this.client.dmaWrite(map.start, new Uint8Array(count));
    moved.catch(() => undefined);
    for (let next = this.client.takeMessage(); next !== undefined; next = this.client.takeMessage()) {
      const id = new DataView(next.buffer).getUint16(0, true);
      this.oracle.asked.set(id, { command: reading ? 11 : 12, count });
    }
  }

  /** Compares memory with what the oracle knows; what differs. */
  difference(): string | undefined {
    return memoryDifference(this.memory, this.oracle.maps, this.table.count);
  }
}

/** Compares guest memory with mappings: regions, rights, and the first word of each page. */
export function memoryDifference(memory: GuestMemory, all: readonly OracleMap[], count: number): string | undefined {
  if (count !== all.length) return `${count} mappings, expected ${all.length}`;
  const maps = all.filter(({ file }) => file >= 0).sort((a, b) => (a.start < b.start ? -1 : 1));
  const seen = memory.regions.map(({ gpa, size, readOnly }) => `${gpa}+${size} ${readOnly}`).join(', ');
  const expected = maps.map(({ start, end, flags }) => `${start}+${end - start} ${(flags & 2) === 0}`).join(', ');
  if (seen !== expected) return `regions ${seen}; expected ${expected}`;
  const word = new Uint8Array(4);
  for (const { start, end, file, offset } of maps) {
    for (let at = start; at < end; at += 4096n) {
      const page = Number((offset + at - start) / 4096n);
      if (!memory.read(Number(at), word, 0, 4)) return `no memory at ${at}`;
      const value = new DataView(word.buffer).getUint32(0, true);
      if (value !== tag(file, page)) return `at ${at} is ${value.toString(16)}, expected page ${page} of file ${file}`;
    }
  }
  return undefined;
}

/** A reply belongs to its request and is as long as it says. */
function checkReply(request: Uint8Array, reply: Uint8Array): Verdict {
  const [asked, view] = [request, reply].map((bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.length)) as [
    DataView,
    DataView,
  ];
  const flags = view.getUint32(8, true);
  const errno = view.getUint32(12, true);
  if (view.getUint32(0, true) !== asked.getUint32(0, true)) throw new Error('a reply to something else');
  if (view.getUint32(4, true) !== reply.length) throw new Error(`a reply of ${reply.length} bytes`);
  if (flags !== (errno === 0 ? 1 : 0x21)) throw new Error(`a reply with flags ${flags} and errno ${errno}`);
  if (errno !== 0 && reply.length !== 16) throw new Error('an error with a payload');
  return errno;
}

/** Runs messages; undefined, or what went wrong. Lets the event loop turn, so that memory can go. */
export async function fuzzHandler(
  messages: number,
  seed: number,
  files: FuzzFiles,
  counts: FuzzCounts,
  progress: (done: number) => void = () => undefined,
): Promise<string | undefined> {
  const random = new Random(seed);
  const generator = new Generator(random, files);
  const [side, other] = [new Side(), new Side()];
  const quiet = new Generator(new Random(seed ^ 0x5555), files);
  let last: FuzzMessage | undefined;
  try {
    for (let i = 0; i < messages; i++) {
      last = generator.next(side.oracle);
      const failure = step(side, last, counts);
      if (failure !== undefined) return `message ${i}: ${failure}: ${describe(last)}`;
      if (i % 16 === 0) side.ask(random);
      if (i % 32 === 0) {
        counts.checks++;
        const difference = side.difference() ?? other.difference();
        if (difference !== undefined) return `message ${i}: ${difference}: ${describe(last)}`;
      }
      if (i % 64 === 0) {
        // The other function goes its own way, with its own memory.
        const wrong = step(other, quiet.next(other.oracle), counts);
        if (wrong !== undefined) return `message ${i}: the other function: ${wrong}`;
      }
      if (i % 256 === 0) await new Promise((resolve) => setImmediate(resolve));
      if (i % 16384 === 0) progress(i);
    }
  } catch (error) {
    return `${error instanceof Error ? (error.stack ?? error.message) : String(error)}: ${last === undefined ? '' : describe(last)}`;
  } finally {
    side.end();
    other.end();
  }
  return undefined;
}

/** One message; what the session did against what the oracle says. */
function step(side: Side, one: FuzzMessage, counts: FuzzCounts): string | undefined {
  const before = side.oracle.maps.length;
  const expected = side.oracle.judge(one.bytes, one.fds);
  const found = side.give(one);
  counts.messages++;
  if (side.oracle.maps.length > before) counts.mapped++;
  if (found === 'end') counts.ended++;
  else if (typeof found === 'number' && found > 0) counts.refused++;
  const fits = expected === 'some' ? typeof found === 'number' && found > 0 : found === expected;
  if (!fits) return `${found}, expected ${expected}`;
  if (found === 'end') side.end();
  return undefined;
}

function describe({ bytes, fds }: FuzzMessage): string {
  const hex = [...bytes.subarray(0, 80)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  return `${hex} (${bytes.length} bytes, descriptors ${fds.map(({ kind }) => kind).join(' ')})`;
}
