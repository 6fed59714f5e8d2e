// The controls of the translation test: with translation switched off the same guest gets nothing; with
// iommu.passthrough=1 it asks for a bypass domain and gets everything untranslated; a reboot leaves no mapping.
import { beforeAll, describe, expect, it } from 'vitest';
import { kernel } from '../../base/packages.ts';
import type { ServeReport } from '../../../../src/cli/serve-report.ts';
import { VIRTIO_IOMMU_ATTACH_F_BYPASS } from '../../../../src/wire/abi.ts';
import { readTrace } from '../backend.ts';
import { counts, troubles } from '../facts.ts';
import type { GuestRun } from '../machine.ts';
import { RNG, RNG_MODULES, functionAt, lateModules, runGuest } from '../machine.ts';
import { byTimesBooted, MESSAGES, SURVEY, readRandom, script } from '../scripts.ts';

const BYTES = 192;

describe('without translation', () => {
  let run: GuestRun;

  beforeAll(async () => {
    run = await runGuest({
      config: { endpoints: [{ device: 'rng', addr: '3.0', entropy: 'counter', translate: false }] },
      script: script(SURVEY, readRandom(BYTES, 15), MESSAGES),
    });
  });

  it('the guest maps as ever', () => {
    expect(run.facts.group(RNG).type).toBe('DMA-FQ');
    expect(run.report.iommu.requests).toMatchObject({ probe: 1, attach: 1 });
    expect(run.report.iommu.requests.map).toBeGreaterThanOrEqual(2);
  });

  it('but not one byte arrives', () => {
    expect(run.facts.one('random-status')).not.toBe('0');
    expect(run.facts.random).toHaveLength(0);
    expect(functionAt(run.report, '3.0').stats).toMatchObject({ requests: 0, bytes: 0 });
  });
});

describe('with iommu.passthrough=1', () => {
  let run: GuestRun;
  const looks: Promise<ServeReport>[] = [];

  beforeAll(async () => {
    run = await runGuest({
      config: { endpoints: [{ device: 'rng', addr: '3.0', entropy: 'counter' }], iommu: { bypass: false } },
      append: 'iommu.passthrough=1',
      script: script(SURVEY, readRandom(BYTES, 60), 'sleep 1', MESSAGES),
      onLine: (line, backend) => {
        if (line.includes('"random-status"')) looks.push(backend.stats());
      },
    });
  });

  it('the group is of type identity and the endpoint is in a bypass domain', async () => {
    expect(run.facts.group(RNG).type).toBe('identity');
    const { records } = await readTrace(run.backend);
    const attaches = records.flatMap((record) => (record.op === 'ATTACH' ? [[record.flags, record.status]] : []));
    expect(attaches).toEqual([[VIRTIO_IOMMU_ATTACH_F_BYPASS, 'OK']]);
    const [look] = await Promise.all(looks);
    // config.bypass is 0: what lets the endpoint pass is its domain.
    expect(look!.iommu.bypass).toBe(0);
    expect(functionAt(look!, '3.0').translation).toMatchObject({ bypass: true, mappings: 0 });
    expect(functionAt(look!, '3.0').translation!.domain).not.toBeNull();
  });

  it('nothing is mapped, and every address is the one that memory has', () => {
    expect(run.report.iommu.requests).toMatchObject({ map: 0, unmap: 0 });
    expect(run.facts.random).toHaveLength(BYTES);
    expect(counts(run.facts.random)).toBe(true);
    const { dma } = functionAt(run.report, '3.0');
    expect(dma!.accesses).toBeGreaterThan(10);
    expect(dma!.identical).toBe(dma!.accesses);
    expect(dma!.refused).toBe(0);
  });
});

describe('a reboot of the guest', () => {
  let run: GuestRun;
  const looks: Promise<ServeReport>[] = [];

  beforeAll(async () => {
    const late = await lateModules(await kernel('6.12'), RNG_MODULES);
    // No driver is there before the state of serve was read: what is mapped then is of the boot before.
    const boot = [late.insert, SURVEY, readRandom(BYTES, 60)];
    run = await runGuest({
      config: { endpoints: [{ device: 'rng', addr: '3.0', entropy: 'counter' }] },
      modules: [],
      files: late.files,
      script: script(
        'fact looked before',
        'sleep 1',
        ...boot,
        'fact looked after',
        'sleep 1',
        byTimesBooted('reboot -f; sleep 60', ''),
        MESSAGES,
      ),
      // The clock tells the guest how often it has booted; -no-reboot was said before.
      args: ['-rtc', 'base=2020-06-01T12:00:00', '-action', 'reboot=reset'],
      onLine: (line, backend) => {
        if (line.includes('"looked"')) looks.push(backend.stats());
      },
    });
  });

  it('brings the driver and the endpoint back', () => {
    expect(run.facts.all('booted')).toEqual(['1', '2']);
    expect(run.facts.all('random-status')).toEqual(['0', '0']);
    expect(run.facts.random).toHaveLength(2 * BYTES);
    expect(counts(run.facts.random.subarray(0, BYTES)) && counts(run.facts.random.subarray(BYTES))).toBe(true);
    expect(troubles(run.facts.messages)).toEqual([]);
  });

  it('leaves no mapping and no domain of the boot before', async () => {
    const [first, mapped, second, again] = await Promise.all(looks);
    expect(first!.iommu).toMatchObject({ mappings: 0, domains: 0 });
    expect(mapped!.iommu).toMatchObject({ domains: 1 });
    expect(mapped!.iommu.mappings).toBeGreaterThan(0);
    expect(second!.iommu).toMatchObject({ mappings: 0, domains: 0, bypass: 1 });
    expect(functionAt(second!, '3.0').translation).toMatchObject({ domain: null, mappings: 0 });
    expect(second!.iommu.counters['systemResets']).toBeGreaterThan(mapped!.iommu.counters['systemResets']!);
    expect(again!.iommu).toMatchObject({ domains: 1 });
    expect(looks).toHaveLength(4);
  });

  it('needs no new connection and no new MAP is refused', () => {
    const { statuses } = run.report.iommu;
    expect(Object.entries(statuses).filter(([name, count]) => name !== 'OK' && count > 0)).toEqual([]);
    for (const { server } of run.report.functions) expect(server).toMatchObject({ connections: 1, badMessages: 0 });
    expect(run.report.iommu).toMatchObject({ mappings: 0, domains: 0 });
  });
});
