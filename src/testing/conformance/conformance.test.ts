import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { GuestMemory } from '../../virtio/memory.ts';
import { CheckRun } from './checks.ts';
import { QueuePort } from './queue-port.ts';
import { replyOf } from './reply.ts';
import type { RunOptions } from './rig-transport.ts';
import { RING_KINDS, TRANSPORT_KINDS } from './rig-transport.ts';
import { Rig } from './rig.ts';
import type { CaseResult } from './run-case.ts';
import { runCase } from './run-case.ts';
import { VectorFileError, readVectorFile } from './vector-file.ts';
import { MALFORMS } from './vector-types.ts';

type Json = Readonly<Record<string, unknown>>;

const ATTACH = { op: 'req', type: 'ATTACH', domain: 1, endpoint: 8, flags: 0 };
const ATTACH_9 = { ...ATTACH, endpoint: 9 };
const MAP = {
  ...{ op: 'req', type: 'MAP', domain: 1, virt_start: '0x1000', virt_end: '0x1fff', phys_start: '0xa000', flags: 3 },
};
const PROBE = { op: 'req', type: 'PROBE', endpoint: 16 };
const MSI_PROPERTY = { type: 1, length: 20, subtype: 1, start: '0xfee00000', end: '0xfeefffff' };
const READ = { op: 'access', endpoint: 8, iova: '0x5000', dir: 'R' };
const FAULT_AT_5000 = {
  ...{ check: 'event', present: [true], reason: [2], endpoint: 8, flags_any_of: ['0x101'], address: '0x5000' },
  used_len: 24,
};

/** A whole case around a request and what is expected of it. */
function vector(request: Json, status: readonly unknown[], rest: Json = {}, expectations: Json = {}): Json {
  return {
    ...{ id: 'x-1', title: 'a case', statement: ['D-OP-1'], level: 'MUST', setup: [], request },
    expect: { status, status_if_only_MUSTs_enforced: status, explicit: true, ...expectations },
    ...rest,
  };
}

function run(...args: Parameters<typeof vector>): CaseResult {
  return runOn({}, ...args);
}

function runOn(options: RunOptions, ...args: Parameters<typeof vector>): CaseResult {
  // What a test writes down is what a file holds.
  const content: unknown = JSON.parse(JSON.stringify([vector(...args)]));
  return runCase(readVectorFile('f.json', content)[0]!, options);
}

/** The message of a case that passes, or has to be in order, is the status seen. */
function passes(...args: Parameters<typeof vector>): void {
  const { passed, why } = run(...args);
  expect({ passed, why }).toEqual({ passed: true, why });
}

function fails(why: RegExp, ...args: Parameters<typeof vector>): void {
  const result = run(...args);
  expect(result.passed).toBe(false);
  expect(result.why).toMatch(why);
}

describe('results of requests', () => {
  it('finds a status and a used length', () => {
    passes(ATTACH, ['OK'], {}, { used_len: [4] });
    passes({ ...ATTACH, endpoint: 444 }, ['NOENT'], {}, { used_len: [4] });
    fails(/ATTACH gave OK, expected NOENT or INVAL/, ATTACH, ['NOENT', 'INVAL']);
    fails(/used length 4 \(OK\), expected 0/, ATTACH, ['OK'], {}, { used_len: [0] });
  });

  it('tells NOT_WRITTEN', () => {
    passes({ op: 'raw', readable: 'ff', writable_len: 4 }, ['NOT_WRITTEN'], {}, { used_len: [0] });
    passes({ op: 'raw', readable: '', writable_len: 0 }, ['NOT_WRITTEN']);
    passes({ ...ATTACH, writable_len: 0, tail_in_readable: true }, ['NOT_WRITTEN']);
    passes({ ...ATTACH, tail_in_readable: true, readable_layout: [20] }, ['NOT_WRITTEN']);
    passes({ ...ATTACH, order: 'writable_first' }, ['NOT_WRITTEN']);
    fails(/ATTACH gave OK, expected NOT_WRITTEN/, ATTACH, ['NOT_WRITTEN']);
    fails(/ATTACH gave NOT_WRITTEN, expected OK/, { ...ATTACH, readable_len: 19 }, ['OK']);
  });

  it.each(['RESET', 'DRIVER', 'FEATURES_OK'])('tells NOT_CONSUMED in state %s', (state) => {
    passes(ATTACH, ['NOT_CONSUMED'], { device: { state } });
    fails(/gave NOT_CONSUMED/, ATTACH, ['OK'], { device: { state } });
    passes(ATTACH, ['NOT_CONSUMED'], { device: { state } }, { checks: [{ check: 'reinit' }, reqCheck(ATTACH, 'OK')] });
  });

  it('tells N/A, and nothing else, of what is no request', () => {
    passes({ op: 'nop' }, ['N/A']);
    fails(/nop gave N\/A, expected OK/, { op: 'nop' }, ['OK']);
  });

  it('sees a status that equals the prefill', () => {
    passes({ ...ATTACH, prefill: '00' }, ['OK']);
    passes({ ...ATTACH, prefill: '06', endpoint: 444 }, ['NOENT']);
  });

  it('takes the first offset of status_at that was written', () => {
    passes({ ...PROBE, probe_size: 600, status_at: [512, 600] }, ['OK']);
    passes({ ...ATTACH, endpoint: 444, writable_len: 8, status_at: [4] }, ['NOENT']);
  });

  it('cuts, extends and splits requests', () => {
    passes({ ...ATTACH, readable_len: 21 }, ['OK']);
    passes({ ...ATTACH, readable_layout: [1, 0, 19], writable_layout: [3, 1] }, ['OK']);
    passes({ ...ATTACH, indirect: true, indirect_table_write_flag: true }, ['OK']);
    passes({ ...ATTACH, indirect: 'tail', readable_layout: [4, 16] }, ['OK']);
    passes({ ...ATTACH, reserved: '01' }, ['INVAL']);
    passes({ ...ATTACH, head_reserved: 'ffffff' }, ['OK']);
  });

  it('judges each request of a batch by its own list', () => {
    const requests = [ATTACH, MAP, MAP, { op: 'raw', readable: '', writable_len: 4 }];
    passes({ op: 'batch', requests }, [['OK'], ['OK'], ['INVAL'], ['NOT_WRITTEN']]);
    fails(/MAP, request 2 of the batch, gave INVAL/, { op: 'batch', requests }, [['OK'], ['OK'], ['OK'], ['OK']]);
  });

  it('makes a batch available that fills the ring', () => {
    passes({ op: 'batch', requests: Array(64).fill(ATTACH) }, Array<string[]>(64).fill(['OK']));
  });

  it('steps the fields of a repeat', () => {
    const repeat = { op: 'repeat', request: MAP, count: 3, step: { virt_start: '0x1000', virt_end: 4096 } };
    const access = { check: 'access', endpoint: 8, iova: '0x3abc', dir: 'W', result: ['0xaabc'] };
    passes(repeat, ['OK'], { setup: [ATTACH] }, { checks: [access] });
    fails(/MAP 2 of 3 gave INVAL/, { ...repeat, step: {} }, ['OK'], { setup: [ATTACH] });
    passes(MAP, ['INVAL'], { setup: [ATTACH, repeat] });
  });

  it('tells of a setup that does not work', () => {
    fails(/setup\[1\] MAP gave NOENT, expected OK/, ATTACH, ['OK'], { setup: [ATTACH, { ...MAP, domain: 2 }] });
  });

  it('marks a case that meets the MUSTs alone, and does not pass it', () => {
    const { passed, lenient } = run(ATTACH, ['INVAL'], {}, { status_if_only_MUSTs_enforced: ['OK', 'INVAL'] });
    expect([passed, lenient]).toEqual([false, true]);
    expect(run(ATTACH, ['INVAL'], {}, { status_if_only_MUSTs_enforced: ['NOENT'] }).lenient).toBe(false);
    expect(run(ATTACH, ['OK'], {}, { used_len: [0] }).lenient).toBe(false);
  });
});

describe('devices', () => {
  it('are built as the case says', () => {
    passes({ ...ATTACH, domain: 32 }, ['RANGE']);
    passes({ ...ATTACH, domain: 32 }, ['OK'], { device: { offer_remove: ['DOMAIN_RANGE'] } });
    passes({ ...ATTACH, endpoint: 70_000 }, ['OK'], { device: { endpoints: [{ id: '0x11170', resv: [] }] } });
    passes(ATTACH, ['OK'], { device: { queue_size: 2 } });
    passes(MAP, ['NOMEM'], { device: { limits: { mappings: 0 } }, setup: [ATTACH] });
    passes(PROBE, ['NOT_WRITTEN'], { device: { offer_remove: ['PROBE'] } });
    passes(PROBE, ['NOT_WRITTEN'], { device: { accept_remove: ['PROBE'] } });
    passes({ ...MAP, virt_end: '0x1000' }, ['OK'], { device: { page_size_mask: '0x1' }, setup: [ATTACH] });
    passes(ATTACH, ['OK'], { device: { offer_add: ['RING_EVENT_IDX', 'RING_RESET'] } });
  });

  it('that cannot be built fail the case', () => {
    fails(/cannot offer IN_ORDER/, ATTACH, ['OK'], { device: { offer_add: ['IN_ORDER'] } });
    fails(/always offers VERSION_1/, ATTACH, ['OK'], { device: { offer_remove: ['VERSION_1'] } });
    fails(/bypassConfig/, ATTACH, ['OK'], { device: { offer_add: ['BYPASS'] } });
  });

  it('that refuse the features leave requests where they are', () => {
    fails(/NOT_CONSUMED \(the device refused/, ATTACH, ['OK'], { device: { accept_remove: ['VERSION_1'] } });
  });
});

describe('checks', () => {
  const mapped = { setup: [ATTACH, MAP] };
  const table: [string, Json, Json, Json, Json][] = [
    ['access', { op: 'nop' }, mapped, accessCheck('0x1fff', '0xAFFF'), accessCheck('0x1fff', 'FAULT')],
    ['access MSI', { op: 'nop' }, {}, msiCheck('W', 'MSI'), msiCheck('R', 'MSI')],
    ['req', ATTACH, {}, reqCheck(MAP, 'OK'), reqCheck(MAP, 'NOENT')],
    ['config', { op: 'nop' }, {}, configCheck(4, '0xffff'), configCheck(4, '0xfffe')],
    ['config of 3 bytes', { op: 'nop' }, {}, configCheck(3, 0xffff), configCheck(3, 0)],
    ['config_nonzero', { op: 'nop' }, {}, nonzero(0, 8), nonzero(36, 1)],
    ['features', { op: 'features_read' }, {}, featuresCheck('PROBE', 'BYPASS'), featuresCheck('BYPASS', 'BYPASS')],
    ['features', { op: 'features_read' }, {}, featuresCheck('PROBE', 'BYPASS'), featuresCheck('PROBE', 'MMIO')],
    ['properties', PROBE, {}, properties(MSI_PROPERTY), properties({ ...MSI_PROPERTY, end: '0xfeeffffe' })],
    ['properties', PROBE, {}, properties(MSI_PROPERTY), properties()],
    ['properties', PROBE, {}, properties(MSI_PROPERTY), properties(MSI_PROPERTY, MSI_PROPERTY)],
    ['properties_well_formed', PROBE, {}, { check: 'properties_well_formed' }, properties()],
    ['no_property_written', { ...PROBE, endpoint: 8 }, {}, { check: 'no_property_written' }, properties(MSI_PROPERTY)],
    ['property_reserved_zero', PROBE, {}, { check: 'property_reserved_zero' }, { check: 'no_property_written' }],
    ['tail_reserved_zero', ATTACH, {}, { check: 'tail_reserved_zero' }, { check: 'properties_well_formed' }],
  ];

  it.each(table)('%s', (_, request, rest, good, bad) => {
    const status = [request['op'] === 'req' ? 'OK' : 'N/A'];
    passes(request, status, rest, { checks: [good, { ...bad, when: ['INVAL'] }] });
    fails(/^checks\[1\] /, request, status, rest, { checks: [good, { ...bad, when: status }] });
  });

  it('event', () => {
    const setup = [ATTACH, { op: 'event_buffers', sizes: [24, 24] }];
    passes(READ, ['N/A'], { setup }, { checks: [FAULT_AT_5000, { check: 'event', present: [false] }] });
    const wrong: Json[] = [
      { ...FAULT_AT_5000, present: [false] },
      { ...FAULT_AT_5000, reason: [1] },
      { ...FAULT_AT_5000, endpoint: 9 },
      { ...FAULT_AT_5000, flags_any_of: ['0x1', '0x102'] },
      { ...FAULT_AT_5000, address: '0x5001' },
      { ...FAULT_AT_5000, used_len: 16 },
      { check: 'event_buffers_used', max: 0 },
    ];
    for (const check of wrong) fails(/^checks\[0\] event/, READ, ['N/A'], { setup }, { checks: [check] });
  });

  it('event: only what the access under test caused', () => {
    const setup = [ATTACH, { op: 'event_buffers', sizes: [24, 24] }, { ...READ, iova: '0x9000' }];
    passes(READ, ['N/A'], { setup }, { checks: [FAULT_AT_5000, { check: 'event_buffers_used', max: 1 }] });
  });

  it('event: buffers in pieces, not kicked, too small, readable', () => {
    const buffers = (more: Json): Json => ({ setup: [ATTACH, { op: 'event_buffers', sizes: [24], ...more }] });
    const none = { check: 'event', present: [false] };
    passes(READ, ['N/A'], buffers({ layout: [10, 14] }), { checks: [FAULT_AT_5000] });
    passes(READ, ['N/A'], buffers({ notify: false }), { checks: [FAULT_AT_5000] });
    passes(READ, ['N/A'], buffers({ sizes: [16] }), { checks: [none, { check: 'event_buffers_used', max: 1 }] });
    passes(READ, ['N/A'], buffers({ readable: true }), { checks: [none, { check: 'readable_unmodified' }] });
  });

  it('reinit, device_reset and system_reset bring the driver up again', () => {
    const write = { op: 'config_write', offset: 36, size: 1, value: 1 };
    const bypass = (value: number): Json => ({ check: 'config', offset: 36, size: 1, value: [value] });
    const attach = reqCheck(ATTACH, 'OK');
    passes({ op: 'device_reset' }, ['N/A'], { setup: [write] }, { checks: [bypass(1), attach] });
    passes({ op: 'system_reset' }, ['N/A'], { setup: [write] }, { checks: [bypass(0), attach] });
    passes(MAP, ['NOENT'], { setup: [ATTACH, MAP, { op: 'device_reset' }] });
    passes(ATTACH, ['OK'], {}, { checks: [{ check: 'reinit' }, reqCheck(MAP, 'NOENT'), attach] });
  });

  it('config_read compares a value that the file gives', () => {
    passes({ op: 'config_read', offset: 32, size: 4, value: 512 }, ['N/A']);
    fails(/config_read at 32 gave 0x200, expected 0x201/, { op: 'config_read', offset: 32, size: 4, value: 513 }, [
      'N/A',
    ]);
  });
});

describe('checks of what a good device never does', () => {
  const probe = readVectorFile('f', [vector(PROBE, ['OK'])])[0]!;
  const chain = probe.request.op === 'send' ? probe.request.chains[0]! : expect.unreachable();
  const region = '01001400010000000000e0fe00000000ffffeffe00000000';

  function check(name: string, bytes: string): () => void {
    const writable = Buffer.from(bytes.padEnd(1024, '0') + '00000000', 'hex');
    const reply = replyOf(chain, { head: 0, usedLength: 516, writable, readableUnchanged: true }, false);
    const [checked] = readVectorFile('f', [vector(PROBE, ['OK'], {}, { checks: [{ check: name, ...details(name) }] })]);
    return () => new CheckRun(new Rig(probe.device, probe.bufferBytes), [reply]).run(checked!.checks[0]!);
  }

  function details(name: string): Json {
    return name === 'properties' ? { list: [MSI_PROPERTY], zero_pad: true } : {};
  }

  it.each([
    ['property_reserved_zero', region.replace('0100', '0110'), /reserved bits/],
    ['property_reserved_zero', region.replace('01000000', '01000001'), /reserved bits/],
    ['properties_well_formed', region.replace('1400', '1300'), /has length 19/],
    ['properties_well_formed', region.replace('1400', '00ff'), /does not end inside/],
    ['properties_well_formed', region.replace('ffffeffe', 'ffffdffe'), /ends before it starts/],
    ['properties', `${region}${'0'.repeat(20)}01`, /behind the properties/],
    ['no_property_written', `${'a5'.repeat(40)}01`, /byte 40 of the properties/],
  ])('%s', (name, bytes, message) => {
    expect(check(name, name === 'no_property_written' ? '00a5' : region)).not.toThrow();
    expect(check(name, bytes)).toThrow(message);
  });

  it('tail_reserved_zero', () => {
    const writable = Buffer.from(`${'00'.repeat(512)}00000100`, 'hex');
    const reply = replyOf(chain, { head: 0, usedLength: 516, writable, readableUnchanged: true }, false);
    const run = new CheckRun(new Rig(probe.device, probe.bufferBytes), [reply]);
    expect(() => run.run({ check: 'tail_reserved_zero', when: undefined })).toThrow(/byte 2 of the tail is 0x1/);
  });

  it('an answer with used length 0, or with one above the buffer, has no name', () => {
    const writable = new Uint8Array(516);
    const answer = (usedLength: number): readonly string[] =>
      replyOf(chain, { head: 0, usedLength, writable, readableUnchanged: true }, false).results;
    expect([answer(0), answer(517), answer(516)]).toEqual([[], [], ['OK']]);
    writable.fill(0xa5);
    expect(answer(0)).toEqual(['NOT_WRITTEN']);
    expect(answer(516)).toEqual([]);
  });

  it.each([
    ['split', false],
    ['split', true],
    ['packed', false],
    ['packed', true],
  ] as const)('a readable buffer that was written is seen (%s ring, in a table: %s)', (ring, indirect) => {
    const memory = new GuestMemory();
    memory.addRegion({ gpa: 0n, size: 0x10_0000n });
    const port = new QueuePort(memory, ring, { size: 4, base: 0n, bufferBytes: 4096, eventIdx: false });
    const head = port.add({ readable: Uint8Array.of(1, 2, 3), writableLength: 4, indirect });
    expect(port.readableUntouched).toBe(true);
    const [readable] = port.queue.buffersOf(head);
    expect(readable).toMatchObject({ bytes: 3, writable: false });
    memory.write(readable!.gpa + 2, Uint8Array.of(4), 0, 1);
    expect(port.readableUntouched).toBe(false);
    port.reset();
    expect(port.readableUntouched).toBe(false);
  });
});

describe('damaged rings', () => {
  const after = { checks: [reqCheck(ATTACH, 'NOT_CONSUMED'), { check: 'reinit' }, reqCheck(ATTACH, 'OK')] };

  it.each(MALFORMS.filter((kind) => kind !== 'zero_len_descriptor'))('%s', (malform) => {
    for (const request of [ATTACH_9, { ...ATTACH_9, indirect: true }, { ...ATTACH_9, readable_layout: [4, 16] }]) {
      passes({ op: 'ring', malform, request }, ['NEEDS_RESET'], { setup: [ATTACH] }, after);
      passes({ op: 'ring', malform, request }, ['NOT_CONSUMED'], {}, { checks: [{ check: 'readable_unmodified' }] });
    }
    fails(/ATTACH with \w+ gave NEEDS_RESET, expected OK/, { op: 'ring', malform, request: ATTACH }, ['OK']);
  });

  it('zero_len_descriptor', () => {
    const ring = { op: 'ring', malform: 'zero_len_descriptor', request: ATTACH };
    passes(ring, ['NOT_WRITTEN'], {}, { checks: [reqCheck(ATTACH, 'OK')] });
  });

  it('that cannot be damaged that way fail the case', () => {
    const ring = { op: 'ring', malform: 'writable_addr_outside_memory', request: { ...ATTACH, writable_len: 0 } };
    fails(/no writable descriptor/, ring, ['NEEDS_RESET']);
  });
});

describe('file errors', () => {
  const table: [RegExp, unknown][] = [
    [/^f\.json: an object is not a list of cases$/, vector(ATTACH, ['OK'])],
    [/^f\.json: case 1: 3 is not an object$/, [vector(ATTACH, ['OK']), 3]],
    [/^f\.json: x-1: colour: unknown key$/, [vector(ATTACH, ['OK'], { colour: 1 })]],
    [/^f\.json: x-1: __proto__: unknown key$/, JSON.parse('[{"id":"x-1","__proto__":{}}]')],
    [/^f\.json: x-1: request\.op: "jump" is unknown/, [vector({ op: 'jump' }, ['OK'])]],
    [/^f\.json: x-1: request\.op: "toString" is unknown/, [vector({ op: 'toString' }, ['OK'])]],
    [/request\.type: "FLUSH" is unknown/, [vector({ op: 'req', type: 'FLUSH' }, ['OK'])]],
    [/request\.virt_start: unknown key/, [vector({ ...ATTACH, virt_start: 0 }, ['OK'])]],
    [/request\.domain: missing/, [vector({ op: 'req', type: 'ATTACH', endpoint: 8 }, ['OK'])]],
    [/request\.domain: "12" is not a whole number/, [vector({ ...ATTACH, domain: '12' }, ['OK'])]],
    [/request\.domain: 1\.5 is not/, [vector({ ...ATTACH, domain: 1.5 }, ['OK'])]],
    [/request\.domain: -1 is not in/, [vector({ ...ATTACH, domain: -1 }, ['OK'])]],
    [/request\.domain: 4294967296 is not in/, [vector({ ...ATTACH, domain: 2 ** 32 }, ['OK'])]],
    [/request\.virt_end: "0x10000000000000000" is not/, [vector({ ...MAP, virt_end: '0x10000000000000000' }, ['OK'])]],
    [/request\.virt_end: 9007199254740992 is not/, [vector({ ...MAP, virt_end: 2 ** 53 }, ['OK'])]],
    [/request\.reserved: unknown key/, [vector({ ...MAP, reserved: '00' }, ['OK'])]],
    [/request\.reserved: 5 bytes, at most 4/, [vector({ ...ATTACH, reserved: '0000000000' }, ['OK'])]],
    [/request\.prefill: "a" is not hex/, [vector({ ...ATTACH, prefill: 'a' }, ['OK'])]],
    [/request\.indirect: "head" is not/, [vector({ ...ATTACH, indirect: 'head' }, ['OK'])]],
    [/request\.readable_layout: the descriptors hold 19/, [vector({ ...ATTACH, readable_layout: [19] }, ['OK'])]],
    [/request\.writable_len: 4294967296 is not in/, [vector({ ...ATTACH, writable_len: 2 ** 32 }, ['OK'])]],
    [
      /request\.readable_layout: holds 32769 entries/,
      [vector({ ...ATTACH, readable_layout: Array(32_769).fill(0) }, [])],
    ],
    [/request\.count: 1000000000 is not in/, [vector({ op: 'repeat', request: ATTACH, count: 1e9, step: {} }, ['OK'])]],
    [/more than 8388608 requests/, Array(9).fill(vector({ op: 'repeat', request: ATTACH, count: 2 ** 20 }, ['OK']))],
    [
      /request\.step\.virt_end: unknown/,
      [vector({ op: 'repeat', request: ATTACH, count: 1, step: { virt_end: 1 } }, [])],
    ],
    [/requests: holds 65 entries/, [vector({ op: 'batch', requests: Array(65).fill(ATTACH) }, [])]],
    [/requests\[0\]\.op: "batch" is unknown/, [vector({ op: 'batch', requests: [{ op: 'batch' }] }, [])]],
    [/malform: "melt" is not one of/, [vector({ op: 'ring', malform: 'melt', request: ATTACH }, ['OK'])]],
    [/sizes: holds 65 entries/, [vector({ op: 'event_buffers', sizes: Array(65).fill(24) }, ['N/A'])]],
    [/at most 67108864/, [vector({ op: 'event_buffers', sizes: Array(64).fill(2 ** 24) }, ['N/A'])]],
    [/layout: the descriptors hold 23/, [vector({ op: 'event_buffers', sizes: [24], layout: [23] }, ['N/A'])]],
    [/value: 256 is not in/, [vector({ op: 'config_write', offset: 36, size: 1, value: 256 }, ['N/A'])]],
    [/expect\.status: "OK" is not a list/, [vector(ATTACH, ['OK'], { expect: { status: 'OK' } })]],
    [/expect\.status\[0\]: "FINE" is not one of/, [vector(ATTACH, ['FINE'])]],
    [/expect\.status: holds 0 entries/, [vector(ATTACH, [])]],
    [/expect\.status\[0\]: a list is not one of/, [vector(ATTACH, [['OK']])]],
    [/expect\.status: 1 lists for 2 requests/, [vector({ op: 'batch', requests: [ATTACH, MAP] }, [['OK']])]],
    [/expect\.explicit: "yes"/, [vector(ATTACH, ['OK'], {}, { explicit: 'yes' })]],
    [/checks\[0\]\.check: "colour" is unknown/, [vector(ATTACH, ['OK'], {}, { checks: [{ check: 'colour' }] })]],
    [/checks\[0\]\.max: unknown key/, [vector(ATTACH, ['OK'], {}, { checks: [{ check: 'reinit', max: 1 }] })]],
    [/checks\[0\]\.result\[0\]: "LOST"/, [vector(ATTACH, ['OK'], {}, { checks: [accessCheck('0x0', 'LOST')] })]],
    [/device\.offer_add\[0\]: "TELEPORT"/, [vector(ATTACH, ['OK'], { device: { offer_add: ['TELEPORT'] } })]],
    [/device\.queue_size: 48 is not a power of two/, [vector(ATTACH, ['OK'], { device: { queue_size: 48 } })]],
    [/device\.input_range: holds 1 entries/, [vector(ATTACH, ['OK'], { device: { input_range: [0] } })]],
    [/device\.limits\.domains: unknown key/, [vector(ATTACH, ['OK'], { device: { limits: { domains: 1 } } })]],
    [/level: "WILL" is not one of/, [vector(ATTACH, ['OK'], { level: 'WILL' })]],
    [/note: 3 is not a text/, [vector(ATTACH, ['OK'], { note: 3 })]],
  ];

  it.each(table)('%s', (message, content) => {
    const read = (): unknown => readVectorFile('f.json', content);
    expect(read).toThrow(message);
    expect(read).toThrow(VectorFileError);
  });

  it('are told for every case, on one line each', () => {
    const bad = vector({ op: 'jump' }, ['OK']);
    const error = catchError(() => readVectorFile('f.json', [bad, vector(ATTACH, ['OK']), { ...bad, id: 'x-2' }]));
    expect(error.problems.map((line) => line.split(' ')[1])).toEqual(['x-1:', 'x-2:']);
    expect(error.message).toMatch(/^f\.json: x-1: .* \(and 1 more\)$/);
  });

  it('do not follow nesting, however deep', () => {
    const deep: unknown = JSON.parse(`${'['.repeat(100_000)}${']'.repeat(100_000)}`);
    expect(() => readVectorFile('f.json', [vector(ATTACH, ['OK'], { statement: deep })])).toThrow(
      /statement\[0\]: a list/,
    );
    expect(() => readVectorFile('f.json', deep)).toThrow(/case 0: a list is not an object/);
  });

  it('are not made of notes, effects and the same id twice', () => {
    const noted = vector({ ...ATTACH, note: 'n' }, ['OK'], { note: 'n' }, { effect: 'e', note: 'n' });
    expect(readVectorFile('f.json', [noted, noted])).toHaveLength(2);
  });
});

describe('rings and transports', () => {
  const everywhere = RING_KINDS.flatMap((ring) => TRANSPORT_KINDS.map((transport) => ({ ring, transport })));
  const damage = MALFORMS.filter((kind) => kind !== 'zero_len_descriptor');
  const after = { checks: [reqCheck(ATTACH, 'NOT_CONSUMED'), { check: 'reinit' }, reqCheck(ATTACH, 'OK')] };

  it.each(everywhere)('damage is found on $ring rings through $transport', (options) => {
    for (const malform of damage) {
      for (const request of [ATTACH_9, { ...ATTACH_9, indirect: true }, { ...ATTACH_9, readable_layout: [4, 16] }]) {
        const ring = { op: 'ring', malform, request };
        const { passed, why } = runOn(options, ring, ['NEEDS_RESET'], { setup: [ATTACH] }, after);
        expect(passed, `${malform}: ${why}`).toBe(true);
      }
    }
  });

  it.each(everywhere)('resets, features and configuration are seen on $ring rings through $transport', (options) => {
    const bypass = { op: 'config_write', offset: 36, size: 1, value: '0x1' };
    const cases = [
      ['device_reset', '0x1'],
      ['system_reset', '0x0'],
    ] as const;
    for (const [op, value] of cases) {
      const checks = [
        { check: 'features', must_include: ['MAP_UNMAP', 'PROBE'] },
        { check: 'config', offset: 0, size: 8, value: ['0x40201000'] },
        { check: 'config', offset: 36, size: 1, value: [value] },
        reqCheck(ATTACH, 'OK'),
      ];
      const { passed, why } = runOn(options, ATTACH, ['OK'], { setup: [ATTACH, bypass, { op }] }, { checks });
      expect(passed, why).toBe(true);
    }
    expect(runOn(options, ATTACH, ['OK'], { device: { state: 'FEATURES_OK' } }).why).toMatch(/NOT_CONSUMED/);
    expect(runOn(options, ATTACH, ['NOENT']).why).toMatch(/gave OK, expected NOENT/);
  });

  it('RING_PACKED in a case decides for packed rings, if it is accepted', () => {
    passes(ATTACH, ['OK'], { device: { offer_add: ['RING_PACKED'] } });
    passes(ATTACH, ['OK'], { device: { offer_add: ['RING_PACKED'], accept_remove: ['RING_PACKED'] } });
    passes({ op: 'ring', malform: 'desc_loop', request: ATTACH }, ['NEEDS_RESET'], {
      device: { offer_add: ['RING_PACKED', 'RING_EVENT_IDX'] },
    });
  });
});

describe('vector files of VIOMMU_EXTRA_DATA', () => {
  it('pass', ({ skip }) => {
    const folder = process.env['VIOMMU_EXTRA_DATA'];
    if (folder === undefined || folder === '') {
      process.stdout.write('skipped: VIOMMU_EXTRA_DATA is not set, no extra vectors were run through the ring\n');
      return skip('VIOMMU_EXTRA_DATA is not set');
    }
    const names = readdirSync(join(folder, 'vectors')).filter((name) => /^(?!defaults).*\.json$/.test(name));
    const cases = names.flatMap((name) =>
      readVectorFile(name, JSON.parse(readFileSync(join(folder, 'vectors', name), 'utf8'))),
    );
    expect(cases.length).toBeGreaterThan(0);
    expect(cases.map((each) => runCase(each)).filter((result) => !result.passed)).toEqual([]);
  });
});

function reqCheck(request: Json, ...status: string[]): Json {
  return { check: 'req', request, status };
}

function accessCheck(iova: string, ...result: string[]): Json {
  return { check: 'access', endpoint: 8, iova, dir: 'R', result };
}

function msiCheck(dir: string, ...result: string[]): Json {
  return { check: 'access', endpoint: 16, iova: '0xfee00000', dir, result };
}

function configCheck(size: number, ...value: unknown[]): Json {
  return { check: 'config', offset: 20, size, value };
}

function nonzero(offset: number, size: number): Json {
  return { check: 'config_nonzero', offset, size };
}

function featuresCheck(included: string, other: string): Json {
  return { check: 'features', must_include: [included], not_together: ['PROBE', other] };
}

function properties(...list: Json[]): Json {
  return { check: 'properties', list, zero_pad: true };
}

function catchError(action: () => unknown): VectorFileError {
  try {
    action();
  } catch (error) {
    if (error instanceof VectorFileError) return error;
  }
  return expect.unreachable('a VectorFileError was due');
}
