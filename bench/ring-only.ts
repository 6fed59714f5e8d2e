// The ring without the IOMMU: a device whose model decodes each request and answers OK. The difference to the floor
// is the price of a checked ring (src/virtio), the difference to the full device that of the IOMMU (src/iommu and below).
import { DescriptorChain } from '../src/virtio/chain.ts';
import { VirtioDevice } from '../src/virtio/device.ts';
import type { GuestMemory } from '../src/virtio/memory.ts';
import type { Virtqueue } from '../src/virtio/virtqueue.ts';
import { PopResult } from '../src/virtio/virtqueue.ts';
import { Config, Tail, VIRTIO_ID_IOMMU, VIRTIO_IOMMU_REQUESTQ } from '../src/wire/abi.ts';
import { MAX_REQUEST_BYTES, RequestRecord, decodeWords } from '../src/wire/request.ts';
import { LINUX_DRIVER_FEATURES } from '../src/testing/driver-setup.ts';

const DEVICE_BITS = (1n << 24n) - 1n;

/** A virtio device with the queues and features of a virtio-iommu that does nothing but answer. */
export function ringOnlyDevice(memory: GuestMemory, requestQueueSize: number): VirtioDevice {
  const chain = new DescriptorChain();
  const request = new RequestRecord();
  let requests: Virtqueue | undefined;
  const serve = (queue: Virtqueue): void => {
    while (queue.pop(chain) === PopResult.chain) {
      const length = Math.min(chain.readableLength, MAX_REQUEST_BYTES);
      const gpa = chain.readableAddress(length);
      const window = memory.windowAt(gpa);
      if (!decodeWords(window.longs, (gpa - window.start) >>> 2, length, request))
        throw new Error('a request was lost');
      memory.writeWord(chain.writableAddress(chain.writableLength - Tail.SIZE, Tail.SIZE), 0);
      queue.push(chain.head, Tail.SIZE);
    }
    queue.publish();
    queue.armNotification();
  };
  return new VirtioDevice(
    {
      deviceId: VIRTIO_ID_IOMMU,
      deviceFeatures: LINUX_DRIVER_FEATURES & DEVICE_BITS,
      queueMaxSizes: [requestQueueSize, 64],
      configLength: Config.SIZE,
      readConfig: (into) => into.fill(0),
      writeConfig: () => undefined,
      featuresNegotiated: () => true,
      driverReady: (queues) => {
        requests = queues[VIRTIO_IOMMU_REQUESTQ];
      },
      notified: (index) => {
        if (index === VIRTIO_IOMMU_REQUESTQ && requests !== undefined) serve(requests);
      },
      reset: () => undefined,
      queueReset: () => undefined,
    },
    { memory, interrupt: { queue: () => undefined, config: () => undefined } },
  );
}
