// What a driver can ask of its queue, and how a request is cut into descriptors. Not here: placing them in a ring.
// Layouts are lengths in bytes, in chain order.

/** One chain to build. */
export interface DriverRequest {
  /** Bytes that the device may read. */
  readonly readable: Uint8Array;
  /** Bytes that the device may write. */
  readonly writableLength: number;
  /** Lengths of the descriptors of the readable part (zeroes allowed; sum = `readable.length`); default one descriptor. */
  readonly readableLayout?: readonly number[];
  /** Lengths of the descriptors of the writable part (sum = `writableLength`); default one descriptor. */
  readonly writableLayout?: readonly number[];
  /** Byte that the writable part holds before; default 0xa5, so that an unwritten status is not 0. */
  readonly prefill?: number;
  /** true: all descriptors in an indirect table; 'tail': the first one direct, all others in one table. Default false. */
  readonly indirect?: boolean | 'tail';
  /** Sets the WRITE flag on the descriptor that points to the table. */
  readonly indirectTableWriteFlag?: boolean;
  /** Puts the writable descriptors first, which the standard forbids. */
  readonly writableFirst?: boolean;
}

/** A chain that the device gave back. */
export interface CompletedChain {
  /** What add() returned. */
  readonly head: number;
  /** Length of the used entry. */
  readonly usedLength: number;
  /** The whole writable part as it stands now. */
  readonly writable: Uint8Array;
  /** False when the device changed the readable part. */
  readonly readableUnchanged: boolean;
}

/** One descriptor to be: its bytes before placement, and whether the device may write it. */
export interface DescriptorPlan {
  readonly bytes: Uint8Array;
  readonly writable: boolean;
}

/**
 * Cuts a request into descriptors.
 * @throws RangeError naming `readableLayout`, `writableLayout`, or saying that the chain would be empty.
 */
export function planDescriptors(request: DriverRequest): DescriptorPlan[] {
  const { readable, writableLength, prefill = 0xa5, writableFirst = false } = request;
  const writable = new Uint8Array(writableLength).fill(prefill);
  const readables = cut('readableLayout', readable, request.readableLayout);
  const writables = cut('writableLayout', writable, request.writableLayout);
  const first = readables.map((bytes): DescriptorPlan => ({ bytes, writable: false }));
  const second = writables.map((bytes): DescriptorPlan => ({ bytes, writable: true }));
  const plans = writableFirst ? [...second, ...first] : [...first, ...second];
  if (plans.length === 0) throw new RangeError('request must have at least one descriptor');
  return plans;
}

function cut(name: string, bytes: Uint8Array, layout: readonly number[] | undefined): Uint8Array[] {
  if (layout === undefined) return bytes.length === 0 ? [] : [bytes.slice()];
  const sum = layout.reduce((total, length) => total + length, 0);
  if (sum !== bytes.length || layout.some((length) => !Number.isInteger(length) || length < 0)) {
    throw new RangeError(`${name} must be lengths that sum to ${bytes.length}, got [${layout.join(', ')}]`);
  }
  let at = 0;
  return layout.map((length) => bytes.slice(at, (at += length)));
}
