// The common configuration structure [4.1.4.3] as a register model. Not here: the other structures (virtio-pci-function.ts).
//
// Drivers access a field by its own width, 64-bit fields by halves; Linux and QEMU do nothing else. Any other access is
// resolved byte by byte: a read returns the bytes of the fields that it covers, a write replaces those bytes and leaves the
// rest of each field as it reads. Offsets in bytes.
import type { VirtioDevice } from '../device.ts';
import { Feature } from '../features.ts';
import { FeatureRegisters, negotiated, QueueRegisters, QueueWord } from '../transport-registers.ts';
import { Common, NO_VECTOR } from './pci-layout.ts';

interface Field {
  readonly offset: number;
  readonly size: 1 | 2 | 4;
  readonly write: (value: number) => void;
}

/** Common configuration of one function. No access throws. */
export class CommonConfig {
  /** Vector of configuration changes, {@link NO_VECTOR} for none. */
  configVector: number = NO_VECTOR;
  readonly #device: VirtioDevice;
  readonly #vectors: number;
  readonly #features: FeatureRegisters;
  readonly #queues: QueueRegisters;
  readonly #queueVectors: Uint16Array;
  readonly #fields: readonly Field[];
  #seenGeneration: number;
  #shownGeneration = 0;

  constructor(device: VirtioDevice, vectors: number) {
    this.#device = device;
    this.#vectors = vectors;
    this.#features = new FeatureRegisters(device);
    this.#queues = new QueueRegisters(device);
    this.#queueVectors = new Uint16Array(device.queueCount).fill(NO_VECTOR);
    this.#seenGeneration = device.configGeneration;
    this.#fields = this.#writableFields();
  }

  /** What a device reset does: no vectors, nothing selected, queues as the device offers them. */
  reset(): void {
    this.configVector = NO_VECTOR;
    this.#queueVectors.fill(NO_VECTOR);
    this.#features.reset();
    this.#queues.reset();
  }

  /** Vector of a queue, {@link NO_VECTOR} for none and for a queue that does not exist. */
  queueVector(index: number): number {
    return this.#queueVectors[index] ?? NO_VECTOR;
  }

  /**
   * The driver reads the device-specific configuration. [4.1.4.3.1] config_generation MUST have changed after a read of
   * something that has changed; counting only changes that were read keeps its 8 bits from wrapping in between.
   */
  configRead(): void {
    const generation = this.#device.configGeneration;
    if (generation === this.#seenGeneration) return;
    this.#seenGeneration = generation;
    this.#shownGeneration = (this.#shownGeneration + 1) & 0xff;
  }

  /** Fills `into` from `offset` on; bytes behind the structure read as 0. */
  read(offset: number, into: Uint8Array): void {
    const bytes = this.#snapshot();
    for (let i = 0; i < into.length; i++) into[i] = bytes[offset + i] ?? 0;
  }

  /** Writes every field that [offset, offset + bytes.length) touches, in the order of their offsets. */
  write(offset: number, bytes: Uint8Array): void {
    const merged = this.#snapshot();
    for (let i = 0; i < bytes.length && offset + i < merged.length; i++) merged[offset + i] = bytes[i]!;
    const view = new DataView(merged.buffer);
    const end = offset + bytes.length;
    for (const field of this.#fields) {
      if (field.offset >= end || field.offset + field.size <= offset) continue;
      if (field.size === 1) field.write(view.getUint8(field.offset));
      else if (field.size === 2) field.write(view.getUint16(field.offset, true));
      else field.write(view.getUint32(field.offset, true));
    }
  }

  /** A fresh array each time: what a write causes may lead to another access before it is done. */
  #snapshot(): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(Common.SIZE);
    const view = new DataView(bytes.buffer);
    const queues = this.#queues;
    view.setUint32(Common.deviceFeatureSelect, this.#features.deviceSelect, true);
    view.setUint32(Common.deviceFeature, this.#features.offered, true);
    view.setUint32(Common.driverFeatureSelect, this.#features.driverSelect, true);
    view.setUint32(Common.driverFeature, this.#features.accepted, true);
    view.setUint16(Common.configMsixVector, this.configVector, true);
    view.setUint16(Common.numQueues, this.#device.queueCount, true);
    view.setUint8(Common.deviceStatus, this.#device.status);
    view.setUint8(Common.configGeneration, this.#shownGeneration);
    view.setUint16(Common.queueSelect, queues.select, true);
    // [4.1.4.3.1] MUST present 0 when there is no such queue.
    view.setUint16(Common.queueSize, queues.size, true);
    view.setUint16(Common.queueMsixVector, this.queueVector(queues.select), true);
    view.setUint16(Common.queueEnable, queues.enabled ? 1 : 0, true);
    view.setUint16(Common.queueNotifyOff, queues.available ? queues.select : 0, true);
    for (let word = 0; word <= QueueWord.deviceHigh; word++) {
      view.setUint32(Common.queueDesc + 4 * word, queues.word(word), true);
    }
    // queue_reset: a reset is over when the write returns. The rest belongs to features that are not offered: 0.
    return bytes;
  }

  #writableFields(): Field[] {
    const queues = this.#queues;
    const field = (offset: number, size: Field['size'], write: Field['write']): Field => ({ offset, size, write });
    return [
      field(Common.deviceFeatureSelect, 4, (value) => (this.#features.deviceSelect = value)),
      field(Common.driverFeatureSelect, 4, (value) => (this.#features.driverSelect = value)),
      field(Common.driverFeature, 4, (value) => this.#features.accept(value)),
      field(Common.configMsixVector, 2, (value) => (this.configVector = this.#assignable(value))),
      field(Common.deviceStatus, 1, (value) => this.#device.writeStatus(value)),
      field(Common.queueSelect, 2, (value) => (queues.select = value)),
      field(Common.queueSize, 2, (value) => (queues.size = this.#showableSize(value))),
      field(Common.queueMsixVector, 2, (value) => this.#setQueueVector(value)),
      // [4.1.4.3.2] the driver MUST NOT write 0 to queue_enable: ignored.
      field(Common.queueEnable, 2, (value) => (value === 1 ? queues.enable() : undefined)),
      // [4.1] D-PCI-1: both halves of a 64-bit field on their own.
      ...Object.values(QueueWord).map((word) =>
        field(Common.queueDesc + 4 * word, 4, (value) => queues.setWord(word, value)),
      ),
      field(Common.queueReset, 2, (value) => this.#resetQueue(value)),
    ];
  }

  /** [4.1.5.1.2.1] a vector that cannot be had reads back as NO_VECTOR. */
  #assignable(vector: number): number {
    return vector < this.#vectors ? vector : NO_VECTOR;
  }

  #setQueueVector(vector: number): void {
    const { select } = this.#queues;
    if (select < this.#queueVectors.length) this.#queueVectors[select] = this.#assignable(vector);
  }

  /** [4.1.4.3.1] without packed rings MUST present 0 or a power of two. 0, no size at all, also makes the queue broken. */
  #showableSize(size: number): number {
    const packed = negotiated(this.#device, Feature.ringPacked);
    return size <= this.#queues.maxSize && (packed || (size & (size - 1)) === 0) ? size : 0;
  }

  #resetQueue(value: number): void {
    const { select } = this.#queues;
    if (value === 1 && this.#queues.resetSelected()) this.#queueVectors[select] = NO_VECTOR;
  }
}
