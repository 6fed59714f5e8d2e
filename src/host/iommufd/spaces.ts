// The address spaces of one iommufd and mode that devices use, who uses which, and spares.
// Each context brings one and takes one away, so there is one for each even while contexts share: a context that leaves
// the others needs no new one, which the kernel could refuse. Not here: which devices are attached (attachment.ts).
import { U64_MAX } from '../../base/check.ts';
import type { NativeIommufd } from '../native-api.ts';
import { attempt, closedError, errnoOf, refusedVerdict } from '../refusals.ts';
import { IommufdIoas } from './ioas.ts';
import type { IommufdMode } from './options.ts';

/** The kernel gives no object this id: every call with it is ENOENT. */
const NOWHERE = 0;

/** An address space for as long as somebody uses it; the kernel's object may serve again later, under another one of these. */
export class AddressSpace {
  readonly id: number;
  readonly #native: NativeIommufd;
  /** Calls throw a HostError once nobody uses it any more. */
  readonly ioas: IommufdIoas;
  /** Contexts that use it. */
  users = 1;
  #ended = false;

  constructor(id: number, native: NativeIommufd) {
    this.id = id;
    this.#native = native;
    this.ioas = new IommufdIoas(id, native, (syscall) => {
      if (this.#ended) throw closedError(`address space ${id}`, syscall);
    });
  }

  /** False for what a context has that got none: nothing can be mapped, and no device attached. */
  get exists(): boolean {
    return this.id !== NOWHERE;
  }

  /** Nobody uses it from now on. */
  end(): void {
    this.#ended = true;
  }

  /** Ends and destroys it. One that the kernel keeps all the same holds nothing, and is never used again. */
  discard(): void {
    this.end();
    if (this.exists) discard(this.#native, this.id);
  }
}

/** Address spaces that contexts can share. */
export class AddressSpaces {
  readonly #native: NativeIommufd;
  readonly #mode: IommufdMode;
  /** Ids of empty ones that nobody uses. */
  readonly #spares: number[] = [];

  constructor(native: NativeIommufd, mode: IommufdMode) {
    this.#native = native;
    this.#mode = mode;
  }

  /** An empty address space for a new context. @throws HostError when the kernel refuses. */
  create(): AddressSpace {
    return this.#used(attempt(() => this.#allocate(), refusedVerdict));
  }

  /** An empty address space for a context that leaves others; with an errno it is one that does not exist. */
  take(): { readonly space: AddressSpace; readonly errno: number } {
    let id = this.#spares.pop() ?? NOWHERE;
    const errno = id === NOWHERE ? errnoOf(() => (id = this.#allocate())) : 0;
    return { space: this.#used(id), errno };
  }

  /** One user more. */
  join(space: AddressSpace): AddressSpace {
    space.users++;
    return space;
  }

  /** One user less; what the last one leaves is emptied and kept. */
  leave(space: AddressSpace): void {
    if (--space.users > 0) return;
    space.end();
    if (!space.exists) return;
    if (this.#native.unmap(space.id, 0n, U64_MAX).errno === 0) this.#spares.push(space.id);
    else discard(this.#native, space.id);
  }

  /** One user less, for good: destroys the address space, or a spare while others use it. Its devices are closed. */
  close(space: AddressSpace): void {
    if (--space.users > 0) {
      const spare = this.#spares.pop();
      if (spare !== undefined) discard(this.#native, spare);
    } else space.discard();
  }

  #used(id: number): AddressSpace {
    return new AddressSpace(id, this.#native);
  }

  #allocate(): number {
    const id = this.#native.allocate();
    if (this.#mode === 'large') return id;
    try {
      this.#native.smallPages(id);
    } catch (error) {
      discard(this.#native, id);
      throw error;
    }
    return id;
  }
}

function discard(native: NativeIommufd, id: number): void {
  if (errnoOf(() => native.destroy(id)) !== 0) native.unmap(id, 0n, U64_MAX);
}
