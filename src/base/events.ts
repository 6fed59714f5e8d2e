// A tiny synchronous event channel. The library never logs: what an embedder wants to see arrives here.

/** Receives one event. An exception thrown by a listener is kept away from the device and counted. */
export type Listener<T> = (event: T) => void;

/**
 * One-to-many synchronous channel of events of type T.
 * `active` lets a hot path skip building an event that nobody reads.
 */
export class EventChannel<T> {
  #listeners: readonly Listener<T>[] = [];
  /** Exceptions that listeners threw; they never reach the device. */
  listenerErrors = 0;

  /** True when at least one listener is subscribed. */
  get active(): boolean {
    return this.#listeners.length > 0;
  }

  /** Adds a listener and returns the function that removes it again. */
  subscribe(listener: Listener<T>): () => void {
    if (typeof listener !== 'function') throw new TypeError('listener must be a function');
    const entry: Listener<T> = (event) => {
      listener(event);
    };
    this.#listeners = [...this.#listeners, entry];
    return () => {
      this.#listeners = this.#listeners.filter((other) => other !== entry);
    };
  }

  /** Delivers `event` to every listener, in order of subscription. */
  emit(event: T): void {
    for (const listener of this.#listeners) {
      try {
        listener(event);
      } catch {
        this.listenerErrors++;
      }
    }
  }
}
