// Devices of one group, which are attached to one address space together, or to none. Not here: which address space the
// context uses, and who else does (spaces.ts). An address space is named by its id; results are 0 or errno.
import type { NativeIommufd } from '../native-api.ts';
import type { BoundDevice } from './open-devices.ts';

/** How the devices of a group are attached. A device that was closed is attached to nothing. */
export class Attachment {
  readonly #native: NativeIommufd;
  readonly #bound: readonly BoundDevice[];
  #attached = false;
  /** What the caller wants: it differs from the state after a refusal that has left the devices detached. */
  #wanted = false;

  constructor(native: NativeIommufd, bound: readonly BoundDevice[]) {
    this.#native = native;
    this.#bound = bound;
  }

  get attached(): boolean {
    return this.#attached;
  }

  /** Attaches all devices, or none. */
  attach(id: number): number {
    if (this.#attached) return 0;
    const errno = this.#attachEach(id, (before) => this.#detachEach(before));
    if (errno === 0) this.#attached = this.#wanted = true;
    return errno;
  }

  /** Detaches all devices until {@link attach}: calls that move them leave them detached. */
  detach(): void {
    this.#wanted = false;
    this.#block();
  }

  /** Attaches devices that a refusal has left detached, and no others. */
  again(id: number): number {
    return this.#wanted ? this.attach(id) : 0;
  }

  /** Attaches all devices to `id` in place of `former`; after a refusal they are where they were, or detached. */
  move(id: number, former: number): number {
    if (!this.#wanted) return 0;
    const errno = this.#attachEach(id, (before) => this.#putBack(before, former));
    if (errno === 0) this.#attached = true;
    return errno;
  }

  /** As {@link move}, but after a refusal all devices are detached. */
  part(id: number): number {
    if (!this.#wanted) return 0;
    const errno = this.#attachEach(id, () => this.#block());
    if (errno === 0) this.#attached = true;
    return errno;
  }

  /** `undo` gets the devices before the one that was refused, which the kernel has left as it was. */
  #attachEach(id: number, undo: (before: readonly BoundDevice[]) => void): number {
    const bound = this.#open();
    for (const [i, each] of bound.entries()) {
      const errno = this.#native.attach(each.native, id);
      if (errno === 0) continue;
      undo(bound.slice(0, i));
      return errno;
    }
    return 0;
  }

  #putBack(before: readonly BoundDevice[], former: number): void {
    const back = this.#attached && before.every((each) => this.#native.attach(each.native, former) === 0);
    if (!back) this.#block();
  }

  #block(): void {
    this.#detachEach(this.#open());
    this.#attached = false;
  }

  #detachEach(bound: readonly BoundDevice[]): void {
    for (const each of bound) this.#native.detach(each.native);
  }

  #open(): readonly BoundDevice[] {
    return this.#bound.filter(({ device }) => !device.closed);
  }
}
