// What keeps guest mappings apart or lets them stand in one host entry: rights, and whether a window can show them.
import { HostRight } from '../host/context.ts';
import { REGION_GATHERABLE } from './backing.ts';
import type { ContextMirror } from './mirror.ts';
import type { ShapeLimits } from './shaper.ts';
import { GATHERABLE } from './shaper.ts';

const RIGHTS = HostRight.read | HostRight.write;

/** Flags of a stretch made of memory with these flags of a {@link Backing}; 0: nothing to install. */
export function stretchFlags(mirror: ContextMirror, found: number): number {
  const rights = found & RIGHTS;
  if (rights === 0 || (found & REGION_GATHERABLE) === 0 || !mirror.gathers) return rights;
  return rights | GATHERABLE;
}

/** True when windows can be built for the context: a window shows single pages of 4 KiB, so the host's must be that small. */
export function mayGather({ settings, context }: ContextMirror): boolean {
  const { windowPieces, pageSizes } = context.limits;
  return settings.gather !== 'never' && windowPieces > 1 && (pageSizes & 4096n) !== 0n;
}

/** What the shape of entries is bound by; `tight` is asked anew each time. */
export function shapeLimits(mirror: ContextMirror, tight: () => boolean): ShapeLimits {
  return {
    maxEntryPages: mirror.settings.maxEntryPages,
    windowPieces: mayGather(mirror) ? mirror.context.limits.windowPieces : 0,
    get tight(): boolean {
      return tight();
    },
  };
}
