// Requests and replies wherever the driver puts them: on any address, over the edge of a window, in any number of pieces.
import { beforeEach, describe, expect, it } from 'vitest';
import { DriverQueue } from '../testing/driver-queue.ts';
import { LINUX_DRIVER_FEATURES, negotiate, runQueues } from '../testing/driver-setup.ts';
import type { DriverCommand } from '../testing/requests.ts';
import { RequestEncoder } from '../testing/requests.ts';
import { GuestMemory } from '../virtio/memory.ts';
import { DescriptorFlag } from '../virtio/ring-layout.ts';
import { VirtioIommu } from './virtio-iommu.ts';

const { next: NEXT, write: WRITE } = DescriptorFlag;
const RINGS = 0x1000n;
/** End of one window and start of the next one, of 16 bytes. */
const EDGE = 0x20000;
const WINDOWS = [EDGE, 16, 0x10000 - 16];
const FILLER = 0xa5;

let memory: GuestMemory;
let queue: DriverQueue;
let device: VirtioIommu;
const encoder = new RequestEncoder();

/** Offers one chain of these buffers and kicks; the used length, -1 when there is no answer. */
function send(...buffers: { addr: number; len: number; write?: boolean }[]): number {
  buffers.forEach(({ addr, len, write = false }, i) => {
    const flags = (i + 1 < buffers.length ? NEXT : 0) | (write ? WRITE : 0);
    queue.writeDescriptor(i, { addr: BigInt(addr), len, flags, next: i + 1 });
  });
  const index = queue.availIndex;
  queue.setAvailEntry(index % queue.size, 0);
  queue.setAvailIndex(index + 1);
  device.transport.notify(0);
  if (queue.usedIndex !== index + 1) return -1;
  const entry = new Uint32Array(2);
  memory.readWords(Number(queue.used) + 4 + (index % queue.size) * 8, entry, 2);
  return entry[1]!;
}

/** The bytes of `length` around a place, filler included. */
function bytesAt(gpa: number, length: number): number[] {
  const bytes = new Uint8Array(length);
  memory.read(gpa, bytes, 0, length);
  return [...bytes];
}

function fill(gpa: number, length: number): void {
  memory.write(gpa, new Uint8Array(length).fill(FILLER), 0, length);
}

function put(gpa: number, command: DriverCommand): number {
  const length = encoder.encode(command);
  memory.write(gpa, encoder.bytes, 0, length);
  return length;
}

const mapOf = (page: number): DriverCommand => {
  const virtStart = BigInt(page) * 4096n;
  return { op: 'map', domain: 1, virtStart, virtEnd: virtStart + 4095n, physStart: virtStart << 4n, flags: 3 };
};

beforeEach(() => {
  memory = new GuestMemory();
  const windows = WINDOWS.map((length) => new ArrayBuffer(length));
  memory.addRegion({ gpa: 0n, size: BigInt(WINDOWS.reduce((a, b) => a + b)), windows });
  queue = new DriverQueue(memory, { size: 8, base: RINGS, bufferBytes: 0x1000 });
  const events = new DriverQueue(memory, { size: 8, base: RINGS + 0x8000n, bufferBytes: 0x1000 });
  device = new VirtioIommu({
    memory,
    interrupt: { queue: () => undefined, config: () => undefined },
    endpoints: [{ id: 1 }],
    requestQueueSize: 8,
    eventQueueSize: 8,
  });
  negotiate(device.transport, LINUX_DRIVER_FEATURES & device.transport.offeredFeatures);
  runQueues(device.transport, [queue, events]);
  const length = put(0x10000, { op: 'attach', domain: 1, endpoint: 1 });
  expect(send({ addr: 0x10000, len: length }, { addr: 0x10100, len: 4, write: true })).toBe(4);
});

describe('a request', () => {
  it('is read on any address, also over the edges of windows', () => {
    for (let page = 0; page < 80; page++) {
      const addr = EDGE - 50 + page;
      const len = put(addr, mapOf(page + 1));
      expect(send({ addr, len }, { addr: 0x10100, len: 4, write: true })).toBe(4);
      expect(bytesAt(0x10100, 4)).toEqual([0, 0, 0, 0]);
      const reached = device.core.translate(1, BigInt(page + 1) * 4096n, 4096, 'write');
      expect(reached).toEqual({
        ok: true,
        pieces: [{ kind: 'memory', gpa: BigInt(page + 1) << 16n, length: 4096 }],
      });
    }
  });

  it('is read from pieces of any length, and of a longer one only what it needs', () => {
    let page = 1;
    for (const [first, more] of [
      [1, 0],
      [4, 0],
      [35, 0],
      [36, 1],
      [36, 4],
      [36, 100],
    ] as const) {
      const addr = EDGE - 200;
      fill(addr, 190);
      const len = put(addr, mapOf(page));
      const rest = { addr: addr + first, len: len - first + more };
      const pieces = rest.len === 0 ? [{ addr, len: first }] : [{ addr, len: first }, rest];
      expect(send(...pieces, { addr: 0x10100, len: 4, write: true })).toBe(4);
      expect(send({ addr, len: len + more }, { addr: 0x10100, len: 4, write: true })).toBe(4);
      expect(bytesAt(0x10100, 1)).toEqual([4]); // the same again: INVAL
      expect(device.core.translate(1, BigInt(page) * 4096n, 1, 'read').ok).toBe(true);
      page++;
    }
  });

  it('without the bytes of its type is given back unwritten, whatever stands behind it', () => {
    for (const length of [1, 3, 4, 35]) {
      fill(0x10100, 8);
      put(0x10000, mapOf(1));
      expect(send({ addr: 0x10000, len: length }, { addr: 0x10100, len: 4, write: true })).toBe(0);
      expect(bytesAt(0x10100, 4)).toEqual([FILLER, FILLER, FILLER, FILLER]);
    }
    expect(device.core.stats().mappings).toBe(0);
  });
});

describe('a status', () => {
  it('is written to its four bytes on any address, also over the edges of windows, and to no other', () => {
    for (let i = 0; i < 40; i++) {
      const addr = EDGE - 10 + i;
      const len = put(0x10000, mapOf(i + 1));
      fill(addr - 4, 12);
      expect(send({ addr: 0x10000, len }, { addr, len: 4, write: true })).toBe(4);
      expect(bytesAt(addr - 4, 12)).toEqual([
        FILLER,
        FILLER,
        FILLER,
        FILLER,
        0,
        0,
        0,
        0,
        FILLER,
        FILLER,
        FILLER,
        FILLER,
      ]);
    }
  });

  it('is written in pieces when its buffers are', () => {
    const len = put(0x10000, mapOf(1));
    send({ addr: 0x10000, len }, { addr: 0x10100, len: 4, write: true });
    fill(0x10100, 0x40);
    const pieces = [
      { addr: 0x10100, len: 1, write: true },
      { addr: 0x10110, len: 2, write: true },
      { addr: 0x10120, len: 1, write: true },
    ];
    expect(send({ addr: 0x10000, len }, ...pieces)).toBe(4);
    expect([bytesAt(0x10100, 2), bytesAt(0x10110, 3), bytesAt(0x10120, 2)]).toEqual([
      [4, FILLER],
      [0, 0, FILLER],
      [0, FILLER],
    ]);
  });
});
