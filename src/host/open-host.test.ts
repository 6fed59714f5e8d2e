// Which backend openHostContext takes, what it opens, and what it says when none works.
import { afterAll, describe, expect, it } from 'vitest';
import { FakeMachine, MSI } from '../../test/cli-host-tree.ts';
import type { HostErrorCode } from '../base/errors.ts';
import { HostError, isHostError } from '../base/errors.ts';
import type { BackendChoice, BackendTarget, OpenHostOptions } from './open-host-rules.ts';
import { openWith } from './open-host-rules.ts';
import { openHostContext } from './open-host.ts';

const machine = new FakeMachine();
const sysfs = machine.path('sys');
machine
  .pci('0000:00:01.0', { classCode: '0x060400', group: 7, headerType: 1, driver: 'pcieport' })
  .pci('0000:01:00.0', { group: 7, driver: 'vfio-pci' })
  .pci('0000:01:00.1', { group: 7 })
  .pci('0000:01:00.2', { group: 7, driver: 'mlx5_vfio_pci' })
  .pci('0000:02:00.0', {})
  .group(7, MSI)
  .folder('dev');
afterAll(() => {
  machine.remove();
});

interface Opened {
  readonly by: string;
  readonly target: BackendTarget;
  closed: boolean;
  close(): void;
}

/** Opens with stand-ins; a backend with an error code refuses. */
function open(
  options: OpenHostOptions,
  { type1, iommufd, lack }: { type1?: HostErrorCode; iommufd?: HostErrorCode | 'bug'; lack?: string } = {},
): { readonly context: Opened; readonly choices: BackendChoice[]; readonly tried: readonly string[] } {
  const tried: string[] = [];
  const choices: BackendChoice[] = [];
  const backend =
    (by: string, code: string | undefined) =>
    (target: BackendTarget): Opened => {
      tried.push(by);
      if (code === 'bug') throw new TypeError('bug');
      if (code !== undefined) throw new HostError(code as HostErrorCode, `${by} refuses`, { errno: 22, syscall: 'x' });
      return { by, target, closed: false, close: () => undefined };
    };
  const context = openWith(
    { sysfs, onChoice: (choice) => choices.push(choice), ...options },
    { type1: backend('type1', type1), iommufd: backend('iommufd', iommufd), iommufdLack: () => lack },
  );
  return { context, choices, tried };
}

const group = { group: 7 };

describe('the backend', () => {
  it('is iommufd where the kernel has it', () => {
    const { context, choices, tried } = open(group);
    expect([context.by, tried, choices.length]).toEqual(['iommufd', ['iommufd'], 1]);
    expect(choices[0]).toMatchObject({ backend: 'iommufd', reason: expect.stringContaining('no limit') as string });
  });

  it('is type1 where it has not, with the reason', () => {
    const { context, choices, tried } = open(group, { lack: 'there is no /dev/iommu' });
    expect([context.by, tried]).toEqual(['type1', ['type1']]);
    expect(choices).toEqual([{ backend: 'type1', reason: 'there is no /dev/iommu' }]);
  });

  it.each(['ERR_VIOMMU_HOST_UNAVAILABLE', 'ERR_VIOMMU_HOST_INCOMPATIBLE'] as const)('is type1 after %s', (code) => {
    const { context, choices, tried } = open(group, { iommufd: code });
    expect([context.by, tried]).toEqual(['type1', ['iommufd', 'type1']]);
    expect(choices).toEqual([{ backend: 'type1', reason: 'iommufd cannot be used: iommufd refuses' }]);
  });

  it.each(['ERR_VIOMMU_HOST_REFUSED', 'ERR_VIOMMU_HOST_CLOSED', 'bug'] as const)(
    'is not tried again after %s',
    (code) => {
      expect(() => open(group, { iommufd: code })).toThrow(code === 'bug' ? /^bug$/ : /^iommufd refuses$/);
    },
  );

  it('is the one that is asked for, or an error', () => {
    for (const backend of ['type1', 'iommufd'] as const) {
      const { context, choices, tried } = open({ ...group, backend }, { lack: 'nobody asks' });
      expect([context.by, tried]).toEqual([backend, [backend]]);
      expect(choices).toEqual([{ backend, reason: 'asked for by the caller' }]);
      expect(() => open({ ...group, backend }, { [backend]: 'ERR_VIOMMU_HOST_UNAVAILABLE' })).toThrow(
        `${backend} refuses`,
      );
    }
  });

  it('that fails last tells of both', () => {
    const code = 'ERR_VIOMMU_HOST_UNAVAILABLE';
    try {
      open(group, { iommufd: 'ERR_VIOMMU_HOST_INCOMPATIBLE', type1: code });
      expect.unreachable();
    } catch (error) {
      expect(isHostError(error)).toBe(true);
      expect(error).toMatchObject({
        code,
        errno: 22,
        syscall: 'x',
        message: 'type1 refuses (and with iommufd: iommufd refuses)',
      });
    }
  });

  it('is closed again when the listener throws', () => {
    let closed = 0;
    const made = {
      close: () => {
        closed++;
      },
    };
    const backends = { type1: () => made, iommufd: () => made, iommufdLack: () => undefined };
    const onChoice = (): never => {
      throw new Error('listener');
    };
    expect(() => openWith({ ...group, onChoice }, backends)).toThrow('listener');
    expect(closed).toBe(1);
  });
});

describe('what is opened', () => {
  it('is the whole group of a device: every function that a VFIO driver has', () => {
    const { target } = open({ device: '0000:01:00.0' }).context;
    expect(target).toEqual({ group: 7, devices: ['0000:01:00.0', '0000:01:00.2'], sysfs });
  });

  it('is the device itself also where no driver has it, so that the error says to bind it', () => {
    const { target } = open({ device: '0000:01:00.1' }).context;
    expect(target.devices).toEqual(['0000:01:00.0', '0000:01:00.1', '0000:01:00.2']);
  });

  it('is what the caller names, else what the backend finds', () => {
    expect(open(group).context.target).toEqual({ group: 7, sysfs });
    const devices = ['0000:01:00.0'];
    expect(open({ device: '0000:01:00.0', devices }).context.target).toEqual({ group: 7, devices, sysfs });
    expect(open({ ...group, devices }).context.target).toEqual({ group: 7, devices, sysfs });
  });

  it('is nothing without a device or an IOMMU', () => {
    expect(() => open({ device: '0000:09:00.0' })).toThrow(/no PCI function/);
    expect(() => open({ device: '0000:02:00.0' })).toThrow(/no IOMMU translates/);
  });
});

describe('wrong options', () => {
  it.each([
    [{}, /exactly one/],
    [{ device: '0000:01:00.0', group: 7 }, /exactly one/],
    [{ device: '01:00.0' }, /options\.device/],
    [{ group: -1 }, /options\.group/],
    [{ group: 1.5 }, /options\.group/],
    [{ group: 7, backend: 'vfio' }, /options\.backend/],
    [{ group: 7, mode: 'small' }, /options\.mode/],
    [{ group: 7, accounting: 'thread' }, /options\.accounting/],
    [{ group: 7, share: 'no' }, /options\.share/],
    [{ group: 7, windowPieces: -1 }, /options\.windowPieces/],
    [{ group: 7, devices: '0000:01:00.0' }, /options\.devices must be an array/],
    [{ group: 7, devices: ['x'] }, /options\.devices\[0\]/],
    [{ device: '0000:01:00.0', devices: [] }, /must hold options\.device/],
    [{ group: 7, sysfs: 1 }, /options\.sysfs/],
    [{ group: 7, dev: 1 }, /options\.dev/],
    [{ group: 7, onChoice: 1 }, /options\.onChoice/],
    [{ group: 7, backened: 'auto' }, /backened is not an option/],
  ])('%j are refused before anything is opened', (options, message) => {
    const never = (): never => expect.unreachable();
    const backends = { type1: never, iommufd: never, iommufdLack: never };
    expect(() => openWith(options as OpenHostOptions, backends)).toThrow(message);
  });
});

describe('openHostContext on a machine without VFIO', () => {
  it('says what is missing', () => {
    // Without the addon the error names the command to build it.
    expect(() => openHostContext({ device: '0000:01:00.0', sysfs, dev: machine.path('dev') })).toThrow(
      /vfio.* is missing|native addon/,
    );
    expect(() => openHostContext({ group: 7, backend: 'iommufd', sysfs, dev: machine.path('dev') })).toThrow(
      /iommu is missing|native addon/,
    );
  });
});
