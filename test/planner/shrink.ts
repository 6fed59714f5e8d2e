// Makes a failing list small: takes steps and requests away, then makes numbers smaller, as long as it fails in the same
// way (the same invariant). Not here: finding failures (run.ts).
import type { RunFailure, Runner } from './run.ts';
import type { Failure, Request, Setup, Step } from './setup.ts';
import { formatSetup, formatStep } from './setup.ts';

const MILLISECONDS = 20_000;

/** What broke, without where. */
function kindOf(difference: string): string {
  return difference.startsWith('exception') ? difference.split('\n')[0]! : difference.split(':')[0]!;
}

/** A smaller run that fails as well. */
export function shrink(runner: Runner, failure: RunFailure): RunFailure {
  const deadline = Date.now() + MILLISECONDS;
  const kind = kindOf(failure.difference);
  let best = failure;
  const tries = (setup: Setup, steps: readonly Step[], failures: readonly Failure[]): boolean => {
    if (Date.now() > deadline) return false;
    const difference = runner.replay(setup, steps, failures);
    if (difference === undefined || kindOf(difference) !== kind) return false;
    best = { ...best, setup, steps, failures, difference };
    return true;
  };
  for (let size = -1; size !== weight(best) && Date.now() < deadline;) {
    size = weight(best);
    for (let i = best.failures.length - 1; i >= 0; i--)
      tries(
        best.setup,
        best.steps,
        best.failures.filter((_, other) => other !== i),
      );
    dropSteps(
      (steps) => tryMoved(best, steps, tries),
      () => best.steps,
    );
    dropRequests(
      (steps) => tryMoved(best, steps, tries),
      () => best.steps,
    );
    simplify(
      (steps) => tries(best.setup, steps, best.failures),
      () => best.steps,
    );
    simplifySetup(
      (setup) => tries(setup, best.steps, best.failures),
      () => best.setup,
    );
  }
  return best;
}

/** With fewer steps the failing host operation has another number: tries the ones near by too. */
function tryMoved(
  best: RunFailure,
  steps: readonly Step[],
  tries: (setup: Setup, steps: readonly Step[], failures: readonly Failure[]) => boolean,
): boolean {
  const [first] = best.failures;
  if (first === undefined) return tries(best.setup, steps, []);
  for (let back = 0; back < first.at && back < 40; back++) {
    if (
      tries(
        best.setup,
        steps,
        best.failures.map((each) => ({ ...each, at: each.at - back })),
      )
    )
      return true;
  }
  return false;
}

function weight({ steps, setup, failures }: RunFailure): number {
  return JSON.stringify([steps, setup, failures]).length;
}

function dropSteps(tries: (steps: readonly Step[]) => boolean, now: () => readonly Step[]): void {
  for (let length = Math.max(1, now().length >> 1); length >= 1; length >>= 1) {
    for (let at = now().length - length; at >= 0; at -= length) {
      const steps = now();
      if (at < steps.length) tries([...steps.slice(0, at), ...steps.slice(at + length)]);
    }
  }
}

function dropRequests(tries: (steps: readonly Step[]) => boolean, now: () => readonly Step[]): void {
  for (let i = 0; i < now().length; i++) {
    const step = now()[i]!;
    if (step.do !== 'kick') continue;
    for (let k = step.requests.length - 1; k >= 0; k--) {
      const current = now()[i];
      if (current?.do !== 'kick' || current.requests.length < 2) break;
      tries(now().with(i, { do: 'kick', requests: current.requests.filter((_, other) => other !== k) }));
    }
  }
}

function simplify(tries: (steps: readonly Step[]) => boolean, now: () => readonly Step[]): void {
  for (let i = 0; i < now().length; i++) {
    const step = now()[i]!;
    if (step.do !== 'kick') continue;
    for (let k = 0; k < step.requests.length; k++) {
      for (const change of CHANGES) {
        const current = now()[i];
        if (current?.do !== 'kick') break;
        const request = change(current.requests[k]!);
        if (request !== undefined) tries(now().with(i, { do: 'kick', requests: current.requests.with(k, request) }));
      }
    }
  }
}

const CHANGES: readonly ((request: Request) => Request | undefined)[] = [
  (request) => (request.op === 'map' && request.pages > 1 ? { ...request, pages: 1 } : undefined),
  (request) => (request.op === 'map' && request.flags !== 3 ? { ...request, flags: 3 } : undefined),
  (request) => (request.op === 'map' && request.pages > 2 ? { ...request, pages: request.pages >> 1 } : undefined),
  (request) => ('domain' in request && request.domain > 1 ? { ...request, domain: 1 } : undefined),
];

function simplifySetup(tries: (setup: Setup) => boolean, now: () => Setup): void {
  const plain: Partial<Setup>[] = [
    { memlock: Infinity },
    { maxMapCount: 65_530 },
    { pause: 'none' },
    { lowWater: -1 },
    { maxEntryPages: 0 },
    { gather: 'never' },
    { policy: 'forward' },
    { policy: 'exact' },
  ];
  for (const change of plain) {
    const [name, value] = Object.entries(change)[0]!;
    const setup = now();
    if (setup[name as keyof Setup] !== value && !(name === 'policy' && setup.policy === 'forward'))
      tries({ ...setup, ...change });
  }
  now().endpoints.forEach((endpoint, i) => {
    if (endpoint.reserved.length > 0)
      tries({ ...now(), endpoints: now().endpoints.with(i, { ...endpoint, reserved: [] }) });
  });
  const plainRegion = { scattered: false, follows: false, readOnly: false, sealed: 'no' } as const;
  now().regions.forEach((_, i) => {
    for (const name of Object.keys(plainRegion) as (keyof typeof plainRegion)[]) {
      const region = now().regions[i]!;
      if (region[name] === plainRegion[name]) continue;
      tries({ ...now(), regions: now().regions.with(i, { ...region, [name]: plainRegion[name] }) });
    }
  });
}

/** A failing run as text. */
export function describeFailure(failure: RunFailure): string {
  const { seed, setup, steps, failures, difference } = failure;
  return [
    `list seed ${seed}: ${difference}`,
    ...formatSetup(setup).map((line) => `  ${line}`),
    ...failures.map(({ at, errno, times }) => `  host operation ${at} fails with errno ${errno}, ${times} times`),
    ...steps.map((step, i) => `  ${i + 1}. ${formatStep(step, setup)}`),
    `  => ${difference}`,
  ].join('\n');
}
