// An open /dev/iommu, which contexts share: only address spaces of one file can be used by devices of several groups.
// Not here: the address spaces (spaces.ts). One for each thread, as host contexts are.
import type { NativeIommufd } from '../native-api.ts';
import { absolutePath, loadNative } from '../native.ts';
import { attempt } from '../refusals.ts';
import type { IommufdMode } from './options.ts';
import { AddressSpaces } from './spaces.ts';
import { fileVerdict } from './verdicts.ts';

/** Shared files that are open, by how they were opened. */
const shared = new Map<string, IommufdFile>();

/** What distinguishes a file from another. */
export interface FileOptions {
  readonly path: string;
  /** How locked memory is counted, which is a property of the file. */
  readonly perProcess: boolean;
  /** False: no other context gets this file. */
  readonly share: boolean;
}

/** An open file and the number of contexts that have it. */
export class IommufdFile {
  readonly native: NativeIommufd;
  readonly #key: string | undefined;
  readonly #spaces: Readonly<Record<IommufdMode, AddressSpaces>>;
  #users = 1;

  private constructor(native: NativeIommufd, key: string | undefined) {
    this.native = native;
    this.#key = key;
    this.#spaces = { large: new AddressSpaces(native, 'large'), cut: new AddressSpaces(native, 'cut') };
  }

  /** The file that contexts of the same options have, or a new one; {@link close} ends the use. @throws HostError. */
  static open({ path, perProcess, share }: FileOptions): IommufdFile {
    const key = share ? `${perProcess ? 'process' : 'user'} ${absolutePath(path)}` : undefined;
    const found = key === undefined ? undefined : shared.get(key);
    if (found !== undefined) {
      found.#users++;
      return found;
    }
    const { NativeIommufd } = loadNative();
    const native = attempt(
      () => NativeIommufd.open(path, perProcess),
      (failure) => fileVerdict(path, failure),
    );
    const file = new IommufdFile(native, key);
    if (key !== undefined) shared.set(key, file);
    return file;
  }

  /** Address spaces of one mode. */
  spacesOf(mode: IommufdMode): AddressSpaces {
    return this.#spaces[mode];
  }

  /** One user less, who calls it once; the last one closes the file. */
  close(): void {
    if (--this.#users > 0) return;
    if (this.#key !== undefined) shared.delete(this.#key);
    this.native.close();
  }
}
