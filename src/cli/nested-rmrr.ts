// `nested --rmrr FILE`: the reserved memory of a real machine as the passed device's regions.
import { readFile } from 'node:fs/promises';
import type { ReservedRegion } from '../base/reserved.ts';
import { parseAnySource } from '../firmware/any-source.ts';
import { endpointReserved } from '../firmware/resv-mem.ts';
import { CliError } from './errors.ts';

/** All regions of the file, as one endpoint would report them; too many are merged, which reserves more. */
export async function readReserved(file: string, relaxable: 'report' | 'omit' = 'report'): Promise<ReservedRegion[]> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(file);
  } catch (error) {
    throw new CliError(`${file}: ${(error as NodeJS.ErrnoException).code ?? 'cannot be read'}`);
  }
  const source = parseAnySource(bytes);
  if (source === undefined) throw new CliError(`${file}: no DMAR, IVRS or IORT table, reserved_regions or kernel log`);
  try {
    return endpointReserved(source.regions, { arch: source.arch, relaxable, overflow: 'merge', name: file });
  } catch (error) {
    throw error instanceof RangeError ? new CliError(error.message) : error;
  }
}
