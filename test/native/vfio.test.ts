// The addon where there is no VFIO: what opening says, wrong arguments, event counters, the memory of the contract cases,
// and that the types in src/host/native-api.ts are those of the addon.
import { closeSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it, vi } from 'vitest';
import ts from 'typescript';
import type { VfioType1Options } from '../../src/host.ts';
import { EventCounter, GuestRam, VfioType1Context, lockedMemory } from '../../src/host.ts';
import { loadFrom, loadNative, mappingsLeft, nativeFailure } from '../../src/host/native.ts';
import { O_CLOEXEC, collectUntil, describeNative, descriptors, flagsOf, hostErrorOf, maps, turns } from './addon.ts';
import { gatherMemory, protectionOf, type1Buffers } from './real-memory.ts';

const folder = mkdtempSync(join(tmpdir(), 'viommu-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** A folder of device files and a /sys with group 7 of one device. */
function fakeHost(name: string, files: Readonly<Record<string, string>>): VfioType1Options {
  const sysfs = join(folder, name, 'sys');
  const deviceFolder = join(folder, name, 'vfio');
  mkdirSync(join(sysfs, 'kernel/iommu_groups/7/devices/0000:00:04.0'), { recursive: true });
  mkdirSync(deviceFolder);
  for (const [file, text] of Object.entries(files)) writeFileSync(join(deviceFolder, file), text);
  return { group: 7, deviceFolder, sysfs };
}

function opening(options: VfioType1Options): string {
  return hostErrorOf(() => VfioType1Context.open(options));
}

describe('without the addon', () => {
  it('says how to build it', () => {
    const unbuilt = join(folder, 'unbuilt');
    mkdirSync(unbuilt);
    writeFileSync(join(unbuilt, 'Cargo.toml'), '');
    expect(hostErrorOf(() => loadFrom(unbuilt))).toMatch(
      /^ERR_VIOMMU_HOST_UNAVAILABLE 2 the native addon for linux-\w+ is missing.*: npm run build:native \(needs Rust/,
    );
    expect(hostErrorOf(() => loadFrom(join(folder, 'nowhere')))).toMatch(
      /^ERR_VIOMMU_HOST_UNAVAILABLE 2 .*: npm install virtio-iommu-linux-\w+-gnu or virtio-iommu-linux-\w+-musl$/,
    );
  });

  it.each([
    ['broken', 'module.exports = require("./virtio-iommu.node")', /is missing or does not load: npm run build:native/],
    ['foreign', 'throw new Error("wrong ELF class")', /is missing or does not load: npm run build:native/],
    ['empty', '', /belongs to another version of this package: npm run build:native/],
    ['old', 'exports.nativeApi = () => 0', /belongs to another version of this package: npm run build:native/],
  ])('says so of one that is %s', (name, text, message) => {
    const path = join(folder, name);
    mkdirSync(path);
    writeFileSync(join(path, 'index.js'), text);
    writeFileSync(join(path, 'package.json'), '{"type":"commonjs"}');
    expect(hostErrorOf(() => loadFrom(path))).toMatch(message);
  });
});

describeNative('opening a group', () => {
  it('says that /dev/vfio is missing', () => {
    expect(opening(fakeHost('missing', {}))).toMatch(/^ERR_VIOMMU_HOST_UNAVAILABLE 2 \/dev\/vfio\/vfio is missing/);
  });

  it('says that a file is no VFIO, and closes it', () => {
    const options = fakeHost('regular', { vfio: '', 7: '' });
    expect(opening(options)).toMatch(/^ERR_VIOMMU_HOST_INCOMPATIBLE 25 .*does not speak the VFIO interface/);
    expect(descriptors(`${folder}/regular`)).toEqual([]);
  });

  it('leaves nothing behind, a thousand times', async () => {
    const options = fakeHost('cycles', { vfio: '', 7: '' });
    for (let i = 0; i < 1000; i++) opening(options);
    expect(descriptors(`${folder}/cycles`)).toEqual([]);
    expect(await collectUntil(() => maps(`${folder}/cycles`).length === 0)).toBe(true);
  });

  it('takes a path with a NUL for what it is', () => {
    expect(opening({ group: 7, deviceFolder: 'a\0b' })).toMatch(/^ERR_VIOMMU_HOST_UNAVAILABLE 22 /);
  });
});

describeNative('the addon', () => {
  it('has the types that this package uses', { timeout: 60_000 }, () => {
    const path = join(folder, 'fits.ts');
    const root = join(import.meta.dirname, '../..');
    writeFileSync(
      path,
      `import type * as Built from '${root}/native/index.js';
       import type { NativeAddon } from '${root}/src/host/native-api.ts';
       declare const built: typeof Built;
       export const fits: NativeAddon = built;`,
    );
    const options: ts.CompilerOptions = {
      strict: true,
      noEmit: true,
      target: ts.ScriptTarget.ES2023,
      module: ts.ModuleKind.NodeNext,
      moduleResolution: ts.ModuleResolutionKind.NodeNext,
      allowImportingTsExtensions: true,
      skipLibCheck: true,
      types: [],
    };
    const program = ts.createProgram([path], options);
    const wrong = ts
      .getPreEmitDiagnostics(program)
      .map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, ' '));
    expect(wrong).toEqual([]);
  });

  it('makes no object from outside, and refuses wrong types with an error', () => {
    const addon = loadNative();
    const { NativeRam, NativeType1, NativeProbe, NativeEvents } = addon;
    for (const Class of [NativeRam, NativeType1, NativeProbe, NativeEvents]) {
      expect(() => new (Class as unknown as new () => unknown)()).toThrow();
      for (const name of Object.getOwnPropertyNames((Class as unknown as { prototype: object }).prototype)) {
        const { prototype } = Class as unknown as { prototype: Record<string, unknown> };
        if (name === 'constructor' || typeof prototype[name] !== 'function') continue;
        expect(() => (prototype[name] as (...args: unknown[]) => unknown).call({}), name).toThrow();
        expect(() => (prototype[name] as (...args: unknown[]) => unknown).call(undefined), name).toThrow();
      }
    }
    const wrong: readonly unknown[] = [
      undefined,
      null,
      1,
      1.5,
      'x',
      {},
      [],
      () => 0,
      Symbol('x'),
      -1n,
      2n ** 64n,
      2n ** 200n,
    ];
    for (const value of wrong) {
      const any = value as never;
      expect(() => NativeRam.create('x', any, 0, 0)).toThrow();
      expect(() => NativeRam.adopt(any, any, any)).toThrow();
      expect(() => NativeRam.create(any, -1n, any, any)).toThrow();
      expect(() => NativeType1.open(any, any)).toThrow();
    }
    const ram = NativeRam.create('x', 4096n, 0, 0);
    expect(() => ram.close(1 as never)).toThrow();
    expect(() => ram.close([1] as never)).toThrow();
    expect(() => ram.windows(0)).toThrow();
    ram.close([]);
    const refused = (run: () => unknown): unknown => {
      try {
        return run();
      } catch (error) {
        return nativeFailure(error);
      }
    };
    expect(refused(() => ram.address())).toEqual({ call: 'close', errno: 9 });
    expect(refused(() => NativeRam.create('x', 2n ** 63n, 0, 0))).toEqual({ call: 'ftruncate', errno: 27 });
    expect(refused(() => NativeRam.create('x', 2n ** 64n - 4096n, 0, 0))).toEqual({ call: 'ftruncate', errno: 27 });
    expect(refused(() => NativeRam.create('x', 2n ** 64n, 0, 0))).toEqual({ call: 'bigint', errno: 75 });
    expect(refused(() => NativeRam.create('x', 0n, 0, 0))).toEqual({ call: 'ftruncate', errno: 22 });
  });

  it('gives its windows once', () => {
    const ram = loadNative().NativeRam.create('x', 8192n, 0, 0);
    const windows = ram.windows(4096);
    expect(windows.map((window) => window.byteLength)).toEqual([4096, 4096]);
    expect(() => ram.windows(4096)).toThrow();
    ram.close(windows);
    ram.close(windows);
  });
});

describeNative('an event counter', () => {
  it('counts, never waits, and is not inherited', () => {
    const counter = new EventCounter();
    expect(counter.take()).toBe(0n);
    counter.signal();
    counter.signal(41n);
    expect([counter.take(), counter.take()]).toEqual([42n, 0n]);
    counter.signal(2n ** 64n - 2n);
    expect(hostErrorOf(() => counter.signal())).toMatch(/^ERR_VIOMMU_HOST_REFUSED 11 /);
    expect(counter.take()).toBe(2n ** 64n - 2n);
    expect(flagsOf(counter.fd) & O_CLOEXEC).toBe(O_CLOEXEC);
    for (const count of [0n, -1n, 2n ** 64n - 1n, 1]) expect(() => counter.signal(count as bigint)).toThrow(/^count /);
    counter.close();
    counter.close();
    expect(hostErrorOf(() => counter.take())).toBe('ERR_VIOMMU_HOST_CLOSED 0 the event counter is closed');
    expect(hostErrorOf(() => counter.fd)).toMatch(/^ERR_VIOMMU_HOST_CLOSED/);
  });
});

describeNative('a listener of an event counter', () => {
  it('is called with the count from the event loop, until it is taken away', async () => {
    const counter = new EventCounter();
    const counts: bigint[] = [];
    counter.listen((count) => counts.push(count));
    counter.signal(2n);
    counter.signal();
    expect(counts).toEqual([]);
    await vi.waitUntil(() => counts.length > 0);
    counter.signal(7n);
    await vi.waitUntil(() => counts.length > 1);
    expect([counts, counter.take()]).toEqual([[3n, 7n], 0n]);
    counter.listen(undefined);
    counter.signal();
    await turns();
    expect([counts.length, counter.take()]).toEqual([2, 1n]);
    counter.close();
  });

  it('may take itself away, be replaced, and end with the counter', async () => {
    const open = descriptors('eventfd').length;
    const counter = new EventCounter();
    const calls: string[] = [];
    counter.listen(() => calls.push('never'));
    counter.listen(() => {
      calls.push('once');
      counter.close();
    });
    counter.signal();
    await vi.waitUntil(() => calls.length > 0);
    await turns();
    expect(calls).toEqual(['once']);
    await vi.waitUntil(() => descriptors('eventfd').length <= open);
    expect(() => counter.listen(() => undefined)).toThrow('the event counter is closed');
    const other = new EventCounter();
    expect(() => other.listen(1 as never)).toThrow(/^listener must be a function/);
    expect(() => other.listen(() => undefined, 1 as never)).toThrow(/^keepAlive must be a boolean/);
    other.close();
  });
});

describeNative('the memory of the contract cases', () => {
  it('has the access that the cases name', () => {
    const { addresses, close } = type1Buffers(0n);
    const at = (address: bigint, page = 0): string | undefined => protectionOf(Number(address / 4096n) + page);
    expect(addresses.ram % (1n << 21n)).toBe(0n);
    expect([at(addresses.ram), at(addresses.ram, 1023), at(addresses.ram, 1024)]).toEqual(['rw', 'rw', 'none']);
    expect([at(addresses.readOnly), at(addresses.noAccess), at(addresses.nothing)]).toEqual(['r', 'none', undefined]);
    expect([0, 1, 2, 15, 16].map((page) => at(addresses.holed, page))).toEqual(['rw', 'none', 'rw', 'rw', 'none']);
    close();
    expect(at(addresses.holed) ?? 'none').toBe('none');
  });

  it('has a word of its own in every page', () => {
    const memory = gatherMemory(false);
    const words = new Set<number>();
    for (const [buffer, pages] of [
      ['ram', 1024],
      ['sealed', 64],
      ['readOnly', 64],
      ['parted', 64],
      ['holed', 64],
    ] as const) {
      for (let page = 0; page < pages; page++) words.add(memory.wordOf(buffer, page));
    }
    expect(words.size).toBe(1024 + 4 * 64);
    const parted = memory.pageOf('parted');
    expect([0, 16, 31, 32].map((page) => memory.protectionOf(parted + page))).toEqual(['rw', 'r', 'r', 'rw']);
    expect(memory.protectionOf(memory.pageOf('holed') + 16)).toBe('none');
    expect(memory.protectionOf(memory.pageOf('sealed'))).toBe('r');
    expect(memory.locked()).toBeGreaterThanOrEqual(0);
    memory.close();
  });
});

describeNative('facts of the process', () => {
  it('are read from /proc', () => {
    expect(mappingsLeft()).toBeGreaterThan(100);
    const { locked, limit } = lockedMemory();
    expect(locked).toBeGreaterThanOrEqual(0);
    expect(limit).toBeGreaterThan(0);
  });

  it('know a descriptor that was closed under us', () => {
    const ram = GuestRam.create({ size: 4096n });
    const fd = ram.duplicateFd();
    closeSync(fd);
    expect(hostErrorOf(() => GuestRam.adopt(fd))).toMatch(/^ERR_VIOMMU_HOST_REFUSED 9 fd cannot be used/);
    ram.close();
  });
});
