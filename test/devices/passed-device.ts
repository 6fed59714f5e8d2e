// A host device that notes what is done to it, for tests of the passthrough function: BARs 0 and 2, a ROM, 4 KiB of configuration
// space whose bytes are their own offsets, MSI, 8 MSI-X vectors, INTx. Reads give the low byte of each offset.
import type { IrqKindName, PassedDevice } from '../../src/devices/vfio-function.ts';
import { Errno, HostError } from '../../src/base/errors.ts';

const SIZES: readonly number[] = [0x1000, 0, 0x20, 0, 0, 0, 0x800, 4096];
const COMMAND = 4;
const BUS_MASTER = 4;

/** What the host says when it refuses. */
export function refusal(syscall: string, errno: number = Errno.EIO): HostError {
  return new HostError('ERR_VIOMMU_HOST_REFUSED', `${syscall} was refused`, { errno, syscall });
}

/** The device. */
export class FakePassedDevice implements PassedDevice {
  readonly name = '0000:00:04.0';
  readonly config = Uint8Array.from({ length: 4096 }, (_, i) => i & 0xff);
  /** What was done, in order. */
  readonly calls: string[] = [];
  /** Accesses that no real device takes: not of natural width. */
  readonly unsafe: string[] = [];
  counts: Readonly<Record<IrqKindName, number>> = { intx: 1, msi: 4, msix: 8, error: 0, request: 1 };
  /** Refuses the calls for which it is true. */
  refuse: (call: string) => boolean = () => false;
  /** errno of that refusal. */
  errno: number = Errno.EIO;
  /** A region for which the kernel knows no index. */
  missing = -1;
  /** Results of setBusMaster and reset. */
  stops = 0;
  resets = 0;

  constructor() {
    this.config.set([0, 0], COMMAND);
  }

  region(index: number): { readonly size: bigint } {
    if (index === this.missing) throw refusal('VFIO_DEVICE_GET_REGION_INFO', Errno.EINVAL);
    return { size: BigInt(SIZES[index] ?? 0) };
  }

  readRegion(index: number, offset: bigint, into: Uint8Array): void {
    into.forEach((_, i) => (into[i] = (Number(offset) + i) & 0xff));
    this.#note(`bar ${index} ${offset} ${into.length}`);
  }

  writeRegion(index: number, offset: bigint, from: Uint8Array): void {
    this.#note(`bar ${index} ${offset} ${from.length} = ${from.join()}`);
  }

  readConfig(offset: number, bytes: 1 | 2 | 4): number {
    this.#natural(offset, bytes);
    this.#note(`config ${offset} ${bytes}`);
    let value = 0;
    for (let i = bytes - 1; i >= 0; i--) value = value * 256 + this.config[offset + i]!;
    return value;
  }

  writeConfig(offset: number, bytes: 1 | 2 | 4, value: number): void {
    this.#natural(offset, bytes);
    if (!(value >= 0 && value < 2 ** (8 * bytes))) this.unsafe.push(`value ${value} of ${bytes} bytes`);
    this.#note(`write ${offset} ${bytes} 0x${value.toString(16)}`);
    for (let i = 0; i < bytes; i++) this.config[offset + i] = (value >>> (8 * i)) & 0xff;
  }

  busMaster(): boolean {
    return (this.config[COMMAND]! & BUS_MASTER) !== 0;
  }

  setBusMaster(on: boolean): number {
    this.#note(`setBusMaster ${on}`);
    if (this.stops === 0)
      this.config[COMMAND] = on ? this.config[COMMAND]! | BUS_MASTER : this.config[COMMAND]! & ~BUS_MASTER;
    return this.stops;
  }

  reset(): number {
    this.#note('reset');
    return this.resets;
  }

  irqCount(kind: IrqKindName): number {
    return this.counts[kind];
  }

  setIrqs(kind: IrqKindName, start: number, counters: readonly ({ readonly fd: number } | undefined)[]): void {
    this.#note(`set ${kind} ${start} [${counters.map((counter) => counter?.fd ?? -1).join()}]`);
  }

  maskIrqs(kind: IrqKindName, start: number, count: number, masked: boolean): void {
    this.#note(`${masked ? 'mask' : 'unmask'} ${kind} ${start} ${count}`);
  }

  disableIrqs(kind: IrqKindName): void {
    this.#note(`off ${kind}`);
  }

  #natural(offset: number, bytes: number): void {
    if (offset % bytes !== 0 || offset + bytes > 4096) this.unsafe.push(`${bytes} bytes at ${offset}`);
  }

  #note(call: string): void {
    this.calls.push(call);
    if (this.refuse(call)) throw refusal(call, this.errno);
  }
}
