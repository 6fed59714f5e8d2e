// Keeps a context in step when guest memory comes or goes: entries of all mappings that show it are derived anew.
// Unit: 4 KiB page numbers, half-open.
import { Errno } from '../base/errors.ts';
import { NONE } from '../intervals/table.ts';
import type { ContextMirror } from './mirror.ts';
import { ALL_ANSWERED } from './send.ts';
import { Removal } from './removal.ts';
import { joinsWhenQuiet } from './settings.ts';

/** Operations are sent to the host after this many at most. */
const CHUNK = 1024;

/** Guest-physical pages [gpa, gpa + pages) with their host memory. */
export interface Place {
  readonly gpa: number;
  readonly pages: number;
}

/** Memory came, and is in the backing: installs it wherever the source shows it; a refusal blocks the context. */
export function installMemory(mirror: ContextMirror, place: Place): void {
  const { source, plan } = mirror;
  if (source === undefined) return;
  plan.sender.refusals = ALL_ANSWERED;
  if (ramAfter(mirror, place) > mirror.pageCap) {
    mirror.block('new memory region', Errno.ENOMEM, NONE);
    return;
  }
  const joins = mirror.quiet && joinsWhenQuiet(mirror.settings.policy) && mirror.mappings !== undefined;
  const end = place.gpa + place.pages;
  source.walk((iova, pages, gpa, rights) => {
    const from = Math.max(gpa, place.gpa);
    const to = Math.min(gpa + pages, end);
    if (from >= to) return true;
    if (joins && to - from === pages) plan.add(iova, pages, gpa, rights);
    else plan.sender.addPlain(iova + (from - gpa), to - from, from, rights);
    return plan.batched < CHUNK || plan.sender.flush();
  });
  if (!plan.sender.flush()) plan.sender.blockFailed('new memory region');
  else if (mirror.budget.taken > mirror.budget.limit) mirror.block('new memory region', Errno.ENOSPC, NONE);
}

/** Memory is about to go, and is still in the backing: takes it away wherever the source shows it. */
export function removeMemory(mirror: ContextMirror, place: Place): void {
  const { source } = mirror;
  if (source === undefined) return;
  const end = place.gpa + place.pages;
  const removal = new Removal();
  source.walk((iova, pages, gpa) => {
    const from = Math.max(gpa, place.gpa);
    const to = Math.min(gpa + pages, end);
    if (from < to) removal.ranges.add(iova + (from - gpa), iova + (to - gpa));
    return true;
  });
  removal.ranges.normalise();
  removal.apply(mirror, (gpa, pages) => gpa < end && gpa + pages > place.gpa);
}

/** RAM pages installed or planned once the memory at `place` is shown. */
function ramAfter(mirror: ContextMirror, place: Place): number {
  const { backing, source } = mirror;
  const end = place.gpa + place.pages;
  let ram = mirror.pages + mirror.waiting.pages + mirror.plan.pages;
  source?.walk((_iova, pages, gpa, rights) => {
    const from = Math.max(gpa, place.gpa);
    const to = Math.min(gpa + pages, end);
    if (from < to) ram += backing.ramPagesIn(from, to - from, rights);
    return true;
  });
  return ram;
}
