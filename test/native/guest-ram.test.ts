// Guest RAM on the real kernel: bytes, sizes, seals, given files, use after close, and that nothing is left behind.
import { execFileSync } from 'node:child_process';
import { closeSync, fstatSync, mkdtempSync, openSync, readSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import type { AdoptOptions, GuestRamOptions } from '../../src/host.ts';
import { FileSeal, GuestRam } from '../../src/host.ts';
import { kernelText } from '../../src/host/native.ts';
import { GuestMemory } from '../../src/virtio/memory.ts';
import { O_CLOEXEC, collectUntil, describeNative, descriptors, flagsOf, hostErrorOf, maps, turns } from './addon.ts';

const K4 = 4096n;
const M2 = 1n << 21n;
const G1 = 1n << 30n;

const open: GuestRam[] = [];

function create(options: GuestRamOptions): GuestRam {
  const ram = GuestRam.create(options);
  open.push(ram);
  return ram;
}

function adopt(fd: number, options?: AdoptOptions): GuestRam {
  const ram = GuestRam.adopt(fd, options);
  open.push(ram);
  return ram;
}

afterEach(() => {
  for (const ram of open.splice(0)) ram.close();
});

describeNative('guest RAM', () => {
  it('is zeroed memory of the size asked for, page-aligned and named', () => {
    for (const size of [K4, 2n * K4, M2 - K4, M2]) {
      const ram = create({ size, name: 'viommu-size' });
      expect(ram.size).toBe(size);
      expect(ram.windows.map((window) => BigInt(window.byteLength))).toEqual([size]);
      expect(new Uint8Array(ram.windows[0]!).every((byte) => byte === 0)).toBe(true);
      expect(ram.hva % K4).toBe(0n);
      const [start] = maps('memfd:viommu-size')[0]!.split('-');
      expect(BigInt(`0x${start}`)).toBe(ram.hva);
      ram.close();
    }
  });

  it('is shown in windows of 1 GiB', () => {
    for (const [size, lengths] of [
      [G1 - K4, [G1 - K4]],
      [G1, [G1]],
      [G1 + K4, [G1, K4]],
      [3n * G1, [G1, G1, G1]],
    ] as const) {
      const ram = create({ size });
      expect(ram.windows.map((window) => BigInt(window.byteLength))).toEqual(lengths);
      expect(ram.windows).toBe(ram.windows);
      const last = new Uint8Array(ram.windows.at(-1)!);
      last[last.length - 1] = 0xa5;
      const fd = ram.duplicateFd();
      const byte = new Uint8Array(1);
      readSync(fd, byte, 0, 1, size - 1n);
      closeSync(fd);
      expect(byte[0]).toBe(0xa5);
      ram.close();
    }
  });

  it('is one memory with its file, in both directions', () => {
    const ram = create({ size: 4n * K4 });
    const bytes = new Uint8Array(ram.windows[0]!);
    const fd = ram.duplicateFd();
    writeSync(fd, Uint8Array.of(1, 2, 3), 0, 3, 4096);
    expect([...bytes.subarray(4096, 4100)]).toEqual([1, 2, 3, 0]);
    bytes.set([9, 8], 8190);
    const back = new Uint8Array(4);
    readSync(fd, back, 0, 4, 8190);
    expect([...back]).toEqual([9, 8, 0, 0]);
    closeSync(fd);
  });

  it('cannot shrink or grow, takes no more seals, and is not inherited', () => {
    const ram = create({ size: 4n * K4, name: 'viommu-seal' });
    expect(ram.seals).toBe(FileSeal.shrink | FileSeal.grow | FileSeal.seal);
    const fd = ram.duplicateFd();
    const size = (bytes: number): string => {
      try {
        execFileSync('truncate', ['-s', String(bytes), `/proc/${process.pid}/fd/${fd}`], { stdio: 'ignore' });
        return 'done';
      } catch {
        return 'refused';
      }
    };
    expect([size(4096), size(1 << 20), fstatSync(fd).size]).toEqual(['refused', 'refused', 4 * 4096]);
    const all = descriptors('viommu-seal');
    expect(all).toHaveLength(2);
    expect(all.map((each) => flagsOf(each) & O_CLOEXEC)).toEqual([O_CLOEXEC, O_CLOEXEC]);
    closeSync(fd);
    expect(descriptors('viommu-seal')).toHaveLength(1);
  });

  it('is allocated in steps that are told, and can be ended from there', () => {
    const steps: bigint[] = [];
    const size = 160n << 20n;
    const ram = create({ size, preallocate: (done, total) => steps.push(done, total) });
    const step = 64n << 20n;
    expect(steps).toEqual([step, size, 2n * step, size, size, size]);
    const fd = ram.duplicateFd();
    expect(fstatSync(fd).blocks * 512).toBe(Number(size));
    closeSync(fd);
    ram.close();

    const before = maps('memfd:viommu-end').length;
    const enough = (): never => {
      throw new Error('enough');
    };
    expect(() => create({ size, name: 'viommu-end', preallocate: enough })).toThrow('enough');
    expect(maps('memfd:viommu-end')).toHaveLength(before);
    expect(create({ size: K4, preallocate: true }).size).toBe(K4);
  });

  it('can be put into guest memory, also at both ends of the address space', () => {
    const memory = new GuestMemory();
    const ram = create({ size: 4n * K4 });
    const high = create({ size: K4 });
    memory.addRegion(ram.region(0n));
    memory.addRegion(high.region((1n << 53n) - K4));
    expect(memory.write(4095, Uint8Array.of(7, 8), 0, 2)).toBe(true);
    expect([...new Uint8Array(ram.windows[0]!, 4095, 2)]).toEqual([7, 8]);
    expect(memory.write(2 ** 53 - 1, Uint8Array.of(5), 0, 1)).toBe(true);
    expect(new Uint8Array(high.windows[0]!)[4095]).toBe(5);
    expect(memory.regions.map((region) => region.hva)).toEqual([ram.hva, high.hva]);
    expect(memory.regions[0]!.file).toEqual({ pageSize: 4096, seals: ['seal', 'shrink', 'grow'] });
  });

  it('says how to get huge pages when there are none', () => {
    const free = Number(/^HugePages_Free:\s*(\d+)/m.exec(kernelText('/proc/meminfo') ?? '')?.[1] ?? 0);
    if (free === 0) {
      const error = hostErrorOf(() => create({ size: M2, hugePages: '2M' }));
      expect(error).toMatch(/^ERR_VIOMMU_HOST_(REFUSED 12 .*nr_hugepages|INCOMPATIBLE .*leave out hugePages)/);
      return;
    }
    const ram = create({ size: M2, hugePages: '2M', preallocate: true });
    expect([ram.pageSize, ram.windows[0]!.byteLength, ram.hva % M2]).toEqual([Number(M2), Number(M2), 0n]);
    new Uint8Array(ram.windows[0]!)[5] = 6;
    const fd = ram.duplicateFd();
    const other = adopt(fd);
    closeSync(fd);
    expect([other.pageSize, new Uint8Array(other.windows[0]!)[5]]).toEqual([Number(M2), 6]);
  });
});

describeNative('a given file', () => {
  it('is used where it is, from an offset, and stays usable when the descriptor is closed', () => {
    const first = create({ size: 16n * K4, name: 'viommu-given' });
    new Uint8Array(first.windows[0]!).set([1, 2, 3], 3 * 4096);
    const fd = first.duplicateFd();
    const all = adopt(fd);
    const part = adopt(fd, { offset: 3n * K4, size: 2n * K4 });
    closeSync(fd);
    expect([all.size, part.size, part.pageSize]).toEqual([16n * K4, 2n * K4, 4096]);
    expect([...new Uint8Array(part.windows[0]!, 0, 3)]).toEqual([1, 2, 3]);
    new Uint8Array(part.windows[0]!)[4096] = 77;
    expect(new Uint8Array(all.windows[0]!)[4 * 4096]).toBe(77);
    first.close();
    expect(new Uint8Array(all.windows[0]!)[4 * 4096]).toBe(77);
    expect(all.hva).not.toBe(part.hva);
  });

  it('must be on tmpfs or hugetlbfs, regular, open for writing and not sealed against it', () => {
    const folder = mkdtempSync(join(tmpdir(), 'viommu-'));
    const path = join(folder, 'file');
    writeFileSync(path, new Uint8Array(8192));
    const onDisk = openSync(path, 'r+');
    const shared = `/dev/shm/viommu-test-${process.pid}`;
    writeFileSync(shared, new Uint8Array(8192));
    const [readOnly, whole, directory] = [openSync(shared, 'r'), openSync(shared, 'r+'), openSync('/dev/shm', 'r')];
    const nothing = openSync('/dev/null', 'r+');
    try {
      expect(hostErrorOf(() => adopt(onDisk))).toMatch(/^ERR_VIOMMU_HOST_INCOMPATIBLE 124 fd must be a file on tmpfs/);
      expect(hostErrorOf(() => adopt(readOnly))).toMatch(/^ERR_VIOMMU_HOST_REFUSED 13 .*reading and writing/);
      expect(hostErrorOf(() => adopt(directory))).toMatch(/^ERR_VIOMMU_HOST_INCOMPATIBLE 22 .*regular file/);
      expect(hostErrorOf(() => adopt(nothing))).toMatch(/^ERR_VIOMMU_HOST_INCOMPATIBLE/);
      expect(hostErrorOf(() => adopt(2 ** 31 - 1))).toMatch(/^ERR_VIOMMU_HOST_REFUSED 9 fd cannot be used/);
      expect(adopt(whole).size).toBe(2n * K4);
    } finally {
      for (const fd of [onDisk, readOnly, whole, directory, nothing]) closeSync(fd);
      rmSync(folder, { recursive: true });
      rmSync(shared);
    }
  });

  it('must hold the part asked for, in whole pages', () => {
    const ram = create({ size: 4n * K4 });
    const fd = ram.duplicateFd();
    const tries: readonly [AdoptOptions, string][] = [
      [{ offset: 4n * K4 }, 'ERR_VIOMMU_HOST_REFUSED 22 options.offset and the size must be whole pages'],
      [{ offset: 5n * K4 }, 'ERR_VIOMMU_HOST_REFUSED 34 options.offset and options.size must lie inside'],
      [{ size: 5n * K4 }, 'ERR_VIOMMU_HOST_REFUSED 34 options.offset and options.size must lie inside'],
      [{ offset: K4, size: 4n * K4 }, 'ERR_VIOMMU_HOST_REFUSED 34 options.offset and options.size must lie inside'],
      [{ offset: 2n ** 63n - K4 }, 'ERR_VIOMMU_HOST_REFUSED 34 options.offset and options.size must lie inside'],
    ];
    for (const [options, message] of tries) expect(hostErrorOf(() => adopt(fd, options))).toContain(message);
    expect(adopt(fd, { offset: K4, size: 3n * K4 }).size).toBe(3n * K4);
    closeSync(fd);
  });
});

describeNative('wrong arguments of guest RAM', () => {
  const sizes: readonly [unknown, RegExp][] = [
    [undefined, /^options.size must be a bigint, got undefined/],
    [4096, /^options.size must be a bigint, got 4096/],
    ['4096', /^options.size must be a bigint, got "4096"/],
    [0n, /^options.size must be in/],
    [-K4, /^options.size must be in/],
    [4095n, /^options.size must be in/],
    [4097n, /^options.size must be a multiple of 0x1000/],
    [2n ** 53n + K4, /^options.size must be in/],
    [2n ** 63n, /^options.size must be in/],
    [2n ** 64n, /^options.size must be in/],
  ];
  it.each(sizes)('size %s', (size, message) => {
    expect(() => create({ size } as GuestRamOptions)).toThrow(message);
  });

  it('name the option', () => {
    const tries: readonly [object, RegExp][] = [
      [{ size: M2, hugepages: '2M' }, /^options.hugepages is not an option/],
      [{ size: M2, hugePages: 2 }, /^options.hugePages must be one of 2M, 1G/],
      [{ size: M2 + K4, hugePages: '2M' }, /^options.size must be a multiple of 0x200000/],
      [{ size: M2, hugePages: '1G' }, /^options.size must be in \[0x40000000, /],
      [{ size: K4, name: 5 }, /^options.name must be a string/],
      [{ size: K4, name: 'a\0b' }, /^options.name must have/],
      [{ size: K4, name: 'x'.repeat(51) }, /^options.name must have/],
      [{ size: K4, preallocate: 1 }, /^options.preallocate must be a function/],
    ];
    for (const [options, message] of tries) expect(() => create(options as GuestRamOptions)).toThrow(message);
    expect(() => create(undefined as unknown as GuestRamOptions)).toThrow(/^options must be an object/);
    expect(create({ size: K4, name: 'é'.repeat(50) }).size).toBe(K4);
  });

  it('name the argument of a given file', () => {
    const tries: readonly [unknown, unknown, RegExp][] = [
      [-1, {}, /^fd must be in/],
      [1.5, {}, /^fd must be an integer/],
      ['3', {}, /^fd must be an integer/],
      [2 ** 31, {}, /^fd must be in/],
      [3, { offset: 4096 }, /^options.offset must be a bigint/],
      [3, { offset: 1n }, /^options.offset must be a multiple/],
      [3, { offset: 2n ** 63n }, /^options.offset must be in/],
      [3, { offset: 2n ** 64n - K4 }, /^options.offset must be in/],
      [3, { size: 0n }, /^options.size must be in/],
      [3, { size: 2n ** 63n }, /^options.size must be in/],
      [3, { length: K4 }, /^options.length is not an option/],
    ];
    for (const [fd, options, message] of tries) {
      expect(() => adopt(fd as number, options as AdoptOptions)).toThrow(message);
    }
  });

  it('are told for a size that no host has', () => {
    expect(hostErrorOf(() => create({ size: 2n ** 53n }))).toMatch(/^ERR_VIOMMU_HOST_REFUSED (12|27) .*address space/);
  });
});

describeNative('the end of guest RAM', () => {
  it('empties the windows and makes every use an error', async () => {
    const ram = GuestRam.create({ size: 2n * K4, name: 'viommu-closed' });
    const [window] = ram.windows;
    const bytes = new Uint8Array(window!);
    const memory = new GuestMemory();
    memory.addRegion(ram.region(0n));
    bytes[0] = 1;
    ram.close();
    ram.close();
    expect([ram.closed, window!.byteLength, bytes.length, bytes[0]]).toEqual([true, 0, 0, undefined]);
    for (const use of [
      () => ram.hva,
      () => ram.size,
      () => ram.pageSize,
      () => ram.seals,
      () => ram.windows,
      () => ram.region(0n),
      () => ram.duplicateFd(),
      () => ram.preallocate(),
    ]) {
      expect(hostErrorOf(use)).toBe('ERR_VIOMMU_HOST_CLOSED 0 guest RAM is closed');
    }
    // Whatever guest memory makes of a window without bytes, the process survives it.
    const word = new Uint8Array(4096);
    for (const access of [() => memory.write(0, word, 0, 4096), () => memory.read(0, word, 0, 4096)]) {
      try {
        access();
      } catch (error) {
        expect(error).toBeInstanceOf(Error);
      }
    }
    expect([...word.subarray(0, 4)]).toEqual([0, 0, 0, 0]);
    await turns();
    expect([maps('viommu-closed'), descriptors('viommu-closed')]).toEqual([[], []]);
  });

  it('comes by itself when nobody can reach it any more', async () => {
    (() => {
      const ram = GuestRam.create({ size: M2, name: 'viommu-forgotten' });
      new Uint8Array(ram.windows[0]!)[0] = 1;
      GuestRam.create({ size: M2, name: 'viommu-forgotten' });
    })();
    expect(maps('viommu-forgotten')).toHaveLength(2);
    expect(await collectUntil(() => maps('viommu-forgotten').length === 0)).toBe(true);
    expect(descriptors('viommu-forgotten')).toEqual([]);
  });

  it('waits for a window that is still reachable', async () => {
    const kept = ((): Uint8Array => new Uint8Array(GuestRam.create({ size: M2, name: 'viommu-kept' }).windows[0]!))();
    kept[1] = 2;
    expect(await collectUntil(() => maps('viommu-kept').length === 0)).toBe(false);
    expect(kept[1]).toBe(2);
  });

  it('leaves no mapping and no descriptor behind, a thousand times', async () => {
    for (let i = 0; i < 1000; i++) {
      const ram = GuestRam.create({ size: 64n * K4, name: 'viommu-cycle' });
      if (i % 3 !== 0) new Uint8Array(ram.windows[0]!)[4096] = i;
      const fd = ram.duplicateFd();
      const other = GuestRam.adopt(fd);
      closeSync(fd);
      if (i % 3 === 1) expect(other.windows).toHaveLength(1);
      other.close();
      ram.close();
      if (i % 100 === 0) await turns(1);
    }
    await turns();
    expect([maps('viommu-cycle').length, descriptors('viommu-cycle').length]).toEqual([0, 0]);
  });

  it('cannot be got around by transferring a window', () => {
    const ram = create({ size: K4 });
    const [window] = ram.windows;
    try {
      // Node 20 copies what must not be transferred, later ones throw.
      expect(structuredClone(window, { transfer: [window!] })).not.toBe(window);
    } catch (error) {
      expect((error as Error).name).toBe('DataCloneError');
    }
    expect(window!.byteLength).toBe(4096);
  });
});
