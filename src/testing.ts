// Entry `virtio-iommu/testing`: the driver side of a virtio-iommu, guest models, layouts of nested guests' memory, and
// request traces. Runs in a browser; what needs files is `virtio-iommu/testing/node`.
export type { CompletedChain, DriverQueueInit, DriverRequest, RawDescriptor } from './testing/driver-queue.ts';
export type { DriverConfig, DriverDevice } from './testing/driver-setup.ts';
export type {
  AttachStep,
  GuestModelName,
  GuestModelOptions,
  VfioCloseStep,
  VfioOpenStep,
} from './testing/guest-model.ts';
export type { GuestOperation } from './testing/guest-operations.ts';
export type { GuestKernelOptions } from './testing/guest-kernel.ts';
export type { BufferPlace, DriverVirtqueue } from './testing/driver-virtqueue.ts';
export type { PackedDriverQueueInit, RawPackedDescriptor } from './testing/packed-driver-queue.ts';
export type { PciDriverOptions } from './testing/pci-driver.ts';
export type { RingKind, RunOptions, TransportKind } from './testing/conformance/rig-transport.ts';
export type { CaseResult } from './testing/conformance/run-case.ts';
export type { VectorCase } from './testing/conformance/vector-types.ts';
export type { LabEndpoint, LabMachineOptions } from './testing/lab/machine.ts';
export type { NestedResult, NestedRunOptions } from './testing/lab/nested-run.ts';
export type { Difference, ReplayOptions, ReplayResult } from './testing/lab/replay.ts';
export type { IommuDriverOptions, ProbeReply, RawReply, Reply } from './testing/iommu-driver.ts';
export type { Refusal } from './testing/kick-totals.ts';
export type { KickCounts, KickSource, KickStep } from './testing/kick.ts';
export type { L2LayoutOptions, L2PageSize, L2Pattern, MemoryRange } from './testing/l2-memory.ts';
export type { DriverCommand, FaultReport, ProbedProperties, ProbedRegion } from './testing/requests.ts';
export type { PageRun, RunCursor } from './testing/run-cursor.ts';
export type { TraceEndpoint, TraceHeader, TraceReservedRegion } from './testing/trace-header.ts';
export type {
  StatusName,
  TraceAttach,
  TraceBusMaster,
  TraceConfigWrite,
  TraceCopy,
  TraceDetach,
  TraceDirection,
  TraceEvent,
  TraceFault,
  TraceMap,
  TracePiece,
  TraceProbe,
  TraceRecord,
  TraceRequest,
  TraceReset,
  TraceTranslate,
  TraceUnmap,
} from './testing/trace-record.ts';
export type { Trace } from './testing/trace.ts';
export { DriverQueue } from './testing/driver-queue.ts';
export { PackedDriverQueue } from './testing/packed-driver-queue.ts';
export { MmioDriver } from './testing/mmio-driver.ts';
export { PciDriver } from './testing/pci-driver.ts';
export { LINUX_DRIVER_FEATURES } from './testing/driver-setup.ts';
export { runCase } from './testing/conformance/run-case.ts';
export { VectorFileError, readVectorFile } from './testing/conformance/vector-file.ts';
export { GuestKernel } from './testing/guest-kernel.ts';
export { LabMachine } from './testing/lab/machine.ts';
export { runNested } from './testing/lab/nested-run.ts';
export { replayTrace } from './testing/lab/replay.ts';
export { GuestModel, guestModel } from './testing/guest-model.ts';
export { IommuDriver } from './testing/iommu-driver.ts';
export { IommuPageSizes } from './testing/iommu-page-sizes.ts';
export { KickTotals, MAX_KEPT_REFUSALS, NO_STATUS } from './testing/kick-totals.ts';
export { Kick, concatKicks, countKicks, kickSteps } from './testing/kick.ts';
export { L1_OWN_BYTES, L2Layout, MAX_L2_BYTES, l2Layout } from './testing/l2-memory.ts';
export { Random } from './testing/random.ts';
export { RequestEncoder, parseFault, parseProperties } from './testing/requests.ts';
export { PAGE_BYTES, runsOf } from './testing/run-cursor.ts';
export { TRACE_FORMAT } from './testing/trace-header.ts';
export { STATUS_NAMES } from './iommu/status.ts';
export { isTraceRequest } from './testing/trace-record.ts';
export {
  MAX_TRACE_LINE,
  TraceError,
  TraceParser,
  formatTraceHeader,
  formatTraceRecord,
  parseTrace,
  readTrace,
  traceEndpointIds,
  writeTrace,
} from './testing/trace.ts';
