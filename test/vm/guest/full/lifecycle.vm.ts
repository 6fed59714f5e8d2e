// What happens around a guest: its QEMU is killed and another one comes, serve is started twice, serve is killed and
// started again, an endpoint goes and comes back.
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Boot } from '../../base/machine.ts';
import type { ServeReport } from '../../../../src/cli/serve-report.ts';
import { Backend } from '../backend.ts';
import { Facts, counts, troubles } from '../facts.ts';
import type { GuestRun } from '../machine.ts';
import { RNG, bootGuest, functionAt, runGuest } from '../machine.ts';
import { MESSAGES, SURVEY, readRandom, script } from '../scripts.ts';

const BYTES = 192;
const CONFIG = { endpoints: [{ device: 'rng', addr: '3.0', entropy: 'counter' }] } as const;
const WHOLE = script(SURVEY, readRandom(BYTES, 60), MESSAGES);
/** A guest that goes on using the generator until it is stopped. */
const ENDLESS = script(readRandom(BYTES, 60), 'fact running 1', 'timeout 120 cat /dev/hwrng >/dev/null');

describe('QEMU is killed in the middle of its work', () => {
  let backend: Backend;
  let running: ServeReport;
  let after: ServeReport;
  let second: Boot;
  let refusal: unknown;
  let logThen: string;

  beforeAll(async () => {
    backend = await Backend.start(CONFIG);
    await killedGuest(backend, async () => {
      refusal = await Backend.start(CONFIG, backend.folder).catch((error: unknown) => error);
      running = await backend.stats();
      logThen = backend.log;
    });
    after = await settled(backend);
    second = await bootGuest(backend, { script: WHOLE });
  });
  afterAll(() => backend.kill());

  it('a second serve on the same sockets is refused, and the first goes on', () => {
    expect(String(refusal)).toContain('serve ended with 1');
    expect(String(refusal)).toMatch(/listens|in use/);
    for (const { server } of running.functions) expect(server).toMatchObject({ connected: true });
    expect(logThen).not.toContain('the client has left');
  });

  it('serve has let go of everything that the guest had', () => {
    expect(running.iommu.mappings).toBeGreaterThan(0);
    expect(after.iommu).toMatchObject({ mappings: 0, domains: 0 });
    for (const { server } of after.functions)
      expect(server).toMatchObject({ connected: false, mappedBytes: 0, regions: 0 });
  });

  it('the next guest works on the same sockets', async () => {
    const facts = new Facts(second.lines);
    expect(facts.random).toHaveLength(BYTES);
    expect(counts(facts.random)).toBe(true);
    expect(troubles(facts.messages)).toEqual([]);
    const last = await backend.stats();
    for (const { server } of last.functions) expect(server).toMatchObject({ badMessages: 0 });
    // The second serve looked whether somebody listens on the first of its sockets, so only the others count.
    expect(functionAt(last, '3.0').server.connections).toBe(2);
    expect(functionAt(last, '3.0').dma!.identical).toBe(0);
  });
});

describe('serve is killed under a running guest', () => {
  let first: Backend;
  let again: Backend;
  let between: ServeReport;
  let second: Boot;

  beforeAll(async () => {
    first = await Backend.start(CONFIG);
    await killedGuest(first, async () => {
      await first.kill();
      again = await Backend.start(CONFIG, first.folder);
      await new Promise((done) => setTimeout(done, 5000));
      between = await again.stats();
    });
    second = await bootGuest(again, { script: WHOLE });
  });
  afterAll(() => again.kill());

  it('a new serve takes the sockets that were left, and the old guest does not get to it', () => {
    for (const { server } of between.functions)
      expect(server).toMatchObject({ connected: false, connections: 0, messages: 0 });
    expect(between.iommu.requests).toMatchObject({ map: 0, unmap: 0, attach: 0 });
  });

  it('a new guest works', () => {
    const facts = new Facts(second.lines);
    expect(facts.group(RNG).type).toBe('DMA-FQ');
    expect(facts.random).toHaveLength(BYTES);
    expect(counts(facts.random)).toBe(true);
  });
});

describe('the endpoint is removed and found again', () => {
  let run: GuestRun;
  const looks: Promise<ServeReport>[] = [];

  beforeAll(async () => {
    const look = (name: string): string => `fact look ${name}; sleep 1`;
    run = await runGuest({
      config: CONFIG,
      script: script(
        SURVEY,
        readRandom(BYTES, 60),
        look('there'),
        `echo 1 > /sys/bus/pci/devices/${RNG}/remove`,
        `waited 20 [ ! -e /sys/bus/pci/devices/${RNG} ]`,
        look('gone'),
        'echo 1 > /sys/bus/pci/rescan',
        `waited 20 [ -e /sys/bus/pci/devices/${RNG}/iommu_group ]`,
        readRandom(BYTES, 60),
        look('back'),
        MESSAGES,
      ),
      onLine: (line, backend) => {
        if (line.includes('"look"')) looks.push(backend.stats());
      },
    });
  });

  it('its domain and its mappings go with it', async () => {
    const [there, gone, back] = await Promise.all(looks);
    expect(functionAt(there!, '3.0').translation!.mappings).toBeGreaterThan(0);
    expect(gone!.iommu).toMatchObject({ mappings: 0 });
    expect(functionAt(gone!, '3.0').translation).toMatchObject({ domain: null, mappings: 0 });
    expect(gone!.iommu.requests.detach).toBe(1);
    expect(functionAt(back!, '3.0').translation!.mappings).toBeGreaterThan(0);
  });

  it('works again', () => {
    expect(run.facts.all('random-status')).toEqual(['0', '0']);
    expect(run.facts.random).toHaveLength(2 * BYTES);
    expect(run.report.iommu.requests).toMatchObject({ probe: 2, attach: 2 });
    expect(functionAt(run.report, '3.0').dma!.identical).toBe(0);
    expect(troubles(run.facts.messages)).toEqual([]);
  });
});

/** Boots a guest that never ends, does something while it works, and kills its QEMU, if that has not gone by itself. */
async function killedGuest(backend: Backend, whileRunning: () => Promise<void>): Promise<void> {
  const pidFile = backend.path('qemu.pid');
  let done: Promise<void> | undefined;
  const ended = bootGuest(backend, {
    script: ENDLESS,
    args: ['-pidfile', pidFile],
    onLine: (line) => {
      if (!line.includes('"running"') || done !== undefined) return;
      done = whileRunning().finally(() => killIfThere(Number(readFileSync(pidFile, 'utf8'))));
      done.catch(() => undefined); // looked at below, when QEMU has ended
    },
  });
  // A signal ended it: ours, or the one with which it gives up when serve is gone.
  const error: unknown = await ended.catch((reason: unknown) => reason);
  console.log(String(error));
  await done;
  expect(String(error)).toContain('QEMU ended with status null');
}

function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** The state when serve has noticed that its client is gone. */
async function settled(backend: Backend): Promise<ServeReport> {
  for (let tries = 0; tries < 50; tries++) {
    const report = await backend.stats();
    if (report.functions.every(({ server }) => !server.connected)) return report;
    await new Promise((done) => setTimeout(done, 200));
  }
  throw new Error('serve still takes its client for connected');
}
