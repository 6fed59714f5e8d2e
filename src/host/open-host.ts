// openHostContext: a real host context with the better of the two kernel interfaces. Only the composition: the rule is in
// open-host-rules.ts, the contexts are in iommufd.ts and vfio-type1.ts.
import { IommufdContext, iommufdLack } from './iommufd.ts';
import type { OpenHostOptions } from './open-host-rules.ts';
import { openWith } from './open-host-rules.ts';
import { VfioType1Context } from './vfio-type1.ts';

export type { Backend, BackendChoice, OpenHostOptions } from './open-host-rules.ts';

/**
 * Opens the context of a PCI function's group, or of a group, and its devices. `auto` takes iommufd where the kernel has it and
 * the group opens there, else type1; `onChoice` is told which and why.
 * @throws TypeError or RangeError for wrong options, before anything is opened; HostError of the backend that says what is wrong
 * and what to do. With `auto` and no backend that works the message tells of both.
 */
export function openHostContext(options: OpenHostOptions): VfioType1Context | IommufdContext {
  return openWith(options, {
    iommufdLack: () => iommufdLack(options.dev),
    iommufd: (target) => {
      const { mode, accounting, share, dev } = options;
      return IommufdContext.open({
        ...target,
        ...(mode === undefined ? {} : { mode }),
        ...(accounting === undefined ? {} : { accounting }),
        ...(share === undefined ? {} : { share }),
        ...(dev === undefined ? {} : { deviceFolder: dev }),
      });
    },
    type1: (target) => {
      const { windowPieces, dev } = options;
      return VfioType1Context.open({
        ...target,
        ...(windowPieces === undefined ? {} : { windowPieces }),
        ...(dev === undefined ? {} : { deviceFolder: `${dev}/vfio` }),
      });
    },
  });
}
