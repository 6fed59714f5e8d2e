// What an embedder hears through the event channel. Addresses are bigint; ranges have inclusive ends. `context` is the name of
// a host context, or those of all contexts that use the address space that an event is about, joined by " + ".
import type { Status } from './status.ts';

/** A guest request that was not answered OK through the guest's own mistake. */
export interface RequestEvent {
  readonly type: 'request';
  readonly request: string;
  readonly status: Status;
}

/** A host refused to do what the guest asked: one of the four ways in which that is told. */
export interface HostRefusalEvent {
  readonly type: 'host-refusal';
  readonly request: string;
  readonly status: Status;
  readonly context: string;
  readonly errno: number;
  readonly domain: number | undefined;
  readonly endpoint: number | undefined;
  /** First I/O virtual address of the refused range, undefined where there is none (ATTACH). */
  readonly iova: bigint | undefined;
}

/** A host context was blocked: its devices can reach nothing until the next successful switch. */
export interface ContextBlockedEvent {
  readonly type: 'context-blocked';
  readonly context: string;
  readonly endpoints: readonly number[];
  readonly reason: 'operation failed' | 'endpoints differ' | 'fatal';
  readonly operation: string;
  readonly errno: number;
  /** The range that could not be mapped or unmapped, both ends inclusive; undefined where there is none. */
  readonly iova: bigint | undefined;
  readonly end: bigint | undefined;
}

/** A host context mirrors something new. */
export interface ContextSwitchedEvent {
  readonly type: 'context-switched';
  readonly context: string;
  readonly endpoints: readonly number[];
  readonly to: 'blocked' | 'bypass' | 'domain';
}

/**
 * A host context in bypass does not show device registers that the guest memory has, since its host cannot map them
 * (iommufd before Linux has dma-bufs of them): devices behind it reach RAM, but not the BARs of other devices.
 */
export interface MmioLeftOutEvent {
  readonly type: 'mmio-left-out';
  readonly context: string;
  readonly endpoints: readonly number[];
}

/** Live mappings in a range lost access: for a moment, while entries were replaced, or until entries come free. */
export interface DmaWindowEvent {
  readonly type: 'dma-window';
  readonly context: string;
  readonly reason: 'demotion' | 'compaction' | 'revoked' | 'memory';
  readonly start: bigint;
  readonly end: bigint;
  /** Length in milliseconds; undefined while it is open (reason `revoked`). */
  readonly ms: number | undefined;
}

/** Host entries of a context begin to run short. */
export interface BudgetLowEvent {
  readonly type: 'budget-low';
  readonly context: string;
  readonly entries: number;
  readonly limit: number;
  /** What can be done about it. */
  readonly hint: string;
}

/** Host entries of a context were put together. */
export interface CompactedEvent {
  readonly type: 'compacted';
  readonly context: string;
  readonly before: number;
  readonly after: number;
}

/** An access of an emulated device was refused. */
export interface FaultEvent {
  readonly type: 'fault';
  readonly endpoint: number;
  readonly reason: 'unknown' | 'domain' | 'mapping';
  readonly access: 'read' | 'write' | undefined;
  readonly iova: bigint;
  /** Whether the guest was told, or why not. */
  readonly report: 'reported' | 'no buffer' | 'buffer too small' | 'rate limit' | 'not running' | 'unknown endpoint';
}

/** The request queue was damaged and waits for a reset. */
export interface RingBrokenEvent {
  readonly type: 'ring-broken';
  readonly queue: number;
}

export type IommuEvent =
  | RequestEvent
  | HostRefusalEvent
  | ContextBlockedEvent
  | ContextSwitchedEvent
  | MmioLeftOutEvent
  | DmaWindowEvent
  | BudgetLowEvent
  | CompactedEvent
  | FaultEvent
  | RingBrokenEvent;
