// The server on a real socket file: files, clients that come and go, clients that lie.
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, statSync, writeFileSync, existsSync, closeSync, openSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { performance } from 'node:perf_hooks';
import { afterAll, afterEach, expect, it } from 'vitest';
import { EventCounter } from '../../src/host/event-counter.ts';
import { GuestRam } from '../../src/host/guest-ram.ts';
import { loadNative } from '../../src/host/native.ts';
import type { VfioUserServerOptions } from '../../src/vfio-user.ts';
import { VfioUserServer } from '../../src/vfio-user.ts';
import { Command, IrqSetFlag, MAX_MESSAGE, MessageFlag, MessageHeader } from '../../src/vfio-user/abi.ts';
import { GuestMemory } from '../../src/virtio/memory.ts';
import { describeNative, turns } from '../native/addon.ts';
import { Client, message } from './client.ts';
import * as p from './payloads.ts';
import { NotedFunction } from './talk.ts';

const folder = mkdtempSync(join(tmpdir(), 'viommu-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** A server, its function, and what it tells. */
class Service {
  readonly memory = new GuestMemory();
  readonly pci = new NotedFunction();
  readonly log: string[] = [];
  readonly calls: string[] = [];
  readonly server: VfioUserServer;
  readonly path: string;

  constructor(options: Partial<VfioUserServerOptions> = {}) {
    this.path = options.path ?? join(folder, `${Service.#next++}.sock`);
    this.server = new VfioUserServer({
      memory: this.memory,
      path: this.path,
      log: ({ level, message: text }) => this.log.push(`${level} ${text.slice(this.path.length + 2)}`),
      onConnect: () => this.calls.push('connect'),
      onReset: (cause) => this.calls.push(`reset ${cause}`),
      onDisconnect: (reason) => this.calls.push(`disconnect ${reason ?? ''}`),
      ...options,
    });
  }
  static #next = 0;

  static async open(options: Partial<VfioUserServerOptions> = {}): Promise<Service> {
    const service = new Service(options);
    opened.push(service);
    await service.server.serve(service.pci);
    return service;
  }

  /** A client that is past VERSION. */
  async client(): Promise<Client> {
    const client = new Client(this.path);
    expect((await client.request(Command.version, p.version(0, 0, p.QEMU_CAPABILITIES)))?.errno).toBe(0);
    return client;
  }

  /** Waits until the server has seen that no client is there. */
  async idle(): Promise<void> {
    for (let i = 0; i < 500 && this.server.stats().connected; i++) await turns(1);
    expect(this.server.stats().connected).toBe(false);
  }
}

const opened: Service[] = [];
afterEach(async () => {
  for (const { server } of opened.splice(0)) await server.close();
});

describeNative('the socket file', () => {
  it('has its mode and goes with the server', async () => {
    const service = await Service.open({ mode: 0o640 });
    expect([statSync(service.path).mode & 0o7777, statSync(service.path).isSocket()]).toEqual([0o640, true]);
    await service.server.close();
    expect(existsSync(service.path)).toBe(false);
    await service.server.close();
    const other = await Service.open();
    expect(statSync(other.path).mode & 0o7777).toBe(0o600);
  });

  it('replaces one that a dead process left, and no other', async () => {
    const path = join(folder, 'stale.sock');
    loadNative().NativeListener.bind(path, 0o600, 1).close();
    expect(statSync(path).isSocket()).toBe(true);
    const service = await Service.open({ path });
    (await service.client()).close();
    const second = new Service({ path });
    await expect(second.server.serve(second.pci)).rejects.toThrow(/in use/);
    await service.server.close();
    writeFileSync(path, 'precious');
    await expect(second.server.serve(second.pci)).rejects.toMatchObject({ errno: 98, code: 'ERR_VIOMMU_HOST_REFUSED' });
    expect(statSync(path).isFile()).toBe(true);
    rmSync(path);
  });

  it('is left alone when it is another one by now', async () => {
    const service = await Service.open();
    rmSync(service.path);
    const other = await Service.open({ path: service.path });
    await service.server.close();
    expect(existsSync(service.path)).toBe(true);
    (await other.client()).close();
  });

  it('has a name of at most 107 bytes', async () => {
    const name = (bytes: number): string => join(folder, 'x'.repeat(bytes - folder.length - 1));
    (await (await Service.open({ path: name(107) })).client()).close();
    await expect(Service.open({ path: name(108) })).rejects.toThrow(/107 bytes/);
    await expect(Service.open({ path: join(folder, 'nowhere', 'a.sock') })).rejects.toThrow(/no folder/);
    expect(() => new Service({ path: '' })).toThrow(/options\.path/);
    expect(() => new Service({ path: 'a\0b' })).toThrow(/options\.path/);
  });

  it('serves one function, once', async () => {
    const service = await Service.open();
    await expect(service.server.serve(service.pci)).rejects.toThrow(/once/);
    await service.server.close();
    await expect(service.server.serve(service.pci)).rejects.toThrow(/once/);
  });
});

describeNative('clients', () => {
  it('come and go; each finds nothing of the former', async () => {
    const service = await Service.open();
    const ram = GuestRam.create({ size: 0x10000n });
    const fd = ram.duplicateFd();
    for (let i = 0; i < 3; i++) {
      const client = await service.client();
      expect((await client.request(Command.dmaMap, p.dmaMap(0n, 0x10000n), [fd]))?.errno).toBe(0);
      expect((await client.request(Command.dmaMap, p.dmaMap(0x10000n, 0x10000n)))?.errno).toBe(0);
      expect(service.server.stats()).toMatchObject({ connected: true, regions: 2, mappedBytes: 0x10000 });
      client.close();
      await service.idle();
      expect(service.memory.regions).toEqual([]);
    }
    expect(service.calls.slice(0, 3)).toEqual(['connect', 'reset disconnect', 'disconnect ']);
    expect(service.pci.log).toEqual(['reset', 'reset', 'reset']);
    expect(service.server.stats()).toMatchObject({ connections: 3, badMessages: 0, regions: 0, mappedBytes: 0 });
    expect(service.log).toEqual([
      'info listening',
      ...[1, 2, 3].flatMap(() => ['info a client is connected', 'info the client has left']),
    ]);
    closeSync(fd);
    ram.close();
  });

  it('are served one at a time', async () => {
    const service = await Service.open();
    const first = await service.client();
    const second = new Client(service.path);
    await second.end;
    expect((await first.request(Command.getInfo, p.info(16)))?.errno).toBe(0);
    expect(service.log.at(-1)).toMatch(/warning a client was turned away: another one is connected/);
    // One that connects while the end of the former is still unread finds its place free.
    first.close();
    (await service.client()).close();
  });

  it('may send all at once, or byte by byte', async () => {
    const service = await Service.open();
    const client = await service.client();
    const replies = Array.from({ length: 200 }, (_, i) =>
      client.request(Command.regionWrite, p.region(0, i, 1, Uint8Array.of(i))),
    );
    expect((await Promise.all(replies)).every((reply) => reply?.errno === 0)).toBe(true);
    expect(service.pci.log).toEqual(Array.from({ length: 200 }, (_, i) => `write bar 0 ${i} ${i}`));
    const bytes = message({ id: 7777, command: Command.regionRead, payload: p.region(0, 0, 4) });
    const before = client.order.length;
    for (const byte of bytes) {
      client.send(Uint8Array.of(byte));
      await turns(1);
    }
    await client.request(Command.getInfo, p.info(16));
    expect(client.order[before]).toBe('reply 7777');
  });

  it('get long replies though they read them late', async () => {
    const service = await Service.open();
    const client = await service.client();
    const replies = Array.from({ length: 300 }, () => client.request(Command.regionRead, p.region(0, 0, 16384)));
    const all = await Promise.all(replies);
    expect(all.every((reply) => reply?.payload.length === 16400)).toBe(true);
    expect(service.server.stats().bytesOut).toBeGreaterThan(300 * 16400);
  });

  it('get no reply where they want none, and what follows is later', async () => {
    const service = await Service.open();
    const client = await service.client();
    for (let i = 0; i < 5; i++) {
      void client.request(Command.regionWrite, p.region(0, i, 1, Uint8Array.of(1)), undefined, MessageFlag.noReply);
    }
    await client.request(Command.getInfo, p.info(16));
    expect(service.pci.log).toHaveLength(5);
    expect(client.order).toEqual(['reply 0', 'reply 6']);
  });

  it('end with the server', async () => {
    const service = await Service.open();
    const client = await service.client();
    await service.server.close();
    await client.end;
    expect(service.calls.at(-1)).toBe('disconnect the server was closed');
    expect(service.server.stats().badMessages).toBe(0);
  });

  it('of other functions notice nothing, whatever one does', async () => {
    const [good, bad] = [await Service.open(), await Service.open()];
    const client = await good.client();
    const liar = await bad.client();
    liar.send(new Uint8Array(16));
    await liar.end;
    expect((await client.request(Command.getInfo, p.info(16)))?.errno).toBe(0);
    bad.pci.reset = () => {
      throw new Error('broken function');
    };
    const next = await bad.client();
    await next.request(Command.deviceReset);
    await next.end;
    await bad.idle();
    expect(bad.log.find((line) => line.includes('broken function'))).toMatch(/^error a message made this process fail/);
    expect((await client.request(Command.getInfo, p.info(16)))?.errno).toBe(0);
    (await bad.client()).close();
  });
});

describeNative('interrupts', () => {
  it('go to the eventfds that the client gave', async () => {
    const service = await Service.open();
    const client = await service.client();
    const [a, b] = [new EventCounter(), new EventCounter()];
    const flags = IrqSetFlag.eventfd | IrqSetFlag.trigger;
    expect((await client.request(Command.setIrqs, p.setIrqs(flags, 2, 1, 2), [a.fd, b.fd]))?.errno).toBe(0);
    for (const vector of [0, 1, 2, 2, 3, -1, 99]) service.server.interrupts.msix(vector);
    expect([a.take(), b.take()]).toEqual([1n, 2n]);
    expect(service.server.stats()).toMatchObject({ interrupts: 3, lostInterrupts: 4 });
    expect((await client.request(Command.setIrqs, p.setIrqs(flags, 2, 1, 1), [b.fd]))?.errno).toBe(0);
    service.server.interrupts.msix(1);
    expect([a.take(), b.take()]).toEqual([0n, 1n]);
    expect((await client.request(Command.setIrqs, p.setIrqs(flags, 2, 1, 1)))?.errno).toBe(0);
    service.server.interrupts.msix(1);
    service.server.interrupts.msix(2);
    expect([a.take(), b.take()]).toEqual([0n, 1n]);
    client.close();
    await service.idle();
    service.server.interrupts.msix(2);
    expect(b.take()).toBe(0n);
    a.close();
    b.close();
  });

  it('go to nothing but eventfds, all or none', async () => {
    const service = await Service.open();
    const client = await service.client();
    const good = new EventCounter();
    const file = openSync('/dev/null', 'r+');
    const flags = IrqSetFlag.eventfd | IrqSetFlag.trigger;
    const reply = await client.request(Command.setIrqs, p.setIrqs(flags, 2, 0, 2), [good.fd, file]);
    expect(reply?.errno).toBe(22);
    service.server.interrupts.msix(0);
    expect(good.take()).toBe(0n);
    // A counter that is full has been signalled, and nobody waits for room in it.
    expect((await client.request(Command.setIrqs, p.setIrqs(flags, 2, 0, 1), [good.fd]))?.errno).toBe(0);
    good.signal(0xffff_ffff_ffff_fffen);
    service.server.interrupts.msix(0);
    expect(good.take()).toBeGreaterThanOrEqual(0xffff_ffff_ffff_fffen);
    closeSync(file);
    good.close();
  });
});

describeNative('files of memory', () => {
  const errnoOf = async (client: Client, payload: Uint8Array, fd: number): Promise<number | undefined> =>
    (await client.request(Command.dmaMap, payload, [fd]))?.errno;

  it('are mapped where they are said to be', async () => {
    const service = await Service.open();
    const client = await service.client();
    const ram = GuestRam.create({ size: 0x10000n });
    const fd = ram.duplicateFd();
    new Uint8Array(ram.windows[0]!)[0x3000] = 77;
    expect(await errnoOf(client, p.dmaMap(0x4000n, 0x2000n, 0x3000n), fd)).toBe(0);
    const byte = new Uint8Array(1);
    expect([service.memory.read(0x4000, byte, 0, 1), byte[0]]).toEqual([true, 77]);
    expect(service.memory.regions[0]?.file).toEqual({ pageSize: 4096, seals: ['seal', 'shrink', 'grow'] });
    expect(await errnoOf(client, p.dmaMap(0n, 0x1000n, 0x10000n), fd)).toBe(34);
    expect(await errnoOf(client, p.dmaMap(0n, 0x2000n, 0xf000n), fd)).toBe(34);
    expect(await errnoOf(client, p.dmaMap(0n, 0x1000n, 0x800n), fd)).toBe(22);
    expect(await errnoOf(client, p.dmaMap(0n, 0x1000n, 0xffff_ffff_ffff_f000n), fd)).toBe(22);
    expect(await errnoOf(client, p.dmaMap(0x5000n, 0x1000n), fd)).toBe(17);
    expect(service.memory.regions).toHaveLength(1);
    closeSync(fd);
    ram.close();
  });

  it('are memory, and not more than allowed', async () => {
    const service = await Service.open({ maxMappedBytes: 0x2000 });
    const client = await service.client();
    const ram = GuestRam.create({ size: 0x10000n });
    const fd = ram.duplicateFd();
    const others = [openSync('/dev/null', 'r+'), openSync('/proc/self/maps', 'r'), openSync(import.meta.filename, 'r')];
    for (const other of others) expect(await errnoOf(client, p.dmaMap(0n, 0x1000n), other)).toBeGreaterThan(0);
    expect(await errnoOf(client, p.dmaMap(0n, 0x3000n), fd)).toBe(28);
    expect(await errnoOf(client, p.dmaMap(0n, 0x2000n), fd)).toBe(0);
    expect(await errnoOf(client, p.dmaMap(0x2000n, 0x1000n), fd)).toBe(28);
    expect((await client.request(Command.dmaMap, p.dmaMap(0x2000n, 0x1000n)))?.errno).toBe(0);
    for (const other of [...others, fd]) closeSync(other);
    ram.close();
  });

  it('that can be shrunk are told of once, or refused', async () => {
    const { NativeRam } = loadNative();
    const open = NativeRam.create('open', 0x4000n, 0, 0);
    const fd = open.duplicate();
    const [lenient, strict] = [await Service.open(), await Service.open({ requireSealed: true })];
    const client = await lenient.client();
    expect(await errnoOf(client, p.dmaMap(0n, 0x1000n), fd)).toBe(0);
    expect(await errnoOf(client, p.dmaMap(0x1000n, 0x1000n), fd)).toBe(0);
    expect(lenient.log.filter((line) => line.includes('shrink'))).toHaveLength(1);
    expect(await errnoOf(await strict.client(), p.dmaMap(0n, 0x1000n), fd)).toBe(1);
    expect(strict.memory.regions).toEqual([]);
    closeSync(fd);
    open.close([]);
  });
});

describeNative('DMA_READ and DMA_WRITE', () => {
  /** A client with 64 KiB at 0x10000 that has no file. */
  async function withMemory(service: Service): Promise<{ client: Client; bytes: Uint8Array }> {
    const client = await service.client();
    await client.request(Command.dmaMap, p.dmaMap(0x10000n, 0x400000n));
    const bytes = new Uint8Array(0x400000).map((_, i) => (i * 7) & 0xff);
    client.onCommand = (command) => {
      const view = new DataView(command.payload.buffer);
      const at = Number(view.getBigUint64(0, true)) - 0x10000;
      const count = Number(view.getBigUint64(8, true));
      const reply = new Uint8Array(command.command === Command.dmaRead ? 16 + count : 16);
      reply.set(command.payload.subarray(0, 16));
      if (command.command === Command.dmaRead) reply.set(bytes.subarray(at, at + count), 16);
      else bytes.set(command.payload.subarray(16), at);
      client.answer(command, reply);
    };
    return { client, bytes };
  }

  it('move bytes, in pieces when there are many', async () => {
    const service = await Service.open();
    const { bytes } = await withMemory(service);
    expect(await service.server.client.dmaRead(0x10001n, 5)).toEqual(bytes.slice(1, 6));
    expect(await service.server.client.dmaRead(0x10000n, 0)).toEqual(new Uint8Array(0));
    const many = await service.server.client.dmaRead(0x10000n, 0x400000);
    expect(Buffer.compare(many, bytes)).toBe(0);
    const data = new Uint8Array(3 * 2 ** 20 + 5).map((_, i) => i & 0xff);
    await service.server.client.dmaWrite(0x10100n, data);
    expect(Buffer.compare(bytes.subarray(0x100, 0x100 + data.length), data)).toBe(0);
  }, 20_000);

  it('wait until no reply is owed', async () => {
    const service = await Service.open();
    const { client } = await withMemory(service);
    const before = client.order.length;
    let read: Promise<Uint8Array> | undefined;
    service.pci.writeBar = () => {
      read ??= service.server.client.dmaRead(0x10000n, 4);
    };
    const writes = [1, 2, 3].map((i) => client.request(Command.regionWrite, p.region(0, i, 1, Uint8Array.of(i))));
    await Promise.all(writes);
    expect((await read)?.length).toBe(4);
    expect(client.order.slice(before).map((each) => each.split(' ')[0])).toEqual([
      'reply',
      'reply',
      'reply',
      'command',
    ]);
  });

  it('fail where the client has mapped nothing, refuses, lies, or is not there', async () => {
    const service = await Service.open();
    const reader = service.server.client;
    await expect(reader.dmaRead(0x10000n, 4)).rejects.toMatchObject({ code: 'ERR_VIOMMU_HOST_CLOSED' });
    const { client } = await withMemory(service);
    await expect(reader.dmaRead(0xffffn, 4)).rejects.toMatchObject({ errno: 14 });
    await expect(reader.dmaWrite(0x40fffcn, new Uint8Array(4))).resolves.toBeUndefined();
    await expect(reader.dmaWrite(0x40fffdn, new Uint8Array(4))).rejects.toMatchObject({ errno: 14 });
    await expect(reader.dmaRead(-1n, 4)).rejects.toThrow(RangeError);
    await expect(reader.dmaRead(0n, -1)).rejects.toThrow(RangeError);
    await expect(reader.dmaWrite(0n, [] as never)).rejects.toThrow(TypeError);
    client.onCommand = (command) => client.answer(command, new Uint8Array(0), 5);
    await expect(reader.dmaRead(0x10000n, 4)).rejects.toMatchObject({ errno: 5 });
    client.onCommand = () => client.close();
    await expect(reader.dmaRead(0x10000n, 4)).rejects.toMatchObject({ code: 'ERR_VIOMMU_HOST_CLOSED' });
    await service.idle();
    const { client: liar } = await withMemory(service);
    liar.onCommand = (command) => liar.answer(command, new Uint8Array(19));
    await expect(reader.dmaRead(0x10000n, 4)).rejects.toMatchObject({ code: 'ERR_VIOMMU_HOST_CLOSED' });
    await liar.end;
    expect(service.log.at(-1)).toMatch(/broke the protocol: a reply with 19 bytes of 20/);
  });
});

describeNative('hostile clients', () => {
  const header = (size: number, flags = 0, command: number = Command.getInfo): Uint8Array =>
    message({ id: 1, command, size, flags });
  const cases: [string, Uint8Array[], RegExp][] = [
    ['a size of 0', [header(0)], /a message of 0 bytes/],
    ['a size of 15', [header(15)], /a message of 15 bytes/],
    ['a size beyond the most', [header(MAX_MESSAGE + 1)], /a message of 1048609 bytes/],
    ['the largest size', [header(0xffff_ffff)], /a message of 4294967295 bytes/],
    ['another type', [header(16, 2)], /of type 2/],
    ['a reply to nothing', [header(16, 1)], /nothing that was asked/],
    ['a short message', [header(16)], /getInfo with 0 bytes of 16/],
    ['a second VERSION', [message({ id: 2, command: Command.version, payload: p.version() })], /second VERSION/],
    [
      'a write with too little',
      [message({ id: 2, command: Command.regionWrite, payload: p.region(0, 0, 4) })],
      /REGION_WRITE of 4 bytes with 0/,
    ],
  ];

  it.each(cases)('lose their connection for %s', async (_name, messages, reason) => {
    const service = await Service.open();
    const client = await service.client();
    for (const bytes of messages) client.send(bytes);
    await client.end;
    await service.idle();
    const errors = service.log.filter((line) => line.startsWith('error'));
    expect(errors).toHaveLength(1);
    expect(errors[0]).toMatch(reason);
    expect(service.server.stats().badMessages).toBe(1);
    expect(service.calls.slice(1)).toEqual(['reset disconnect', expect.stringMatching(/^disconnect the client broke/)]);
    (await service.client()).close();
  });

  it('lose it for bytes before VERSION, and learn why VERSION was refused', async () => {
    const service = await Service.open();
    const early = new Client(service.path);
    early.send(message({ id: 1, command: Command.getInfo, payload: p.info(16) }));
    await early.end;
    const client = new Client(service.path);
    expect((await client.request(Command.version, p.version(1, 0)))?.errno).toBe(95);
    await client.end;
    expect(service.calls).not.toContain('connect');
    expect(service.log.filter((line) => line.startsWith('error'))).toEqual([
      expect.stringContaining('a message before VERSION'),
      expect.stringContaining('the client speaks version 1'),
    ]);
  });

  it('that leave inside a message are told of', async () => {
    const service = await Service.open();
    for (const length of [1, MessageHeader.SIZE, 20]) {
      const client = await service.client();
      client.send(message({ id: 1, command: Command.getInfo, payload: p.info(16) }).subarray(0, length));
      client.close();
      await service.idle();
      expect(service.log.at(-1)).toContain(`left after ${length} bytes of a message`);
    }
  });

  it('lose it for descriptors that nobody wants', async () => {
    const service = await Service.open();
    const event = new EventCounter();
    for (const count of [1, 16, 17, 60]) {
      const client = await service.client();
      const fds = Array.from({ length: count }, () => event.fd);
      client.send(message({ id: 1, command: Command.getInfo, payload: p.info(16) }), fds);
      await client.end;
      await service.idle();
      expect(service.log.at(-1)).toMatch(count > 16 ? /more than 16 descriptors/ : /getInfo with descriptors/);
    }
    event.close();
  });
});

describeNative('an embedder that closes the server', () => {
  it('when a client leaves, while the next one waits, takes neither', async () => {
    let closing: Promise<void> | undefined;
    const service = await Service.open({
      onDisconnect: () => {
        closing = service.server.close();
      },
    });
    const first = await service.client();
    const second = new Client(service.path);
    first.close();
    await second.end;
    await closing;
    expect(service.server.stats()).toMatchObject({ connected: false, regions: 0 });
    expect(existsSync(service.path)).toBe(false);
  });

  it('while memory is told of leaves none', async () => {
    for (const what of ['added', 'removing'] as const) {
      const service = await Service.open();
      const client = await service.client();
      const ram = GuestRam.create({ size: 0x10000n });
      const fd = ram.duplicateFd();
      const map = (at: bigint): Promise<unknown> => client.request(Command.dmaMap, p.dmaMap(at, 0x4000n), [fd]);
      for (const at of [0n, 0x10000n, 0x20000n]) await map(at);
      expect(service.memory.regions).toHaveLength(3);
      const close = (): void => void service.server.close();
      const observer = { added: () => undefined, removing: () => undefined };
      service.memory.observe({ ...observer, [what]: close });
      if (what === 'added') void map(0x30000n);
      else void client.request(Command.dmaUnmap, p.dmaUnmap(0x10000n, 0x4000n));
      await client.end;
      expect(service.server.stats()).toMatchObject({ connected: false, regions: 0, mappedBytes: 0 });
      expect(service.memory.regions).toEqual([]);
      closeSync(fd);
      ram.close();
    }
  });
});

describeNative('a client that is slow or dies', () => {
  it('with half a message sent costs nothing while it waits, also when something is to be read from it', async () => {
    const service = await Service.open();
    const client = await service.client();
    await client.request(Command.dmaMap, p.dmaMap(0x10000n, 0x10000n));
    client.send(message({ id: 99, command: Command.getInfo, payload: p.info(16) }).subarray(0, 7));
    await turns(20);
    const read = service.server.client.dmaRead(0x10000n, 4).catch(() => 'gone');
    const rounds = (): number => performance.nodeTiming.uvMetricsInfo.loopCount;
    const before = rounds();
    await new Promise((resolve) => setTimeout(resolve, 500));
    // A socket that is told of for ever turns the loop a hundred times in each millisecond.
    expect(rounds() - before).toBeLessThan(5000);
    client.close();
    expect(await read).toBe('gone');
  });

  it('without reading its replies has left, no more', async () => {
    const service = await Service.open();
    const client = await service.client();
    for (let i = 0; i < 5; i++) client.send(message({ id: i + 50, command: Command.getInfo, payload: p.info(16) }));
    client.close();
    await service.idle();
    expect(service.server.stats().badMessages).toBe(0);
    expect(service.log.at(-1)).toBe('info the client has left');
  });
});

describeNative('descriptors', () => {
  it('are as before after 1000 connections, quiet and hostile', async () => {
    // In a process of its own: other tests of this one open some as well.
    const script = join(import.meta.dirname, 'connections.ts');
    const { stdout } = await promisify(execFile)(process.execPath, ['--import', 'tsx', script, '1000']);
    expect(JSON.parse(stdout)).toEqual({ connections: 1000, regions: 0, left: [] });
  }, 60_000);
});

describeNative('options', () => {
  it('are checked before anything happens', () => {
    const memory = new GuestMemory();
    const make = (options: Record<string, unknown>): string => {
      try {
        new VfioUserServer({ path: 'a', memory, ...options });
        return 'none';
      } catch (error) {
        return (error as Error).message;
      }
    };
    expect(make({})).toBe('none');
    expect(make({ memory: {} })).toMatch(/options\.memory/);
    expect(make({ mode: 0o1000 })).toMatch(/options\.mode/);
    expect(make({ maxMaps: 0 })).toMatch(/options\.maxMaps/);
    expect(make({ maxMaps: 65536 })).toMatch(/options\.maxMaps/);
    expect(make({ maxMappedBytes: -1 })).toMatch(/options\.maxMappedBytes/);
    expect(make({ requireSealed: 1 })).toMatch(/options\.requireSealed/);
    expect(make({ keepAlive: 'no' })).toMatch(/options\.keepAlive/);
    expect(make({ log: 1 })).toMatch(/options\.log/);
    expect(make({ onreset: () => undefined })).toMatch(/options\.onreset/);
  });
});
