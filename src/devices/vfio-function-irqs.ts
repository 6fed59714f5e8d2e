// Interrupts of a passed-through device: the client's eventfds go to the kernel, which signals them itself; nothing passes
// through this process. Not here: the message that carries them (vfio-user). Ranges are start + count; results 0 or errno.
import { Errno, isHostError } from '../base/errors.ts';
import type { IrqKindName, PassedDevice } from './vfio-function-device.ts';
import { IRQ_KINDS } from './vfio-function-device.ts';

/** VFIO_IRQ_INFO_*: eventfd, maskable, masked by the kernel after each signal, all vectors in one call. */
const Flag = { eventfd: 1, maskable: 2, automasked: 4, noResize: 8 } as const;
const FLAGS: Readonly<Record<IrqKindName, number>> = {
  intx: Flag.eventfd | Flag.maskable | Flag.automasked,
  // Kernels before 6.5 cannot add vectors to those that are on; a client that believes so is right on all of them.
  msi: Flag.eventfd | Flag.noResize,
  msix: Flag.eventfd | Flag.noResize,
  error: Flag.eventfd | Flag.noResize,
  request: Flag.eventfd | Flag.noResize,
};

/** All interrupts of one device. No method throws for what a client asks. */
export class VfioInterrupts {
  readonly #device: PassedDevice;
  readonly #counts: readonly number[];
  readonly #on = new Set<IrqKindName>();

  /** @throws HostError when the device does not answer. */
  constructor(device: PassedDevice) {
    this.#device = device;
    this.#counts = IRQ_KINDS.map((kind) => device.irqCount(kind));
  }

  /** Number of interrupts of a kind, 0 for one that the device has not. */
  count(index: number): number {
    return this.#counts[index] ?? 0;
  }

  /** VFIO_IRQ_INFO flags of a kind. */
  flags(index: number): number {
    const kind = IRQ_KINDS[index];
    return kind === undefined ? 0 : FLAGS[kind];
  }

  /**
   * Has interrupts from `start` on signal eventfds (-1: none), of which the kernel takes references; undefined switches the
   * kind off. EINVAL for a range that is not there.
   */
  wire(index: number, start: number, eventfds: readonly number[] | undefined): number {
    const kind = IRQ_KINDS[index];
    if (kind === undefined) return Errno.EINVAL;
    if (eventfds === undefined) return this.#switchOff(kind);
    if (!this.#inRange(index, start, eventfds.length)) return Errno.EINVAL;
    const counters = eventfds.map((fd) => (fd < 0 ? undefined : { fd }));
    const errno = kind === 'msix' && !this.#on.has(kind) ? this.#enableAll(start, counters) : Errno.EINVAL;
    const result = errno === 0 ? 0 : errnoOf(() => this.#device.setIrqs(kind, start, counters));
    if (result === 0) this.#on.add(kind);
    return result;
  }

  /** Masks or unmasks interrupts; EINVAL for a range that is not there, or a kind without masks. */
  mask(index: number, start: number, count: number, masked: boolean): number {
    const kind = IRQ_KINDS[index];
    if (kind === undefined || !this.#inRange(index, start, count)) return Errno.EINVAL;
    return errnoOf(() => this.#device.maskIrqs(kind, start, count, masked));
  }

  /**
   * The first call decides how many vectors there are, on kernels before 6.5 until all are switched off, and a client may tell of
   * them in several messages: all vectors are taken at once. EINVAL and others: the host has not so many.
   */
  #enableAll(start: number, counters: readonly ({ readonly fd: number } | undefined)[]): number {
    const all = new Array<{ readonly fd: number } | undefined>(this.count(IRQ_KINDS.indexOf('msix'))).fill(undefined);
    counters.forEach((counter, i) => (all[start + i] = counter));
    return errnoOf(() => this.#device.setIrqs('msix', 0, all));
  }

  #switchOff(kind: IrqKindName): number {
    // The kernel refuses to switch off what is not on.
    if (!this.#on.has(kind)) return 0;
    const errno = errnoOf(() => this.#device.disableIrqs(kind));
    if (errno === 0) this.#on.delete(kind);
    return errno;
  }

  #inRange(index: number, start: number, count: number): boolean {
    const last = this.count(index);
    return start >= 0 && count >= 1 && start <= last && count <= last - start;
  }
}

/** errno of a refusal of the host, 0 when there is none. */
function errnoOf(run: () => void): number {
  try {
    run();
    return 0;
  } catch (error) {
    if (!isHostError(error)) throw error;
    return error.errno === 0 ? Errno.EIO : error.errno;
  }
}
