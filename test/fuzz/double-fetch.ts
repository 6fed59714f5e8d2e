// Double fetch: another processor changes descriptors and requests while the device reads them. Each reply and its effect
// must fit one reading of every byte; nothing outside of the buffers may change; nothing may throw or hang.
// First part: single bytes flip between two values and the outcome is looked up in the scenario's list. Second part: any
// byte of rings, tables and requests takes any value, and only harm counts. Needs SharedArrayBuffer and a worker.
import { Worker } from 'node:worker_threads';
import { SimulatedAddressSpace } from '../../src/host/simulated/address-space.ts';
import { SimulatedHost } from '../../src/host/simulated.ts';
import type { SimulatedType1Context } from '../../src/host/simulated.ts';
import { PieceKind, Translation } from '../../src/iommu/translation.ts';
import { VirtioIommu } from '../../src/iommu/virtio-iommu.ts';
import { negotiate, runQueues } from '../../src/testing/driver-setup.ts';
import { Random } from '../../src/testing/random.ts';
import { GuestMemory } from '../../src/virtio/memory.ts';
import * as abi from '../../src/wire/abi.ts';
import type { Scenario } from './double-fetch-scenarios.ts';
import * as layout from './double-fetch-scenarios.ts';

const RAM_BYTES = 0x1_0000;
const GUARD = 4096;
const GUARD_BYTE = 0xc3;
/** The part that random bytes are written to in the second part: rings, areas and plain chains. */
const CHAOS_END = 0x8000;
const BATCH = 12;
/** Pages of a window that are looked at. */
const PAGES = [0, 1, 2, 3, 4, 5, 9, 15];
const WATCHDOG_MS = 20_000;

/** What a run found. */
export interface DoubleFetchResult {
  readonly requests: number;
  readonly chaosKicks: number;
  readonly needsReset: number;
  /** How often each outcome of each scenario was seen. */
  readonly seen: ReadonlyMap<string, ReadonlyMap<string, number>>;
  /** Scenarios of which not all outcomes of single-byte flips were seen. */
  readonly oneSided: readonly string[];
  readonly failure: string | undefined;
}

export interface DoubleFetchOptions {
  readonly requests: number;
  readonly chaosKicks: number;
  readonly seed: number;
  readonly progress?: (requests: number, chaosKicks: number) => void;
}

/** Runs both parts; half of the first with a host context behind the endpoint. */
export async function runDoubleFetch(options: DoubleFetchOptions): Promise<DoubleFetchResult> {
  const run = new DoubleFetch(options);
  try {
    await run.start();
    return run.all();
  } catch (error) {
    return run.result(`exception: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
  } finally {
    await run.stop();
  }
}

class DoubleFetch {
  readonly #options: DoubleFetchOptions;
  readonly #shared = new SharedArrayBuffer(RAM_BYTES + 2 * GUARD);
  readonly #bytes = new Uint8Array(this.#shared);
  readonly #ram = new Uint8Array(this.#shared, GUARD, RAM_BYTES);
  readonly #words = new Uint16Array(this.#shared, GUARD, RAM_BYTES / 2);
  readonly #control = new Int32Array(new SharedArrayBuffer(16));
  readonly #memory = new GuestMemory();
  readonly #space = new SimulatedAddressSpace();
  readonly #random: Random;
  readonly #scenarios: readonly Scenario[];
  readonly #harmless: readonly Scenario[];
  readonly #breaking: readonly Scenario[];
  readonly #byHead: readonly (Scenario | undefined)[];
  readonly #seen = new Map<string, Map<string, number>>();
  /** How often entry 0 of the available ring named which chain. */
  readonly #entries = new Map<string, number>();
  readonly #out = new Translation();
  /** Bytes that may change at any time: flipped ones, the used ring, places of replies. */
  readonly #loose = new Uint8Array(RAM_BYTES);
  readonly #still = new Uint8Array(RAM_BYTES);
  #device: VirtioIommu | undefined;
  #context: SimulatedType1Context | undefined;
  #worker: Worker | undefined;
  #availIndex = 0;
  #usedIndex = 0;
  #requests = 0;
  #chaosKicks = 0;
  #needsReset = 0;

  constructor(options: DoubleFetchOptions) {
    this.#options = options;
    this.#random = new Random(options.seed);
    this.#bytes.fill(GUARD_BYTE);
    this.#ram.fill(0);
    const { hva } = this.#space.mmap({ length: BigInt(RAM_BYTES), kind: 'memfd' });
    this.#memory.addRegion({ gpa: 0n, size: BigInt(RAM_BYTES), windows: [this.#ram], hva });
    this.#scenarios = layout.buildScenarios((gpa, bytes) => this.#poke(gpa, bytes));
    this.#harmless = this.#scenarios.filter(({ breaking }) => !breaking);
    this.#breaking = this.#scenarios.filter(({ breaking }) => breaking);
    const byHead: (Scenario | undefined)[] = new Array<Scenario | undefined>(layout.QUEUE).fill(undefined);
    for (const scenario of this.#scenarios) byHead[scenario.head] = scenario;
    this.#byHead = byHead;
    for (let i = 0; i < layout.QUEUE - layout.PLAIN_HEAD - 1; i += 2) this.#plainChain(i);
    this.#markLoose();
  }

  async start(): Promise<void> {
    const flips = this.#scenarios.flatMap(({ flips: list }) => list.flatMap(({ gpa, a, b }) => [GUARD + gpa, a, b]));
    // The interrupt wish of the driver flips as well; nothing may depend on it.
    flips.push(GUARD + layout.AVAIL, 0, 1);
    // Entry 0 of the available ring names one of two chains.
    const [one, other] = this.#pair();
    flips.push(GUARD + layout.AVAIL + 4, one.head, other.head);
    const { buffer: control } = this.#control;
    const workerData = { buffer: this.#shared, control, flips, from: GUARD, to: GUARD + CHAOS_END };
    const worker = new Worker(new URL('./flip-worker.mjs', import.meta.url), { workerData, execArgv: [] });
    this.#worker = worker;
    await new Promise<void>((resolve, reject) => {
      worker.once('online', resolve);
      worker.once('error', reject);
    });
  }

  async stop(): Promise<void> {
    this.#mode(-1, false);
    this.#close();
    await this.#worker?.terminate();
  }

  all(): DoubleFetchResult {
    const { requests, chaosKicks } = this.#options;
    for (const share of [0.5, 1]) {
      this.#makeDevice(share === 1);
      this.#still.set(this.#ram);
      this.#mode(1);
      while (this.#requests < requests * share) {
        const failure = this.#kickScenarios();
        if (failure !== undefined) return this.result(failure);
      }
      this.#mode(0);
      const moved = this.#checkStill();
      if (moved !== undefined) return this.result(moved);
    }
    this.#mode(2);
    while (this.#chaosKicks < chaosKicks) {
      const failure = this.#chaosKick();
      if (failure !== undefined) return this.result(failure);
    }
    this.#mode(0);
    return this.result(this.#checkGuards());
  }

  result(failure: string | undefined): DoubleFetchResult {
    const oneSided = this.#scenarios
      .filter(({ name, allowed }) => (this.#seen.get(name)?.size ?? 0) < allowed.length)
      .map(({ name }) => name);
    if (this.#entries.size < 2) oneSided.push('entry of the available ring');
    const { requests, chaosKicks, needsReset } = {
      requests: this.#requests,
      chaosKicks: this.#chaosKicks,
      needsReset: this.#needsReset,
    };
    return { requests, chaosKicks, needsReset, seen: this.#seen, oneSided, failure };
  }

  /** Sets what the other processor does, and waits until it does. */
  #mode(mode: number, wait = true): void {
    Atomics.store(this.#control, 0, mode);
    Atomics.notify(this.#control, 0);
    const deadline = Date.now() + WATCHDOG_MS;
    while (wait && Atomics.load(this.#control, 1) !== mode) {
      if (Date.now() > deadline) throw new Error('the other processor does not answer');
      Atomics.wait(this.#control, 3, 0, 1);
    }
  }

  #close(): void {
    this.#device?.close();
    this.#context?.close();
    this.#device = undefined;
    this.#context = undefined;
  }

  #makeDevice(withHost: boolean): void {
    this.#close();
    const special = this.#scenarios.find(({ name }) => name === layout.WITH_RESERVED_PAGE)!;
    const usableRanges = [{ start: 0n, end: 0xffff_ffff_ffff_ffffn }];
    const host = new SimulatedHost({ addressSpace: this.#space, usableRanges });
    this.#context = withHost ? host.createContext({ group: 0, endpoints: [layout.ENDPOINT] }) : undefined;
    this.#device = new VirtioIommu({
      memory: this.#memory,
      interrupt: { queue: () => undefined, config: () => undefined },
      pageSizeMask: 0x1000n,
      probeSize: layout.PROBE_SIZE,
      requestQueueSize: layout.QUEUE,
      maxInstalled: 1024,
      endpoints: [
        {
          id: layout.ENDPOINT,
          reserved: [
            { kind: 'reserved', start: special.window + 0x8000n, end: special.window + 0x8fffn },
            { kind: 'msi', start: 0xfee0_0000n, end: 0xfeef_ffffn },
          ],
          ...(this.#context === undefined ? {} : { host: this.#context }),
        },
        { id: 2 },
      ],
    });
    this.#startDriver();
  }

  /** Features, rings and the two domains, as a driver does it while nothing flips. */
  #startDriver(): void {
    const device = this.#device!;
    this.#ram.fill(0, layout.AVAIL, layout.AREAS);
    this.#availIndex = 0;
    this.#usedIndex = 0;
    negotiate(device.transport, device.transport.offeredFeatures & ~(1n << 29n));
    const { QUEUE: size, DESC, AVAIL, USED } = layout;
    runQueues(device.transport, [{ size, desc: BigInt(DESC), avail: BigInt(AVAIL), used: BigInt(USED) }]);
    const { VIRTIO_IOMMU_T_ATTACH: attach } = abi;
    // Not through the ring: its entry 0 belongs to the other processor.
    for (const bytes of [
      layout.attachBytes(attach, layout.DOMAIN, layout.ENDPOINT),
      layout.attachBytes(attach, layout.BYPASS_DOMAIN, 2, 1),
    ]) {
      const tail = new Uint8Array(4).fill(layout.PREFILL);
      if (device.core.request(bytes, tail) !== 4 || tail[0] !== 0) throw new Error('ATTACH was refused');
    }
  }

  /** The two chains that entry 0 of the available ring can name: both map, each in its own window. */
  #pair(): readonly [Scenario, Scenario] {
    return [this.#harmless[0]!, this.#harmless[1]!];
  }

  /** Goes on to entry 0 of the available ring and sends whichever of the two chains the device reads there. */
  #kickEntry(): string | undefined {
    while (this.#availIndex % layout.QUEUE !== 0) {
      this.#sendPlain([layout.unmapBytes(layout.DOMAIN, 0n, 0xffff_ffff_ffff_ffffn)]);
    }
    const pair = this.#pair();
    for (const scenario of pair) this.#clearPlaces(scenario);
    // The entry itself is the other processor's to write.
    this.#availIndex = (this.#availIndex + 1) & 0xffff;
    this.#requests++;
    this.#kick();
    const at = (layout.USED + 4 + 8 * (this.#usedIndex % layout.QUEUE)) / 2;
    const chosen = this.#byHead[this.#words[at]!];
    const other = pair.find((scenario) => scenario !== chosen);
    if (chosen === undefined || other === undefined || !pair.includes(chosen))
      return 'used ring names neither of the two';
    this.#entries.set(chosen.name, (this.#entries.get(chosen.name) ?? 0) + 1);
    const failure = this.#checkScenario(chosen);
    if (failure !== undefined) return failure;
    const text = this.#effect(other);
    if (text !== `P ${layout.UNTOUCHED} Q ${layout.UNTOUCHED} mapped nothing`) {
      return `used ring names ${chosen.name}, but of ${other.name} there is ${text}`;
    }
    this.#sendPlain([layout.unmapBytes(layout.DOMAIN, 0n, 0xffff_ffff_ffff_ffffn)]);
    return undefined;
  }

  /** Sends a chain that may make the ring unusable, alone; then the driver starts again. */
  #kickBreaking(): string | undefined {
    const scenario = this.#breaking[this.#random.below(this.#breaking.length)]!;
    // Entry 0 of the available ring is not ours.
    if (this.#availIndex % layout.QUEUE === 0) return this.#kickEntry();
    this.#clearPlaces(scenario);
    this.#send([scenario.head]);
    if ((this.#device!.transport.status & 64) === 0) {
      const failure = this.#checkScenario(scenario);
      if (failure !== undefined) return failure;
      this.#sendPlain([layout.unmapBytes(layout.DOMAIN, 0n, 0xffff_ffff_ffff_ffffn)]);
      return undefined;
    }
    this.#needsReset++;
    const failure = this.#note(scenario, `reset wanted ${this.#effect(scenario)}`);
    if (failure !== undefined) return failure;
    this.#startDriver();
    return undefined;
  }

  /** Sends some scenarios and checks each. */
  #kickScenarios(): string | undefined {
    const random = this.#random;
    if (random.below(8) === 0) return this.#kickBreaking();
    const position = this.#availIndex % layout.QUEUE;
    if (position === 0 || position + BATCH + 8 > layout.QUEUE) return this.#kickEntry();
    const batch: Scenario[] = [];
    const count = 1 + random.below(BATCH);
    const scenarios = this.#harmless;
    const first = random.below(scenarios.length);
    const step = 1 + random.below(4);
    for (let i = 0; i < count; i++) {
      const scenario = scenarios[(first + i * step) % scenarios.length]!;
      if (!batch.includes(scenario)) batch.push(scenario);
    }
    this.#sendPlain(batch.flatMap(({ before }) => (before === undefined ? [] : [before])));
    for (const scenario of batch) this.#clearPlaces(scenario);
    this.#send(batch.map(({ head }) => head));
    for (const scenario of batch) {
      const failure = this.#checkScenario(scenario);
      if (failure !== undefined) return failure;
    }
    const mirror = this.#checkMirror();
    if (mirror !== undefined) return mirror;
    this.#sendPlain([layout.unmapBytes(layout.DOMAIN, 0n, 0xffff_ffff_ffff_ffffn)]);
    if (this.#requests % 20_000 < 20) {
      this.#options.progress?.(this.#requests, this.#chaosKicks);
      return this.#checkStill();
    }
    return undefined;
  }

  #checkScenario(scenario: Scenario): string | undefined {
    const found = this.#takeUsed();
    if (found === undefined || this.#byHead[found.head] !== scenario) {
      return `${scenario.name}: used ring names ${found?.head ?? 'nothing'} instead of head ${scenario.head}`;
    }
    return this.#note(scenario, `used ${found.length} ${this.#effect(scenario)}`);
  }

  /** Counts an outcome; a failure when it is none of the allowed ones. */
  #note(scenario: Scenario, text: string): string | undefined {
    const counts = this.#seen.get(scenario.name) ?? new Map<string, number>();
    this.#seen.set(scenario.name, counts);
    counts.set(text, (counts.get(text) ?? 0) + 1);
    if (scenario.allowed.includes(text)) return undefined;
    return `${scenario.name}: "${text}" fits no reading of the bytes; possible are\n  ${scenario.allowed.join('\n  ')}`;
  }

  #clearPlaces({ base }: Scenario): void {
    this.#ram.fill(layout.PREFILL, base + layout.AREA.placeP, base + layout.AREA.tableA);
  }

  /** What a chain has written and mapped. */
  #effect(scenario: Scenario): string {
    const { base } = scenario;
    const p = this.#placeText(base + layout.AREA.placeP, layout.AREA.placeQ - layout.AREA.placeP);
    const q = this.#placeText(base + layout.AREA.placeQ, layout.AREA.tableA - layout.AREA.placeQ);
    return `P ${p} Q ${q} mapped ${this.#mappedText(scenario)}`;
  }

  /** What was written into a place of `length` bytes that held the prefill. */
  #placeText(at: number, length: number): string {
    const bytes = this.#ram;
    let end = length;
    while (end > 0 && bytes[at + end - 1] === layout.PREFILL) end--;
    if (end === 0) return layout.UNTOUCHED;
    const tail = end - 4;
    const reserved = end >= 4 && bytes[at + tail + 1] === 0 && bytes[at + tail + 2] === 0 && bytes[at + tail + 3] === 0;
    if (!reserved) return `bytes ${Buffer.from(bytes.slice(at, at + end)).toString('hex')}`;
    const status = `status ${bytes[at + tail]!}`;
    if (tail === 0) return status;
    let zero = true;
    for (let i = 0; i < tail; i++) if (bytes[at + i] !== 0) zero = false;
    // A RESV_MEM property starts with its type and length.
    const property = bytes[at] === 1 && bytes[at + 2] === 20 && tail === layout.PROBE_SIZE;
    return zero ? `zeroes ${status}` : property ? `properties ${status}` : `other bytes ${status}`;
  }

  /** The mapped pages of a window as `page>phys rights`. */
  #mappedText(scenario: Scenario): string {
    const parts: string[] = [];
    for (const page of PAGES) {
      const iova = scenario.window + BigInt(page) * 4096n;
      const read = this.#target(iova, false);
      const write = this.#target(iova, true);
      if (read < 0 && write < 0) continue;
      parts.push(`${page}>${Math.max(read, write) / 4096} ${read >= 0 ? 'r' : ''}${write >= 0 ? 'w' : ''}`);
    }
    return parts.length === 0 ? 'nothing' : parts.join(' ');
  }

  #target(iova: bigint, write: boolean): number {
    const out = this.#out;
    const reached = this.#device!.core.translateInto(layout.ENDPOINT, 0, Number(iova), 1, write, out);
    return reached && out.kind[0] === PieceKind.memory ? out.gpa[0]! : -1;
  }

  /** The host lets through what the guest's domain gives: as many pages, each where the domain has it. */
  #checkMirror(): string | undefined {
    if (this.#context === undefined) return undefined;
    for (const { iova, pages, rights } of this.#context.entries()) {
      for (const page of [iova, iova + pages - 1]) {
        const read = this.#target(BigInt(page) * 4096n, false);
        const write = this.#target(BigInt(page) * 4096n, true);
        if ((read >= 0 ? 1 : 0) + (write >= 0 ? 2 : 0) !== rights)
          return `host entry at page ${page} has rights ${rights}`;
      }
    }
    const held = this.#context.entries().length;
    const { mappings } = this.#device!.core.stats();
    return held === mappings ? undefined : `the host holds ${held} entries for ${mappings} mappings`;
  }

  /** Random bytes everywhere: the device may ask for a reset, but do no harm. */
  #chaosKick(): string | undefined {
    const device = this.#device!;
    this.#chaosKicks++;
    const random = this.#random;
    for (let i = 1 + random.below(8); i > 0; i--) {
      const head =
        random.below(2) === 0
          ? this.#scenarios[random.below(this.#scenarios.length)]!.head
          : random.below(layout.QUEUE);
      this.#words[(layout.AVAIL + 4) / 2 + (this.#availIndex % layout.QUEUE)] = head;
      this.#availIndex = (this.#availIndex + 1) & 0xffff;
    }
    Atomics.store(this.#words, (layout.AVAIL + 2) / 2, this.#availIndex);
    const start = Date.now();
    device.transport.notify(abi.VIRTIO_IOMMU_REQUESTQ);
    if (Date.now() - start > WATCHDOG_MS / 2) return 'one kick took more than ten seconds';
    if (this.#chaosKicks % 64 === 0 || (device.transport.status & 64) !== 0) {
      if ((device.transport.status & 64) !== 0) this.#needsReset++;
      // A new start with sound chains, while bytes go on changing.
      layout.buildScenarios((gpa, bytes) => this.#poke(gpa, bytes));
      const { QUEUE: size, DESC, AVAIL, USED } = layout;
      this.#ram.fill(0, AVAIL, layout.AREAS);
      this.#availIndex = 0;
      negotiate(device.transport, device.transport.offeredFeatures & ~(1n << 29n));
      runQueues(device.transport, [{ size, desc: BigInt(DESC), avail: BigInt(AVAIL), used: BigInt(USED) }]);
      if (this.#chaosKicks % 4096 === 0) this.#options.progress?.(this.#requests, this.#chaosKicks);
      return this.#checkGuards();
    }
    return undefined;
  }

  /** A chain that nobody flips: request in PLAIN, four bytes behind it. */
  #plainChain(index: number): void {
    const head = layout.PLAIN_HEAD + index;
    const at = layout.PLAIN + layout.PLAIN_BYTES * index;
    this.#poke(layout.DESC + 16 * head, layout.descriptorBytes(at, 36, 1, head + 1));
    this.#poke(layout.DESC + 16 * (head + 1), layout.descriptorBytes(at + 0x50, 4, 2, 0));
  }

  /** Sends requests in chains that nobody flips; each must be OK. */
  #sendPlain(requests: readonly Uint8Array[]): void {
    if (requests.length === 0) return;
    requests.forEach((bytes, i) => this.#poke(layout.PLAIN + layout.PLAIN_BYTES * 2 * i, bytes));
    const heads = requests.map((_, i) => layout.PLAIN_HEAD + 2 * i);
    this.#send(heads);
    for (const head of heads) {
      const used = this.#takeUsed();
      const status = this.#ram[layout.PLAIN + layout.PLAIN_BYTES * (head - layout.PLAIN_HEAD) + 0x50];
      if (used?.head !== head || used.length !== 4 || status !== 0) {
        throw new Error(`plain request in head ${head} gave ${JSON.stringify(used)} status ${status ?? '?'}`);
      }
    }
  }

  #send(heads: readonly number[]): void {
    for (const head of heads) {
      this.#words[(layout.AVAIL + 4) / 2 + (this.#availIndex % layout.QUEUE)] = head;
      this.#availIndex = (this.#availIndex + 1) & 0xffff;
    }
    this.#requests += heads.length;
    this.#kick();
  }

  #kick(): void {
    Atomics.store(this.#words, (layout.AVAIL + 2) / 2, this.#availIndex);
    this.#device!.transport.notify(abi.VIRTIO_IOMMU_REQUESTQ);
  }

  #takeUsed(): { head: number; length: number } | undefined {
    if (Atomics.load(this.#words, (layout.USED + 2) / 2) === this.#usedIndex) return undefined;
    const at = (layout.USED + 4 + 8 * (this.#usedIndex % layout.QUEUE)) / 2;
    this.#usedIndex = (this.#usedIndex + 1) & 0xffff;
    const word = (i: number): number => this.#words[at + i]!;
    return { head: word(0) + word(1) * 0x1_0000, length: word(2) + word(3) * 0x1_0000 };
  }

  #poke(gpa: number, bytes: Uint8Array): void {
    this.#ram.set(bytes, gpa);
  }

  #markLoose(): void {
    this.#loose.fill(1, layout.AVAIL, layout.AREAS);
    this.#loose.fill(1, layout.PLAIN, layout.PLAIN + layout.PLAIN_BYTES * (layout.QUEUE - layout.PLAIN_HEAD));
    for (const { base, flips } of this.#scenarios) {
      this.#loose.fill(1, base + layout.AREA.placeP, base + layout.AREA.tableA);
      for (const { gpa } of flips) this.#loose[gpa] = 1;
    }
  }

  /** Nothing changed that nobody was to write. */
  #checkStill(): string | undefined {
    for (let i = 0; i < RAM_BYTES; i++) {
      if (this.#loose[i] === 0 && this.#ram[i] !== this.#still[i]) return `byte 0x${i.toString(16)} was written`;
    }
    return this.#checkGuards();
  }

  #checkGuards(): string | undefined {
    const end = this.#bytes.length;
    for (let i = 0; i < GUARD; i++) {
      if (this.#bytes[i] !== GUARD_BYTE || this.#bytes[end - 1 - i] !== GUARD_BYTE) return 'a guard byte was written';
    }
    return undefined;
  }
}
