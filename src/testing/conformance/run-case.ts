// Runs one vector case against a device of its own, through a virtqueue: setup, the request under test, checks in order.
// Never throws for what a case or a device does: that is a case that does not pass.
import type { Reply } from './reply.ts';
import { NO_REQUEST } from './reply.ts';
import { CaseFailure, CheckRun, unexpected } from './checks.ts';
import { writeField } from './read-request.ts';
import { Rig } from './rig.ts';
import type { RunOptions } from './rig-transport.ts';
import type { Operation, VectorCase } from './vector-types.ts';

/** Outcome of one case. */
export interface CaseResult {
  readonly id: string;
  readonly title: string;
  readonly level: string;
  readonly passed: boolean;
  /** What was seen: the results of the request under test, or why the case does not pass. */
  readonly why: string;
  /** Not passed, but the status would do if only the MUSTs were enforced. */
  readonly lenient: boolean;
}

/** Is shown every reply of an operation, with its number within it; false ends a `repeat`. */
type Inspect = (reply: Reply, index: number) => boolean;

/** Runs a case on a fresh device; `options` say on which rings and through which transport. */
export function runCase(vector: VectorCase, options: RunOptions = {}): CaseResult {
  const run = new CaseRun(vector, options);
  const { id, title, level } = vector;
  try {
    const why = run.execute();
    return { id, title, level, passed: true, why, lenient: false };
  } catch (error) {
    return { id, title, level, passed: false, why: reasonOf(error), lenient: run.lenient };
  }
}

function reasonOf(error: unknown): string {
  if (error instanceof CaseFailure) return error.message;
  return error instanceof Error ? `${error.name}: ${error.message}` : String(error);
}

class CaseRun {
  lenient = false;
  readonly #vector: VectorCase;
  readonly #options: RunOptions;

  constructor(vector: VectorCase, options: RunOptions) {
    this.#vector = vector;
    this.#options = options;
  }

  execute(): string {
    const vector = this.#vector;
    const rig = new Rig(vector.device, vector.bufferBytes, this.#options);
    vector.setup.forEach((operation, i) => {
      perform(rig, operation, (reply, index) => {
        if (reply.results.includes('OK') || reply.results[0] === 'N/A') return true;
        throw unexpected(`setup[${i}] ${labelOf(operation, reply, index)}`, `${reply.seen}${rig.refusal}`, ['OK']);
      });
    });
    const { request } = vector;
    // What the setup caused has been reported by now: events are those of the access under test.
    if (request.op === 'access') rig.takeEvents();
    const replies = this.#test(rig);
    this.#runChecks(rig, replies);
    return [...new Set(replies.map((reply) => reply.seen))].join(', ');
  }

  /** Carries out the operation under test; its replies, of a `repeat` only the last one. */
  #test(rig: Rig): Reply[] {
    const { request, status, lenientStatus, usedLengths } = this.#vector;
    const replies: Reply[] = [];
    let failure: CaseFailure | undefined;
    let lenient = true;
    perform(rig, request, (reply, index) => {
      const list = request.op === 'repeat' ? 0 : index;
      const allowed = status[list]!;
      if (!includesAny(allowed, reply)) {
        failure ??= unexpected(labelOf(request, reply, index), `${reply.seen}${rig.refusal}`, allowed);
        lenient &&= includesAny(lenientStatus?.[list], reply);
      } else if (reply.usedLength >= 0 && usedLengths?.includes(reply.usedLength) === false) {
        const seen = `used length ${reply.usedLength} (${reply.seen})`;
        failure ??= unexpected(labelOf(request, reply, index), seen, usedLengths.map(String));
        lenient = false;
      }
      if (request.op === 'repeat') replies.length = 0;
      replies.push(reply);
      return failure === undefined;
    });
    if (failure === undefined) return replies;
    this.lenient = lenient;
    throw failure;
  }

  #runChecks(rig: Rig, replies: readonly Reply[]): void {
    const run = new CheckRun(rig, replies);
    this.#vector.checks.forEach((check, i) => {
      const { when } = check;
      if (when !== undefined && !replies.some((reply) => includesAny(when, reply))) return;
      try {
        run.run(check);
      } catch (error) {
        throw new CaseFailure(`checks[${i}] ${check.check}: ${reasonOf(error)}`);
      }
    });
  }
}

function includesAny(names: readonly string[] | undefined, reply: Reply): boolean {
  return names?.some((name) => reply.results.includes(name)) ?? false;
}

/** Carries out an operation and shows each reply to `inspect` as it comes. */
function perform(rig: Rig, operation: Operation, inspect: Inspect): void {
  switch (operation.op) {
    case 'send':
      rig.send(operation.chains).forEach((reply, index) => inspect(reply, index));
      return;
    case 'repeat':
      repeat(rig, operation, inspect);
      return;
    case 'ring':
      inspect(rig.sendDamaged(operation.chain, operation.malform), 0);
      return;
    case 'access':
      rig.access(operation);
      break;
    case 'event_buffers':
      rig.addEventBuffers(operation);
      break;
    case 'config_read': {
      const value = rig.readConfig(operation);
      if (operation.value !== undefined && operation.value !== value) {
        throw unexpected(`config_read at ${operation.offset}`, `0x${value.toString(16)}`, [
          `0x${operation.value.toString(16)}`,
        ]);
      }
      break;
    }
    case 'config_write':
      rig.writeConfig(operation, operation.value);
      break;
    case 'device_reset':
      rig.reset('device');
      break;
    case 'system_reset':
      rig.reset('system');
      break;
    case 'features_read':
    case 'nop':
      break;
  }
  inspect(NO_REQUEST, 0);
}

function repeat(rig: Rig, operation: Extract<Operation, { op: 'repeat' }>, inspect: Inspect): void {
  const { chain, count, steps } = operation;
  const readable = chain.readable.slice();
  const struct = readable.subarray(0, chain.structBytes);
  for (let i = 0; i < count; i++) {
    for (const { offset, bytes, start, step } of steps) writeField(struct, offset, bytes, start + step * BigInt(i));
    if (!inspect(rig.send([{ ...chain, readable }])[0]!, i)) return;
  }
}

function labelOf(operation: Operation, reply: Reply, index: number): string {
  if (operation.op === 'ring') return `${reply.name} with ${operation.malform}`;
  if (operation.op === 'repeat') return `${reply.name} ${index + 1} of ${operation.count}`;
  if (operation.op === 'send' && operation.batch) return `${reply.name}, request ${index} of the batch,`;
  return operation.op === 'send' ? reply.name : operation.op;
}
