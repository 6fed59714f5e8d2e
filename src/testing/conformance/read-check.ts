// Reads the follow-up checks of a vector file. Not here: carrying them out (checks.ts).
import type { OperationContext } from './read-operation.ts';
import { ACCESS_KEYS, configValue, readAccess, readPlace } from './read-operation.ts';
import { FEATURE_NAMES, RESULT_NAMES } from './names.ts';
import type { Read } from './read.ts';
import { Fields, count, describe, flag, list, oneOf, refuse, tagOf, u32, u64 } from './read.ts';
import { readRequest } from './read-request.ts';
import type { Check, CheckAction, PropertySpec } from './vector-types.ts';

const CHECKS = [
  ...(['access', 'req', 'config', 'config_nonzero', 'features', 'properties', 'event', 'event_buffers_used'] as const),
  ...(['properties_well_formed', 'property_reserved_zero', 'no_property_written', 'tail_reserved_zero'] as const),
  ...(['readable_unmodified', 'reinit'] as const),
];
type CheckName = (typeof CHECKS)[number];

const KEYS: Readonly<Partial<Record<CheckName, readonly string[]>>> = {
  access: [...ACCESS_KEYS, 'result'],
  req: ['request', 'status'],
  config: ['offset', 'size', 'value'],
  config_nonzero: ['offset', 'size'],
  features: ['must_include', 'not_together'],
  properties: ['list', 'zero_pad'],
  event: ['present', 'reason', 'endpoint', 'flags_any_of', 'address', 'used_len'],
  event_buffers_used: ['max'],
};

/** A list of results, one at least. */
export const results: Read<string[]> = list(oneOf(RESULT_NAMES), 1);
/** A list of feature names. */
export const features: Read<string[]> = list(oneOf(FEATURE_NAMES));

/** Reads one check. */
export function readCheck(context: OperationContext): Read<Check> {
  return (value, key) => {
    const name = tagOf(value, key, 'check', CHECKS);
    const fields = new Fields(value, key, ['check', 'when', ...(KEYS[name] ?? [])]);
    return { ...readAction(name, fields, context), when: fields.optional('when', results) };
  };
}

function readAction(check: CheckName, fields: Fields, context: OperationContext): CheckAction {
  switch (check) {
    case 'access':
      return { check, ...readAccess(fields), result: fields.required('result', list(accessResult, 1)) };
    case 'req':
      return {
        check,
        chain: fields.required('request', readRequest(context.probeSize)),
        status: fields.required('status', results),
      };
    case 'config': {
      const place = readPlace(fields);
      return { check, ...place, value: fields.required('value', list(configValue(place.size), 1)) };
    }
    case 'config_nonzero':
      return { check, ...readPlace(fields) };
    case 'features':
      return {
        check,
        mustInclude: fields.optional('must_include', features) ?? [],
        notTogether: fields.optional('not_together', features) ?? [],
      };
    case 'properties':
      return {
        check,
        list: fields.required('list', list(property)),
        zeroPad: fields.optional('zero_pad', flag) ?? false,
      };
    case 'event':
      return {
        check,
        present: fields.required('present', list(flag, 1)),
        reason: fields.optional('reason', list(count(0, 0xff), 1)),
        endpoint: fields.optional('endpoint', u32),
        flags: fields.optional('flags_any_of', list(u32, 1)),
        address: fields.optional('address', u64),
        usedLength: fields.optional('used_len', u32),
      };
    case 'event_buffers_used':
      return { check, max: fields.required('max', u32) };
    default:
      return { check };
  }
}

/** A hex address in its shortest lower-case form, FAULT or MSI. */
const accessResult: Read<string> = (value, key) => {
  if (value === 'FAULT' || value === 'MSI') return value;
  if (typeof value !== 'string') return refuse(key, `${describe(value)} is not a hex address, FAULT or MSI`);
  return `0x${u64(value, key).toString(16)}`;
};

const property: Read<PropertySpec> = (value, key) => {
  const fields = new Fields(value, key, ['type', 'length', 'subtype', 'start', 'end']);
  return {
    type: fields.required('type', count(0, 0xfff)),
    length: fields.required('length', count(0, 0xffff)),
    subtype: fields.required('subtype', count(0, 0xff)),
    start: fields.required('start', u64),
    end: fields.required('end', u64),
  };
};
