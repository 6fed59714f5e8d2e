// The DMA engine through DmaView and IommuCore, as a guest's VFIO user drives it.
import { describe, expect, it } from 'vitest';
import {
  DmaEngine,
  ENGINE_BAR_BYTES,
  ENGINE_ID,
  ENGINE_MAX_LENGTH,
  EngineCommand,
  EngineRegister,
  EngineStatus,
} from '../../src/devices.ts';
import { LabMachine } from '../../src/testing/lab/machine.ts';
import { Command, Header } from '../../src/virtio/pci/pci-layout.ts';

const ENDPOINT = 40;
const IOVA = 0xffff_ffff_f000_0000n;
const MSI = 0xfee0_0000n;
const MIB = 0x10_0000n;
const READ = 1;
const WRITE = 2;

class Rig {
  readonly machine = new LabMachine({
    ram: [{ gpa: 0n, size: 64n * MIB }],
    endpoints: [{ id: ENDPOINT, passed: false }],
    driverBase: 60n * MIB,
    entryLimit: 65_535,
    requestQueueSize: 64,
    device: { faults: { perSecond: Infinity } },
  });
  readonly masters: boolean[] = [];
  readonly messages: Uint8Array[] = [];
  readonly engine: DmaEngine;

  constructor() {
    const { core } = this.machine.iommu;
    const dma = core.dmaView(ENDPOINT, (_endpoint, _address, data) => this.messages.push(data));
    this.engine = new DmaEngine({ dma, onBusMaster: (on) => this.masters.push(on) });
    this.machine.driver.start();
    this.machine.driver.attach(1, ENDPOINT);
    this.command(Command.memory | Command.busMaster);
  }

  command(value: number): void {
    this.engine.writeConfigBytes(Header.command, Uint8Array.of(value, value >> 8));
  }

  register(offset: number, bytes = 4): bigint {
    const into = new Uint8Array(bytes);
    this.engine.readBar(0, offset, into);
    return into.reduceRight((value, byte) => (value << 8n) | BigInt(byte), 0n);
  }

  /** Sets a 64-bit register by halves, as a guest does, and the others whole. */
  set(offset: number, value: bigint, bytes: number): void {
    for (let at = 0; at < bytes; at += 4) {
      const half = (value >> BigInt(8 * at)) & 0xffff_ffffn;
      this.engine.writeBar(
        0,
        offset + at,
        Uint8Array.from({ length: 4 }, (_, i) => Number(half >> BigInt(8 * i)) & 0xff),
      );
    }
  }

  run(source: bigint, target: bigint, length: number, command: number = EngineCommand.copy): [number, number] {
    this.set(EngineRegister.source, source, 8);
    this.set(EngineRegister.target, target, 8);
    this.set(EngineRegister.length, BigInt(length), 4);
    this.set(EngineRegister.command, BigInt(command), 4);
    return [Number(this.register(EngineRegister.status)), Number(this.register(EngineRegister.moved))];
  }

  map(iova: bigint, gpa: bigint, bytes: bigint, flags = READ | WRITE): void {
    this.machine.driver.map(1, iova, iova + bytes - 1n, gpa, flags);
  }

  fill(gpa: bigint, bytes: number, seed: number): Uint8Array {
    const pattern = Uint8Array.from({ length: bytes }, (_, i) => (i * 7 + seed) & 0xff);
    this.machine.memory.write(Number(gpa), pattern, 0, bytes);
    return pattern;
  }

  read(gpa: bigint, bytes: number): Uint8Array {
    const into = new Uint8Array(bytes);
    this.machine.memory.read(Number(gpa), into, 0, bytes);
    return into;
  }
}

describe('the DMA engine', () => {
  it('copies between scattered pages at any 64-bit address', () => {
    const rig = new Rig();
    for (let page = 0n; page < 64n; page++) {
      rig.map(IOVA + page * 4096n, MIB + (63n - page) * 8192n, 4096n, READ);
      rig.map(IOVA + 0x100_0000n + page * 4096n, 4n * MIB + page * 8192n, 4096n, WRITE);
    }
    const first = rig.fill(MIB + 63n * 8192n, 4096, 1);
    const last = rig.fill(MIB, 4096, 2);
    expect(rig.run(IOVA, IOVA + 0x100_0000n, 64 * 4096)).toEqual([EngineStatus.done, 64 * 4096]);
    expect(rig.read(4n * MIB, 4096)).toEqual(first);
    expect(rig.read(4n * MIB + 63n * 8192n, 4096)).toEqual(last);
    expect(rig.engine.stats()).toEqual({ commands: 1, refused: 0, bytes: 64 * 4096 });
  });

  it('stops at the first piece that is refused, with one fault that names the address', () => {
    const rig = new Rig();
    rig.map(0x1000_0000n, MIB, 0x2_0000n);
    rig.map(0x2000_0000n, 2n * MIB, 0x2_0000n, READ);
    expect(rig.run(0x1000_0000n, 0x2000_0000n, 4)).toEqual([EngineStatus.targetRefused, 0]);
    expect(rig.machine.driver.events()).toMatchObject([{ endpoint: ENDPOINT, address: 0x2000_0000n, flags: 0x102 }]);
    expect(rig.run(0x1000_0000n, 0n, 0x2_0001, EngineCommand.read)).toEqual([EngineStatus.sourceRefused, 0x2_0000]);
    expect(rig.machine.driver.events()).toMatchObject([{ address: 0x1002_0000n, flags: 0x101 }]);
    rig.machine.driver.unmap(1, 0x1000_0000n, 0x1001_ffffn);
    expect(rig.run(0x1000_0000n, 0n, 1, EngineCommand.read)).toEqual([EngineStatus.sourceRefused, 0]);
  });

  it('writes zeroes, and messages into the MSI region', () => {
    const rig = new Rig();
    rig.map(0x1000n, MIB, 0x1000n, WRITE);
    rig.fill(MIB, 16, 3);
    expect(rig.run(0n, 0x1004n, 4, EngineCommand.write)).toEqual([EngineStatus.done, 4]);
    expect([...rig.read(MIB, 9)].slice(3)).toEqual([24, 0, 0, 0, 0, 59]);
    expect(rig.run(0n, MSI, 4, EngineCommand.write)[0]).toBe(EngineStatus.done);
    expect(rig.messages).toEqual([new Uint8Array(4)]);
    expect(rig.run(MSI, 0n, 4, EngineCommand.read)[0]).toBe(EngineStatus.sourceRefused);
  });

  it.each([
    ['no length', 0n, 0n, 0, 1],
    ['too much', 0n, 0n, ENGINE_MAX_LENGTH + 1, 1],
    ['an unknown command', 0n, 0n, 4, 4],
    ['command 0', 0n, 0n, 4, 0],
    ['a source that wraps', 2n ** 64n - 3n, 0n, 4, 1],
    ['a target that wraps', 0n, 2n ** 64n - 3n, 4, 3],
  ])('refuses %s without an access', (_name, source, target, length, command) => {
    const rig = new Rig();
    expect(rig.run(source, target, length, command)).toEqual([EngineStatus.invalid, 0]);
    expect(rig.machine.driver.events()).toEqual([]);
  });

  it('reaches the last byte of 64 bits', () => {
    const rig = new Rig();
    rig.map(2n ** 64n - 4096n, MIB, 4096n);
    expect(rig.run(2n ** 64n - 4n, 0n, 4, EngineCommand.read)).toEqual([EngineStatus.done, 4]);
    expect(rig.run(0n, 0n, ENGINE_MAX_LENGTH, EngineCommand.read)[0]).toBe(EngineStatus.sourceRefused);
  });

  it('does no DMA without bus master, and tells of each change of the bit', () => {
    const rig = new Rig();
    rig.map(0x1000n, MIB, 0x1000n);
    rig.command(Command.memory);
    expect(rig.run(0x1000n, 0x1000n, 4)).toEqual([EngineStatus.noBusMaster, 0]);
    rig.command(Command.memory | Command.busMaster);
    expect(rig.run(0x1000n, 0x1000n, 4)[0]).toBe(EngineStatus.done);
    rig.engine.reset();
    rig.engine.reset();
    expect(rig.masters).toEqual([true, false, true, false]);
    expect(rig.engine.busMaster).toBe(false);
  });

  it('is a function that can be enumerated, sized and left alone', () => {
    const rig = new Rig();
    const config = (offset: number, bytes: number): bigint => {
      const into = new Uint8Array(bytes);
      rig.engine.readConfigBytes(offset, into);
      return into.reduceRight((value, byte) => (value << 8n) | BigInt(byte), 0n);
    };
    expect([config(0, 4), config(8, 4), config(0x3d, 1)]).toEqual([0x10f0_1af4n, 0x0880_0001n, 0n]);
    rig.engine.writeConfigBytes(0, new Uint8Array(256).fill(0xff));
    expect([config(0, 4), config(Header.bar0, 4), config(Header.bar0 + 4, 4)]).toEqual([
      0x10f0_1af4n,
      0xffff_f000n,
      0n,
    ]);
    expect(config(Header.command, 2)).toBe(BigInt(Command.memory | Command.busMaster));
    expect(config(254, 4)).toBe(0xffff_0000n);
    expect(rig.register(EngineRegister.id)).toBe(BigInt(ENGINE_ID));
    expect(rig.register(EngineRegister.maxLength)).toBe(BigInt(ENGINE_MAX_LENGTH));
    rig.set(EngineRegister.id, 0n, 4);
    rig.set(EngineRegister.status, 9n, 4);
    expect([rig.register(EngineRegister.id), rig.register(EngineRegister.status)]).toEqual([BigInt(ENGINE_ID), 0n]);
    expect([rig.register(EngineRegister.command), rig.register(0x800)]).toEqual([0n, 0n]);
    expect(rig.register(ENGINE_BAR_BYTES - 2)).toBe(0xffff_0000n);
    rig.command(0);
    expect(rig.register(EngineRegister.id)).toBe(0xffff_ffffn);
    rig.set(EngineRegister.source, 5n, 8);
    rig.command(Command.memory);
    expect(rig.register(EngineRegister.source, 8)).toBe(0n);
  });

  it('takes its registers in any width', () => {
    const rig = new Rig();
    rig.engine.writeBar(0, EngineRegister.source + 7, Uint8Array.of(0xaa, 0xbb));
    expect(rig.register(EngineRegister.source, 8)).toBe(0xaan << 56n);
    expect(rig.register(EngineRegister.target, 8)).toBe(0xbbn);
    rig.engine.writeBar(0, EngineRegister.command + 1, Uint8Array.of(1, 1, 1));
    expect(rig.engine.stats().commands).toBe(0);
    rig.engine.writeBar(0, EngineRegister.length, Uint8Array.of(0, 0, 0, 0, 1));
    expect(rig.register(EngineRegister.status)).toBe(BigInt(EngineStatus.invalid));
  });
});
