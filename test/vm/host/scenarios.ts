// Which scenarios run in which machine, by section name, in order. Used in the machine and by the tests outside.
import type { Scenario } from './guest-env.ts';

type Load = () => Promise<{ readonly run: Scenario }>;

/** Sections by kind of machine. */
export const SCENARIOS: Readonly<Record<string, Readonly<Record<string, Load>>>> = {
  main: {
    survey: () => import('./scenarios/survey.ts'),
    'huge pages': () => import('./scenarios/hugetlb.ts'),
    'DMA by IOVA': () => import('./scenarios/dma.ts'),
    'scattered L2': () => import('./scenarios/scattered.ts'),
    switches: () => import('./scenarios/switches.ts'),
    installation: () => import('./scenarios/installation.ts'),
    'entry limit': () => import('./scenarios/limit.ts'),
  },
  contract: {
    contract: () => import('./contract/main.ts'),
  },
  /** For other sizes, by hand (run.ts). */
  installation: {
    installation: () => import('./scenarios/installation.ts'),
  },
  rmrr: {
    'reserved memory': () => import('./scenarios/rmrr.ts'),
  },
};

/** Sections of a kind of machine. */
export function sectionsOf(kind: string): string[] {
  return Object.keys(SCENARIOS[kind] ?? {});
}
