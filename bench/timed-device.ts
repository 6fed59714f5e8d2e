// A device under a stopwatch: what passes through notify() is the device's time, the rest of a kick is the driver's.
// A pair of clock readings costs about 0.1 µs per notification, that is 1 ns per request at 128 per kick.
import type { DriverDevice } from '../src/testing/driver-setup.ts';

/** Forwards everything to `inner` and adds up the time that notify() takes. */
export class TimedDevice implements DriverDevice {
  /** Milliseconds in notify() since it was last set to 0. */
  elapsed = 0;
  readonly #inner: DriverDevice;

  constructor(inner: DriverDevice) {
    this.#inner = inner;
  }

  get offeredFeatures(): bigint {
    return this.#inner.offeredFeatures;
  }

  get status(): number {
    return this.#inner.status;
  }

  writeStatus: DriverDevice['writeStatus'] = (value) => this.#inner.writeStatus(value);
  setDriverFeatures: DriverDevice['setDriverFeatures'] = (features) => this.#inner.setDriverFeatures(features);
  readConfig: DriverDevice['readConfig'] = (offset, size) => this.#inner.readConfig(offset, size);
  writeConfig: DriverDevice['writeConfig'] = (offset, size, value) => this.#inner.writeConfig(offset, size, value);
  setupQueue: DriverDevice['setupQueue'] = (index, setup) => this.#inner.setupQueue(index, setup);
  enableQueue: DriverDevice['enableQueue'] = (index) => this.#inner.enableQueue(index);
  queue: DriverDevice['queue'] = (index) => this.#inner.queue(index);

  notify(index: number): void {
    const start = performance.now();
    this.#inner.notify(index);
    this.elapsed += performance.now() - start;
  }
}
