// Further edu devices of the machine, each in a group and a context of its own, and what is seen of the iommufd that contexts
// share. Runs in the machine.
import { readdirSync, readlinkSync } from 'node:fs';
import { IommufdContext } from '../../../src/host/iommufd.ts';
import type { IommufdOptions } from '../../../src/host/iommufd.ts';
import { Edu } from '../host/edu.ts';
import { bindToVfio, groupOf } from '../host/guest-env.ts';

/** Edu devices beside the one of the {@link Lab}. */
export const PEERS = ['0000:00:05.0', '0000:00:06.0', '0000:00:07.0'] as const;
/** The first of them. */
export const PEER = PEERS[0];

/** An attached device, ready for DMA. */
export interface Peer {
  readonly context: IommufdContext;
  readonly edu: Edu;
}

/** Opens the group of a further device. */
export function openPeer(name: string = PEER, options: Partial<IommufdOptions> = {}): Peer {
  bindToVfio(name);
  const context = IommufdContext.open({ group: groupOf(name), ...options });
  const edu = new Edu(context.devices[0]!);
  edu.start();
  return { context, edu };
}

/** Number of iommufd files that this process has. */
export function iommufdFiles(): number {
  const links = readdirSync('/proc/self/fd').map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return '';
    }
  });
  return links.filter((link) => link === '/dev/iommu').length;
}
