// The guest's other processor: changes bytes of shared guest memory without pause while the device works.
// mode 0: waits; 1: each listed byte takes one of its values, in random order; 2: any byte of [from, to) takes any value.
import { workerData } from 'node:worker_threads';

/** @type {{ buffer: SharedArrayBuffer, control: SharedArrayBuffer, flips: number[], from: number, to: number }} */
const { buffer, control, flips, from, to } = workerData;
const bytes = new Uint8Array(buffer);
const words = new Int32Array(control);
const count = flips.length / 3;
let x = 0x9e3779b9;

function next() {
  x ^= x << 13;
  x ^= x >>> 17;
  x ^= x << 5;
  return x >>> 0;
}

// words: 0 mode, 1 mode in effect, 2 rounds done.
for (;;) {
  const mode = Atomics.load(words, 0);
  Atomics.store(words, 1, mode);
  if (mode < 0) break;
  if (mode === 0) {
    Atomics.notify(words, 1);
    Atomics.wait(words, 0, 0, 50);
    continue;
  }
  for (let round = 0; round < 256; round++) {
    const value = next();
    if (mode === 1) {
      const at = 3 * ((value >>> 1) % count);
      Atomics.store(bytes, flips[at], flips[at + 1 + (value & 1)]);
    } else {
      Atomics.store(bytes, from + ((value >>> 8) % (to - from)), value & 0xff);
    }
  }
  Atomics.add(words, 2, 1);
}
