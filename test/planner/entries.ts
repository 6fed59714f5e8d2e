// The device's table of a context's host entries against the host's own, entry by entry, and what it says of each: whether
// it joins guest mappings. Unit: 4 KiB page numbers, ends exclusive.
import { GATHERED, JOINED } from '../../src/coalesce/host-entries.ts';
import type { ContextMirror } from '../../src/coalesce/mirror.ts';
import { HOST_MMIO } from '../../src/host/context.ts';
import { NONE } from '../../src/intervals/table.ts';
import type { SimulatedContext } from './machine.ts';

const RIGHTS = 3;

/** What the device gets wrong about the entries of a context that mirrors something. */
export function entriesDiffer(mirror: ContextMirror, host: SimulatedContext): string | undefined {
  const { entries } = mirror;
  const { table } = entries;
  let [pages, joined, gathered] = [0, 0, 0];
  let slot = table.first();
  for (const real of host.entries()) {
    if (slot === NONE) return `holds 0x${real.iova.toString(16)} too many`;
    const [start, end, flags] = [table.startAt(slot), table.endAt(slot), table.flagsAt(slot)];
    if (start !== real.iova || end - start !== real.pages || (flags & RIGHTS) !== real.rights)
      return `holds 0x${real.iova.toString(16)}+${real.pages} where the device knows 0x${start.toString(16)}+${end - start}`;
    if ((flags & HOST_MMIO) === 0) pages += end - start;
    if ((flags & JOINED) !== 0) joined++;
    if ((flags & GATHERED) !== 0) gathered++;
    const several = mappingsIn(mirror, start, end) > 1;
    if (several !== ((flags & (JOINED | GATHERED)) !== 0))
      return `${several ? 'shows several mappings' : 'shows one mapping'} at 0x${start.toString(16)}, its flags are ${flags}`;
    slot = table.next(slot);
  }
  if (slot !== NONE) return `lacks 0x${table.startAt(slot).toString(16)}`;
  const same = entries.pages === pages && entries.joined === joined && entries.gathered === gathered;
  return same ? undefined : `holds ${pages} pages, ${joined} joined and ${gathered} gathered entries`;
}

function mappingsIn({ mappings }: ContextMirror, start: number, end: number): number {
  let count = 0;
  mappings?.walkRange(start, end, () => {
    count++;
    return true;
  });
  return count;
}
