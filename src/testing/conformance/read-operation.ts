// Reads the operations of a vector file. Not here: requests themselves (read-request.ts), what operations do (rig.ts).
import { Config } from '../../wire/abi.ts';
import type { Read } from './read.ts';
import { Fields, MAX_PART_BYTES, count, flag, layout, list, oneOf, refuse, tagOf, u32, u64, wide } from './read.ts';
import { readRepeat, readRequest, req } from './read-request.ts';
import type { AccessSpec, ConfigPlace, EventBuffersSpec, Operation } from './vector-types.ts';
import { MALFORMS } from './vector-types.ts';

/** What an operation has to know of its device. */
export interface OperationContext {
  readonly probeSize: number;
  readonly queueSize: number;
}

const OPERATIONS = [
  ...(['req', 'raw', 'batch', 'repeat', 'ring', 'access', 'event_buffers', 'config_read', 'config_write'] as const),
  ...(['features_read', 'device_reset', 'system_reset', 'nop'] as const),
];

/** Widest access to the configuration space, in bytes. */
const MAX_WIDTH = 8;

/** Reads one operation. */
export function readOperation(context: OperationContext): Read<Operation> {
  const request = readRequest(context.probeSize);
  return (value, key) => {
    const op = tagOf(value, key, 'op', OPERATIONS);
    switch (op) {
      case 'req':
      case 'raw':
        return { op: 'send', chains: [request(value, key)], batch: false };
      case 'batch': {
        const fields = new Fields(value, key, ['op', 'requests', 'order']);
        fields.optional('order', oneOf(['as_made_available']));
        return { op: 'send', chains: fields.required('requests', list(request, 1, context.queueSize)), batch: true };
      }
      case 'repeat':
        return { op, ...readRepeat(context.probeSize, value, key) };
      case 'ring': {
        const fields = new Fields(value, key, ['op', 'request', 'malform']);
        return {
          op,
          chain: fields.required('request', req(context.probeSize)),
          malform: fields.required('malform', oneOf(MALFORMS)),
        };
      }
      case 'access':
        return { op, ...readAccess(new Fields(value, key, ['op', ...ACCESS_KEYS])) };
      case 'event_buffers':
        return { op, ...readEventBuffers(value, key, context.queueSize) };
      case 'config_read': {
        const fields = new Fields(value, key, ['op', 'offset', 'size', 'value']);
        const place = readPlace(fields);
        return { op, ...place, value: fields.optional('value', configValue(place.size)) };
      }
      case 'config_write': {
        const fields = new Fields(value, key, ['op', 'offset', 'size', 'value']);
        const place = readPlace(fields);
        return { op, ...place, value: fields.required('value', configValue(place.size)) };
      }
      default:
        new Fields(value, key, ['op']);
        return { op };
    }
  };
}

/** Keys of an access. */
export const ACCESS_KEYS = ['endpoint', 'iova', 'dir'];

/** Reads what an endpoint does. */
export function readAccess(fields: Fields): AccessSpec {
  return {
    endpoint: fields.required('endpoint', u32),
    iova: fields.required('iova', u64),
    write: fields.required('dir', oneOf(['R', 'W'])) === 'W',
  };
}

/** Reads where in the configuration space; offsets beyond it are allowed. */
export function readPlace(fields: Fields): ConfigPlace {
  return {
    offset: fields.required('offset', count(0, 16 * Config.SIZE)),
    size: fields.required('size', count(1, MAX_WIDTH)),
  };
}

/** A value of `size` bytes. */
export function configValue(size: number): Read<bigint> {
  return wide((1n << BigInt(8 * size)) - 1n);
}

function readEventBuffers(value: unknown, key: string, queueSize: number): EventBuffersSpec {
  const fields = new Fields(value, key, ['op', 'sizes', 'layout', 'readable', 'notify']);
  const sizes = fields.required('sizes', list(count(0, MAX_PART_BYTES), 1, queueSize));
  const lengths = fields.optional('layout', layout);
  const total = lengths?.reduce((sum, each) => sum + each, 0);
  const wrong = total === undefined ? undefined : sizes.find((size) => size !== total);
  if (wrong !== undefined) refuse(`${key}.layout`, `the descriptors hold ${total} bytes, a buffer has ${wrong}`);
  return {
    sizes,
    layout: lengths,
    readable: fields.optional('readable', flag) ?? false,
    notify: fields.optional('notify', flag) ?? true,
  };
}
