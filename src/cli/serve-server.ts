// The vfio-user server as `virtio-iommu serve` uses it. Not here: the protocol.
import { VfioUserServer } from '../vfio-user/server.ts';
import type { FunctionServer, FunctionServerOptions } from './serve-machine.ts';

/** A server for one function; the addon is needed when it listens. */
export function vfioUserServer({ path, memory, log, requireSealed }: FunctionServerOptions): FunctionServer {
  return new VfioUserServer({
    path,
    memory,
    requireSealed,
    log: ({ level, message }) => {
      if (!message.endsWith(': listening')) log(level === 'info' ? message : `${level}: ${message}`);
    },
  });
}
