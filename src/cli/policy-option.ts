// The --policy option.
import { InvalidArgumentError, Option } from 'commander';
import type { Policy } from '../coalesce/settings.ts';
import { POLICIES } from '../coalesce/settings.ts';

/** `--policy NAME`; the device's default is `exact`. */
export function policyOption(): Option {
  return new Option(
    '--policy <name>',
    `how host entries are planned: ${POLICIES.join(', ')} (default exact)`,
  ).argParser((name: string): Policy => {
    const policy = POLICIES.find((known) => known === name);
    if (policy !== undefined) return policy;
    throw new InvalidArgumentError(`policy "${name}" is not available (available: ${POLICIES.join(', ')})`);
  });
}
