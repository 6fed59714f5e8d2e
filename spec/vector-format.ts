// The vector file format: types, and a checker that names every unknown operation, check and key and every wrong type.
// It knows the format only; what a case means is the business of whoever runs it.

export type Num = number | string;

export interface RequestOp {
  readonly op: 'req';
  readonly type: 'ATTACH' | 'DETACH' | 'MAP' | 'UNMAP' | 'PROBE';
  readonly domain?: Num;
  readonly endpoint?: Num;
  readonly virt_start?: Num;
  readonly virt_end?: Num;
  readonly phys_start?: Num;
  readonly flags?: Num;
  readonly reserved?: string;
  readonly head_reserved?: string;
  readonly readable_len?: number;
  readonly writable_len?: number;
  readonly probe_size?: number;
  readonly prefill?: string;
  readonly readable_layout?: readonly number[];
  readonly writable_layout?: readonly number[];
  readonly indirect?: boolean | 'tail';
  readonly indirect_table_write_flag?: boolean;
  readonly tail_in_readable?: boolean;
  readonly status_at?: readonly number[];
  readonly order?: 'writable_first';
}

export interface RawOp {
  readonly op: 'raw';
  readonly readable: string;
  readonly writable_len: number;
}

export type Operation =
  | RequestOp
  | RawOp
  | { readonly op: 'batch'; readonly requests: readonly (RequestOp | RawOp)[]; readonly order?: 'as_made_available' }
  | { readonly op: 'repeat'; readonly request: RequestOp; readonly count: number; readonly step: Record<string, Num> }
  | { readonly op: 'ring'; readonly malform: string; readonly request: RequestOp }
  | { readonly op: 'access'; readonly endpoint: Num; readonly iova: Num; readonly dir: 'R' | 'W' }
  | {
      readonly op: 'event_buffers';
      readonly sizes: readonly number[];
      readonly layout?: readonly number[];
      readonly readable?: boolean;
      readonly notify?: boolean;
    }
  | { readonly op: 'config_read'; readonly offset: number; readonly size: number; readonly value?: Num }
  | { readonly op: 'config_write'; readonly offset: number; readonly size: number; readonly value: Num }
  | { readonly op: 'features_read' | 'device_reset' | 'system_reset' | 'nop' };

export interface PropertyInit {
  readonly type: number;
  readonly length: number;
  readonly subtype: number;
  readonly start: Num;
  readonly end: Num;
}

export type Check = { readonly when?: readonly string[] } & (
  | {
      readonly check: 'access';
      readonly endpoint: Num;
      readonly iova: Num;
      readonly dir: 'R' | 'W';
      readonly result: readonly string[];
    }
  | { readonly check: 'req'; readonly request: RequestOp | RawOp; readonly status: readonly string[] }
  | { readonly check: 'config'; readonly offset: number; readonly size: number; readonly value: readonly Num[] }
  | { readonly check: 'config_nonzero'; readonly offset: number; readonly size: number }
  | { readonly check: 'features'; readonly must_include?: readonly string[]; readonly not_together?: readonly string[] }
  | { readonly check: 'properties'; readonly list: readonly PropertyInit[]; readonly zero_pad?: boolean }
  | {
      readonly check: 'event';
      readonly present: readonly boolean[];
      readonly reason?: readonly number[];
      readonly endpoint?: Num;
      readonly flags_any_of?: readonly Num[];
      readonly address?: Num;
      readonly used_len?: number;
    }
  | { readonly check: 'event_buffers_used'; readonly max: number }
  | {
      readonly check:
        | 'properties_well_formed'
        | 'property_reserved_zero'
        | 'no_property_written'
        | 'tail_reserved_zero'
        | 'readable_unmodified'
        | 'reinit';
    }
);

export interface DeviceInit {
  readonly page_size_mask?: Num;
  readonly input_range?: readonly [Num, Num];
  readonly domain_range?: readonly [Num, Num];
  readonly probe_size?: number;
  readonly bypass?: number;
  readonly queue_size?: number;
  readonly endpoints?: readonly {
    readonly id: Num;
    readonly resv: readonly { readonly subtype: number; readonly start: Num; readonly end: Num }[];
  }[];
  readonly limits?: { readonly mappings?: number };
  readonly state?: 'RESET' | 'DRIVER' | 'FEATURES_OK' | 'DRIVER_OK';
  readonly offer_add?: readonly string[];
  readonly offer_remove?: readonly string[];
  readonly accept_remove?: readonly string[];
}

export interface VectorCase {
  readonly id: string;
  readonly title: string;
  readonly statement: readonly string[];
  readonly level: string;
  readonly device?: DeviceInit;
  readonly setup: readonly Operation[];
  readonly request: Operation;
  readonly expect: {
    readonly status: readonly string[] | readonly (readonly string[])[];
    readonly status_if_only_MUSTs_enforced: readonly string[] | readonly (readonly string[])[];
    readonly used_len?: readonly number[];
    readonly checks?: readonly Check[];
    readonly explicit: boolean;
    readonly effect?: string;
  };
  readonly note?: string;
}

const STATUSES = ['OK', 'IOERR', 'UNSUPP', 'DEVERR', 'INVAL', 'RANGE', 'NOENT', 'FAULT', 'NOMEM'];
const RESULTS = [...STATUSES, 'NOT_WRITTEN', 'NOT_CONSUMED', 'N/A', 'NEEDS_RESET'];
const LEVELS = ['MUST', 'SHOULD', 'MAY', 'DESCRIPTIVE', 'UNSPECIFIED', 'ROBUSTNESS', 'INTEROP'];
const FEATURES = [
  ...['VERSION_1', 'RING_INDIRECT_DESC', 'RING_EVENT_IDX', 'RING_PACKED', 'IN_ORDER', 'RING_RESET', 'ACCESS_PLATFORM'],
  ...['INPUT_RANGE', 'DOMAIN_RANGE', 'MAP_UNMAP', 'BYPASS', 'PROBE', 'MMIO', 'BYPASS_CONFIG'],
];
export const MALFORMS: readonly string[] = [
  ...['desc_loop', 'desc_next_out_of_range', 'desc_addr_outside_memory', 'writable_addr_outside_memory'],
  ...['indirect_len_not_multiple_of_16', 'nested_indirect', 'avail_head_out_of_range', 'zero_len_descriptor'],
];

/** Looks at a value and returns what is wrong with it. */
type Rule = (value: unknown, at: string) => string[];
/** Keys of an object; `!` at the end marks one that must be there. */
type Shape = Readonly<Record<string, Rule>>;

function when(good: (value: unknown) => boolean, wanted: string): Rule {
  return (value, at) => (good(value) ? [] : [`${at}: ${JSON.stringify(value)} is not ${wanted}`]);
}

const text = when((value) => typeof value === 'string', 'a text');
const flag = when((value) => typeof value === 'boolean', 'true or false');
const count = when((value) => Number.isSafeInteger(value) && (value as number) >= 0, 'a count');
const num = when(
  (value) =>
    (Number.isSafeInteger(value) && (value as number) >= 0) ||
    (typeof value === 'string' && /^0x[0-9a-f]{1,16}$/i.test(value)),
  'a number or a hex string',
);
const hexBytes = when((value) => typeof value === 'string' && /^([0-9a-f]{2})*$/i.test(value), 'hex bytes');
const hexByte = when((value) => typeof value === 'string' && /^[0-9a-f]{2}$/i.test(value), 'one hex byte');

function oneOf(...allowed: readonly unknown[]): Rule {
  return when((value) => allowed.includes(value), `one of ${allowed.join(', ')}`);
}

function listOf(rule: Rule, least = 0): Rule {
  return (value, at) => {
    if (!Array.isArray(value)) return [`${at}: not a list`];
    if (value.length < least) return [`${at}: needs at least ${least} entries`];
    return value.flatMap((item: unknown, i) => rule(item, `${at}[${i}]`));
  };
}

function pairOf(rule: Rule): Rule {
  return (value, at) =>
    Array.isArray(value) && value.length === 2 ? listOf(rule)(value, at) : [`${at}: not a list of two`];
}

function object(shape: Shape): Rule {
  return (value, at) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return [`${at}: not an object`];
    const known: Shape = { ...shape, note: text, effect: text };
    const problems: string[] = [];
    for (const [key, item] of Object.entries(value)) {
      const rule = known[key] ?? known[`${key}!`];
      if (rule === undefined) problems.push(`${at}.${key}: unknown key`);
      else problems.push(...rule(item, `${at}.${key}`));
    }
    for (const key of Object.keys(shape)) {
      if (key.endsWith('!') && !(key.slice(0, -1) in value)) problems.push(`${at}.${key.slice(0, -1)}: missing`);
    }
    return problems;
  };
}

/** An object whose shape is named by its key `tag`. */
function tagged(tag: string, shapes: Readonly<Record<string, Shape>>): Rule {
  return (value, at) => {
    const name: unknown =
      typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[tag] : undefined;
    const shape = typeof name === 'string' && Object.hasOwn(shapes, name) ? shapes[name] : undefined;
    if (shape === undefined) return [`${at}.${tag}: ${JSON.stringify(name)} is unknown`];
    return object({ ...shape, [`${tag}!`]: text })(value, at);
  };
}

const framing: Shape = {
  'op!': oneOf('req'),
  reserved: hexBytes,
  head_reserved: hexBytes,
  readable_len: count,
  writable_len: count,
  prefill: hexByte,
  readable_layout: listOf(count),
  writable_layout: listOf(count),
  indirect: oneOf(true, false, 'tail'),
  indirect_table_write_flag: flag,
  tail_in_readable: flag,
  status_at: listOf(count, 1),
  order: oneOf('writable_first'),
};
const structs: Readonly<Record<string, Shape>> = {
  ATTACH: { 'domain!': num, 'endpoint!': num, flags: num },
  DETACH: { 'domain!': num, 'endpoint!': num },
  MAP: { 'domain!': num, 'virt_start!': num, 'virt_end!': num, 'phys_start!': num, 'flags!': num },
  UNMAP: { 'domain!': num, 'virt_start!': num, 'virt_end!': num },
  PROBE: { 'endpoint!': num, probe_size: count },
};
const request = tagged(
  'type',
  Object.fromEntries(Object.entries(structs).map(([type, fields]) => [type, { ...framing, ...fields }])),
);
const raw: Shape = { 'readable!': hexBytes, 'writable_len!': count };
const requestOrRaw: Rule = (value, at) =>
  (value as { op?: unknown } | null)?.op === 'raw' ? tagged('op', { raw })(value, at) : request(value, at);
const place: Shape = { 'endpoint!': num, 'iova!': num, 'dir!': oneOf('R', 'W') };
const field: Shape = { 'offset!': count, 'size!': oneOf(1, 2, 4, 8) };
const otherOperations = tagged('op', {
  batch: { 'requests!': listOf(requestOrRaw, 1), order: oneOf('as_made_available') },
  repeat: { 'request!': request, 'count!': count, 'step!': stepRule },
  ring: { 'malform!': oneOf(...MALFORMS), 'request!': request },
  access: place,
  event_buffers: { 'sizes!': listOf(count, 1), layout: listOf(count, 1), readable: flag, notify: flag },
  config_read: { ...field, value: num },
  config_write: { ...field, 'value!': num },
  features_read: {},
  device_reset: {},
  system_reset: {},
  nop: {},
});
const operation: Rule = (value, at) => {
  const op = (value as { op?: unknown } | null)?.op;
  return op === 'req' || op === 'raw' ? requestOrRaw(value, at) : otherOperations(value, at);
};

function stepRule(value: unknown, at: string): string[] {
  const fields = ['domain', 'endpoint', 'virt_start', 'virt_end', 'phys_start', 'flags'];
  return object(Object.fromEntries(fields.map((name) => [name, num])))(value, at);
}

const result = when(
  (value) => typeof value === 'string' && /^(0x[0-9a-f]{1,16}|FAULT|MSI)$/i.test(value),
  'a hex address, FAULT or MSI',
);
const property = object({ 'type!': count, 'length!': count, 'subtype!': count, 'start!': num, 'end!': num });
const status = listOf(oneOf(...RESULTS), 1);
const checkShapes: Readonly<Record<string, Shape>> = {
  access: { ...place, 'result!': listOf(result, 1) },
  req: { 'request!': requestOrRaw, 'status!': status },
  config: { ...field, 'value!': listOf(num, 1) },
  config_nonzero: field,
  features: { must_include: listOf(oneOf(...FEATURES)), not_together: listOf(oneOf(...FEATURES)) },
  properties: { 'list!': listOf(property), zero_pad: flag },
  event: {
    'present!': listOf(flag, 1),
    reason: listOf(count, 1),
    endpoint: num,
    flags_any_of: listOf(num, 1),
    address: num,
    used_len: count,
  },
  event_buffers_used: { 'max!': count },
  properties_well_formed: {},
  property_reserved_zero: {},
  no_property_written: {},
  tail_reserved_zero: {},
  readable_unmodified: {},
  reinit: {},
};
const check = tagged(
  'check',
  Object.fromEntries(Object.entries(checkShapes).map(([name, shape]) => [name, { ...shape, when: status }])),
);
const statuses: Rule = (value, at) =>
  Array.isArray(value) && Array.isArray(value[0]) ? listOf(status, 1)(value, at) : status(value, at);
const features = listOf(oneOf(...FEATURES), 1);
const region = object({ 'subtype!': oneOf(0, 1), 'start!': num, 'end!': num });
const vectorCase = object({
  'id!': text,
  'title!': text,
  'statement!': listOf(text, 1),
  'level!': oneOf(...LEVELS),
  device: object({
    page_size_mask: num,
    input_range: pairOf(num),
    domain_range: pairOf(num),
    probe_size: count,
    bypass: oneOf(0, 1),
    queue_size: count,
    endpoints: listOf(object({ 'id!': num, 'resv!': listOf(region) })),
    limits: object({ mappings: count }),
    state: oneOf('RESET', 'DRIVER', 'FEATURES_OK', 'DRIVER_OK'),
    offer_add: features,
    offer_remove: features,
    accept_remove: features,
  }),
  'setup!': listOf(operation),
  'request!': operation,
  'expect!': object({
    'status!': statuses,
    'status_if_only_MUSTs_enforced!': statuses,
    used_len: listOf(count, 1),
    checks: listOf(check),
    'explicit!': flag,
  }),
});

/** Returns everything that is wrong with the parsed content of one vector file; an empty list when it is in order. */
export function checkVectorFile(name: string, content: unknown): string[] {
  if (!Array.isArray(content)) return [`${name}: not a list of cases`];
  return content.flatMap((item: unknown, i) => {
    const id: unknown = (item as { id?: unknown } | null)?.id;
    const at = `${name}: ${typeof id === 'string' ? id : `case ${i}`}`;
    return [...vectorCase(item, at), ...batchStatuses(item, at)];
  });
}

/** A batch needs one list of statuses per request, anything else a plain list. */
function batchStatuses(item: unknown, at: string): string[] {
  const { request: op, expect } = item as Partial<VectorCase>;
  if (op === undefined || expect === undefined || !Array.isArray(expect.status)) return [];
  const lists = expect.status.filter((entry) => Array.isArray(entry)).length;
  if (op.op !== 'batch') return lists === 0 ? [] : [`${at}.expect.status: lists belong to a batch`];
  const wanted = Array.isArray(op.requests) ? op.requests.length : 0;
  return lists === wanted ? [] : [`${at}.expect.status: ${lists} lists for ${wanted} requests`];
}
