// Finds and reads vector files: the project's own, and those of a folder named by VIOMMU_EXTRA_DATA.
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

export interface VectorFile {
  readonly name: string;
  readonly content: unknown;
}

/** Folder of the project's own vectors. */
export const OWN_VECTORS = join(import.meta.dirname, 'vectors');

/** `$VIOMMU_EXTRA_DATA/vectors`, undefined when the variable is not set. */
export function extraVectors(): string | undefined {
  const folder = process.env['VIOMMU_EXTRA_DATA'];
  return folder === undefined || folder === '' ? undefined : join(folder, 'vectors');
}

/** Every `*.json` of a folder by name; `defaults.json` describes a device and holds no cases. */
export function readVectorFolder(folder: string): VectorFile[] {
  const names = readdirSync(folder).filter((name) => name.endsWith('.json') && name !== 'defaults.json');
  return names
    .sort()
    .map((name) => ({ name, content: JSON.parse(readFileSync(join(folder, name), 'utf8')) as unknown }));
}
