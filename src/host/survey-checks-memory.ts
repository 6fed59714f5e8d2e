// Checks of memory that is reserved for a function and its group: does Linux give the device away, what does the guest see.
import { hex } from '../base/check.ts';
import type { ReservedRegion } from '../base/reserved.ts';
import { groupReserved } from '../firmware/group-reserved.ts';
import { RESV_MEM_BYTES } from '../firmware/resv-mem.ts';
import type { HostCheck } from './survey-check.ts';
import { check } from './survey-check.ts';
import type { Subject } from './survey-judge.ts';

/** The probe_size of a device that nobody told otherwise. */
const DEFAULT_PROBE_SIZE = 512;

/** Where the processor is not told the list itself must tell. */
const ARCH = { intel: { arch: 'x86' }, amd: { arch: 'x86' }, arm: { arch: 'arm' }, unknown: {} } as const;

/** Memory that firmware wants mapped 1:1 (RMRR, IVMD, RMR): the verdict of the rules of Linux. */
export function firmwareCheck({ report }: Subject): HostCheck {
  if (report === undefined) return check('firmware memory', 'unknown', 'no source tells of it');
  const { verdict, errno, why, approximate, lockedBy } = report.eligibility;
  const doubt = approximate ? ' (not certain)' : '';
  switch (verdict) {
    case 'refused': {
      const who = lockedBy === undefined || lockedBy === report.name ? '' : `, because of ${lockedBy}`;
      const what = `Linux refuses it with ${errno ?? 'an error'}${who}: ${why}${doubt}`;
      return check('firmware memory', 'problem', what, report.remedies);
    }
    case 'unknown':
      return check('firmware memory', 'unknown', why, report.remedies);
    case 'relaxable':
      return check('firmware memory', 'note', `Linux lets it go: ${why}${doubt}`);
    case 'assignable':
      return check('firmware memory', approximate ? 'note' : 'ok', `${why}${doubt}`);
  }
}

/** The regions that the endpoint reports. */
export function reservedCheck({ group, survey }: Subject): {
  readonly check: HostCheck;
  readonly reserved: readonly ReservedRegion[] | undefined;
} {
  const name = 'reserved memory';
  const text = group?.reservedRegions;
  if (text === undefined) {
    const what = 'the group has no reserved_regions: Linux 4.11 or later is needed';
    return { check: check(name, 'problem', what), reserved: undefined };
  }
  let reserved: readonly ReservedRegion[];
  try {
    reserved = groupReserved(text, ARCH[survey.processor]);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return { check: check(name, 'problem', error.message), reserved: undefined };
  }
  const bytes = reserved.length * RESV_MEM_BYTES;
  const list = reserved.slice(0, 4).map(({ start, end, kind }) => `${hex(start)}-${hex(end)} ${kind}`);
  const more = reserved.length > list.length ? ` and ${reserved.length - list.length} more` : '';
  const what = `the endpoint reports ${list.join(', ')}${more}`;
  if (bytes > DEFAULT_PROBE_SIZE) {
    const remedy = `give the device probeSize ${bytes} or more`;
    return { check: check(name, 'note', what, [remedy]), reserved };
  }
  return { check: check(name, 'ok', reserved.length === 0 ? 'none' : what), reserved };
}
