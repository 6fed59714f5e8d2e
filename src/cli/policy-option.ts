// The --policy option: names that are planned are known, so that the message can say that they are not there yet.
import { InvalidArgumentError, Option } from 'commander';
import type { Policy } from '../coalesce/planner.ts';
import { POLICIES } from '../coalesce/planner.ts';

/** `--policy NAME`, restricted to the policies that this version has. */
export function policyOption(): Option {
  return new Option('--policy <name>', `how host entries are planned: ${POLICIES.join(', ')}`)
    .default('forward')
    .argParser((name: string): Policy => {
      const policy = POLICIES.find((known) => known === name);
      if (policy !== undefined) return policy;
      throw new InvalidArgumentError(`policy "${name}" is not available (available: ${POLICIES.join(', ')})`);
    });
}
