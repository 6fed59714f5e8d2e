// The planner interface: a policy turns the changes of one guest domain into host operations.
// The changes of one segment are collected in ring order, then committed in one go to every context of the domain.
// Unit: 4 KiB page numbers. Tokens name requests; they come back for those that the host refused.
import type { ContextMirror } from './mirror.ts';
import { ForwardPlanner } from './forward.ts';

/** Policies of the plan (spec/design.md): only `forward` (1:1) is there so far. */
export const POLICIES = ['forward'] as const;

/** Name of a policy. */
export type Policy = (typeof POLICIES)[number];

/** Receives what the host refused while a plan was committed. */
export interface RefusalSink {
  /** The MAP with this token was refused and undone in every context; `errno` of `mirror`'s host. */
  mapRefused(token: number, errno: number, mirror: ContextMirror): void;
}

/** Collects the changes of one segment of one domain, and carries them out. */
export interface Planner {
  /** Number of changes collected. */
  readonly pending: number;
  /** The guest's table gained [iova, iova + pages) -> gpa with these rights. */
  map(token: number, iova: number, pages: number, gpa: number, rights: number): void;
  /** The guest's table lost every mapping inside [iova, iova + pages); no mapping reaches over either end. */
  unmap(token: number, iova: number, pages: number): void;
  /** True when [iova, iova + pages) meets a change that is collected: the caller commits first. */
  touches(iova: number, pages: number): boolean;
  /** Carries the changes out in order on all `mirrors`, each MAP in all of them or in none; then the plan is empty. */
  commit(mirrors: readonly ContextMirror[], sink: RefusalSink): void;
}

const PLANNERS: Readonly<Record<Policy, new () => Planner>> = { forward: ForwardPlanner };

/** Makes the planner of a policy. */
export function createPlanner(policy: Policy): Planner {
  return new PLANNERS[policy]();
}
