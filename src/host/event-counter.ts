// An event counter (eventfd): what the interrupts of a VFIO device signal. Not here: which interrupt (vfio-device.ts).
import { U64_MAX, checkBigint, checkBoolean, checkFunction } from '../base/check.ts';
import type { NativeEvents, NativePoll } from './native-api.ts';
import { NativePollEvent } from './native-api.ts';
import { loadNative } from './native.ts';
import { attempt, closedError, refusedVerdict } from './refusals.ts';

/** A counter of the kernel with a descriptor that an event loop or another process can wait for. */
export class EventCounter {
  readonly #native: NativeEvents;
  #poll: NativePoll | undefined;
  #closed = false;

  /** @throws HostError when the addon is missing or no descriptor is left. */
  constructor() {
    const { NativeEvents } = loadNative();
    this.#native = attempt(() => NativeEvents.create(), refusedVerdict);
  }

  /** The descriptor; it stays owned by the counter. */
  get fd(): number {
    return this.#open('fd').fd();
  }

  /** The count since the last call; 0n when nothing has happened. Never waits. */
  take(): bigint {
    const native = this.#open('take');
    return attempt(() => native.take(), refusedVerdict);
  }

  /** Adds to the count, as an interrupt does. @throws HostError EAGAIN when the count would reach 2^64 - 1. */
  signal(count = 1n): void {
    checkBigint('count', count, 1n, U64_MAX - 1n);
    const native = this.#open('signal');
    attempt(() => native.signal(count), refusedVerdict);
  }

  /**
   * Has Node's event loop call `listener` with the count whenever there is one, which sets the count to 0; undefined ends it.
   * `keepAlive`: whether waiting keeps the process running. @throws HostError when no descriptor is left.
   */
  listen(listener: ((count: bigint) => void) | undefined, keepAlive = true): void {
    if (listener !== undefined) checkFunction('listener', listener);
    checkBoolean('keepAlive', keepAlive);
    const fd = this.fd;
    this.#poll?.close();
    this.#poll = undefined;
    if (listener === undefined) return;
    const { NativePoll } = loadNative();
    attempt(() => {
      this.#poll = NativePoll.create(fd, () => {
        const count = this.#closed ? 0n : this.take();
        if (count > 0n) listener(count);
      });
      this.#poll.keepAlive(keepAlive);
      this.#poll.start(NativePollEvent.readable);
    }, refusedVerdict);
  }

  /** Gives the descriptor back and ends {@link listen}; switch the interrupt off first. A second call does nothing. */
  close(): void {
    this.#closed = true;
    this.#poll?.close();
    this.#poll = undefined;
    this.#native.close();
  }

  #open(what: string): NativeEvents {
    if (this.#closed) throw closedError('the event counter', what);
    return this.#native;
  }
}
