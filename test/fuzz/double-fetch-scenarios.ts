// Chains whose bytes change while the device reads them, and for each all outcomes that one reading of every byte allows.
// Every scenario has descriptors, buffers and addresses of its own, so that many can be in one kick. A scenario flips ONE
// byte between two values (which is atomic) so that a device which reads it twice gives a mixture that is not in the list.
import * as abi from '../../src/wire/abi.ts';

/** Ring geometry in the shared memory. */
export const QUEUE = 128;
export const DESC = 0;
export const AVAIL = 0x800;
export const USED = 0xa00;
/** 0x200 bytes for each scenario from here on: request A, request B, places P and Q, tables. */
export const AREAS = 0x1000;
/** Chains of the driver's own that nobody flips: heads from here on, 0x40 bytes each. */
export const PLAIN_HEAD = 108;
export const PLAIN = 0x6000;
export const PLAIN_BYTES = 0x80;
export const AREA_BYTES = 0x200;
export const AREA = {
  requestA: 0,
  requestB: 0x80,
  placeP: 0x100,
  placeQ: 0x140,
  tableA: 0x180,
  tableB: 0x1c0,
} as const;
export const DOMAIN = 1;
export const BYPASS_DOMAIN = 2;
export const ENDPOINT = 1;
/** Bytes of I/O virtual address space of a scenario. */
export const WINDOW = 0x1_0000;
export const PROBE_SIZE = 48;
export const PREFILL = 0xa5;

/** A byte that the other processor flips. */
export interface Flip {
  readonly gpa: number;
  readonly a: number;
  readonly b: number;
}

/** The scenario in whose window the ninth page is a reserved region of the endpoint. */
export const WITH_RESERVED_PAGE = 'MAP virt_end, free or reserved';

/** What one chain led to, as text: used length, statuses at P and Q, what is mapped. */
export type Outcome = string;

export interface Scenario {
  readonly name: string;
  readonly head: number;
  readonly base: number;
  /** First I/O virtual address of its window. */
  readonly window: bigint;
  readonly flips: readonly Flip[];
  readonly allowed: readonly Outcome[];
  /** Sent alone, since the ring may be unusable afterwards. */
  readonly breaking: boolean;
  /** A request that runs before, unflipped; its bytes. */
  readonly before?: Uint8Array;
}

/** Writes into the memory that the device sees. */
export type Poke = (gpa: number, bytes: Uint8Array) => void;

export function descriptorBytes(addr: number, length: number, flags: number, next: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(16));
  view.setBigUint64(0, BigInt(addr), true);
  view.setUint32(8, length, true);
  view.setUint16(12, flags, true);
  view.setUint16(14, next, true);
  return new Uint8Array(view.buffer);
}

export function mapBytes(domain: number, start: bigint, end: bigint, phys: bigint, flags: number): Uint8Array {
  const bytes = new Uint8Array(36);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, abi.VIRTIO_IOMMU_T_MAP);
  view.setUint32(4, domain, true);
  view.setBigUint64(8, start, true);
  view.setBigUint64(16, end, true);
  view.setBigUint64(24, phys, true);
  view.setUint32(32, flags, true);
  return bytes;
}

export function unmapBytes(domain: number, start: bigint, end: bigint): Uint8Array {
  const bytes = new Uint8Array(28);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, abi.VIRTIO_IOMMU_T_UNMAP);
  view.setUint32(4, domain, true);
  view.setBigUint64(8, start, true);
  view.setBigUint64(16, end, true);
  return bytes;
}

export function attachBytes(type: number, domain: number, endpoint: number, flags = 0): Uint8Array {
  const bytes = new Uint8Array(20);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, type);
  view.setUint32(4, domain, true);
  view.setUint32(8, endpoint, true);
  if (type === abi.VIRTIO_IOMMU_T_ATTACH) view.setUint32(12, flags, true);
  return bytes;
}

function probeBytes(endpoint: number): Uint8Array {
  const bytes = new Uint8Array(72);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, abi.VIRTIO_IOMMU_T_PROBE);
  view.setUint32(4, endpoint, true);
  return bytes;
}

/** What stands at a place: `-` untouched, a status with three zeroes, anything else as hex. */
export const UNTOUCHED = '-';

/** `used P-place Q-place mapped`, mapped as `page>phys rights` with page numbers inside the window. */
export function outcome(used: number, p: string, q: string, mapped: string): Outcome {
  return `used ${used} P ${p} Q ${q} mapped ${mapped}`;
}

const NOTHING = 'nothing';
/** The ring is unusable and nothing was done. */
export const BROKEN = 'reset wanted P - Q - mapped nothing';
const UNWRITTEN = outcome(0, UNTOUCHED, UNTOUCHED, NOTHING);
const status = (code: number): string => `status ${code}`;
const { VIRTIO_IOMMU_S_OK: OK, VIRTIO_IOMMU_S_INVAL: INVAL, VIRTIO_IOMMU_S_RANGE: RANGE } = abi;
const { VIRTIO_IOMMU_S_NOENT: NOENT } = abi;
const done = (mapped: string): Outcome => outcome(4, status(OK), UNTOUCHED, mapped);
const refused = (code: number): Outcome => outcome(4, status(code), UNTOUCHED, NOTHING);

interface Draft {
  readonly flips: readonly Flip[];
  readonly allowed: readonly Outcome[];
  readonly before?: Uint8Array;
}

/** Builds one scenario: writes its chain and says what may come of it. */
type Build = (area: Area) => Draft;

class Area {
  readonly head: number;
  readonly base: number;
  readonly window: bigint;
  readonly poke: Poke;

  constructor(index: number, poke: Poke) {
    this.head = 3 * index;
    this.base = AREAS + AREA_BYTES * index;
    this.window = BigInt(WINDOW) * BigInt(index + 1);
    this.poke = poke;
  }

  /** Guest-physical address of byte `offset` of a part of the area. */
  at(part: keyof typeof AREA, offset = 0): number {
    return this.base + AREA[part] + offset;
  }

  /** MAP of page 0 of the window to `page`, readable and writable. */
  map(page: number, flags = 3): Uint8Array {
    return mapBytes(DOMAIN, this.window, this.window + 0xfffn, BigInt(page) * 4096n, flags);
  }

  /** The usual chain: request A in descriptor `head`, four bytes at P in the next one. */
  chain(request: Uint8Array, writable = 4): void {
    this.poke(this.at('requestA'), request);
    this.descriptor(0, this.at('requestA'), request.length, 1, this.head + 1);
    this.descriptor(1, this.at('placeP'), writable, 2, 0);
  }

  /** The same chain in an indirect table. */
  table(request: Uint8Array): void {
    this.poke(this.at('requestA'), request);
    this.poke(this.at('tableA'), descriptorBytes(this.at('requestA'), request.length, 1, 1));
    this.poke(this.at('tableA', 16), descriptorBytes(this.at('placeP'), 4, 2, 0));
    this.descriptor(0, this.at('tableA'), 32, 4, 0);
  }

  descriptor(index: number, addr: number, length: number, flags: number, next: number): void {
    this.poke(this.field(index, 0), descriptorBytes(addr, length, flags, next));
  }

  /** Guest-physical address of a byte of one of the scenario's three ring descriptors. */
  field(index: number, offset: number): number {
    return DESC + 16 * (this.head + index) + offset;
  }

  /** A flip of byte `offset` of request A. */
  flipRequest(offset: number, a: number, b: number): Flip {
    return { gpa: this.at('requestA', offset), a, b };
  }
}

/** A page number's second-lowest address byte: bits 12 to 15 of the address. */
const PAGE_BYTE = (page: number): number => (page << 4) & 0xff;

const BUILDS: Readonly<Record<string, Build>> = {
  'MAP phys_start': (area) => {
    area.chain(area.map(1));
    return { flips: [area.flipRequest(25, PAGE_BYTE(1), PAGE_BYTE(2))], allowed: [done('0>1 rw'), done('0>2 rw')] };
  },
  'MAP flags, known or not': (area) => {
    area.chain(area.map(3, 1));
    return { flips: [area.flipRequest(32, 1, 0x0a)], allowed: [done('0>3 r'), refused(INVAL)] };
  },
  'MAP flags, read or write': (area) => {
    area.chain(area.map(3, 1));
    return { flips: [area.flipRequest(32, 1, 2)], allowed: [done('0>3 r'), done('0>3 w')] };
  },
  [WITH_RESERVED_PAGE]: (area) => {
    area.chain(area.map(4));
    // With 0xffff the range meets the reserved page of the window.
    return { flips: [area.flipRequest(17, 0x0f, 0xff)], allowed: [done('0>4 rw'), refused(INVAL)] };
  },
  'MAP virt_end, aligned or not': (area) => {
    area.chain(area.map(5));
    return { flips: [area.flipRequest(16, 0xff, 0xfe)], allowed: [done('0>5 rw'), refused(RANGE)] };
  },
  'MAP virt_end, one page or two': (area) => {
    area.chain(area.map(5));
    return { flips: [area.flipRequest(17, 0x0f, 0x1f)], allowed: [done('0>5 rw'), done('0>5 rw 1>6 rw')] };
  },
  'MAP virt_start, before or behind the end': (area) => {
    area.chain(area.map(6));
    return { flips: [area.flipRequest(9, 0, 0x20)], allowed: [done('0>6 rw'), refused(RANGE)] };
  },
  'MAP phys_start, aligned or not': (area) => {
    area.chain(area.map(6));
    return { flips: [area.flipRequest(24, 0, 1)], allowed: [done('0>6 rw'), refused(RANGE)] };
  },
  'MAP domain, mappings or bypass': (area) => {
    area.chain(area.map(7));
    return { flips: [area.flipRequest(4, DOMAIN, BYPASS_DOMAIN)], allowed: [done('0>7 rw'), refused(INVAL)] };
  },
  'MAP domain, known or not': (area) => {
    area.chain(area.map(7));
    return { flips: [area.flipRequest(7, 0, 0x77)], allowed: [done('0>7 rw'), refused(NOENT)] };
  },
  'type MAP or PROBE': (area) => {
    area.chain(area.map(8));
    return { flips: [area.flipRequest(0, 3, 5)], allowed: [done('0>8 rw'), UNWRITTEN] };
  },
  'type MAP or unknown': (area) => {
    area.chain(area.map(8));
    return { flips: [area.flipRequest(0, 3, 0x13)], allowed: [done('0>8 rw'), UNWRITTEN] };
  },
  'type MAP or ATTACH': (area) => {
    area.chain(area.map(8));
    // As an ATTACH its flags are the high half of virt_start, its reserved bytes virt_end: not zero.
    return { flips: [area.flipRequest(0, 3, 1)], allowed: [done('0>8 rw'), refused(INVAL)] };
  },
  'UNMAP virt_end, whole or cut': (area) => {
    const { window } = area;
    area.chain(unmapBytes(DOMAIN, window, window + 0x1fffn));
    return {
      flips: [area.flipRequest(17, 0x1f, 0x0f)],
      allowed: [done(NOTHING), outcome(4, status(RANGE), UNTOUCHED, '0>1 rw 1>2 rw')],
      before: mapBytes(DOMAIN, window, window + 0x1fffn, 0x1000n, 3),
    };
  },
  'UNMAP reserved': (area) => {
    const { window } = area;
    area.chain(unmapBytes(DOMAIN, window, window + 0xfffn));
    return {
      flips: [area.flipRequest(27, 0, 1)],
      allowed: [done(NOTHING), outcome(4, status(INVAL), UNTOUCHED, '0>1 rw')],
      before: area.map(1),
    };
  },
  'PROBE endpoint': (area) => {
    area.chain(probeBytes(ENDPOINT), PROBE_SIZE + 4);
    return {
      flips: [area.flipRequest(4, ENDPOINT, 0x99)],
      allowed: [
        outcome(PROBE_SIZE + 4, 'properties status 0', UNTOUCHED, NOTHING),
        outcome(PROBE_SIZE + 4, `zeroes status ${NOENT}`, UNTOUCHED, NOTHING),
      ],
    };
  },
  'PROBE length of the writable part': (area) => {
    area.chain(probeBytes(ENDPOINT), PROBE_SIZE + 4);
    return {
      flips: [{ gpa: area.field(1, 8), a: PROBE_SIZE + 4, b: PROBE_SIZE }],
      allowed: [
        outcome(PROBE_SIZE + 4, 'properties status 0', UNTOUCHED, NOTHING),
        outcome(PROBE_SIZE, `zeroes status ${INVAL}`, UNTOUCHED, NOTHING),
      ],
    };
  },
  'descriptor addr, one request or another': (area) => {
    const { window } = area;
    area.chain(area.map(9, 1));
    area.poke(area.at('requestB'), mapBytes(DOMAIN, window + 0x3000n, window + 0x4fffn, 0xa000n, 2));
    const flip = { gpa: area.field(0, 0), a: area.at('requestA') & 0xff, b: area.at('requestB') & 0xff };
    return { flips: [flip], allowed: [done('0>9 r'), done('3>10 w 4>11 w')] };
  },
  'descriptor len of the request': (area) => {
    area.chain(area.map(10));
    return { flips: [{ gpa: area.field(0, 8), a: 36, b: 35 }], allowed: [done('0>10 rw'), UNWRITTEN] };
  },
  'descriptor len of the reply, enough or not': (area) => {
    area.chain(area.map(10));
    return { flips: [{ gpa: area.field(1, 8), a: 4, b: 3 }], allowed: [done('0>10 rw'), UNWRITTEN] };
  },
  'descriptor len of the reply, short or long': (area) => {
    area.chain(area.map(11));
    return {
      flips: [{ gpa: area.field(1, 8), a: 4, b: 8 }],
      allowed: [done('0>11 rw'), outcome(4, 'zeroes status 0', UNTOUCHED, '0>11 rw')],
    };
  },
  'descriptor addr of the reply': (area) => {
    area.chain(area.map(11));
    const flip = { gpa: area.field(1, 0), a: area.at('placeP') & 0xff, b: area.at('placeQ') & 0xff };
    return { flips: [flip], allowed: [done('0>11 rw'), outcome(4, UNTOUCHED, status(OK), '0>11 rw')] };
  },
  'descriptor flag WRITE of the reply': (area) => {
    area.chain(area.map(12));
    return { flips: [{ gpa: area.field(1, 12), a: 2, b: 0 }], allowed: [done('0>12 rw'), UNWRITTEN] };
  },
  'descriptor flag NEXT': (area) => {
    area.chain(area.map(12));
    return { flips: [{ gpa: area.field(0, 12), a: 1, b: 0 }], allowed: [done('0>12 rw'), UNWRITTEN] };
  },
  'descriptor flags WRITE and NEXT together': (area) => {
    area.chain(area.map(13));
    // 0: four more readable bytes and nothing to write to. 3: writable, and the reply goes on at Q.
    area.descriptor(1, area.at('placeP'), 4, 3, area.head + 2);
    area.descriptor(2, area.at('placeQ'), 4, 2, 0);
    return {
      flips: [{ gpa: area.field(1, 12), a: 3, b: 0 }],
      allowed: [outcome(4, status(OK), status(OK), '0>13 rw'), UNWRITTEN],
    };
  },
  'descriptor next': (area) => {
    area.chain(area.map(13));
    area.descriptor(2, area.at('placeQ'), 4, 2, 0);
    return {
      flips: [{ gpa: area.field(0, 14), a: area.head + 1, b: area.head + 2 }],
      allowed: [done('0>13 rw'), outcome(4, UNTOUCHED, status(OK), '0>13 rw')],
    };
  },
  'table addr, one table or another': (area) => {
    const { window } = area;
    area.poke(area.at('requestA'), area.map(14, 1));
    area.poke(area.at('requestB'), mapBytes(DOMAIN, window + 0x3000n, window + 0x3fffn, 0xf000n, 2));
    area.poke(area.at('tableA'), descriptorBytes(area.at('requestA'), 36, 1, 1));
    area.poke(area.at('tableA', 16), descriptorBytes(area.at('placeP'), 4, 2, 0));
    area.poke(area.at('tableB'), descriptorBytes(area.at('requestB'), 36, 1, 1));
    area.poke(area.at('tableB', 16), descriptorBytes(area.at('placeQ'), 4, 2, 0));
    area.descriptor(0, area.at('tableA'), 32, 4, 0);
    const flip = { gpa: area.field(0, 0), a: area.at('tableA') & 0xff, b: area.at('tableB') & 0xff };
    return { flips: [flip], allowed: [done('0>14 r'), outcome(4, UNTOUCHED, status(OK), '3>15 w')] };
  },
  'descriptor in a table, one request or another': (area) => {
    const { window } = area;
    area.poke(area.at('requestA'), area.map(14, 1));
    area.poke(area.at('requestB'), mapBytes(DOMAIN, window + 0x3000n, window + 0x3fffn, 0xf000n, 2));
    area.poke(area.at('tableA'), descriptorBytes(area.at('requestA'), 36, 1, 1));
    area.poke(area.at('tableA', 16), descriptorBytes(area.at('placeP'), 4, 2, 0));
    area.descriptor(0, area.at('tableA'), 32, 4, 0);
    const flip = { gpa: area.at('tableA'), a: area.at('requestA') & 0xff, b: area.at('requestB') & 0xff };
    return { flips: [flip], allowed: [done('0>14 r'), done('3>15 w')] };
  },
  'two bytes, start and end together': (area) => {
    area.chain(area.map(1));
    // The four readings: [0,0] [0,1] [1,1], and [1,0], which is no range.
    return {
      flips: [area.flipRequest(9, 0, 0x10), area.flipRequest(17, 0x0f, 0x1f)],
      allowed: [done('0>1 rw'), done('0>1 rw 1>2 rw'), done('1>1 rw'), refused(RANGE)],
    };
  },
};

/** One reading makes the ring unusable: then the chain is not served, and the device asks for a reset. */
const BREAKING: Readonly<Record<string, Build>> = {
  'descriptor addr of the reply, memory or none': (area) => {
    area.chain(area.map(1));
    return { flips: [{ gpa: area.field(1, 3), a: 0, b: 0x70 }], allowed: [done('0>1 rw'), BROKEN] };
  },
  'descriptor addr of the request, memory or none': (area) => {
    area.chain(area.map(2));
    return { flips: [{ gpa: area.field(0, 3), a: 0, b: 0x70 }], allowed: [done('0>2 rw'), BROKEN] };
  },
  'descriptor len of the reply, inside memory or not': (area) => {
    area.chain(area.map(3));
    return { flips: [{ gpa: area.field(1, 11), a: 0, b: 0x7f }], allowed: [done('0>3 rw'), BROKEN] };
  },
  'descriptor next, inside the table or not': (area) => {
    area.chain(area.map(4));
    return { flips: [{ gpa: area.field(0, 14), a: area.head + 1, b: QUEUE }], allowed: [done('0>4 rw'), BROKEN] };
  },
  'table len, a multiple of 16 or not': (area) => {
    area.table(area.map(5));
    return { flips: [{ gpa: area.field(0, 8), a: 32, b: 33 }], allowed: [done('0>5 rw'), BROKEN] };
  },
  'table in a table or not': (area) => {
    area.table(area.map(6));
    return { flips: [{ gpa: area.at('tableA', 12), a: 1, b: 5 }], allowed: [done('0>6 rw'), BROKEN] };
  },
};

/** Writes all scenarios into the memory. */
export function buildScenarios(poke: Poke): Scenario[] {
  const builds = [...Object.entries(BUILDS), ...Object.entries(BREAKING)];
  return builds.map(([name, build], index) => {
    const area = new Area(index, poke);
    const breaking = name in BREAKING;
    return { name, head: area.head, base: area.base, window: area.window, breaking, ...build(area) };
  });
}
