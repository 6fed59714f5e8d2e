// One line of the answer to "can this device be passed through": a check, its state, and what to do. Data only.

/**
 * `ok`: nothing to do. `note`: worth knowing. `todo`: a command of root makes it right now. `problem`: it cannot be passed
 * through unless firmware, boot options or hardware change, or a risk is accepted. `unknown`: the files do not tell.
 */
export type CheckState = 'ok' | 'note' | 'todo' | 'problem' | 'unknown';

/** Names of the checks, in order. */
export const CHECKS = [
  'device',
  'iommu',
  'group',
  'driver',
  'firmware memory',
  'reserved memory',
  'interrupts',
  'backend',
  'permission',
  'locked memory',
  'memory',
  'entries',
  'windows',
  'address width',
  'reset',
  'isolation',
  'host use',
] as const;

/** One check. */
export interface HostCheck {
  readonly name: (typeof CHECKS)[number];
  readonly state: CheckState;
  /** A sentence without a dot at its end. */
  readonly what: string;
  /** Ways to make it right, most harmless first. */
  readonly remedies: readonly string[];
}

/** Makes a check. */
export function check(
  name: HostCheck['name'],
  state: CheckState,
  what: string,
  remedies: readonly string[] = [],
): HostCheck {
  return { name, state, what, remedies };
}

/** `512 MiB`, `1.5 GiB`: three digits at most are enough to compare. */
export function bytesText(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  const digits = Number.isInteger(value) || value >= 100 ? Math.floor(value).toString() : value.toFixed(1);
  return `${digits} ${units[unit]}`;
}
