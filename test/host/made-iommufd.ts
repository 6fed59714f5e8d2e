// An iommufd made up for tests of contexts that share one: files, address spaces with pages, devices that are attached, and
// refusals at will. Not here: the rules of maps and unmaps (src/host/simulated). Unit: 4 KiB page numbers.
import { expect } from 'vitest';
import { Errno } from '../../src/base/errors.ts';
import { HostOp } from '../../src/host/context.ts';
import type { NativeDevice, NativeIommufd } from '../../src/host/native-api.ts';

const K4 = 4096n;
const ALL = 2n ** 64n - 1n;

/** An address space. */
export interface MadeSpace {
  readonly pages: Set<number>;
  small: boolean;
}

/** An open file. */
export class MadeFile {
  readonly spaces = new Map<number, MadeSpace>();
  /** Address space of each device that is attached, by the name of its file. */
  readonly attached = new Map<string, number>();
  open = true;

  /** The lowest id that is free, as the kernel does. */
  allocate(): number {
    let id = 1;
    while (this.spaces.has(id)) id++;
    this.spaces.set(id, { pages: new Set(), small: false });
    return id;
  }

  usersOf(id: number): number {
    return [...this.attached.values()].filter((each) => each === id).length;
  }
}

/** What the addon opens. */
export class MadeKernel {
  readonly files: MadeFile[] = [];
  /** Calls that change something, since the last look. */
  readonly calls: string[] = [];
  /** Gives an errno to a call that shall be refused. */
  refuse: (call: string) => number = () => 0;
  readonly #names = new WeakMap<NativeDevice, string>();

  /** In place of `NativeIommufd.open`. */
  open(path: string, perProcess: boolean): NativeIommufd {
    this.#must(`open ${path} ${perProcess}`);
    const file = new MadeFile();
    this.files.push(file);
    return { ...this.#spaceCalls(file), ...this.#deviceCalls(file) } as NativeIommufd;
  }

  #tried(call: string): number {
    this.calls.push(call);
    return this.refuse(call);
  }

  #must(call: string): void {
    const errno = this.#tried(call);
    if (errno !== 0) throw Object.assign(new Error(`${call.split(' ')[0]} ${errno}`), { code: 'ERR_NATIVE' });
  }

  #spaceCalls(file: MadeFile): Partial<NativeIommufd> {
    const { spaces } = file;
    return {
      allocate: () => {
        this.#must('alloc');
        return file.allocate();
      },
      destroy: (id) => {
        this.#must(`destroy ${id}`);
        expect([spaces.has(id), file.usersOf(id)]).toEqual([true, 0]);
        spaces.delete(id);
      },
      smallPages: (id) => {
        this.#must(`small ${id}`);
        spaces.get(id)!.small = true;
      },
      ranges: (id) => ({ ranges: BigUint64Array.of(0n, (1n << 48n) / BigInt(file.usersOf(id)) - 1n), alignment: K4 }),
      areaCount: (id) => spaces.get(id)?.pages.size ?? 0,
      copy: (id, source) => {
        for (const page of spaces.get(source)!.pages) spaces.get(id)!.pages.add(page);
        return 0;
      },
      unmap: (id, iova, length) => {
        const errno = this.#tried(`empty ${id}`) || (spaces.has(id) ? 0 : Errno.ENOENT);
        expect([iova, length]).toEqual([0n, ALL]);
        if (errno === 0) spaces.get(id)!.pages.clear();
        return { errno, size: 0n };
      },
      unmapDma: (id, _argsz, _flags, _iova, size) => ({ errno: 0, size: size + BigInt(id) }),
      run: (id, cut, from, count, kind, iova, _pages, _va, _rights, errno) => {
        const space = spaces.get(id);
        for (let i = from; i < count; i++) {
          errno[i] = space === undefined ? Errno.ENOENT : 0;
          if (space === undefined) return i;
          expect(cut).toBe(space.small);
          if (kind[i] === HostOp.map) space.pages.add(iova[i]!);
          else space.pages.delete(iova[i]!);
        }
        return count;
      },
    };
  }

  #deviceCalls(file: MadeFile): Partial<NativeIommufd> {
    return {
      bind: (path) => this.#bind(file, path.slice(path.lastIndexOf('/') + 1)),
      attach: (device, id) => {
        const name = this.#names.get(device)!;
        const errno = this.#tried(`attach ${name} ${id}`) || (file.spaces.has(id) ? 0 : Errno.ENOENT);
        if (errno === 0) file.attached.set(name, id);
        return errno;
      },
      detach: (device) => {
        const name = this.#names.get(device)!;
        this.calls.push(`detach ${name}`);
        file.attached.delete(name);
        return 0;
      },
      mapsRegisters: () => false,
      close: () => {
        this.calls.push('close');
        expect([file.open, file.attached.size]).toEqual([true, 0]);
        file.open = false;
      },
    };
  }

  #bind(file: MadeFile, name: string): NativeDevice {
    this.#must(`bind ${name}`);
    const made: Partial<NativeDevice> = {
      region: () => ({ flags: 3, size: 256n, offset: 0n, msixMappable: false }),
      close: () => {
        this.calls.push(`close ${name}`);
        file.attached.delete(name);
      },
    };
    const device = made as NativeDevice;
    this.#names.set(device, name);
    return device;
  }
}
