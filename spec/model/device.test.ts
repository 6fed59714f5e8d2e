// What the vectors do not show of the reference model: caps, bytes of fault records, resets, configuration of missing features.
import { describe, expect, it } from 'vitest';
import { ModelDevice } from './device.ts';
import { encodeRequest } from './encode.ts';
import type { RequestOp } from '../vector-format.ts';
import type { FeatureName, ModelOptions } from './state.ts';

const FEATURES: readonly FeatureName[] = [
  ...(['VERSION_1', 'INPUT_RANGE', 'DOMAIN_RANGE', 'MAP_UNMAP', 'PROBE', 'MMIO', 'BYPASS_CONFIG'] as const),
];

function device(options: Partial<ModelOptions> = {}): ModelDevice {
  const model = new ModelDevice({
    pageSizeMask: 0x1000n,
    inputRange: { start: 0n, end: 0xffff_ffffn },
    domainRange: { start: 0, end: 99 },
    probeSize: 48,
    bypass: false,
    offered: FEATURES,
    endpoints: [1, 2, 3].map((id) => ({ id, regions: [] })),
    ...options,
  });
  model.negotiate(model.offered);
  return model;
}

type Fields = Omit<RequestOp, 'op' | 'type'>;

function send(model: ModelDevice, type: RequestOp['type'], fields: Fields): string {
  const { readable, writableLength } = encodeRequest({ op: 'req', type, ...fields }, model.state.options.probeSize);
  return model.request(readable, writableLength).status;
}

const attach = (model: ModelDevice, domain: number, endpoint: number) => send(model, 'ATTACH', { domain, endpoint });

describe('reference model', () => {
  it('refuses a domain above the cap, but not a lonely endpoint that moves', () => {
    const model = device({ maxDomains: 2 });
    expect(attach(model, 1, 1)).toBe('OK');
    expect(attach(model, 2, 2)).toBe('OK');
    expect(attach(model, 3, 3)).toBe('NOMEM');
    expect(attach(model, 3, 2)).toBe('OK');
    expect(attach(model, 1, 3)).toBe('OK');
    expect(attach(model, 4, 3)).toBe('NOMEM');
    expect(model.access(3, 0n, 'R').fault?.reason).toBe('MAPPING');
  });

  it('writes fault records byte by byte', () => {
    const model = device();
    const { fault } = model.access(2, 0xfedc_ba98_7654_3210n, 'W');
    expect(Buffer.from(fault!.bytes).toString('hex')).toBe('0100000002010000020000000000000010325476' + '98badcfe');
    expect(fault).toMatchObject({ reason: 'DOMAIN', flags: 0x102, endpoint: 2, address: 0xfedc_ba98_7654_3210n });
  });

  it('gives no record for an endpoint that does not exist', () => {
    expect(device({ bypass: true }).access(9, 0n, 'R')).toEqual({ result: 'FAULT', fault: undefined });
  });

  it('refuses features that were not offered', () => {
    const model = device();
    expect(model.negotiate(['BYPASS'])).toBe(false);
    expect(model.negotiate(['MAP_UNMAP'])).toBe(true);
  });

  it('shows the widest ranges where features are missing', () => {
    const model = device({ offered: ['MAP_UNMAP'], bypass: true });
    expect(Buffer.from(model.config()).toString('hex')).toBe(
      '0010000000000000' + '0000000000000000' + 'ffffffffffffffff' + '00000000ffffffff' + '00000000' + '00000000',
    );
    expect(model.access(1, 0x5000n, 'R').result).toBe('FAULT');
    expect(model.readConfig(36, 8)).toBe(0n);
    expect(model.readConfig(100, 4)).toBe(0n);
  });

  it('keeps bypass over a device reset and restores it at a system reset', () => {
    const model = device();
    model.writeConfig(36, 1, 1n);
    model.deviceReset();
    expect(model.access(1, 0x5000n, 'R').result).toBe(0x5000n);
    model.writeConfig(36, 1, 0n); // not negotiated any more
    expect(model.readConfig(36, 1)).toBe(1n);
    model.systemReset();
    expect(model.readConfig(36, 1)).toBe(0n);
  });

  it('takes the bypass byte out of a wider write', () => {
    const model = device();
    model.writeConfig(32, 8, 0xffff_ff01_0000_0000n);
    expect(model.readConfig(36, 4)).toBe(1n);
    expect(model.readConfig(32, 4)).toBe(48n);
  });

  it('blocks bypass outside the input range below a 4 KiB granule', () => {
    const model = device({ pageSizeMask: 1n, bypass: true });
    expect(model.access(1, 0xffff_ffffn, 'R').result).toBe(0xffff_ffffn);
    expect(model.access(1, 0x1_0000_0000n, 'R').fault?.reason).toBe('MAPPING');
    expect(device({ bypass: true }).access(1, 0x1_0000_0000n, 'R').result).toBe(0x1_0000_0000n);
  });

  it('leaves the middle of a long writable part alone', () => {
    const model = device();
    const { readable } = encodeRequest({ op: 'req', type: 'ATTACH', domain: 1, endpoint: 9 }, 48);
    const reply = model.request(readable, 12, 0xa5);
    expect(Buffer.from(reply.writable).toString('hex')).toBe('00000000a5a5a5a506000000');
    expect(reply.usedLength).toBe(4);
    expect(Buffer.from(model.request(readable, 6, 0xa5).writable).toString('hex')).toBe('000006000000');
  });

  it('answers PROBE up to 65,536 bytes more than needed', () => {
    const model = device();
    expect(send(model, 'PROBE', { endpoint: 1, probe_size: 48 + 65_536 })).toBe('OK');
    expect(send(model, 'PROBE', { endpoint: 1, probe_size: 48 + 65_537 })).toBe('NOT_WRITTEN');
  });
});
