// The entropy device through DmaView and IommuCore: mapped, unmapped, read-only, reserved, gone in the middle, reset at work.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DriverQueue } from '../../src/testing/driver-queue.ts';
import { Feature, Status } from '../../src/virtio/features.ts';
import { Command, Header } from '../../src/virtio/pci/pci-layout.ts';
import type { RingKind, RngRigOptions } from './rng-rig.ts';
import { DOMAIN, ENDPOINT, PAGE, RING_BYTES, RING_GPA, RING_IOVA, RngRig } from './rng-rig.ts';

const RINGS: readonly RingKind[] = ['split', 'packed'];
const MSI = 0xfee0_0000n;
const UNMAPPED = 0x55_0000_0000n;
const READ_ONLY = 1;
const WRITE_ONLY = 2;
/** Flags of a fault record. */
const READ = 1;
const WROTE = 2;
const HAS_ADDRESS = 0x100;

function counting(length: number, from = 0): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (from + i) & 0xff);
}

function fault(address: bigint, write: boolean): object {
  return { endpoint: ENDPOINT, reason: 2, address, flags: (write ? WROTE : READ) | HAS_ADDRESS };
}

describe.each(RINGS)('an entropy device on a %s ring behind the IOMMU', (ring) => {
  const rig = (options: RngRigOptions = {}): RngRig => new RngRig({ ring, ...options }).start();

  it('reads its ring and fills buffers at I/O virtual addresses', () => {
    const r = rig();
    const [first] = r.ask(300);
    expect(first).toMatchObject({ usedLength: 300, writable: counting(300) });
    expect(r.ask(10)[0]).toMatchObject({ usedLength: 10, writable: counting(10, 300) });
    expect(r.faults()).toEqual([]);
    expect(r.rng.stats()).toMatchObject({ requests: 2, bytes: 310, unfilled: 0, brokenRings: 0 });
    expect(r.vectors).toEqual([1, 1]);
    expect(r.machine.iommu.core.stats().counters['translations']).toBeGreaterThan(4);
  });

  it('gives one buffer at most maxBytes, and fills all that wait with one interrupt', () => {
    const r = rig({ maxBytes: 16 });
    for (const bytes of [15, 16, 17]) r.offer(bytes);
    r.kick();
    expect(r.queue.poll().map(({ usedLength }) => usedLength)).toEqual([15, 16, 16]);
    expect(r.vectors).toEqual([1]);
  });

  it('gives back a buffer in an unmapped page unwritten, with one fault, and goes on', () => {
    const r = rig();
    expect(r.ask(64, UNMAPPED)[0]).toMatchObject({ usedLength: 0 });
    expect(r.faults()).toMatchObject([fault(UNMAPPED, true)]);
    expect(r.ask(8)[0]?.usedLength).toBe(8);
    expect(r.rng.stats()).toMatchObject({ requests: 2, unfilled: 1, brokenRings: 0 });
  });

  it.each([
    ['read-only', READ_ONLY, 0],
    ['write-only', WRITE_ONLY, 64],
  ])('honours a %s page', (_name, flags, written) => {
    const r = rig();
    const last = RING_IOVA + RING_BYTES - PAGE;
    r.remap(last, flags);
    expect(r.ask(64, last)[0]?.usedLength).toBe(written);
    expect(r.faults()).toHaveLength(written === 0 ? 1 : 0);
  });

  it('writes nothing of a buffer whose second page is not mapped, and names the page', () => {
    const r = rig();
    const at = RING_IOVA + RING_BYTES - PAGE;
    r.unmap(at);
    const [back] = r.ask(64, at - 32n);
    expect(back?.usedLength).toBe(0);
    expect(r.faults()).toMatchObject([fault(at, true)]);
    const bytes = new Uint8Array(32);
    r.machine.memory.read(Number(RING_GPA + RING_BYTES - PAGE - 32n), bytes, 0, 32);
    expect(bytes).toEqual(new Uint8Array(32));
  });

  it.each([
    [-1n, false],
    [0n, true],
  ])('lets a write that begins %d bytes before the MSI region pass only when all of it is inside', (shift, passes) => {
    const r = rig();
    expect(r.ask(4, MSI + shift)[0]?.usedLength).toBe(passes ? 4 : 0);
    expect(r.faults()).toHaveLength(passes ? 0 : 1);
  });

  it.each([2n ** 53n - 1n, 2n ** 53n, 2n ** 64n - 1n])(
    'reaches nothing at %d, where a queue cannot count',
    (address) => {
      const r = rig();
      r.ask(2, address);
      r.kick();
      expect(r.driver.status & Status.needsReset).toBe(Status.needsReset);
      expect(r.rng.stats().brokenRings).toBe(1);
    },
  );

  it('asks for a reset when its ring is out of reach, and works again after one', () => {
    const r = rig();
    r.unmap(RING_IOVA, RING_BYTES);
    r.kick();
    expect(r.driver.status & Status.needsReset).toBe(Status.needsReset);
    const [first] = r.faults();
    expect(first).toMatchObject({ endpoint: ENDPOINT, flags: READ | HAS_ADDRESS });
    r.map(RING_IOVA, RING_BYTES, RING_GPA);
    r.queue.reset();
    r.start();
    expect(r.ask(8)[0]?.usedLength).toBe(8);
    expect(r.rng.stats().brokenRings).toBe(1);
  });

  it('asks for a reset when it cannot write the used ring', () => {
    const r = rig();
    r.offer(8);
    const used = r.queue instanceof DriverQueue ? r.queue.used : r.queue.desc;
    r.remap(used & ~(PAGE - 1n), READ_ONLY);
    r.kick();
    expect(r.driver.status & Status.needsReset).toBe(Status.needsReset);
    expect(r.faults().some(({ flags }) => flags === (WROTE | HAS_ADDRESS))).toBe(true);
  });

  it('reaches nothing of a domain that it was taken out of', () => {
    const r = rig();
    r.machine.driver.setBypass(0);
    r.machine.driver.detach(DOMAIN, ENDPOINT);
    r.kick();
    expect(r.driver.status & Status.needsReset).toBe(Status.needsReset);
    expect(r.faults()[0]).toMatchObject({ endpoint: ENDPOINT, reason: 1 });
  });

  it('takes addresses for guest-physical ones in a bypass domain', () => {
    const r = rig();
    r.machine.driver.attach(DOMAIN + 1, ENDPOINT, 1);
    r.kick();
    // No memory is at the guest-physical address that the ring's I/O virtual address would be, which is no fault.
    expect(r.driver.status & Status.needsReset).toBe(Status.needsReset);
    expect(r.faults()).toEqual([]);
  });

  describe('with deferred filling', () => {
    const deferred = (options: RngRigOptions = {}): RngRig => rig({ deferred: true, ...options });

    it('translates again when it fills: an UNMAP in between is honoured', () => {
      const r = deferred();
      const last = RING_IOVA + RING_BYTES - PAGE;
      r.offer(32);
      r.offer(64, last);
      r.kick();
      expect([r.queue.poll(), r.rng.stats().pending]).toEqual([[], 2]);
      r.unmap(last);
      r.runLater();
      expect(r.queue.poll().map(({ usedLength }) => usedLength)).toEqual([32, 0]);
      expect(r.faults()).toMatchObject([fault(last, true)]);
    });

    it('forgets what it took when the driver resets it', () => {
      const r = deferred();
      r.offer(32);
      r.kick();
      r.driver.writeStatus(0);
      r.runLater();
      expect([r.queue.poll(), r.rng.stats()]).toMatchObject([[], { requests: 0, pending: 0 }]);
      r.queue.reset();
      r.start();
      r.offer(8);
      r.kick();
      r.runLater();
      expect(r.queue.poll()[0]).toMatchObject({ usedLength: 8, writable: counting(8) });
    });

    it('forgets what it took when the driver resets the queue', () => {
      const r = deferred({
        features:
          Feature.version1 | Feature.accessPlatform | Feature.ringReset | (ring === 'packed' ? Feature.ringPacked : 0n),
      });
      r.offer(32);
      r.kick();
      expect(r.driver.resetQueue(0)).toBe(true);
      r.runLater();
      expect([r.queue.poll(), r.rng.stats().requests]).toEqual([[], 0]);
    });

    it('fills nothing while bus mastering is off, and goes on when it is on again', () => {
      const r = deferred();
      r.offer(32);
      r.kick();
      const command = (value: number): void => r.pci.writeConfig(Header.command, 2, value);
      command(Command.memory);
      r.runLater();
      expect(r.queue.poll()).toEqual([]);
      r.offer(16);
      command(Command.memory | Command.busMaster);
      r.runLater();
      expect(r.queue.poll().map(({ usedLength }) => usedLength)).toEqual([32, 16]);
    });

    it('takes a bounded number of buffers at a time', () => {
      const r = deferred({ queueSize: 16 });
      for (let i = 0; i < 16; i++) r.offer(8);
      r.kick();
      r.runLater();
      expect(r.queue.poll()).toHaveLength(16);
    });
  });

  it.each(['read', 'write'] as const)('probes an unmapped address with one %s, before the first answer', (access) => {
    const r = rig({ probeUnmapped: UNMAPPED + 8n, probeAccess: access });
    expect([r.faults(), r.rng.stats().probe]).toEqual([[], undefined]);
    r.ask(8);
    r.ask(8);
    expect(r.faults()).toMatchObject([fault(UNMAPPED + 8n, access === 'write')]);
    expect(r.rng.stats().probe).toBe('fault');
  });

  it('survives any bytes in its ring, and any rights to it', () => {
    const page = fc.record({
      page: fc.integer({ min: 0, max: 31 }),
      flags: fc.constantFrom(undefined, READ_ONLY, WRITE_ONLY),
    });
    const damage = fc.record({
      at: fc.integer({ min: 0, max: 4095 }),
      bytes: fc.uint8Array({ minLength: 1, maxLength: 64 }),
      pages: fc.array(page, { maxLength: 3 }),
    });
    fc.assert(
      fc.property(fc.array(damage, { minLength: 1, maxLength: 6 }), (steps) => {
        const r = rig();
        for (const { at, bytes, pages } of steps) {
          r.machine.memory.write(Number(RING_GPA) + at, bytes, 0, bytes.length);
          for (const { page: number, flags } of pages) {
            const iova = RING_IOVA + BigInt(number) * PAGE;
            if (flags === undefined) r.unmap(iova);
            else r.remap(iova, flags);
          }
          r.kick();
          expect(r.rng.stats().pending).toBe(0);
        }
        const broken = (r.driver.status & Status.needsReset) !== 0;
        expect(r.rng.stats().brokenRings).toBe(broken ? 1 : 0);
      }),
      { numRuns: 60 },
    );
  });

  it('survives any list of buffers, in any place', () => {
    const place = fc.oneof(
      fc.bigInt({ min: RING_IOVA + 0x2_0000n, max: RING_IOVA + RING_BYTES + 64n }),
      fc.bigInt({ min: MSI - 64n, max: MSI + 64n }),
      fc.bigInt({ min: 0n, max: 2n ** 53n - 4096n }),
    );
    fc.assert(
      fc.property(fc.array(fc.tuple(place, fc.integer({ min: 1, max: 4096 })), { maxLength: 8 }), (buffers) => {
        const r = rig();
        for (const [at, bytes] of buffers) r.offer(bytes, at);
        r.kick();
        expect(r.rng.stats().requests).toBe(buffers.length);
        expect(r.rng.stats().unfilled).toBe(r.faults().length);
      }),
      { numRuns: 30 },
    );
  });
});

describe('an entropy device', () => {
  it('works with a driver that takes ACCESS_PLATFORM, and with no other', () => {
    const without = Feature.version1;
    expect(() => new RngRig({ features: without }).start()).toThrow(/refused the features/);
    expect(new RngRig({ features: without | Feature.accessPlatform }).start().ask(4)[0]?.usedLength).toBe(4);
  });

  it('gives random bytes by default', () => {
    const r = new RngRig({ entropy: 'crypto' }).start();
    const [a, b] = [r.ask(32)[0]!, r.ask(32)[0]!];
    expect(a.writable).not.toEqual(b.writable);
    expect(a.writable).not.toEqual(new Uint8Array(32).fill(0xa5));
  });

  it('gives a buffer back unfilled when the source fails', () => {
    const r = new RngRig({
      entropy: () => {
        throw new Error('empty');
      },
    }).start();
    expect(r.ask(32)[0]?.usedLength).toBe(0);
  });

  const refused: readonly [RngRigOptions, RegExp][] = [
    [{ queueSize: 3 }, /queueSize must be a power of two, got 3/],
    [{ queueSize: 0 }, /queueSize/],
    [{ maxBytes: 0 }, /maxBytes/],
    [{ maxBytes: 65_537 }, /maxBytes/],
    [{ probeUnmapped: -1n }, /probeUnmapped/],
    [{ probeUnmapped: 2n ** 64n }, /probeUnmapped/],
    [{ entropy: 'dice' as 'crypto' }, /entropy must be one of crypto, counter/],
    [{ probeAccess: 'both' as 'read' }, /probeAccess/],
    [{ bytes: 3 } as RngRigOptions, /bytes is not an option/],
  ];

  it.each(refused)('refuses %o', (options, message) => {
    expect(() => new RngRig(options)).toThrow(message);
  });
});
