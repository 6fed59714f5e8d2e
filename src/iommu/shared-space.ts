// Which address space the devices of a group use: one domain has one for all groups that can share it, so that ATTACH of
// a further group maps and pins nothing again (spec/design.md). Where the host cannot share, each group has its own.
// Not here: what a group mirrors (host-groups.ts), how a source is installed (coalesce/mirror.ts).
import { Errno } from '../base/errors.ts';
import { admitSource } from '../coalesce/admission.ts';
import type { ContextMirror } from '../coalesce/mirror.ts';
import type { MirrorSource } from '../coalesce/source.ts';
import { isSharing } from '../host/context.ts';
import { NONE } from '../intervals/table.ts';
import type { Domain } from './domain.ts';
import type { HostGroup, HostGroups } from './host-groups.ts';

/** Takes everything away from a group's devices; what other groups of its address space have stays. */
export function blockGroup(groups: HostGroups, group: HostGroup): void {
  // Attached to nothing is as good as attached to an empty address space.
  if (isShared(group) && group.mirror.blockedBy !== 'fatal') part(groups, group);
  else group.mirror.quiesce();
}

/** As {@link blockGroup} for a group that goes: it never stays in an address space that others use. */
export function releaseGroup(groups: HostGroups, group: HostGroup): void {
  if (isShared(group)) part(groups, group);
  else group.mirror.quiesce();
}

/**
 * Makes a group mirror `source`, that of `domain` or of bypass: in an address space that shows it already, where the host can
 * share that, else in one of its own. Returns 0, or errno: then it mirrors what it did before when `mayRestore` and the host
 * allows that, and is blocked otherwise.
 */
export function switchGroup(
  groups: HostGroups,
  group: HostGroup,
  source: MirrorSource,
  domain: Domain | undefined,
  mayRestore: boolean,
): number {
  if (group.mirror.blockedBy === 'fatal') return Errno.EIO;
  if (isSharing(group.context)) {
    for (const mirror of domain?.mirrors ?? groups.mirrors) {
      if (mirror.source === source && join(groups, group, mirror, source) === 0) return 0;
    }
  }
  if (isShared(group)) return switchAlone(groups, group, source, mayRestore);
  // Attaches devices that a refusal has left attached to nothing: one of now, or that which blocked the group.
  const errno = part(groups, group);
  if (errno === 0) return group.mirror.switchTo(source, mayRestore);
  if (!mayRestore || group.mirror.source !== undefined) group.mirror.block('switch', errno, NONE);
  return errno;
}

/** {@link switchGroup} for a group whose present address space goes on serving others. */
function switchAlone(groups: HostGroups, group: HostGroup, source: MirrorSource, mayRestore: boolean): number {
  const { mirror: former } = group;
  const { source: formerSource } = former;
  let errno = admitSource(former, source);
  if (errno !== 0 && mayRestore && isAttached(group)) return errno;
  errno = part(groups, group) || errno || group.mirror.switchTo(source, true);
  if (errno === 0) return 0;
  const restores = mayRestore && formerSource !== undefined && former.source === formerSource;
  if (restores && join(groups, group, former, formerSource) === 0) return errno;
  // Not told where it was blocked before, or when keeping the entries of the attempt has told it.
  const before = mayRestore && formerSource === undefined;
  if (!before && group.mirror.tally.blocks === 0) group.mirror.block('switch', errno, NONE);
  return errno;
}

/** The devices of a group use the address space of `mirror`; returns 0, or errno with nothing changed. */
function join(groups: HostGroups, group: HostGroup, mirror: ContextMirror, source: MirrorSource): number {
  const { context, mirror: former } = group;
  if (!isSharing(context) || !isSharing(mirror.context) || context.spaces !== mirror.context.spaces) {
    return Errno.EOPNOTSUPP;
  }
  // Before the first device that can do DMA sees it: what is planned is installed, which may block the others.
  if (!group.quiet) mirror.setQuiet(false);
  const errno = mirror.source === source ? context.attachTo(mirror.context) : Errno.EIO;
  if (errno === 0) {
    former.dismiss(context);
    mirror.admit(context);
    group.mirror = mirror;
    mirror.quietKnown ||= former.quietKnown;
    groups.updateQuiet(former);
  }
  groups.updateQuiet(mirror);
  return errno;
}

/** True when the devices are attached to what they use; a host that refused to move them may have lost them on the way. */
function isAttached({ context, mirror }: HostGroup): boolean {
  return !isSharing(context) || (isSharing(mirror.context) && context.attachTo(mirror.context) === 0);
}

/** The devices of a group use an address space of their own; returns 0, or errno: they reach nothing then, too. */
function part(groups: HostGroups, group: HostGroup): number {
  const { context, mirror: former } = group;
  const errno = isSharing(context) ? context.attachAlone() : 0;
  if (!isShared(group)) return errno;
  former.dismiss(context);
  group.mirror = groups.makeMirror(context);
  group.mirror.quietKnown = former.quietKnown;
  groups.updateQuiet(former);
  groups.updateQuiet(group.mirror);
  return errno;
}

function isShared({ mirror }: HostGroup): boolean {
  return mirror.contexts.length > 1;
}
