// The eventfds that a client gave for interrupts, and sending them. Not here: which event has which vector (virtio's
// function), DEVICE_SET_IRQS itself (set-irqs.ts). Vectors count from 0.
import { errnoOf } from '../host/refusals.ts';
import type { NativeSignal } from '../host/native-api.ts';
import { loadNative } from '../host/native.ts';
import type { Descriptors } from './message.ts';

/** Signals of one kind of interrupt. */
export class SignalTable {
  readonly #signals: (NativeSignal | undefined)[] = [];
  /** Interrupts sent. */
  sent = 0;
  /** Interrupts that nobody waited for. */
  lost = 0;

  /** Sends an interrupt; one without an eventfd is lost, as one with a masked entry is on hardware. */
  raise(vector: number): void {
    const signal = this.#signals[vector];
    if (signal === undefined) {
      this.lost++;
      return;
    }
    signal.raise();
    this.sent++;
  }

  /**
   * Has vectors from `start` on signal eventfds, of which descriptors of its own are kept. All or (errno; EINVAL for what is no
   * eventfd) none.
   */
  assign(start: number, descriptors: Descriptors): number {
    const signals: NativeSignal[] = [];
    const errno = errnoOf(() => {
      const { NativeSignal } = loadNative();
      for (let i = 0; i < descriptors.count; i++) signals.push(NativeSignal.adopt(descriptors.at(i)));
    });
    if (errno !== 0) {
      for (const signal of signals) signal.close();
      return errno;
    }
    this.clear(start, start + signals.length);
    signals.forEach((signal, i) => (this.#signals[start + i] = signal));
    return 0;
  }

  /** Gives up the eventfds of vectors [start, end). */
  clear(start: number, end: number): void {
    for (let vector = start; vector < Math.min(end, this.#signals.length); vector++) {
      this.#signals[vector]?.close();
      this.#signals[vector] = undefined;
    }
  }

  /** Gives up all eventfds. */
  clearAll(): void {
    this.clear(0, this.#signals.length);
    this.#signals.length = 0;
  }
}
