// `nested --rmrr FILE`: the reserved memory of a real machine as the passed device's regions.
import { readFile } from 'node:fs/promises';
import type { ReservedRegion } from '../base/reserved.ts';
import { parseAnySource } from '../firmware/any-source.ts';
import { endpointReserved } from '../firmware/resv-mem.ts';
import { CliError } from './errors.ts';

/** How regions become RESV_MEM. */
export interface ReservedChoice {
  /** Relaxable regions: reported, or left out as VFIO does. */
  readonly relaxable: 'report' | 'omit';
  /** More regions than a PROBE reply holds: an error that names the size needed, or merged, which reserves more. */
  readonly overflow: 'throw' | 'merge';
}

/** All regions of the file, as one endpoint would report them. */
export async function readReserved(file: string, choice: ReservedChoice): Promise<ReservedRegion[]> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(file);
  } catch (error) {
    throw new CliError(`${file}: ${(error as NodeJS.ErrnoException).code ?? 'cannot be read'}`);
  }
  const source = parseAnySource(bytes);
  if (source === undefined) throw new CliError(`${file}: no DMAR, IVRS or IORT table, reserved_regions or kernel log`);
  try {
    return endpointReserved(source.regions, { arch: source.arch, ...choice, name: file });
  } catch (error) {
    throw error instanceof RangeError ? new CliError(error.message) : error;
  }
}
