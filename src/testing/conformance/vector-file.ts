// Checks a whole vector file before anything runs, and turns it into cases. The first problem of each case is told, with
// file, case and key; nothing is skipped. Not here: reading the file, running a case.
import { readCheck, results } from './read-check.ts';
import { readDevice } from './read-device.ts';
import { readOperation } from './read-operation.ts';
import type { Read } from './read.ts';
import {
  Fields,
  MAX_CASES,
  MAX_CASE_BYTES,
  MAX_REQUESTS,
  VectorProblem,
  count,
  describe,
  flag,
  list,
  oneOf,
  refuse,
  text,
} from './read.ts';
import type { ChainSpec, Check, EventBuffersSpec, Operation, VectorCase } from './vector-types.ts';

/** A vector file that is not in the format. The message names file, case and key of the first problem, on one line. */
export class VectorFileError extends Error {
  readonly file: string;
  /** One line per case that is not in order. */
  readonly problems: readonly string[];

  constructor(file: string, problems: readonly string[]) {
    const [first = 'not in the format'] = problems;
    super(problems.length > 1 ? `${first} (and ${problems.length - 1} more)` : first);
    this.name = 'VectorFileError';
    this.file = file;
    this.problems = problems;
  }
}

const LEVELS = ['MUST', 'SHOULD', 'MAY', 'DESCRIPTIVE', 'UNSPECIFIED', 'ROBUSTNESS', 'INTEROP'] as const;
const CASE_KEYS = ['id', 'title', 'statement', 'level', 'device', 'setup', 'request', 'expect'];
const EXPECT_KEYS = ['status', 'status_if_only_MUSTs_enforced', 'used_len', 'checks', 'explicit'];
const MAX_ID = 200;
/** Smallest piece of guest memory that a buffer takes. */
const PIECE = 16;

/**
 * Turns the parsed JSON of a vector file into cases; `file` is its name in messages.
 * @throws VectorFileError when anything in it is not in the format.
 */
export function readVectorFile(file: string, content: unknown): VectorCase[] {
  if (!Array.isArray(content))
    throw new VectorFileError(file, [`${file}: ${describe(content)} is not a list of cases`]);
  if (content.length > MAX_CASES) throw new VectorFileError(file, [`${file}: more than ${MAX_CASES} cases`]);
  const problems: string[] = [];
  const cases: VectorCase[] = [];
  let requests = 0;
  content.forEach((item: unknown, i) => {
    const name = caseName(item, i);
    try {
      const vector = readCase(item, '');
      requests += requestCount(vector);
      if (requests > MAX_REQUESTS) refuse('request', `more than ${MAX_REQUESTS} requests in one file`);
      cases.push(vector);
    } catch (error) {
      if (!(error instanceof VectorProblem)) throw error;
      problems.push(`${file}: ${name}: ${error.message}`);
    }
  });
  if (problems.length > 0) throw new VectorFileError(file, problems);
  return cases;
}

function caseName(item: unknown, index: number): string {
  const id: unknown = (item as { readonly id?: unknown } | null)?.id;
  return typeof id === 'string' && id.length > 0 && id.length <= MAX_ID ? id : `case ${index}`;
}

const readCase: Read<VectorCase> = (value, key) => {
  const fields = new Fields(value, key, CASE_KEYS);
  const device = fields.optional('device', readDevice) ?? readDevice({}, 'device');
  const operation = readOperation(device);
  const setup = fields.optional('setup', list(operation)) ?? [];
  const request = fields.required('request', operation);
  const expect = fields.required('expect', (expected, at) => new Fields(expected, at, EXPECT_KEYS));
  expect.optional('explicit', flag);
  const statuses = statusLists(request);
  const checks = expect.optional('checks', list(readCheck(device))) ?? [];
  return {
    id: fields.required('id', id),
    title: fields.optional('title', text) ?? '',
    level: fields.optional('level', oneOf(LEVELS)) ?? '',
    statement: fields.optional('statement', list(text)) ?? [],
    device,
    setup,
    request,
    status: expect.required('status', statuses),
    lenientStatus: expect.optional('status_if_only_MUSTs_enforced', statuses),
    usedLengths: expect.optional('used_len', list(count(0, 0xffff_ffff), 1)),
    checks,
    bufferBytes: bufferBytes([...setup, request], checks, device.queueSize),
  };
};

const id: Read<string> = (value, key) => {
  const name = text(value, key);
  return name.length > 0 && name.length <= MAX_ID ? name : refuse(key, `must have 1 to ${MAX_ID} characters`);
};

/** One list per request of a batch; else one plain list, given as the only entry of the outer list. */
function statusLists(request: Operation): Read<string[][]> {
  if (request.op !== 'send' || !request.batch) return (value, key) => [results(value, key)];
  const { length } = request.chains;
  return (value, key) => {
    const lists = list(results)(value, key);
    return lists.length === length ? lists : refuse(key, `${lists.length} lists for ${length} requests of the batch`);
  };
}

function requestCount(vector: VectorCase): number {
  return [...vector.setup, vector.request].reduce((total, operation) => {
    if (operation.op === 'send') return total + operation.chains.length;
    return total + (operation.op === 'repeat' ? operation.count : 1);
  }, vector.checks.length);
}

/** Room that all chains of a case take, should none of them ever come back. */
function bufferBytes(
  operations: readonly Operation[],
  checks: readonly Check[],
  queueSize: number,
): VectorCase['bufferBytes'] {
  let requests = 0;
  let events = 0;
  for (const operation of operations) {
    if (operation.op === 'send') for (const chain of operation.chains) requests += chainBytes(chain);
    else if (operation.op === 'ring') requests += chainBytes(operation.chain);
    else if (operation.op === 'repeat') requests += chainBytes(operation.chain) * Math.min(operation.count, queueSize);
    else if (operation.op === 'event_buffers') events += eventBytes(operation);
  }
  for (const check of checks) if (check.check === 'req') requests += chainBytes(check.chain);
  if (requests + events > MAX_CASE_BYTES) {
    refuse('request', `the buffers of the case take ${requests + events} bytes, at most ${MAX_CASE_BYTES} are allowed`);
  }
  return { requests, events };
}

function chainBytes({ readable, writableLength, readableLayout, writableLayout }: ChainSpec): number {
  const descriptors = (readableLayout?.length ?? 1) + (writableLayout?.length ?? 1);
  // Per descriptor one entry of an indirect table and what rounding up a buffer costs.
  return readable.length + writableLength + descriptors * 3 * PIECE;
}

function eventBytes({ sizes, layout }: EventBuffersSpec): number {
  return sizes.reduce((total, size) => total + size + (layout?.length ?? 1) * 3 * PIECE, 0);
}
