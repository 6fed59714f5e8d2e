// Damages a chain that a driver has built, in one of the ways that a vector file can name. The device has not seen it yet.
// Positions count entries of the table that holds the descriptor: the ring's, or an indirect one.
import { Descriptor, DescriptorFlag } from '../../virtio/ring-layout.ts';
import type { DriverQueue, RawDescriptor } from '../driver-queue.ts';
import type { Malform } from './vector-types.ts';

/** An address at which the runner has no memory, nor has the default device of the format. */
export const OUTSIDE_MEMORY = 0xc000_0000n;

/** One descriptor that carries a buffer. */
export interface DescriptorSlot {
  readonly gpa: bigint;
  readonly descriptor: RawDescriptor;
  /** First position of the chain in this descriptor's table, and entries of that table. */
  readonly firstPosition: number;
  readonly tableSize: number;
}

/** Kinds of damage that need the chain in an indirect table. */
export function needsTable(malform: Malform): boolean {
  return malform === 'indirect_len_not_multiple_of_16' || malform === 'nested_indirect';
}

/** The descriptors of a chain that carry buffers, in chain order. */
export function slotsOf(queue: DriverQueue, head: number): DescriptorSlot[] {
  const indexes = queue.descriptorsOf(head);
  const table = queue.tableOf(head);
  const slots = indexes.map((index) => slotAt(queue, queue.desc, index, head, queue.size));
  if (table === undefined) return slots;
  const entries = slots.pop()!.descriptor.len / Descriptor.SIZE;
  for (let i = 0; i < entries; i++) slots.push(slotAt(queue, table, i, 0, entries));
  return slots;
}

/** Damages the chain; `scratch` is guest memory for one descriptor. `avail_head_out_of_range` is not for here. */
export function damageChain(queue: DriverQueue, head: number, malform: Malform, scratch: bigint): void {
  const slots = slotsOf(queue, head);
  const first = slots[0]!;
  const last = slots.at(-1)!;
  switch (malform) {
    case 'desc_loop':
      rewrite(queue, last, { flags: last.descriptor.flags | DescriptorFlag.next, next: last.firstPosition });
      return;
    case 'desc_next_out_of_range':
      rewrite(queue, first, { flags: first.descriptor.flags | DescriptorFlag.next, next: first.tableSize });
      return;
    case 'desc_addr_outside_memory':
      rewrite(queue, pick(slots, false), { addr: OUTSIDE_MEMORY });
      return;
    case 'writable_addr_outside_memory':
      rewrite(queue, pick(slots, true), { addr: OUTSIDE_MEMORY });
      return;
    case 'zero_len_descriptor':
      rewrite(queue, pick(slots, false), { len: 0 });
      return;
    case 'indirect_len_not_multiple_of_16':
    case 'nested_indirect':
      damageTable(queue, head, malform, scratch);
      return;
    case 'avail_head_out_of_range':
      return;
  }
}

/** Makes the head that was made available last one that no descriptor table has. */
export function damageAvailable(queue: DriverQueue): void {
  queue.setAvailEntry((queue.availIndex - 1) & (queue.size - 1), queue.size);
}

function damageTable(queue: DriverQueue, head: number, malform: Malform, scratch: bigint): void {
  const index = queue.descriptorsOf(head).at(-1)!;
  const pointer = queue.readDescriptor(index);
  if (malform === 'indirect_len_not_multiple_of_16') {
    queue.writeDescriptor(index, { ...pointer, len: pointer.len - Descriptor.SIZE / 2 });
    return;
  }
  // The outer table holds one entry, which leads to the good table.
  queue.writeDescriptorAt(scratch, { ...pointer, flags: DescriptorFlag.indirect });
  queue.writeDescriptor(index, { ...pointer, addr: scratch, len: Descriptor.SIZE });
}

function slotAt(queue: DriverQueue, table: bigint, position: number, first: number, size: number): DescriptorSlot {
  const gpa = table + BigInt(position * Descriptor.SIZE);
  return { gpa, descriptor: queue.readDescriptorAt(gpa), firstPosition: first, tableSize: size };
}

function pick(slots: readonly DescriptorSlot[], writable: boolean): DescriptorSlot {
  const found = slots.find(({ descriptor }) => ((descriptor.flags & DescriptorFlag.write) !== 0) === writable);
  if (found === undefined) throw new Error(`the request has no ${writable ? 'writable' : 'readable'} descriptor`);
  return found;
}

function rewrite(queue: DriverQueue, slot: DescriptorSlot, change: Partial<RawDescriptor>): void {
  queue.writeDescriptorAt(slot.gpa, { ...slot.descriptor, ...change });
}
