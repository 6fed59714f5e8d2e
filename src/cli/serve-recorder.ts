// What goes into the trace of `serve --record`: the listener of a RecordedIommu, and the records of its endpoints.
// Not here: the file (serve-trace.ts), the reading of requests (serve-recorded-iommu.ts). Ranges have INCLUSIVE ends.
import type { AccessPiece } from '../iommu/core.ts';
import type { AddressRange } from '../base/ranges.ts';
import type { IommuEvent } from '../iommu/events.ts';
import type { ReservedRegion } from '../base/reserved.ts';
import type { VirtioIommu } from '../iommu/virtio-iommu.ts';
import type { TraceHeader } from '../testing/trace-header.ts';
import type { TraceRequest } from '../testing/trace-record.ts';
import type { RequestListener } from './serve-recorded-iommu.ts';
import type { ServeSettings } from './serve-options.ts';
import type { TraceWriter } from './serve-trace.ts';
import { mergeRanges } from '../base/ranges.ts';
import {
  Config,
  Fault,
  VIRTIO_IOMMU_FAULT_R_DOMAIN,
  VIRTIO_IOMMU_FAULT_R_MAPPING,
  VIRTIO_IOMMU_RESV_MEM_T_MSI,
  VIRTIO_IOMMU_RESV_MEM_T_RESERVED,
} from '../wire/abi.ts';

/** Records one IOMMU and its endpoints. */
export class ServeRecorder implements RequestListener {
  readonly #writer: TraceWriter;
  readonly #settings: ServeSettings;
  #iommu: VirtioIommu | undefined;
  /** All endpoints report the same reserved regions, which is all that a header can say. */
  #alike = true;
  #ran = false;

  constructor(writer: TraceWriter, settings: ServeSettings) {
    this.#writer = writer;
    this.#settings = settings;
  }

  /** True when every endpoint's reserved regions are in the header. */
  get alike(): boolean {
    return this.#alike;
  }

  /** Follows `iommu`, which has all its endpoints. */
  follow(iommu: VirtioIommu): void {
    this.#iommu = iommu;
    const texts = this.#settings.endpoints.map(({ addr }) => regionKey(iommu.core.reservedRegions(addr.bdf)));
    this.#alike = new Set(texts).size <= 1;
    iommu.core.onEvent((event) => this.#event(event));
  }

  started(): void {
    this.#ran = true;
    this.#writer.header(this.#header());
  }

  request(record: TraceRequest): void {
    const reserved = record.op === 'PROBE' ? this.#probed(record.endpoint, record.status) : undefined;
    const time = this.#writer.time;
    this.#writer.add({ ...record, time, ...(reserved === undefined ? {} : { reservedRegions: reserved }) });
  }

  reset(): void {
    this.#writer.add({ op: 'RESET', time: this.#writer.time });
  }

  configWrite(offset: number, bytes: Uint8Array): void {
    const size = bytes.length;
    if (size !== 1 && size !== 2 && size !== 4 && size !== 8) return;
    let value = 0n;
    for (let i = size - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[i]!);
    this.#writer.add({ op: 'CFG', time: this.#writer.time, offset, size, value });
  }

  /** A reset of the machine has put config.bypass back, which the RESET record before it does not say. */
  bypassRestored(bypass: number): void {
    this.configWrite(Config.bypass, Uint8Array.of(bypass));
  }

  /** An endpoint's bus-master bit changed. */
  busMaster(endpoint: number, on: boolean): void {
    this.#writer.add({ op: 'BM', time: this.#writer.time, endpoint, on });
  }

  /** An access of an endpoint was let through. */
  access(endpoint: number, iova: bigint, length: number, write: boolean, pieces: readonly AccessPiece[]): void {
    const direction = write ? 'W' : 'R';
    const places = pieces.map(({ gpa, length: bytes }) => ({ gpa, length: bytes }));
    this.#writer.add({ op: 'XLATE', time: this.#writer.time, endpoint, iova, length, direction, pieces: places });
  }

  /** Ends the file. */
  close(): void {
    this.#writer.close(this.#header());
  }

  #event(event: IommuEvent): void {
    // A record of reason `unknown` tells of a host refusal, of which there is no access to do again.
    if (event.type !== 'fault' || event.access === undefined || event.reason === 'unknown') return;
    const { endpoint, iova } = event;
    const time = this.#writer.time;
    this.#writer.add({ op: 'FAULT', time, endpoint, iova, direction: event.access === 'write' ? 'W' : 'R' });
    if (event.report !== 'reported') return;
    const reason = event.reason === 'domain' ? VIRTIO_IOMMU_FAULT_R_DOMAIN : VIRTIO_IOMMU_FAULT_R_MAPPING;
    this.#writer.add({ op: 'EVENT', time, endpoint, iova, reason, length: Fault.SIZE });
  }

  /** Regions in the answer to a PROBE; undefined where a replay would have others. */
  #probed(endpoint: number, status: string): number | undefined {
    const core = this.#iommu?.core;
    if (!this.#alike || core?.state.endpoints.has(endpoint) !== true) return undefined;
    return status === 'OK' ? core.reservedRegions(endpoint).length : 0;
  }

  #header(): TraceHeader {
    const { endpoints, iommu: settings } = this.#settings;
    const head = { trace: 'serve', device: 'virtio-iommu', transport: 'vfio-user', timeUnit: 's since the start' };
    const iommu = this.#iommu;
    if (iommu === undefined) return head;
    const { state, memory } = iommu.core;
    return {
      ...head,
      // Both are the guest's: without one they are not known.
      ...(this.#ran ? { guestRam: ramRanges(memory.regions), driverFeatures: iommu.transport.driverFeatures } : {}),
      requestQueueSize: iommu.queueMaxSizes[0]!,
      pageSizeMask: state.geometry.pageSizeMask,
      inputRange: state.geometry.inputRange,
      domainRange: state.options.domainRange,
      endpoints: endpoints.map(({ addr, name }) => ({ id: addr.bdf, name: `${name} ${addr.text}` })),
      featuresOffered: state.options.features,
      probeSize: state.options.probeSize,
      bypass: settings.bypass ?? true,
      reservedRegions: this.#commonRegions(iommu).map(({ start, end, kind }) => ({
        start,
        end,
        subtype: kind === 'msi' ? VIRTIO_IOMMU_RESV_MEM_T_MSI : VIRTIO_IOMMU_RESV_MEM_T_RESERVED,
      })),
    };
  }

  /** Regions that every endpoint reports. */
  #commonRegions(iommu: VirtioIommu): readonly ReservedRegion[] {
    const [first, ...others] = this.#settings.endpoints.map(({ addr }) => iommu.core.reservedRegions(addr.bdf));
    return (first ?? []).filter((region) =>
      others.every((regions) => regions.some((other) => regionKey([other]) === regionKey([region]))),
    );
  }
}

function regionKey(regions: readonly ReservedRegion[]): string {
  return regions.map(({ start, end, kind }) => `${start}-${end}:${kind}`).join(' ');
}

function ramRanges(regions: VirtioIommu['core']['memory']['regions']): AddressRange[] {
  const ram = regions.filter(({ kind }) => kind === 'ram');
  return mergeRanges(ram.map(({ gpa, size }) => ({ start: gpa, end: gpa + size - 1n })));
}
