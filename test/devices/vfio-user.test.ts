// A passed-through function behind vfio-user messages: what a client is told of its interrupts and regions, and what becomes of
// SET_IRQS. No socket: messages go straight to the session.
import { describe, expect, it } from 'vitest';
import { VfioFunction } from '../../src/devices/vfio-function.ts';
import { Errno } from '../../src/base/errors.ts';
import {
  Command,
  IrqIndex,
  IrqInfo,
  IrqSetFlag,
  MessageFlag,
  MessageHeader,
  RegionIndex,
  RegionInfo,
} from '../../src/vfio-user/abi.ts';
import { ClientMemory } from '../../src/vfio-user/client-memory.ts';
import { DmaTable } from '../../src/vfio-user/dma-table.ts';
import { SignalTable } from '../../src/vfio-user/interrupts.ts';
import { Reply, Request } from '../../src/vfio-user/message.ts';
import { Session } from '../../src/vfio-user/session.ts';
import { interruptsOff } from '../../src/vfio-user/set-irqs.ts';
import { GuestMemory } from '../../src/virtio/memory.ts';
import { message } from '../vfio-user/client.ts';
import { info, region, setIrqs, version } from '../vfio-user/payloads.ts';
import { FakePassedDevice } from './passed-device.ts';

const { none, bool, eventfd, mask, unmask, trigger } = IrqSetFlag;

class Rig {
  readonly device = new FakePassedDevice();
  readonly pci = new VfioFunction({ device: this.device });
  readonly signals = { msix: new SignalTable(), error: new SignalTable() };
  readonly #request = new Request();
  readonly #reply = new Reply();
  readonly #session: Session;

  constructor() {
    const limits = { maxMaps: 16, maxBytes: 2 ** 30, requireSealed: false };
    const table = new DmaTable(new GuestMemory(), limits, () => undefined);
    this.#session = new Session({
      pci: this.pci,
      table,
      signals: this.signals,
      client: new ClientMemory(table, () => undefined),
      maxMaps: 16,
      onAgreed: () => undefined,
      onReset: () => undefined,
    });
    this.ask(Command.version, version());
    this.device.calls.length = 0;
  }

  /** errno and payload of the answer. */
  ask(command: number, payload: Uint8Array, fds: readonly number[] = []): { errno: number; view: DataView } {
    const bytes = message({ id: 1, command, payload });
    const request = this.#request;
    request.reserve(bytes.length, 0);
    request.bytes.set(bytes);
    request.size = bytes.length;
    request.descriptors = { count: fds.length, at: (i) => fds[i] ?? -1 };
    const length = this.#session.handle(request, this.#reply);
    const { view } = this.#reply;
    const failed = (view.getUint32(MessageHeader.flags, true) & MessageFlag.error) !== 0;
    const reply = this.#reply.bytes.slice(MessageHeader.SIZE, length);
    return { errno: failed ? view.getUint32(MessageHeader.error, true) : 0, view: new DataView(reply.buffer) };
  }

  irqs(flags: number, index: number, start: number, count: number, fds: readonly number[] = []): number {
    return this.ask(Command.setIrqs, setIrqs(flags, index, start, count), fds).errno;
  }
}

describe('a passed-through function behind vfio-user', () => {
  it('shows the kinds of interrupts of the device; errors are always there', () => {
    const rig = new Rig();
    const kinds = Object.values(IrqIndex).slice(0, IrqIndex.COUNT);
    const seen = kinds.map((index) => {
      const { view } = rig.ask(Command.getIrqInfo, info(IrqInfo.SIZE, index));
      return [view.getUint32(IrqInfo.flags, true), view.getUint32(IrqInfo.count, true)];
    });
    expect(seen).toEqual([
      [7, 1],
      [9, 4],
      [9, 8],
      [1, 1],
      [9, 1],
    ]);
  });

  it('has 4 KiB of configuration space and a ROM', () => {
    const rig = new Rig();
    const size = (index: number): bigint =>
      rig.ask(Command.getRegionInfo, info(RegionInfo.SIZE, index)).view.getBigUint64(RegionInfo.size, true);
    expect([RegionIndex.config, RegionIndex.rom, 0, 1].map(size)).toEqual([4096n, 0x800n, 0x1000n, 0n]);
    expect(rig.ask(Command.regionRead, region(RegionIndex.config, 4092, 4)).errno).toBe(0);
    expect(rig.ask(Command.regionRead, region(RegionIndex.config, 4093, 4)).errno).toBe(Errno.EINVAL);
  });

  it.each([
    [trigger | eventfd, IrqIndex.msi, 0, 2, [50, 51], 'set msi 0 [50,51]'],
    [trigger | eventfd, IrqIndex.msi, 1, 2, [], 'set msi 1 [-1,-1]'],
    [trigger | eventfd, IrqIndex.request, 0, 1, [50], 'set request 0 [50]'],
    [mask | none, IrqIndex.intx, 0, 1, [], 'mask intx 0 1'],
    [unmask | none, IrqIndex.intx, 0, 1, [], 'unmask intx 0 1'],
  ])('hands SET_IRQS %i of kind %i to the kernel', (flags, index, start, count, fds, call) => {
    const rig = new Rig();
    expect([rig.irqs(flags, index, start, count, fds), rig.device.calls]).toEqual([0, [call]]);
  });

  it.each([
    [trigger | none, IrqIndex.msi, 0, 1, Errno.EOPNOTSUPP],
    [unmask | eventfd, IrqIndex.intx, 0, 1, Errno.EOPNOTSUPP],
    [unmask | none, IrqIndex.intx, 0, 2, Errno.EINVAL],
    [trigger | eventfd, IrqIndex.msi, 4, 1, Errno.EINVAL],
    [trigger | eventfd, IrqIndex.msi, 0, 0, Errno.EINVAL],
    [trigger | bool | eventfd, IrqIndex.msi, 0, 1, Errno.EINVAL],
  ])('refuses SET_IRQS %i of kind %i, %i + %i', (flags, index, start, count, errno) => {
    const rig = new Rig();
    expect([rig.irqs(flags, index, start, count), rig.device.calls]).toEqual([errno, []]);
  });

  it('answers with the errno of the kernel', () => {
    const rig = new Rig();
    rig.device.refuse = () => true;
    rig.device.errno = Errno.ENOSPC;
    expect(rig.irqs(trigger | eventfd, IrqIndex.msi, 0, 1, [50])).toBe(Errno.ENOSPC);
  });

  it('switches off the kinds that are on when the client says so, and at its end', () => {
    const rig = new Rig();
    rig.irqs(trigger | eventfd, IrqIndex.msi, 0, 1, [50]);
    rig.irqs(trigger | eventfd, IrqIndex.request, 0, 1, [51]);
    rig.device.calls.length = 0;
    expect(rig.irqs(trigger | none, IrqIndex.msi, 0, 0)).toBe(0);
    interruptsOff(rig.pci, rig.signals);
    expect(rig.device.calls).toEqual(['off msi', 'off request']);
    interruptsOff(undefined, rig.signals);
  });
});
