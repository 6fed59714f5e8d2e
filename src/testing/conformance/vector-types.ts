// A vector case after its file was checked: defaults filled in, requests encoded, numbers as numbers or bigint.
// Not here: the JSON spelling (read-*.ts), what a case does (run-case.ts). Ranges have inclusive ends.
import type { AddressRange } from '../../base/ranges.ts';
import type { ReservedRegion } from '../../base/reserved.ts';

/** Ways to damage a ring. */
export const MALFORMS = [
  'desc_loop',
  'desc_next_out_of_range',
  'desc_addr_outside_memory',
  'writable_addr_outside_memory',
  'indirect_len_not_multiple_of_16',
  'nested_indirect',
  'avail_head_out_of_range',
  'zero_len_descriptor',
] as const;
export type Malform = (typeof MALFORMS)[number];

/** How far a driver has brought the device. */
export const DEVICE_STATES = ['RESET', 'DRIVER', 'FEATURES_OK', 'DRIVER_OK'] as const;
export type DeviceState = (typeof DEVICE_STATES)[number];

/** One request as a descriptor chain. */
export interface ChainSpec {
  /** ATTACH, DETACH, MAP, UNMAP, PROBE or raw. */
  readonly name: string;
  readonly readable: Uint8Array;
  /** Leading bytes of `readable` that hold the request's struct. */
  readonly structBytes: number;
  readonly writableLength: number;
  readonly prefill: number;
  /** Offsets in the writable part at which the status may stand. */
  readonly statusAt: readonly number[];
  readonly readableLayout: readonly number[] | undefined;
  readonly writableLayout: readonly number[] | undefined;
  /** Undefined: direct, or a table when the ring has no room for that. */
  readonly indirect: boolean | 'tail' | undefined;
  readonly indirectTableWriteFlag: boolean;
  readonly writableFirst: boolean;
}

/** A field that grows with every request of a `repeat`; modulo its width. */
export interface FieldStep {
  readonly offset: number;
  readonly bytes: number;
  readonly start: bigint;
  readonly step: bigint;
}

export interface AccessSpec {
  readonly endpoint: number;
  readonly iova: bigint;
  readonly write: boolean;
}

/** Bytes of the configuration space. */
export interface ConfigPlace {
  readonly offset: number;
  readonly size: number;
}

export interface EventBuffersSpec {
  readonly sizes: readonly number[];
  readonly layout: readonly number[] | undefined;
  readonly readable: boolean;
  readonly notify: boolean;
}

export type Operation =
  | { readonly op: 'send'; readonly chains: readonly ChainSpec[]; readonly batch: boolean }
  | { readonly op: 'repeat'; readonly chain: ChainSpec; readonly count: number; readonly steps: readonly FieldStep[] }
  | { readonly op: 'ring'; readonly chain: ChainSpec; readonly malform: Malform }
  | ({ readonly op: 'access' } & AccessSpec)
  | ({ readonly op: 'event_buffers' } & EventBuffersSpec)
  | ({ readonly op: 'config_read'; readonly value: bigint | undefined } & ConfigPlace)
  | ({ readonly op: 'config_write'; readonly value: bigint } & ConfigPlace)
  | { readonly op: 'features_read' | 'device_reset' | 'system_reset' | 'nop' };

/** A property as a PROBE reply holds it. */
export interface PropertySpec {
  readonly type: number;
  readonly length: number;
  readonly subtype: number;
  readonly start: bigint;
  readonly end: bigint;
}

export interface EventSpec {
  readonly present: readonly boolean[];
  readonly reason: readonly number[] | undefined;
  readonly endpoint: number | undefined;
  readonly flags: readonly number[] | undefined;
  readonly address: bigint | undefined;
  readonly usedLength: number | undefined;
}

export type CheckAction =
  | ({ readonly check: 'access'; readonly result: readonly string[] } & AccessSpec)
  | { readonly check: 'req'; readonly chain: ChainSpec; readonly status: readonly string[] }
  | ({ readonly check: 'config'; readonly value: readonly bigint[] } & ConfigPlace)
  | ({ readonly check: 'config_nonzero' } & ConfigPlace)
  | { readonly check: 'features'; readonly mustInclude: readonly string[]; readonly notTogether: readonly string[] }
  | { readonly check: 'properties'; readonly list: readonly PropertySpec[]; readonly zeroPad: boolean }
  | ({ readonly check: 'event' } & EventSpec)
  | { readonly check: 'event_buffers_used'; readonly max: number }
  | {
      readonly check:
        | 'properties_well_formed'
        | 'property_reserved_zero'
        | 'no_property_written'
        | 'tail_reserved_zero'
        | 'readable_unmodified'
        | 'reinit';
    };

/** A check; `when`: only if the request under test gave one of these results. */
export type Check = CheckAction & { readonly when: readonly string[] | undefined };

export interface DeviceSpec {
  readonly pageSizeMask: bigint;
  readonly inputRange: AddressRange;
  readonly domainRange: { readonly start: number; readonly end: number };
  readonly probeSize: number;
  readonly bypass: boolean;
  readonly queueSize: number;
  readonly endpoints: readonly { readonly id: number; readonly reserved: readonly ReservedRegion[] }[];
  readonly maxMappings: number | undefined;
  readonly state: DeviceState;
  /** Feature names. */
  readonly offered: readonly string[];
  readonly accepted: readonly string[];
}

export interface VectorCase {
  readonly id: string;
  readonly title: string;
  readonly level: string;
  readonly statement: readonly string[];
  readonly device: DeviceSpec;
  readonly setup: readonly Operation[];
  readonly request: Operation;
  /** One list per request of a batch, else a single list. */
  readonly status: readonly (readonly string[])[];
  /** The lists without the SHOULDs, where the file gives them. */
  readonly lenientStatus: readonly (readonly string[])[] | undefined;
  readonly usedLengths: readonly number[] | undefined;
  readonly checks: readonly Check[];
  /** Bytes of guest memory that the chains of each queue take at most. */
  readonly bufferBytes: { readonly requests: number; readonly events: number };
}
