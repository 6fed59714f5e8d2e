// A device that echoes: copies the readable part of every chain into its writable part. For tests of rings and transports.
// Not here: anything of virtio-iommu.
import type { VirtioDevice } from '../virtio/device.ts';
import type { VirtioDeviceModel } from '../virtio/device-model.ts';
import type { Virtqueue } from '../virtio/virtqueue.ts';
import { DescriptorChain } from '../virtio/chain.ts';
import { PopResult } from '../virtio/virtqueue.ts';

/** Device type 63, feature bit 3, queues of the sizes given, a writable configuration space. */
export class EchoModel implements VirtioDeviceModel {
  readonly deviceId = 63;
  readonly deviceFeatures = 1n << 3n;
  readonly queueMaxSizes: readonly number[];
  readonly configLength: number;
  readonly config: Uint8Array;
  /** Set by the test once the device is there; interrupts go through it. */
  device: VirtioDevice | undefined;
  /** Names of what the device was told, for example `kick 0`. */
  readonly log: string[] = [];
  /** Chains served. */
  served = 0;
  readonly #chain = new DescriptorChain();
  #queues: readonly Virtqueue[] = [];

  constructor(queueMaxSizes: readonly number[] = [16, 8], configLength = 12) {
    this.queueMaxSizes = queueMaxSizes;
    this.configLength = configLength;
    this.config = Uint8Array.from({ length: configLength }, (_, i) => (0x10 + i) & 0xff);
  }

  readConfig(into: Uint8Array): void {
    into.set(this.config);
  }

  writeConfig(offset: number, bytes: Uint8Array): void {
    this.config.set(bytes, offset);
  }

  featuresNegotiated(): boolean {
    return true;
  }

  driverReady(queues: readonly Virtqueue[]): void {
    this.log.push('ready');
    this.#queues = queues;
    for (const queue of queues) this.serve(queue);
  }

  notified(index: number): void {
    this.log.push(`kick ${index}`);
    this.serve(this.#queues[index]!);
  }

  reset(): void {
    this.log.push('reset');
  }

  queueReset(index: number): void {
    this.log.push(`queueReset ${index}`);
  }

  /** Takes everything from a queue, answers it, and asks for kicks again. */
  serve(queue: Virtqueue): void {
    for (;;) {
      const result = queue.pop(this.#chain);
      if (result === PopResult.chain) {
        const bytes = new Uint8Array(Math.min(this.#chain.readableLength, this.#chain.writableLength));
        this.#chain.copyReadable(0, bytes, bytes.length);
        queue.push(this.#chain.head, this.#chain.write(0, bytes, bytes.length));
        this.served++;
        continue;
      }
      if (queue.publish()) this.device?.signalQueue(queue.index);
      if (result === PopResult.broken) this.device?.needsReset();
      if (result === PopResult.broken || !queue.armNotification()) return;
    }
  }
}
