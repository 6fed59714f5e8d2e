import { describe, expect, it } from 'vitest';
import { message } from '../../test/vfio-user/client.ts';
import * as p from '../../test/vfio-user/payloads.ts';
import { Talk } from '../../test/vfio-user/talk.ts';
import { Errno } from '../base/errors.ts';
import { Command, IrqSetFlag, MAX_TRANSFER, MessageFlag, MessageHeader } from './abi.ts';
import { ProtocolError } from './protocol-error.ts';
import { VersionRefusal } from './version.ts';

const { EINVAL, EEXIST, ENOENT, ENOSPC, EOPNOTSUPP } = Errno;
const PAGE = 0x1000n;

describe('the order of messages', () => {
  it('begins with VERSION, once', () => {
    for (const command of [Command.getInfo, Command.dmaMap, Command.deviceReset, 99, 0]) {
      expect(() => new Talk().ask(command), String(command)).toThrow(/before VERSION/);
    }
    const talk = Talk.begun();
    expect(() => talk.ask(Command.version, p.version())).toThrow(/second VERSION/);
    expect(talk.agreed).toBe(1);
  });

  it('has commands and replies only', () => {
    const talk = Talk.begun();
    for (const flags of [2, 3, 15, 0xf]) {
      expect(() => talk.ask(Command.getInfo, p.info(16), [], flags)).toThrow(ProtocolError);
    }
    expect(() => talk.ask(Command.dmaRead, p.info(16), [], MessageFlag.reply)).toThrow(/nothing that was asked/);
  });

  it('answers what nobody knows with ENOTSUP', () => {
    const talk = Talk.begun();
    for (const command of [
      0,
      Command.getRegionIoFds,
      Command.dmaRead,
      Command.dmaWrite,
      14,
      15,
      16,
      17,
      18,
      99,
      0xffff,
    ]) {
      expect(talk.errno(command), String(command)).toBe(EOPNOTSUPP);
      expect(talk.errno(command, new Uint8Array(64)), String(command)).toBe(EOPNOTSUPP);
    }
  });

  it('echoes id and command, and has errors without payload', () => {
    const talk = Talk.begun();
    talk.give(message({ id: 0xbeef, command: Command.getInfo, payload: p.info(16) }));
    const header = (at: number): number => talk.reply.view.getUint16(at, true);
    expect([header(MessageHeader.id), header(MessageHeader.command)]).toEqual([0xbeef, Command.getInfo]);
    expect(talk.give(message({ id: 1, command: Command.getInfo, payload: p.info(16, 0, 15) }))).toEqual({
      errno: EINVAL,
      payload: new Uint8Array(0),
    });
    expect(talk.reply.view.getUint32(MessageHeader.size, true)).toBe(16);
  });

  it('gives no reply where none is wanted, to what is refused neither', () => {
    const talk = Talk.begun();
    const quiet = MessageFlag.noReply;
    expect(talk.ask(Command.regionWrite, p.region(0, 8, 1, Uint8Array.of(7)), [], quiet)).toBe('none');
    expect(talk.ask(Command.regionWrite, p.region(0, 16384, 1, Uint8Array.of(7)), [], quiet)).toBe('none');
    expect(talk.ask(99, undefined, [], quiet)).toBe('none');
    expect([talk.pci.log, talk.session.refusals]).toEqual([['write bar 0 8 7'], 2]);
  });
});

describe('the length of messages', () => {
  const least: [number, number][] = [
    [Command.dmaMap, 32],
    [Command.dmaUnmap, 24],
    [Command.getInfo, 16],
    [Command.getRegionInfo, 32],
    [Command.getIrqInfo, 16],
    [Command.setIrqs, 20],
    [Command.regionRead, 16],
    [Command.regionWrite, 16],
  ];
  it.each(least)('command %i needs %i bytes', (command, size) => {
    const talk = Talk.begun();
    for (const length of [0, 1, size - 1]) {
      expect(() => talk.ask(command, new Uint8Array(length)), String(length)).toThrow(/bytes of/);
    }
    expect(() => talk.ask(command, new Uint8Array(size))).not.toThrow();
    if (command !== Command.regionWrite) expect(() => talk.ask(command, new Uint8Array(size + 1))).not.toThrow();
  });

  it('of a write is that of its data', () => {
    const talk = Talk.begun();
    for (const [count, data] of [
      [4, 3],
      [4, 5],
      [0, 1],
      [0xffff_ffff, 4],
    ] as const) {
      expect(() => talk.ask(Command.regionWrite, p.region(0, 0, count, new Uint8Array(data)))).toThrow(/REGION_WRITE/);
    }
    expect(talk.pci.log).toEqual([]);
  });

  it('descriptors come with DMA_MAP and SET_IRQS only', () => {
    const talk = Talk.begun();
    for (const [command, size] of least) {
      if (command === Command.dmaMap || command === Command.setIrqs) continue;
      expect(() => talk.ask(command, new Uint8Array(size), [0])).toThrow(/descriptors/);
    }
    expect(() => talk.ask(Command.deviceReset, undefined, [0])).toThrow(/descriptors/);
    expect(() => talk.ask(Command.dmaMap, p.dmaMap(0n, PAGE), [0, 0])).toThrow(/2 descriptors/);
    expect(() => talk.ask(Command.dmaRead, undefined, [0], MessageFlag.reply)).toThrow(/descriptors/);
    expect(() => new Talk().ask(Command.version, p.version(), [0])).toThrow(/descriptors/);
  });
});

describe('VERSION', () => {
  function agree(payload: Uint8Array): [number, number, string | undefined] {
    const bytes = new Talk().payload(Command.version, payload);
    const view = new DataView(bytes.buffer);
    const text = bytes.length === 4 ? undefined : new TextDecoder().decode(bytes.subarray(4));
    return [view.getUint16(0, true), view.getUint16(2, true), text];
  }

  it('takes what QEMU proposes and answers shorter than that', () => {
    const capabilities = '{"max_msg_fds":16,"max_data_xfer_size":1048576,"max_dma_maps":4096,"pgsizes":4096}';
    expect(agree(p.version(0, 0, p.QEMU_CAPABILITIES))).toEqual([0, 0, `{"capabilities":${capabilities}}\0`]);
    expect(capabilities.length).toBeLessThan(p.QEMU_CAPABILITIES.length - 20);
  });

  it('answers a subset of what is proposed, and the lower minor version', () => {
    expect(agree(p.version(0, 7))).toEqual([0, 0, undefined]);
    expect(agree(p.version(0, 0xffff, '{}'))).toEqual([0, 0, '{"capabilities":{}}\0']);
    expect(agree(p.version(0, 0, '{"capabilities":{"twin_socket":{"supported":true},"write_multiple":true}}'))).toEqual(
      [0, 0, '{"capabilities":{}}\0'],
    );
    expect(agree(p.version(0, 0, '{"capabilities":{"max_msg_fds":1,"x":[]},"y":1}'))).toEqual([
      0,
      0,
      '{"capabilities":{"max_msg_fds":16}}\0',
    ]);
    expect(agree(p.version(0, 0, '{"capabilities":{"max_dma_maps":7}}'))[2]).toContain('"max_dma_maps":7');
  });

  it('takes any page sizes from 4096 on, and holds mappings to the smallest', () => {
    const sizes = (value: string): string | undefined =>
      agree(p.version(0, 0, `{"capabilities":{"pgsizes":${value}}}`))[2];
    expect(sizes('4096')).toContain('"pgsizes":4096');
    expect(sizes('1075843072')).toContain('"pgsizes":4096');
    expect(sizes('2097152')).toContain('"pgsizes":2097152');
    expect(sizes('18446744073709547520')).toContain('"pgsizes":4096');
    const talk = new Talk();
    talk.ask(Command.version, p.version(0, 0, '{"capabilities":{"pgsizes":2097152}}'));
    expect(talk.errno(Command.dmaMap, p.dmaMap(PAGE, 0x20_0000n))).toBe(EINVAL);
    expect(talk.errno(Command.dmaMap, p.dmaMap(0n, 0x20_1000n))).toBe(EINVAL);
    expect(talk.errno(Command.dmaMap, p.dmaMap(0x20_0000n, 0x20_0000n))).toBe(0);
  });

  it.each([4096, 4097])('takes transfers of at least 4096 bytes, such as %i', (size) => {
    const capabilities = `{"capabilities":{"max_data_xfer_size":${size}}}`;
    expect(agree(p.version(0, 0, capabilities))[2]).toContain('"max_data_xfer_size":');
  });

  const bad: [string, Uint8Array, number][] = [
    ['major 1', p.version(1, 0), EOPNOTSUPP],
    ['major 0xffff', p.version(0xffff, 0, p.QEMU_CAPABILITIES), EOPNOTSUPP],
    ['nothing', new Uint8Array(0), EINVAL],
    ['half', new Uint8Array(3), EINVAL],
    ['no NUL', p.version(0, 0, '{}').subarray(0, 6), EINVAL],
    ['no JSON', p.version(0, 0, '{'), EINVAL],
    ['an empty text', p.version(0, 0, ''), EINVAL],
    ['no UTF-8', Uint8Array.of(0, 0, 0, 0, 0x22, 0xff, 0x22, 0), EINVAL],
    ['null', p.version(0, 0, 'null'), EINVAL],
    ['a list', p.version(0, 0, '[]'), EINVAL],
    ['a list of capabilities', p.version(0, 0, '{"capabilities":[]}'), EINVAL],
    ['null capabilities', p.version(0, 0, '{"capabilities":null}'), EINVAL],
    ['a text as number', p.version(0, 0, '{"capabilities":{"max_msg_fds":"8"}}'), EINVAL],
    ['a negative number', p.version(0, 0, '{"capabilities":{"max_msg_fds":-1}}'), EINVAL],
    ['a fraction', p.version(0, 0, '{"capabilities":{"max_dma_maps":1.5}}'), EINVAL],
    ['infinity', p.version(0, 0, '{"capabilities":{"max_dma_maps":1e999}}'), EINVAL],
    ['no maps', p.version(0, 0, '{"capabilities":{"max_dma_maps":0}}'), EINVAL],
    ['transfers of 4095 bytes', p.version(0, 0, '{"capabilities":{"max_data_xfer_size":4095}}'), EINVAL],
    ['no transfer', p.version(0, 0, '{"capabilities":{"max_data_xfer_size":0}}'), EINVAL],
    ['pages of 1024', p.version(0, 0, '{"capabilities":{"pgsizes":1024}}'), EINVAL],
    ['64 KiB of text', p.version(0, 0, ' '.repeat(65536)), EINVAL],
    ['deep', p.version(0, 0, '['.repeat(60000)), EINVAL],
  ];
  it.each(bad)('refuses %s', (_name, payload, errno) => {
    const talk = new Talk();
    try {
      talk.ask(Command.version, payload);
      expect.unreachable();
    } catch (error) {
      expect(error).toBeInstanceOf(VersionRefusal);
      expect((error as VersionRefusal).errno).toBe(errno);
    }
    expect([talk.session.agreed, talk.agreed]).toEqual([undefined, 0]);
  });
});

describe('what the device looks like', () => {
  it('has nine regions and five kinds of interrupts', () => {
    const talk = Talk.begun();
    expect([...new Uint32Array(talk.payload(Command.getInfo, p.info(16)).buffer)]).toEqual([16, 3, 9, 5]);
    expect([...new Uint32Array(talk.payload(Command.getInfo, p.info(16, 0, 64)).buffer)]).toEqual([16, 3, 9, 5]);
    expect(talk.errno(Command.getInfo, p.info(16, 0, 15))).toBe(EINVAL);
    const sizes = [16384, 0, 4096, 0, 0, 0, 0, 256, 0];
    sizes.forEach((size, index) => {
      const view = new DataView(talk.payload(Command.getRegionInfo, p.info(32, index)).buffer);
      expect([view.getUint32(0, true), view.getUint32(4, true), view.getUint32(8, true)]).toEqual([
        32,
        size > 0 ? 3 : 0,
        index,
      ]);
      expect([view.getBigUint64(16, true), view.getBigUint64(24, true)]).toEqual([BigInt(size), BigInt(index) << 40n]);
    });
    for (const [index, argsz] of [
      [9, 32],
      [0xffff_ffff, 32],
      [0, 31],
    ] as const) {
      expect(talk.errno(Command.getRegionInfo, p.info(32, index, argsz))).toBe(EINVAL);
    }
  });

  it('has MSI-X, and an error interrupt that never comes', () => {
    const talk = Talk.begun();
    const rows = [0, 1, 2, 3, 4].map((index) => [
      ...new Uint32Array(talk.payload(Command.getIrqInfo, p.info(16, index)).buffer),
    ]);
    expect(rows).toEqual([
      [16, 1, 0, 0],
      [16, 1, 1, 0],
      [16, 9, 2, 3],
      [16, 1, 3, 1],
      [16, 1, 4, 0],
    ]);
    expect(talk.errno(Command.getIrqInfo, p.info(16, 5))).toBe(EINVAL);
    expect(talk.errno(Command.getIrqInfo, p.info(16, 2, 15))).toBe(EINVAL);
  });
});

describe('registers', () => {
  it.each([1, 2, 3, 4, 8, 9, 255, 4096, 5000])('moves %i bytes', (count) => {
    const talk = Talk.begun();
    const data = Uint8Array.from({ length: count }, (_, i) => i * 3);
    const wrote = talk.payload(Command.regionWrite, p.region(0, 24, count, data));
    expect(wrote).toEqual(p.region(0, 24, count));
    const read = talk.payload(Command.regionRead, p.region(0, 24, count));
    expect(read.subarray(0, 16)).toEqual(p.region(0, 24, count));
    expect(read.subarray(16)).toEqual(Uint8Array.from({ length: count }, (_, i) => 24 + i));
    expect(talk.pci.log).toEqual([`write bar 0 24 ${[...data].join(' ')}`, `read bar 0 24 ${count}`]);
  });

  it('ends where the region ends', () => {
    const talk = Talk.begun();
    const errno = (index: number, offset: number | bigint, count: number): number => {
      const read = talk.errno(Command.regionRead, p.region(index, offset, count));
      if (count <= 65536) {
        expect(talk.errno(Command.regionWrite, p.region(index, offset, count, new Uint8Array(count)))).toBe(read);
      }
      return read;
    };
    for (const [index, size] of [
      [0, 16384],
      [2, 4096],
      [7, 256],
    ] as const) {
      expect([errno(index, size - 1, 1), errno(index, size, 0), errno(index, 0, size)]).toEqual([0, 0, 0]);
      expect([errno(index, size, 1), errno(index, size - 1, 2), errno(index, 0, size + 1)]).toEqual([
        EINVAL,
        EINVAL,
        EINVAL,
      ]);
      expect(errno(index, 0xffff_ffff, 2)).toBe(EINVAL);
      expect(errno(index, 1n << 32n, 1)).toBe(EINVAL);
      expect(errno(index, 0xffff_ffff_ffff_ffffn, 1)).toBe(EINVAL);
    }
    for (const index of [1, 3, 4, 5, 6, 8, 9, 0xffff_ffff]) expect(errno(index, 0, 1)).toBe(EINVAL);
    expect(errno(0, 0, MAX_TRANSFER + 1)).toBe(EINVAL);
    expect(errno(0, 0, 0xffff_ffff)).toBe(EINVAL);
  });

  it('take no more at once than the function does, but for configuration space', () => {
    const talk = Talk.begun();
    Object.assign(talk.pci, { maxAccess: 200 });
    const errno = (index: number, count: number): number[] => [
      talk.errno(Command.regionRead, p.region(index, 0, count)),
      talk.errno(Command.regionWrite, p.region(index, 0, count, new Uint8Array(count))),
    ];
    expect([errno(0, 199), errno(0, 200), errno(0, 201)]).toEqual([
      [0, 0],
      [0, 0],
      [EINVAL, EINVAL],
    ]);
    expect(errno(7, 201)).toEqual([0, 0]);
  });

  it('lie beyond 4 GiB in a large BAR', () => {
    const talk = Talk.begun();
    talk.pci.bars.push({ index: 4, size: 2 ** 34 });
    const view = new DataView(talk.payload(Command.getRegionInfo, p.info(32, 4)).buffer);
    expect(view.getBigUint64(16, true)).toBe(1n << 34n);
    expect(talk.errno(Command.regionWrite, p.region(4, (1n << 34n) - 1n, 1, Uint8Array.of(5)))).toBe(0);
    expect(talk.errno(Command.regionRead, p.region(4, (1n << 33n) + 8n, 4))).toBe(0);
    expect(talk.errno(Command.regionRead, p.region(4, (1n << 34n) - 1n, 2))).toBe(EINVAL);
    expect(talk.errno(Command.regionRead, p.region(4, 1n << 63n, 1))).toBe(EINVAL);
    expect(talk.pci.log).toEqual([`write bar 4 ${2 ** 34 - 1} 5`, `read bar 4 ${2 ** 33 + 8} 4`]);
  });

  it('has configuration space as region 7', () => {
    const talk = Talk.begun();
    talk.ask(Command.regionWrite, p.region(7, 4, 2, Uint8Array.of(6, 0)));
    talk.ask(Command.regionRead, p.region(7, 0, 4));
    expect(talk.pci.log).toEqual(['write config 4 6 0', 'read config 0 4']);
  });

  it('resets', () => {
    const talk = Talk.begun();
    expect(talk.payload(Command.deviceReset)).toEqual(new Uint8Array(0));
    expect([talk.pci.log, talk.resets]).toEqual([['reset'], 1]);
  });
});

describe('mappings without a file', () => {
  const map = (talk: Talk, address: bigint, size: bigint, flags = 3, offset = 0n): number =>
    talk.errno(Command.dmaMap, p.dmaMap(address, size, offset, flags));
  const unmap = (talk: Talk, address: bigint, size: bigint, flags = 0): number =>
    talk.errno(Command.dmaUnmap, p.dmaUnmap(address, size, flags));

  it('are remembered, and are no guest memory', () => {
    const talk = Talk.begun();
    expect([map(talk, 0xc_0000n, PAGE), talk.table.count, talk.memory.regions.length]).toEqual([0, 1, 0]);
    expect(talk.table.allows(0xc_0000, 0xc_1000, true)).toBe(true);
    expect(talk.payload(Command.dmaUnmap, p.dmaUnmap(0xc_0000n, PAGE))).toEqual(p.dmaUnmap(0xc_0000n, PAGE));
    expect(talk.table.count).toBe(0);
  });

  it('overlap nothing', () => {
    const talk = Talk.begun();
    expect(map(talk, 0x4000n, 0x4000n)).toBe(0);
    for (const [address, size] of [
      [0x4000n, 0x4000n],
      [0x3000n, 0x2000n],
      [0x7000n, 0x2000n],
      [0x5000n, PAGE],
      [0n, 0x10000n],
    ] as const) {
      expect(map(talk, address, size), `${address} ${size}`).toBe(EEXIST);
    }
    expect([map(talk, 0x3000n, PAGE), map(talk, 0x8000n, PAGE), talk.table.count]).toEqual([0, 0, 3]);
  });

  it('are whole pages below 2^53 with known rights', () => {
    const talk = Talk.begun();
    const end = 1n << 53n;
    for (const [address, size, flags, offset] of [
      [1n, PAGE],
      [0n, 1n],
      [0n, PAGE + 1n],
      [0n, 0n],
      [end, PAGE],
      [end - PAGE, 2n * PAGE],
      [0n, end + PAGE],
      [0xffff_ffff_ffff_f000n, PAGE],
      [0xffff_ffff_ffff_f000n, 0xffff_ffff_ffff_f000n],
      [0n, PAGE, 0],
      [0n, PAGE, 4],
      [0n, PAGE, 0x8000_0003],
    ] as [bigint, bigint, number?, bigint?][]) {
      expect(map(talk, address, size, flags, offset), `${address} ${size} ${flags}`).toBe(EINVAL);
    }
    expect(talk.errno(Command.dmaMap, p.dmaMap(0n, PAGE, 0n, 3, 31))).toBe(EINVAL);
    expect([map(talk, end - PAGE, PAGE), map(talk, 0n, PAGE, 1), map(talk, PAGE, PAGE, 2)]).toEqual([0, 0, 0]);
    expect([talk.table.allows(0, 4096, true), talk.table.allows(0, 4096, false)]).toEqual([false, true]);
    expect([talk.table.allows(4096, 8192, true), talk.table.allows(4096, 8192, false)]).toEqual([true, false]);
    expect([talk.table.allows(4096, 4096, true), talk.table.allows(8191, 8193, true)]).toEqual([true, false]);
  });

  it('are at most so many', () => {
    const talk = Talk.begun({ maxMaps: 3 });
    for (let i = 0n; i < 3n; i++) expect(map(talk, 2n * i * PAGE, PAGE)).toBe(0);
    expect(map(talk, 0x10_0000n, PAGE)).toBe(ENOSPC);
    expect(unmap(talk, 0n, PAGE)).toBe(0);
    expect(map(talk, 0x10_0000n, PAGE)).toBe(0);
    const few = new Talk();
    few.ask(Command.version, p.version(0, 0, '{"capabilities":{"max_dma_maps":1}}'));
    expect([map(few, 0n, PAGE), map(few, PAGE, PAGE)]).toEqual([0, ENOSPC]);
  });

  it('go when they are wholly inside what is unmapped', () => {
    const talk = Talk.begun();
    for (const page of [1n, 2n, 4n, 6n]) map(talk, page * PAGE, PAGE);
    map(talk, 8n * PAGE, 4n * PAGE);
    for (const [first, pages] of [
      [9n, 1n],
      [7n, 2n],
      [11n, 5n],
      [0n, 9n],
    ] as const) {
      expect(unmap(talk, first * PAGE, pages * PAGE), `${first} ${pages}`).toBe(EINVAL);
    }
    expect(talk.table.count).toBe(5);
    for (const [first, pages] of [
      [0n, 1n],
      [3n, 1n],
      [12n, 100n],
    ] as const) {
      expect(unmap(talk, first * PAGE, pages * PAGE), `${first} ${pages}`).toBe(ENOENT);
    }
    expect([unmap(talk, 0n, 5n * PAGE), talk.table.count]).toEqual([0, 2]);
    expect([unmap(talk, 0n, 0xffff_ffff_ffff_ffffn), talk.table.count]).toEqual([0, 0]);
  });

  it('go all at once with the flag', () => {
    const talk = Talk.begun();
    expect(unmap(talk, 0n, 0n, 2)).toBe(0);
    for (const page of [1n, 3n]) map(talk, page * PAGE, PAGE);
    expect([unmap(talk, PAGE, 0n, 2), unmap(talk, 0n, PAGE, 2), talk.table.count]).toEqual([EINVAL, EINVAL, 2]);
    expect([unmap(talk, 0n, 0n, 2), talk.table.count]).toEqual([0, 0]);
  });

  it('are unmapped with known flags and sizes only', () => {
    const talk = Talk.begun();
    map(talk, 0n, PAGE);
    expect(unmap(talk, 0n, PAGE, 1)).toBe(EOPNOTSUPP);
    expect(unmap(talk, 0n, PAGE, 3)).toBe(EOPNOTSUPP);
    expect([unmap(talk, 0n, PAGE, 4), unmap(talk, 0n, 0n), unmap(talk, PAGE, 0xffff_ffff_ffff_f001n)]).toEqual([
      EINVAL,
      EINVAL,
      EINVAL,
    ]);
    expect(talk.errno(Command.dmaUnmap, p.dmaUnmap(0n, PAGE, 0, 23))).toBe(EINVAL);
    expect(unmap(talk, 0xffff_ffff_ffff_f000n, PAGE)).toBe(ENOENT);
    expect(talk.table.count).toBe(1);
  });
});

describe('interrupts', () => {
  const { none, bool, eventfd, mask, unmask, trigger } = IrqSetFlag;
  const set = (talk: Talk, flags: number, index: number, start: number, count: number, bools?: number[]): number =>
    talk.errno(Command.setIrqs, p.setIrqs(flags, index, start, count, bools));

  it('are set within their number', () => {
    const talk = Talk.begun();
    for (const [index, start, count] of [
      [2, 0, 4],
      [2, 3, 1],
      [2, 4, 0],
      [2, 1, 0xffff_ffff],
      [2, 0xffff_ffff, 1],
      [2, 0xffff_ffff, 0xffff_ffff],
      [0, 0, 1],
      [1, 0, 1],
      [3, 0, 2],
      [3, 1, 1],
      [4, 0, 1],
      [5, 0, 0],
      [0xffff_ffff, 0, 0],
    ] as const) {
      expect(set(talk, none | trigger, index, start, count), `${index} ${start} ${count}`).toBe(EINVAL);
    }
    for (const [index, count] of [
      [0, 0],
      [2, 0],
      [2, 3],
      [3, 1],
      [4, 0],
    ] as const) {
      expect(set(talk, none | trigger, index, 0, count), `${index} ${count}`).toBe(0);
    }
    expect(talk.signals.msix.lost).toBe(3);
  });

  it('have one kind of data and one action', () => {
    const talk = Talk.begun();
    for (const flags of [
      0,
      none,
      trigger,
      none | bool | trigger,
      none | mask | trigger,
      7 | trigger,
      64 | none | trigger,
    ]) {
      expect(set(talk, flags, 2, 0, 1), String(flags)).toBe(EINVAL);
    }
    expect(talk.errno(Command.setIrqs, p.setIrqs(none | trigger, 2, 0, 0, [], 19))).toBe(EINVAL);
    for (const flags of [none | mask, none | unmask, bool | mask, eventfd | mask, eventfd | unmask]) {
      expect(set(talk, flags, 2, 0, 1, [1]), String(flags)).toBe(EOPNOTSUPP);
    }
    expect([set(talk, eventfd | trigger, 2, 0, 0), set(talk, bool | trigger, 2, 0, 0)]).toEqual([EINVAL, EINVAL]);
  });

  it('are triggered where the booleans say so', () => {
    const talk = Talk.begun();
    expect(set(talk, bool | trigger, 2, 0, 3, [1, 0, 255])).toBe(0);
    expect(talk.signals.msix.lost).toBe(2);
    expect(() => talk.ask(Command.setIrqs, p.setIrqs(bool | trigger, 2, 0, 3, [1, 0]))).toThrow(/booleans/);
  });

  it('take as many descriptors as they are', () => {
    const talk = Talk.begun();
    for (const fds of [[0, 0], [0]]) {
      for (const flags of [none | trigger, eventfd | trigger]) {
        const wrong = flags === (none | trigger) || fds.length !== 1;
        if (!wrong) continue;
        expect(() => talk.ask(Command.setIrqs, p.setIrqs(flags, 2, 0, 1), fds)).toThrow(/descriptors/);
      }
    }
    expect(set(talk, eventfd | trigger, 2, 0, 3)).toBe(0);
  });
});
