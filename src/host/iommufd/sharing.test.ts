// Contexts of several groups on one iommufd, on a made-up addon: which file and address space each uses, what is left after a
// refusal at any step, close in any order. Real kernels: test/vm/iommufd.
import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import fc from 'fast-check';
import { afterAll, afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { MadeKernel } from '../../../test/host/made-iommufd.ts';
import { Errno } from '../../base/errors.ts';
import type { SharingContext } from '../context.ts';
import { HostBatch, isSharing } from '../context.ts';
import type { IommufdOptions } from '../iommufd.ts';
import { IommufdContext } from '../iommufd.ts';
import type { NativeAddon, NativeIommufd } from '../native-api.ts';

const K4 = 4096n;
const CLOSED = expect.objectContaining({ code: 'ERR_VIOMMU_HOST_CLOSED' }) as Error;

let kernel: MadeKernel;
let opened: IommufdContext[];

vi.mock('../native.ts', async (importOriginal) => ({
  ...(await importOriginal<typeof import('../native.ts')>()),
  loadNative: () => {
    const open = (path: string, perProcess: boolean): NativeIommufd => kernel.open(path, perProcess);
    return { NativeIommufd: { open } } as unknown as NativeAddon;
  },
}));

/** A copy of /sys with three groups of two functions each; files of group 7 are a0 and a1, of 8 b0 and b1, of 9 c0 and c1. */
const sysfs = mkdtempSync(join(tmpdir(), 'viommu-sharing-'));
mkdirSync(join(sysfs, 'drivers/vfio-pci'), { recursive: true });
for (const [group, letter] of [
  [7, 'a'],
  [8, 'b'],
  [9, 'c'],
] as const) {
  for (const index of [0, 1]) {
    const device = join(sysfs, `bus/pci/devices/0000:00:0${group}.${index}`);
    mkdirSync(join(device, 'vfio-dev', `${letter}${index}`), { recursive: true });
    symlinkSync(join(sysfs, 'drivers/vfio-pci'), join(device, 'driver'));
    mkdirSync(join(sysfs, `kernel/iommu_groups/${group}/devices`), { recursive: true });
    symlinkSync(device, join(sysfs, `kernel/iommu_groups/${group}/devices/0000:00:0${group}.${index}`));
  }
}
afterAll(() => rmSync(sysfs, { recursive: true }));

function reset(): void {
  kernel = new MadeKernel();
  opened = [];
}
beforeEach(reset);
afterEach(() => {
  kernel.refuse = () => 0;
  for (const context of opened) context.close();
  expect(kernel.files.filter((file) => file.open)).toEqual([]);
});

function open(group = 7, options: Partial<IommufdOptions> = {}): IommufdContext {
  const context = IommufdContext.open({ group, sysfs, ...options });
  opened.push(context);
  return context;
}

/** Three contexts of one file, with one entry each: page 7, 8 and 9. */
function three(options: Partial<IommufdOptions> = {}): IommufdContext[] {
  const contexts = [7, 8, 9].map((group) => open(group, options));
  for (const context of contexts) expect(map(context, context.group)).toBe(0);
  kernel.calls.length = 0;
  return contexts;
}

function map(context: IommufdContext, page: number): number {
  const batch = new HostBatch();
  batch.map(page, 1, 1, 3);
  return context.apply(batch, 0) === 1 ? 0 : batch.errno[0]!;
}

/** The refused calls give their errno, each time. */
function refusing(errno: number, ...refused: string[]): void {
  kernel.refuse = (call) => (refused.some((each) => call.startsWith(each)) ? errno : 0);
}

function pagesOf(context: IommufdContext): number[] {
  return [...kernel.files[0]!.spaces.get(context.ioas.id)!.pages];
}

/** Address spaces of a group's two devices, 0 for a device that is detached. */
function placesOf(context: IommufdContext): number[] {
  const letter = { 7: 'a', 8: 'b', 9: 'c' }[context.group]!;
  const found = [...kernel.files[0]!.attached].filter(([device]) => device.startsWith(letter));
  return [...found.map(([, id]) => id), 0, 0].slice(0, 2);
}

describe('the file', () => {
  it('is one for equal folders and accountings, unless a context wants its own', () => {
    const [a, b] = [open(7), open(8, { deviceFolder: relative('.', '/dev') })];
    const cut = open(9, { mode: 'cut' });
    expect([kernel.files.length, a.spaces === b.spaces, a.spaces === cut.spaces]).toEqual([1, true, false]);
    for (const other of [{ share: false }, { accounting: 'process' }, { deviceFolder: '/other' }] as const) {
      const before = kernel.files.length;
      expect([open(7, other).spaces === a.spaces, kernel.files.length]).toEqual([false, before + 1]);
    }
    const [own, alone] = [open(7, { share: false }), open(8, { share: false })];
    expect([own.spaces === alone.spaces, kernel.files.length]).toEqual([false, 6]);
    expect([isSharing(a), open(8, { mode: 'cut' }).spaces === cut.spaces]).toEqual([true, true]);
  });

  it('closes with its last context, and the next one opens another', () => {
    const [a, b] = [open(7), open(8)];
    a.close();
    a.close();
    expect(kernel.files[0]!.open).toBe(true);
    b.close();
    expect([kernel.files[0]!.open, kernel.files[0]!.spaces.size]).toEqual([false, 0]);
    open(7);
    expect(kernel.files.map((file) => file.open)).toEqual([false, true]);
  });

  it.each(['bind b1', 'alloc', 'attach b0', 'attach b1'])('stays for the others when opening fails at %s', (call) => {
    const a = open(7);
    refusing(Errno.ENOMEM, call);
    expect(() => open(8)).toThrow();
    kernel.refuse = () => 0;
    expect([kernel.files[0]!.open, kernel.files[0]!.spaces.size, placesOf(a), map(a, 1)]).toEqual([true, 1, [1, 1], 0]);
    expect(open(8).spaces).toBe(a.spaces);
    a.close();
    opened.at(-1)!.close();
    expect(kernel.files[0]!.open).toBe(false);
  });
});

describe('attachTo and attachAlone', () => {
  it('use the entries of the other, and empty what nobody uses', () => {
    const [a, b, c] = three() as [IommufdContext, IommufdContext, IommufdContext];
    const former = b.ioas;
    expect(b.attachTo(a)).toBe(0);
    expect(kernel.calls).toEqual(['attach b0 1', 'attach b1 1', 'empty 2']);
    expect([a.ioas === b.ioas, placesOf(b), pagesOf(b)]).toEqual([true, [1, 1], [7]]);
    expect([map(b, 20), pagesOf(a), b.unmapDma({ iova: 0n, size: 0n }).size]).toEqual([0, [7, 20], 1n]);
    expect(() => former.areaCount).toThrow(CLOSED);
    // The others of the same address space move by themselves.
    expect([c.attachTo(b), b.attachTo(c), a.attachTo(a)]).toEqual([0, 0, 0]);
    expect([placesOf(c), pagesOf(c)]).toEqual([
      [1, 1],
      [7, 20],
    ]);
    kernel.calls.length = 0;
    expect([b.attachAlone(), b.attachAlone()]).toEqual([0, 0]);
    expect(kernel.calls).toEqual(['attach b0 3', 'attach b1 3']);
    expect([pagesOf(b), pagesOf(a), pagesOf(c)]).toEqual([[], [7, 20], [7, 20]]);
    expect([b.unmapAll(), pagesOf(a)]).toEqual([0, [7, 20]]);
    expect(() => former.areaCount).toThrow(CLOSED);
  });

  it('are the same for whoever came first', () => {
    const [a, b] = three() as [IommufdContext, IommufdContext];
    b.attachTo(a);
    expect([a.attachAlone(), placesOf(a), pagesOf(a), pagesOf(b)]).toEqual([0, [2, 2], [], [7]]);
    expect([map(a, 30), pagesOf(b), b.attachTo(a), pagesOf(b)]).toEqual([0, [7], 0, [30]]);
    expect([a.attachAlone(), pagesOf(a), pagesOf(b), kernel.files[0]!.spaces.size]).toEqual([0, [], [30], 3]);
  });

  it('do nothing where there is nothing to do', () => {
    const [a, b] = three() as [IommufdContext, IommufdContext];
    expect([a.attachTo(a), a.attachAlone(), pagesOf(a)]).toEqual([0, 0, [7]]);
    b.attachTo(a);
    kernel.calls.length = 0;
    expect([b.attachTo(a), a.attachTo(b), kernel.calls]).toEqual([0, 0, []]);
  });

  it('leave devices detached that were told to be', () => {
    const [a, b] = three({ attached: false }) as [IommufdContext, IommufdContext];
    expect([b.attachAlone(), b.attachTo(a), b.attachTo(a), a.attachTo(b)]).toEqual([0, 0, 0, 0]);
    expect([pagesOf(b), b.attached, placesOf(b), placesOf(a)]).toEqual([[7], false, [0, 0], [0, 0]]);
    expect([b.attachAlone(), pagesOf(b), b.attachTo(a), kernel.calls.filter((each) => each.startsWith('at'))]).toEqual([
      0,
      [],
      0,
      [],
    ]);
    expect([b.attach(), b.attached, placesOf(b), placesOf(a)]).toEqual([0, true, [1, 1], [0, 0]]);
    b.detach();
    expect([b.attachAlone(), b.attachTo(a), b.attached, placesOf(b)]).toEqual([0, 0, false, [0, 0]]);
  });

  it('go past a device that was closed', () => {
    const [a, b] = three() as [IommufdContext, IommufdContext];
    b.devices[0]!.close();
    kernel.calls.length = 0;
    expect([b.attachTo(a), b.attachAlone(), kernel.calls]).toEqual([0, 0, ['attach b1 1', 'empty 2', 'attach b1 2']]);
  });

  it('name an illegal argument, and throw after close', () => {
    const [a, b, c] = three() as [IommufdContext, IommufdContext, IommufdContext];
    c.close();
    for (const wrong of [undefined, null, 1, {}, { apply: 1 }]) {
      expect(() => a.attachTo(wrong as unknown as SharingContext)).toThrow(/^other must be a SharingContext/);
    }
    const stranger = { spaces: a.spaces } as SharingContext;
    for (const wrong of [stranger, open(7, { share: false }), open(9, { mode: 'cut' })]) {
      expect(() => a.attachTo(wrong)).toThrow(/^other must be a context of the same iommufd and mode/);
    }
    b.close();
    expect(() => a.attachTo(b)).toThrow(CLOSED);
    for (const late of [() => b.attachTo(a), () => b.attachAlone(), () => b.ioas]) expect(late).toThrow(CLOSED);
    expect([placesOf(a), pagesOf(a)]).toEqual([[1, 1], [7]]);
  });

  it('keep the limits of the group', () => {
    const [a, b] = three({ mode: 'cut' }) as [IommufdContext, IommufdContext];
    const { limits } = b;
    expect(limits.cuts).toBe(true);
    b.attachTo(a);
    expect([b.refreshLimits(), b.limits, a.refreshLimits()]).toEqual([limits, limits, limits]);
    b.attachAlone();
    expect(b.refreshLimits()).toEqual(limits);
  });

  it('copy between address spaces of all contexts', () => {
    const [a, b] = three() as [IommufdContext, IommufdContext];
    const args = { flags: 7, sourceIova: 0n, iova: 0n, length: K4 };
    const vault = a.allocate();
    expect([vault.copy({ source: b.ioas, ...args }).errno, a.ioas.copy({ source: vault, ...args }).errno]).toEqual([
      0, 0,
    ]);
    expect(pagesOf(a)).toEqual([7, 8]);
    const gone = b.ioas;
    b.attachTo(a);
    expect(() => vault.copy({ source: gone, ...args })).toThrow(CLOSED);
    const other = open(7, { share: false }).ioas;
    expect(() => vault.copy({ source: other, ...args })).toThrow(/same file/);
  });
});

describe('a refusal', () => {
  it.each([
    ['attach b0 1', []],
    ['attach b1 1', ['attach b0 2']],
  ])('of attachTo at "%s" leaves the devices where they were', (refused, undo) => {
    const [a, b] = three() as [IommufdContext, IommufdContext];
    refusing(Errno.EADDRINUSE, refused);
    expect([b.attachTo(a), kernel.calls.slice(kernel.calls.indexOf(refused) + 1)]).toEqual([Errno.EADDRINUSE, undo]);
    expect([b.attached, placesOf(b), pagesOf(b), pagesOf(a)]).toEqual([true, [2, 2], [8], [7]]);
  });

  it('of attachTo that cannot be undone detaches all, and the next call attaches them', () => {
    const [a, b] = three() as [IommufdContext, IommufdContext];
    const lose = (): void => {
      refusing(Errno.ENOMEM, 'attach b1 1', 'attach b0 2');
      expect([b.attachTo(a), b.attached, placesOf(b), pagesOf(b)]).toEqual([Errno.ENOMEM, false, [0, 0], [8]]);
      kernel.refuse = () => 0;
    };
    lose();
    refusing(Errno.EFAULT, 'attach b1 1');
    expect([b.attachTo(a), placesOf(b), b.attachTo(b), placesOf(b)]).toEqual([Errno.EFAULT, [0, 0], 0, [2, 2]]);
    lose();
    expect([b.attachAlone(), placesOf(b), pagesOf(b)]).toEqual([0, [2, 2], [8]]);
    lose();
    expect([b.attachTo(a), b.attached, placesOf(b)]).toEqual([0, true, [1, 1]]);
  });

  it.each(['attach b0 2', 'attach b1 2'])('of attachAlone at "%s" leaves the devices without anything', (refused) => {
    const [a, b] = three() as [IommufdContext, IommufdContext];
    b.attachTo(a);
    refusing(Errno.ENOMEM, refused);
    expect([b.attachAlone(), b.attached, placesOf(b)]).toEqual([Errno.ENOMEM, false, [0, 0]]);
    expect([map(b, 1), b.unmapAll(), pagesOf(a), placesOf(a)]).toEqual([0, 0, [7], [1, 1]]);
    expect([b.attachAlone(), b.attached]).toEqual([Errno.ENOMEM, false]);
    kernel.refuse = () => 0;
    expect([b.attachAlone(), b.attached, placesOf(b), pagesOf(b)]).toEqual([0, true, [2, 2], []]);
  });

  it('to empty an address space has another one made when it is needed', () => {
    const [a, b] = three() as [IommufdContext, IommufdContext];
    refusing(Errno.EBUSY, 'empty 2');
    expect([b.attachTo(a), kernel.calls.slice(-2)]).toEqual([0, ['empty 2', 'destroy 2']]);
    expect([b.attachAlone(), kernel.calls.at(-3), pagesOf(b)]).toEqual([0, 'alloc', []]);
    refusing(Errno.EBUSY, 'empty 2', 'destroy 2');
    expect([map(b, 5), b.attachTo(a), kernel.files[0]!.spaces.get(2)!.pages.size]).toEqual([0, 0, 1]);
    kernel.refuse = () => 0;
    expect([b.attachAlone(), placesOf(b), pagesOf(b)]).toEqual([0, [4, 4], []]);
  });

  it.each(['alloc', 'small 2'])('of an address space (%s) leaves the devices without one', (refused) => {
    const [a, b] = three({ mode: 'cut' }) as [IommufdContext, IommufdContext];
    refusing(Errno.EBUSY, 'empty 2');
    b.attachTo(a);
    refusing(Errno.ENOMEM, refused);
    expect([b.attachAlone(), b.attached, placesOf(b)]).toEqual([Errno.ENOMEM, false, [0, 0]]);
    expect([map(b, 1), b.unmapAll(), b.ioas.areaCount, pagesOf(a)]).toEqual([Errno.ENOENT, 0, 0, [7]]);
    expect([b.attach(), a.attachTo(b), placesOf(a)]).toEqual([Errno.ENOENT, Errno.ENOENT, [1, 1]]);
    expect([b.attachAlone(), kernel.files[0]!.spaces.size]).toEqual([Errno.ENOMEM, 2]);
    kernel.refuse = () => 0;
    expect([b.attachAlone(), placesOf(b), map(b, 1), pagesOf(a)]).toEqual([0, [2, 2], 0, [7]]);
    refusing(Errno.EBUSY, 'empty 2');
    b.attachTo(a);
    refusing(Errno.ENOMEM, refused);
    b.attachAlone();
    expect([b.attachTo(a), b.attached, placesOf(b), pagesOf(b)]).toEqual([0, true, [1, 1], [7]]);
    b.attachAlone();
    kernel.calls.length = 0;
    b.close();
    expect(kernel.calls).toEqual(['close b0', 'close b1']);
  });

  it('to destroy an address space of a context that closes empties it', () => {
    const [a, b] = three() as [IommufdContext, IommufdContext];
    refusing(Errno.EBUSY, 'destroy');
    b.allocate();
    kernel.calls.length = 0;
    b.close();
    expect(kernel.calls).toEqual(['close b0', 'close b1', 'destroy 4', 'empty 4', 'destroy 2', 'empty 2']);
    expect(map(a, 1)).toBe(0);
  });
});

describe('close', () => {
  const orders = [
    [0, 1, 2],
    [0, 2, 1],
    [1, 0, 2],
    [1, 2, 0],
    [2, 0, 1],
    [2, 1, 0],
  ];
  it.each(orders)('in the order %i %i %i leaves what others use', (...order) => {
    const contexts = three();
    contexts[1]!.attachTo(contexts[0]!);
    contexts[2]!.attachTo(contexts[0]!);
    for (const [i, which] of order.entries()) {
      contexts[which]!.close();
      const left = order.slice(i + 1).map((each) => contexts[each]!);
      for (const context of left) expect([placesOf(context), pagesOf(context)]).toEqual([[1, 1], [7]]);
      expect([kernel.files[0]!.spaces.size, kernel.files[0]!.open]).toEqual([left.length, left.length > 0]);
    }
  });

  it('destroys what the context has allocated, and nothing of others', () => {
    const [a, b] = three() as [IommufdContext, IommufdContext];
    const [vault, kept] = [b.allocate(), a.allocate()];
    b.attachTo(a);
    b.close();
    expect(() => vault.areaCount).toThrow(CLOSED);
    expect([kept.areaCount, a.ioas.areaCount]).toEqual([0, 1]);
  });
});

it('any sequence with any refusals: equal contexts, no entry of others, as many address spaces as contexts', () => {
  const step = fc.record({
    who: fc.nat(2),
    other: fc.nat(2),
    what: fc.constantFrom('to', 'to', 'alone', 'alone', 'map', 'unmapAll', 'detach', 'attach', 'reopen'),
    refused: fc.constantFrom('', '', '', 'attach', 'attach a1', 'attach b1', 'attach c0'),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      for (const context of opened) context.close();
      reset();
      const contexts = three();
      // What each context must hold: an object that those who share have together.
      const model = contexts.map(({ group }) => new Set([group]));
      let page = 100;
      for (const { who, other, what, refused } of steps) {
        const context = contexts[who]!;
        const shares = model.some((each, i) => i !== who && each === model[who]);
        kernel.refuse = (call) => (refused !== '' && call.startsWith(refused) ? Errno.ENOMEM : 0);
        if (what === 'to' && context.attachTo(contexts[other]!) === 0) model[who] = model[other]!;
        else if (what === 'alone') {
          const errno = context.attachAlone();
          if (errno !== 0) expect(placesOf(context)).toEqual([0, 0]);
          if (shares) model[who] = new Set();
        } else if (what === 'map') {
          expect(map(context, ++page)).toBe(0);
          model[who]!.add(page);
        } else if (what === 'unmapAll') {
          expect(context.unmapAll()).toBe(0);
          model[who]!.clear();
        } else if (what === 'detach') context.detach();
        else if (what === 'attach') context.attach();
        else if (what === 'reopen') {
          kernel.refuse = () => 0;
          context.close();
          contexts[who] = open(context.group);
          model[who] = new Set();
        }
        for (const [i, each] of contexts.entries()) {
          expect(pagesOf(each)).toEqual([...model[i]!]);
          expect(placesOf(each)).toEqual(each.attached ? [each.ioas.id, each.ioas.id] : [0, 0]);
          for (const [j, peer] of contexts.entries()) expect(each.ioas === peer.ioas).toBe(model[i] === model[j]);
        }
        expect(kernel.files[0]!.spaces.size).toBe(contexts.length);
      }
    }),
    { numRuns: 300 },
  );
});
