// Carries out the follow-up checks of a vector case; a check that does not hold throws a CaseFailure.
// Not here: the request under test and its status (run-case.ts).
import { Fault, Tail, VIRTIO_IOMMU_FAULT_F_ADDRESS } from '../../wire/abi.ts';
import { hex } from '../../base/check.ts';
import type { CompletedChain } from '../driver-request.ts';
import { featureMask } from './names.ts';
import { DEFAULT_PREFILL } from './read-request.ts';
import { findProperties, propertyText } from './properties.ts';
import type { Reply } from './reply.ts';
import { hasTail, propertyBytes } from './reply.ts';
import type { Rig } from './rig.ts';
import type { ChainSpec, Check, EventSpec, PropertySpec } from './vector-types.ts';

/** Why a case does not pass. */
export class CaseFailure extends Error {}

/** What the checks of one case look at; fault records are taken one by one. */
export class CheckRun {
  readonly #rig: Rig;
  /** Replies to the request under test. */
  readonly #replies: readonly Reply[];
  /** Replies to requests that checks sent. */
  readonly #checked: Reply[] = [];
  #used: CompletedChain[] = [];
  #usedCount = 0;

  constructor(rig: Rig, replies: readonly Reply[]) {
    this.#rig = rig;
    this.#replies = replies;
  }

  /** @throws CaseFailure when it does not hold. */
  run(check: Check): void {
    switch (check.check) {
      case 'access':
        expectOneOf(`${check.write ? 'write' : 'read'} of ${hex(check.iova)}`, this.#rig.access(check), check.result);
        return;
      case 'req':
        this.#request(check.chain, check.status);
        return;
      case 'config':
      case 'config_nonzero':
        this.#config(check);
        return;
      case 'features':
        checkFeatures(this.#rig.offeredFeatures, check.mustInclude, check.notTogether);
        return;
      case 'event':
        this.#event(check);
        return;
      case 'event_buffers_used':
        this.#collect();
        if (this.#usedCount > check.max)
          fail(`${this.#usedCount} event buffers were used, at most ${check.max} may be`);
        return;
      case 'readable_unmodified':
        if (!this.#rig.readableUntouched) fail('a device-readable buffer was written');
        return;
      case 'reinit':
        this.#rig.reinitialise();
        this.#used = [];
        return;
      case 'properties':
        checkProperties(this.#probe(), check.list, check.zeroPad);
        return;
      default:
        this.#reply(check.check);
    }
  }

  #request(chain: ChainSpec, status: readonly string[]): void {
    const reply = this.#rig.send([chain])[0]!;
    this.#checked.push(reply);
    if (status.some((name) => reply.results.includes(name))) return;
    throw unexpected(chain.name, `${reply.seen}${this.#rig.refusal}`, status);
  }

  #config(check: Extract<Check, { check: 'config' | 'config_nonzero' }>): void {
    const value = this.#rig.readConfig(check);
    const what = `config bytes ${check.offset} to ${check.offset + check.size - 1}`;
    if (check.check === 'config') expectOneOf(what, hex(value), check.value.map(hex));
    else if (value === 0n) fail(`${what} are 0`);
  }

  #reply(
    check: 'properties_well_formed' | 'property_reserved_zero' | 'no_property_written' | 'tail_reserved_zero',
  ): void {
    if (check === 'tail_reserved_zero') {
      checkTail(this.#subject(() => true));
      return;
    }
    const reply = this.#probe();
    const bytes = propertyBytes(reply);
    if (check === 'no_property_written') {
      const at = bytes.findIndex((byte) => byte !== 0 && byte !== reply.prefill);
      if (at >= 0) fail(`byte ${at} of the properties is ${hex(bytes[at]!)}`);
      return;
    }
    const { list, problem } = wellFormed(reply);
    if (problem !== '') fail(problem);
    const bad = check === 'property_reserved_zero' ? list.find((property) => property.reservedSet) : undefined;
    if (bad !== undefined) fail(`reserved bits are set in the property ${propertyText(bad)}`);
  }

  #probe(): Reply {
    return this.#subject((reply) => reply.name === 'PROBE' || reply.name === 'raw');
  }

  /** The last reply to the request under test that fits, else the last request that a check sent. */
  #subject(fits: (reply: Reply) => boolean): Reply {
    const tested = this.#replies.findLast((reply) => reply.results[0] !== 'N/A' && fits(reply));
    return tested ?? this.#checked.findLast(fits) ?? fail('there is no reply to look at');
  }

  #event(check: EventSpec): void {
    this.#collect();
    // A buffer that went back unused carries no event.
    let event = this.#used.shift();
    while (event !== undefined && isUnused(event)) event = this.#used.shift();
    if (!check.present.includes(event !== undefined)) fail(event === undefined ? 'no event came' : 'an event came');
    if (event !== undefined) checkEvent(event, check);
  }

  #collect(): void {
    const used = this.#rig.takeEvents();
    this.#usedCount += used.length;
    this.#used.push(...used);
  }
}

/** A result that is not among those expected. */
export function unexpected(what: string, seen: string, expected: readonly string[]): CaseFailure {
  return new CaseFailure(`${what} gave ${seen}, expected ${expected.join(' or ')}`);
}

function fail(why: string): never {
  throw new CaseFailure(why);
}

function expectOneOf(what: string, seen: string, expected: readonly string[]): void {
  if (!expected.includes(seen)) throw unexpected(what, seen, expected);
}

function checkFeatures(offered: bigint, mustInclude: readonly string[], notTogether: readonly string[]): void {
  const missing = mustInclude.filter((name) => (offered & featureMask([name])) === 0n);
  if (missing.length > 0) fail(`not offered: ${missing.join(', ')}`);
  const together = notTogether.filter((name) => (offered & featureMask([name])) !== 0n);
  if (together.length > 1) fail(`offered together: ${together.join(', ')}`);
}

function checkTail(reply: Reply): void {
  if (!hasTail(reply)) fail(`no tail was written (${reply.seen})`);
  const { writable, statusOffset } = reply;
  for (let at = statusOffset + Tail.reserved; at < statusOffset + Tail.SIZE; at++) {
    if (writable[at] !== 0) fail(`byte ${at - statusOffset} of the tail is ${hex(writable[at]!)}`);
  }
}

function wellFormed(reply: Reply): ReturnType<typeof findProperties> {
  if (!hasTail(reply)) fail(`no properties were written (${reply.seen})`);
  return findProperties(propertyBytes(reply));
}

function checkProperties(reply: Reply, wanted: readonly PropertySpec[], zeroPad: boolean): void {
  const { list, end, problem } = wellFormed(reply);
  if (problem !== '') fail(problem);
  const found = list.map(propertyText).sort();
  const expected = wanted.map(propertyText).sort();
  if (found.join() !== expected.join()) {
    fail(`the properties are ${found.join(', ') || 'none'}; expected ${expected.join(', ') || 'none'}`);
  }
  const bytes = propertyBytes(reply);
  const at = zeroPad ? bytes.findIndex((byte, i) => i >= end && byte !== 0) : -1;
  if (at >= 0) fail(`byte ${at} behind the properties is ${hex(bytes[at]!)}`);
}

function isUnused({ usedLength, writable }: CompletedChain): boolean {
  return usedLength === 0 && writable.every((byte) => byte === DEFAULT_PREFILL);
}

function checkEvent({ usedLength, writable }: CompletedChain, check: EventSpec): void {
  const record = new Uint8Array(Fault.SIZE);
  record.set(writable.subarray(0, Math.min(usedLength, Fault.SIZE)));
  const view = new DataView(record.buffer);
  const wrong: string[] = [];
  const compare = (what: string, seen: string, expected: readonly string[] | undefined): void => {
    if (expected?.includes(seen) === false) wrong.push(`${what} ${seen} instead of ${expected.join(' or ')}`);
  };
  const flags = view.getUint32(Fault.flags, true);
  compare('reason', String(view.getUint8(Fault.reason)), check.reason?.map(String));
  compare('endpoint', String(view.getUint32(Fault.endpoint, true)), optional(check.endpoint, String));
  compare('flags', hex(flags), check.flags?.map(hex));
  if ((flags & VIRTIO_IOMMU_FAULT_F_ADDRESS) !== 0) {
    compare('address', hex(view.getBigUint64(Fault.address, true)), optional(check.address, hex));
  }
  compare('used length', String(usedLength), optional(check.usedLength, String));
  if (wrong.length > 0) fail(`the event has ${wrong.join(', ')}`);
}

function optional<T>(value: T | undefined, text: (value: T) => string): string[] | undefined {
  return value === undefined ? undefined : [text(value)];
}
