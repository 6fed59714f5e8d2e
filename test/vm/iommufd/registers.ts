// Registers (a BAR) of one device as memory of another one. Linux 6.12 has no way to do that through iommufd; 7.2 can
// map a dma-buf of the registers. Runs in the machine, which has a second edu device.
import assert from 'node:assert/strict';
import { Errno } from '../../../src/base/errors.ts';
import { HOST_MMIO } from '../../../src/host/context.ts';
import { IommufdContext } from '../../../src/host/iommufd.ts';
import type { Reporter } from '../base/reporter.ts';
import { Edu } from '../host/edu.ts';
import type { GuestEnv } from '../host/guest-env.ts';
import { bindToVfio, groupOf } from '../host/guest-env.ts';
import { Lab, RW } from './lab.ts';
import { PEER } from './peer.ts';

const OUT = 0x100;
const BAR = 0x200;
const K4 = 4096n;
const COMMAND = 4;
const MEMORY_ENABLE = 2;

export async function run(report: Reporter, env: GuestEnv): Promise<void> {
  bindToVfio(PEER);
  const peer = IommufdContext.open({ group: groupOf(PEER) });
  const device = peer.devices[0]!;
  new Edu(device).start();
  const registers = device.mapRegion(0, 0n, 0x1_0000n);
  const va = Number(registers.hva / K4);
  await Lab.with(env, 16, {}, async (lab) => {
    const { mmio } = lab.context;
    report.note(`registers of devices ${mmio ? 'can' : 'cannot'} be mapped`);
    assert.equal(lab.map(OUT, 1, 0), 0);
    await report.check('by address they are refused', () => {
      assert.equal(lab.mapVa(BAR, 1, va), Errno.EFAULT);
      assert.match(lab.context.explain(Errno.EFAULT), mmio ? /guest RAM/ : /registers of devices/);
    });
    await report.check(mmio ? 'as registers they are mapped' : 'as registers they are refused too', () => {
      assert.equal(lab.mapVa(BAR, 16, va, RW | HOST_MMIO), mmio ? 0 : Errno.EFAULT);
      assert.equal(mmio, !env.kernel.startsWith('6.12.'));
    });
    if (mmio) await peerToPeer(report, lab, () => disableMemory(peer));
  });
  registers.close();
  peer.close();
}

function disableMemory(peer: IommufdContext): void {
  const device = peer.devices[0]!;
  device.writeConfig(COMMAND, 2, device.readConfig(COMMAND, 2) & ~MEMORY_ENABLE);
}

async function peerToPeer(report: Reporter, lab: Lab, disable: () => void): Promise<void> {
  const liveness = BigInt(BAR) * K4 + 4n;
  const ask = async (word: number): Promise<number> => {
    lab.words[0] = word;
    await lab.edu.load(BigInt(OUT) * K4, 4);
    await lab.edu.store(liveness, 4);
    await lab.edu.load(liveness, 4);
    await lab.edu.store(BigInt(OUT) * K4, 4);
    return lab.words[0];
  };
  await report.check('a register of the peer answers to DMA', async () => {
    assert.equal(await ask(0x1234_5678), ~0x1234_5678 >>> 0);
  });
  await report.check('registers go away with the memory space of their device', async () => {
    disable();
    assert.notEqual(await ask(0x0bad_cafe), ~0x0bad_cafe >>> 0);
  });
  await report.check('their entry is unmapped as a whole', () => {
    assert.deepEqual(lab.unmap(BAR, 8), [Errno.ENOENT, 0]);
    assert.deepEqual(lab.unmap(BAR, 16), [0, 16]);
  });
}
