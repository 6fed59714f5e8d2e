// Whether a whole source fits a context: entries and bytes are counted before anything is touched.
// Unit: 4 KiB page numbers, half-open.
import { Errno } from '../base/errors.ts';
import { HOST_MMIO, HostBatch } from '../host/context.ts';
import type { ContextMirror } from './mirror.ts';
import { joinsWhenQuiet } from './settings.ts';
import type { ShapeSink } from './shaper.ts';
import { EntryShaper } from './shaper.ts';
import { shapeLimits, stretchFlags } from './stretch.ts';
import type { MirrorSource } from './source.ts';

/** 0 when `next` fits the context, else ENOSPC or ENOMEM, or EFAULT when it shows device registers and the host cannot. */
export function admitSource(mirror: ContextMirror, next: MirrorSource): number {
  const { limit } = mirror.budget;
  const need =
    next.kind === 'domain' && joinsWhenQuiet(mirror.settings.policy) ? shaped(mirror, next) : plain(mirror, next);
  if (need.mmio && mirror.context.limits.mmio === false) return Errno.EFAULT;
  if (need.entries > limit) return Errno.ENOSPC;
  return need.pages > mirror.pageCap ? Errno.ENOMEM : 0;
}

interface Need {
  entries: number;
  pages: number;
  /** Whether device registers are among it. */
  mmio: boolean;
}

/** One entry for each backed piece of each mapping; counting stops above the limit. */
function plain(mirror: ContextMirror, next: MirrorSource): Need {
  const { backing } = mirror;
  const scratch = new HostBatch(16);
  const need = { entries: 0, pages: 0, mmio: false };
  next.walk((iova, pages, gpa, rights) => {
    scratch.clear();
    need.entries += backing.appendPieces(scratch, iova, pages, gpa, rights);
    need.pages += backing.appendedRam;
    need.mmio ||= hasMmio(scratch);
    return need.entries <= mirror.budget.limit;
  });
  return need;
}

/** The fewest entries that joining and gathering can do with. */
function shaped(mirror: ContextMirror, next: MirrorSource): Need {
  const { backing } = mirror;
  const need = { entries: 0, pages: 0, mmio: false };
  const count = (): void => {
    need.entries++;
  };
  const sink: ShapeSink = { mapRun: count, gatherPieces: count };
  const shaper = new EntryShaper(
    sink,
    shapeLimits(mirror, () => true),
  );
  const scratch = new HostBatch(16);
  let mappings = 0;
  next.walk((iova, pages, gpa, rights) => {
    const flags = backing.locate(gpa, pages, rights) ? stretchFlags(mirror, backing.foundFlags) : -1;
    if (flags === 0) return true;
    if (flags < 0 || (backing.foundFlags & HOST_MMIO) !== 0 || mirror.plan.isEdge(iova)) shaper.finish();
    if (flags < 0 || (backing.foundFlags & HOST_MMIO) !== 0) {
      scratch.clear();
      const pieces = backing.appendPieces(scratch, iova, pages, gpa, rights);
      need.entries += pieces;
      mappings += pieces;
      need.mmio ||= hasMmio(scratch);
      need.pages += backing.appendedRam;
    } else {
      mappings++;
      if (!shaper.continues(iova, flags)) shaper.finish();
      shaper.append(iova, pages, backing.foundVa, flags, backing.region);
      need.pages += pages;
    }
    return need.entries <= mirror.budget.limit;
  });
  shaper.finish();
  // Fewer entries than mappings: one more is kept free, so that a partial UNMAP has room.
  if (need.entries < mappings) need.entries++;
  return need;
}

function hasMmio(batch: HostBatch): boolean {
  for (let i = 0; i < batch.count; i++) if ((batch.rights[i]! & HOST_MMIO) !== 0) return true;
  return false;
}
