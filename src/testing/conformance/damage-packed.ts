// Damages a chain that stands in a packed ring, in the way that comes closest to what a vector file names; the vectors
// speak of split rings. The device has not looked at the ring yet. Positions count descriptors.
//
//   desc_loop               every descriptor of the ring is available and has NEXT: a list without an end
//   desc_next_out_of_range  NEXT leads to a descriptor that was not made available
//   nested_indirect         INDIRECT and NEXT together (in a table INDIRECT is ignored, D-RING-8, so nothing can nest)
//   avail_head_out_of_range a buffer id that the ring does not have
import { PackedDescriptor, PackedFlag } from '../../virtio/packed-layout.ts';
import type { PackedDriverQueue, RawPackedDescriptor } from '../packed-driver-queue.ts';
import { OUTSIDE_MEMORY } from './damage.ts';
import type { Malform } from './vector-types.ts';

/** Damages the chain `id`, which is available. @throws Error when it has no descriptor of the kind to damage. */
export function damagePacked(queue: PackedDriverQueue, id: number, malform: Malform): void {
  const last = queue.descriptorsOf(id).at(-1)!;
  const descriptor = queue.readDescriptor(last);
  switch (malform) {
    case 'desc_loop':
      fillRing(queue, id, last);
      return;
    case 'desc_next_out_of_range':
    case 'nested_indirect':
      queue.setFlagsAt(last, descriptor.flags | PackedFlag.next);
      return;
    case 'indirect_len_not_multiple_of_16':
      queue.writeDescriptor(last, { ...descriptor, len: descriptor.len - PackedDescriptor.SIZE / 2 });
      return;
    case 'avail_head_out_of_range':
      queue.writeDescriptor(last, { ...descriptor, id: queue.size });
      return;
    case 'desc_addr_outside_memory':
      rewrite(queue, id, false, { addr: OUTSIDE_MEMORY });
      return;
    case 'writable_addr_outside_memory':
      rewrite(queue, id, true, { addr: OUTSIDE_MEMORY });
      return;
    case 'zero_len_descriptor':
      rewrite(queue, id, false, { len: 0 });
      return;
  }
}

/** Goes on behind `last`, over the end of the ring, up to the first descriptor of the chain. */
function fillRing(queue: PackedDriverQueue, id: number, last: number): void {
  const [first] = queue.descriptorsOf(id);
  const model = queue.readDescriptor(last);
  let flags = model.flags | PackedFlag.next;
  let position = last;
  do {
    queue.writeDescriptor(position, { ...model, flags });
    if (++position === queue.size) {
      position = 0;
      flags ^= PackedFlag.avail | PackedFlag.used;
    }
  } while (position !== first);
}

function rewrite(queue: PackedDriverQueue, id: number, writable: boolean, change: Partial<RawPackedDescriptor>): void {
  const found = placesOf(queue, id).find(
    (gpa) => ((queue.readDescriptorAt(gpa).flags & PackedFlag.write) !== 0) === writable,
  );
  if (found === undefined) throw new Error(`the request has no ${writable ? 'writable' : 'readable'} descriptor`);
  queue.writeDescriptorAt(found, { ...queue.readDescriptorAt(found), ...change });
}

/** Addresses of the descriptors that carry buffers, in chain order. */
function placesOf(queue: PackedDriverQueue, id: number): bigint[] {
  const size = BigInt(PackedDescriptor.SIZE);
  const places = queue.descriptorsOf(id).map((position) => queue.desc + BigInt(position) * size);
  const table = queue.tableOf(id);
  if (table === undefined) return places;
  const entries = queue.readDescriptorAt(places.pop()!).len / PackedDescriptor.SIZE;
  for (let i = 0; i < entries; i++) places.push(table + BigInt(i) * size);
  return places;
}
