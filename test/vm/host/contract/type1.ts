// The contract cases of type1 on the real VFIO container: the list that the simulated one passes, unchanged.
import type { BufferName, Type1Bench } from '../../../../src/host/simulated/type1-cases.ts';
import { TYPE1_CASES, runType1Case } from '../../../../src/host/simulated/type1-cases.ts';
import type { MappedRegisters } from '../../../../src/host/vfio-device.ts';
import { type1Buffers } from '../../../native/real-memory.ts';
import type { Reporter } from '../../base/reporter.ts';
import type { GuestEnv } from '../guest-env.ts';
import { EduRegisters } from './edu-registers.ts';
import type { Lab } from './lab.ts';
import { kernelVersion, lockedPages, openLab } from './lab.ts';

/** Bytes of BAR 0 that stand for device registers. */
const DEVICE_BYTES = 0x1_0000n;

/** Cases of what lies beyond the 48 bits of VT-d; other IOMMUs have more addresses. */
export const APERTURE = /beyond the aperture|the last page of 2\^64/;

export async function run(report: Reporter, env: GuestEnv): Promise<void> {
  const { addresses, close } = type1Buffers(0n);
  for (const testCase of TYPE1_CASES) {
    if (env.iommu !== 'VT-d' && APERTURE.test(testCase.title)) continue;
    const { title, limit, memlock } = testCase;
    const lab = await openLab(env, { limit, memlock, windowPieces: 0 });
    const registers = deviceRegisters(lab);
    const bench = benchOf(env, lab, { ...addresses, device: registers.hva });
    const wrong = lab.run(() => runType1Case(testCase, bench));
    report.result({ name: title, ok: wrong.length === 0, detail: wrong.join('; ') });
    registers.close();
    lab.close();
  }
  close();
}

/** The kernel pins registers only while the device answers to memory accesses. */
function deviceRegisters({ device }: Lab): MappedRegisters {
  if (!new EduRegisters(device).isAlive()) throw new Error(`${device.name} does not answer`);
  return device.mapRegion(0, 0n, DEVICE_BYTES);
}

function benchOf(env: GuestEnv, { context }: Lab, addresses: Readonly<Record<BufferName, bigint>>): Type1Bench {
  return {
    kernel: kernelVersion(env),
    mapDma: (args) => context.mapDma(args),
    unmapDma: (args) => context.unmapDma(args),
    entriesLeft: () => context.entriesLeft(),
    address: (buffer) => addresses[buffer],
    snapshot: () => `${context.entriesLeft()} entries left, ${lockedPages()} pages locked`,
  };
}
