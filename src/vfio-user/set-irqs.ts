// DEVICE_SET_IRQS. Not here: sending interrupts (interrupts.ts). Ranges of vectors are start + count.
// Results are bytes of payload of the reply, or a negative errno.
import { Errno } from '../base/errors.ts';
import { IrqIndex, IrqSet, IrqSetFlag } from './abi.ts';
import { directKind, irqCount } from './device-info.ts';
import type { DirectInterrupts, PciFunction } from './function.ts';
import type { SignalTable } from './interrupts.ts';
import type { Request } from './message.ts';
import { ProtocolError } from './protocol-error.ts';

/** Signals of the kinds of interrupts that there are. */
export interface DeviceSignals {
  readonly msix: SignalTable;
  readonly error: SignalTable;
}

/** DEVICE_SET_IRQS; kinds that go through this process have no masks of their own, so masking them is refused. */
export function setIrqs(request: Request, pci: PciFunction, signals: DeviceSignals): number {
  const flags = request.u32(IrqSet.flags);
  const index = request.u32(IrqSet.index);
  const start = request.u32(IrqSet.start);
  const count = request.u32(IrqSet.count);
  const given = request.descriptors.count;
  const data = flags & IrqSetFlag.DATA;
  const action = flags & IrqSetFlag.ACTION;
  if (given > 0 && (data !== IrqSetFlag.eventfd || given !== count)) {
    throw new ProtocolError(`SET_IRQS with ${given} descriptors for ${count} interrupts`);
  }
  if (request.u32(IrqSet.argsz) < IrqSet.SIZE || (flags & ~(IrqSetFlag.DATA | IrqSetFlag.ACTION)) !== 0)
    return -Errno.EINVAL;
  if (!isOne(data) || !isOne(action) || index >= IrqIndex.COUNT) return -Errno.EINVAL;
  const last = irqCount(pci, index);
  if (start > last || count > last - start) return -Errno.EINVAL;
  // "As a special case, a count (and start) of 0, with data flags of DATA_NONE disables all interrupts of the index."
  const disable = count === 0;
  if (disable && (start !== 0 || data !== IrqSetFlag.none || action !== IrqSetFlag.trigger)) return -Errno.EINVAL;
  const direct = directKind(pci, index);
  if (direct !== undefined) return -setDirect(request, direct);
  if (action !== IrqSetFlag.trigger) return -Errno.EOPNOTSUPP;
  const table = index === IrqIndex.msix ? signals.msix : index === IrqIndex.error ? signals.error : undefined;
  if (disable) {
    table?.clearAll();
    return 0;
  }
  // A kind without interrupts has left above: no range fits into it.
  return data === IrqSetFlag.eventfd ? assign(request, table!, start, count) : trigger(request, table!, start, count);
}

/** Switches off all interrupts of all kinds, as at the end of a connection. */
export function interruptsOff(pci: PciFunction | undefined, signals: DeviceSignals): void {
  signals.msix.clearAll();
  signals.error.clearAll();
  if (pci === undefined) return;
  for (let index = 0; index < IrqIndex.COUNT; index++) directKind(pci, index)?.wire(index, 0, undefined);
}

/** A checked message for a kind that does not go through this process; errno. */
function setDirect(request: Request, direct: DirectInterrupts): number {
  const flags = request.u32(IrqSet.flags);
  const index = request.u32(IrqSet.index);
  const start = request.u32(IrqSet.start);
  const count = request.u32(IrqSet.count);
  const { descriptors } = request;
  if ((flags & IrqSetFlag.trigger) === 0) {
    // Masking by eventfd is for kernels that deliver interrupts to a guest themselves; VMMs do without where it is refused.
    if ((flags & IrqSetFlag.none) === 0 || count === 0) return Errno.EOPNOTSUPP;
    return direct.mask(index, start, count, (flags & IrqSetFlag.mask) !== 0);
  }
  if (count === 0) return direct.wire(index, 0, undefined);
  if ((flags & IrqSetFlag.eventfd) === 0) return Errno.EOPNOTSUPP;
  const given = Array.from({ length: count }, (_, i) => (descriptors.count === 0 ? -1 : descriptors.at(i)));
  return direct.wire(index, start, given);
}

/** True for exactly one bit. */
function isOne(bits: number): boolean {
  return bits !== 0 && (bits & (bits - 1)) === 0;
}

/** "If no file descriptors are provided, this de-assigns the specified previously configured interrupts." */
function assign(request: Request, table: SignalTable, start: number, count: number): number {
  const { descriptors } = request;
  if (descriptors.count === 0) {
    table.clear(start, start + count);
    return 0;
  }
  return -table.assign(start, descriptors);
}

/** The client triggers interrupts itself. */
function trigger(request: Request, table: SignalTable, start: number, count: number): number {
  const bools = (request.u32(IrqSet.flags) & IrqSetFlag.bool) !== 0;
  if (bools && request.payload < IrqSet.data + count) throw new ProtocolError('SET_IRQS with too few booleans');
  for (let i = 0; i < count; i++) {
    if (!bools || request.u8(IrqSet.data + i) !== 0) table.raise(start + i);
  }
  return 0;
}
