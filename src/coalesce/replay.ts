// ATTACH replay: installs a whole source into a context that was emptied.
// Unit: 4 KiB page numbers, half-open.
import { Errno } from '../base/errors.ts';
import type { ContextMirror } from './mirror.ts';
import { ALL_ANSWERED } from './send.ts';
import { joinsWhenQuiet } from './settings.ts';
import type { MirrorSource } from './source.ts';

/** Operations are sent to the host after this many at most. */
const CHUNK = 1024;

/**
 * Installs `source`, which the mirror names already. Joins when the policy joins on quiet contexts, since nothing is
 * reachable before; a context that is quiet keeps its tails planned. Returns 0 or the errno of a refusal.
 */
export function replay(mirror: ContextMirror, source: MirrorSource): number {
  const { plan } = mirror;
  const joins = source.kind === 'domain' && joinsWhenQuiet(mirror.settings.policy);
  plan.sender.refusals = ALL_ANSWERED;
  plan.sender.failed = 0;
  source.walk((iova, pages, gpa, rights) => {
    if (joins) plan.add(iova, pages, gpa, rights);
    else plan.sender.addPlain(iova, pages, gpa, rights);
    return plan.batched < CHUNK || plan.sender.flush();
  });
  if (plan.sender.failed === 0 && joins && !mirror.quiet) plan.installWaiting();
  else if (plan.sender.failed === 0) plan.sender.flush();
  const errno = plan.sender.failed;
  plan.sender.failed = 0;
  // An undo that was refused has blocked the context.
  return errno === 0 && mirror.source !== source ? Errno.EIO : errno;
}
