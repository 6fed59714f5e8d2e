// Entry `virtio-iommu/testing/node`: what of the testing tools needs Node (files, processes).
export type { TraceStream } from './testing/node/trace-file.ts';
export { TraceFileError, openTraceFile, readTraceFile, writeTraceFile } from './testing/node/trace-file.ts';
