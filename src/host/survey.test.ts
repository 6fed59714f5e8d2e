// The survey of a host as a library: wrong arguments. What it finds is tested through the command (test/cli-host.test.ts).
import { afterAll, describe, expect, it } from 'vitest';
import { FakeMachine, MSI } from '../../test/cli-host-tree.ts';
import { interruptRemapping } from './survey-iommu.ts';
import { judgeDevice } from './survey-judge.ts';
import { surveyHost } from './survey.ts';

const machine = new FakeMachine().pc().vfio().pci('0000:01:00.0', { group: 13 }).group(13, MSI);
afterAll(() => {
  machine.remove();
});

describe('a survey', () => {
  it('refuses wrong arguments', () => {
    const survey = surveyHost(machine.roots);
    expect(() => surveyHost({ sysfs: '/sys' } as never)).toThrow(/roots.sysfs is not an option/);
    expect(() => surveyHost({ sys: 1 } as never)).toThrow(/roots.sys must be a string/);
    expect(() => judgeDevice(survey, '../../etc')).toThrow(RangeError);
    expect(() => judgeDevice(survey, 1 as never)).toThrow(TypeError);
    expect(() => judgeDevice(survey, '0000:01:00.0', { ram: 0 })).toThrow(/options.ram/);
    expect(() => judgeDevice(survey, '0000:01:00.0', { ram: 1.5 })).toThrow(/options.ram/);
    expect(() => judgeDevice(survey, '0000:01:00.0', { backend: 'auto' } as never)).toThrow(/options.backend/);
    expect(() => judgeDevice(survey, '0000:01:00.0', { memory: 1 } as never)).toThrow(/memory is not an option/);
    expect(judgeDevice(survey, '0000:01:00.0', { ram: 2 ** 30, backend: 'type1' }).name).toBe('0000:01:00.0');
  });
});

describe('interrupt remapping', () => {
  it.each([
    ['on', ' 24:  0  IR-PCI-MSI-0000:00:1f.2  0-edge ahci', ''],
    ['on', '  0:  328  IR-IO-APIC   2-edge      timer', ''],
    ['on', ' 33:  0  ITS-MSI 524288 Edge nvme', ''],
    ['on', ' 33:  0  ITS-pMSI 0 Edge smmu', ''],
    ['on', ' 24:  0  PCI-MSI 0-edge', '[ 0.1] AMD-Vi: Interrupt remapping enabled'],
    ['off', ' 24:  0  PCI-MSI 524288-edge ahci', ''],
    ['off', ' 24:  0  PCI-MSIX-0000:00:01.0 0-edge virtio0', ''],
    ['off', '  0:  328  IO-APIC   2-edge      timer', ''],
    ['unknown', ' 24:  0  GICv2m-PCI-MSI 0 Edge', ''],
    ['unknown', '', 'nothing of the kind'],
  ])('is %s with %j and log %j', (state, interrupts, log) => {
    expect(interruptRemapping(interrupts, log)).toBe(state);
  });
});
