import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { afterEach, describe, expect, it } from 'vitest';
import { DIAGNOSTICS_CHANNELS, bridgeToDiagnostics } from './diagnostics.ts';
import { IommuCore } from './iommu/core.ts';
import { GuestMemory } from './virtio/memory.ts';

const FAULT = DIAGNOSTICS_CHANNELS.fault;
const seen: { readonly message: unknown; readonly name: string | symbol }[] = [];
const listener = (message: unknown, name: string | symbol): void => {
  seen.push({ message, name });
};

function coreWithEndpoint(): IommuCore {
  const core = new IommuCore(new GuestMemory(), { bypass: false });
  core.addEndpoint({ id: 8 });
  return core;
}

afterEach(() => {
  for (const name of Object.values(DIAGNOSTICS_CHANNELS)) unsubscribe(name, listener);
  seen.length = 0;
});

describe('bridgeToDiagnostics', () => {
  it('publishes an event on the channel of its type, as it is', () => {
    const core = coreWithEndpoint();
    for (const name of Object.values(DIAGNOSTICS_CHANNELS)) subscribe(name, listener);
    bridgeToDiagnostics(core);
    core.translate(8, 0x1234n, 1, 'read');
    expect(seen).toEqual([
      {
        name: 'virtio-iommu:fault',
        message: {
          type: 'fault',
          endpoint: 8,
          reason: 'domain',
          access: 'read',
          iova: 0x1234n,
          report: 'not running',
        },
      },
    ]);
  });

  it('publishes nothing for other types, and nothing after it is ended', () => {
    const core = coreWithEndpoint();
    subscribe(DIAGNOSTICS_CHANNELS['host-refusal'], listener);
    const end = bridgeToDiagnostics(core);
    core.translate(8, 0n, 1, 'read');
    expect(seen).toEqual([]);
    subscribe(FAULT, listener);
    core.translate(8, 0n, 1, 'read');
    expect(seen).toHaveLength(1);
    end();
    core.translate(8, 0n, 1, 'read');
    expect(seen).toHaveLength(1);
  });

  it('serves several devices, each until it is ended', () => {
    const [first, second] = [coreWithEndpoint(), coreWithEndpoint()];
    subscribe(FAULT, listener);
    const end = bridgeToDiagnostics(first);
    bridgeToDiagnostics(second);
    end();
    first.translate(8, 0n, 1, 'read');
    second.translate(8, 0n, 1, 'read');
    expect(seen).toHaveLength(1);
  });

  it('refuses what has no events', () => {
    expect(() => bridgeToDiagnostics({} as never)).toThrow(new TypeError('core must be an IommuCore'));
    expect(() => bridgeToDiagnostics(undefined as never)).toThrow(TypeError);
  });
});
