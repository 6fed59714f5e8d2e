// The RMRRs of the machine with reserved memory: known to the tests that make its table and to the scenario inside.
import type { AddedRmrr } from './dmar.ts';

/** For the edu device (00:04.0). */
export const EDU_RMRR: AddedRmrr = { base: 0x1f00_0000n, limit: 0x1f0f_ffffn, device: 4 };

/** For the USB controller (00:05.0). */
export const USB_RMRR: AddedRmrr = { base: 0x1f20_0000n, limit: 0x1f2f_ffffn, device: 5 };
