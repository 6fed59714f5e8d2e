// What an embedder hears through the event channel. Addresses are bigint; ranges have inclusive ends.
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
  readonly iova: bigint | undefined;
}

/** A host context mirrors something new. */
export interface ContextSwitchedEvent {
  readonly type: 'context-switched';
  readonly context: string;
  readonly endpoints: readonly number[];
  readonly to: 'blocked' | 'bypass' | 'domain';
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
  RequestEvent | HostRefusalEvent | ContextBlockedEvent | ContextSwitchedEvent | FaultEvent | RingBrokenEvent;
