// What a guest told about itself: lines `@@ {"fact": name, "value": text}` on the serial line (scripts.ts writes them).
// Not here: results of checks made inside a guest (base/report.ts).

/** A group of the guest's kernel, as /sys/kernel/iommu_groups shows it. */
export interface GuestGroup {
  readonly id: number;
  /** `DMA`, `DMA-FQ` or `identity`. */
  readonly type: string;
  /** Addresses of functions, for example `0000:00:03.0`. */
  readonly devices: readonly string[];
  /** Lines of reserved_regions: first and last address, INCLUSIVE, and the type. */
  readonly reserved: readonly { readonly start: bigint; readonly end: bigint; readonly type: string }[];
}

/** A virtio device as the guest's driver core shows it. */
export interface GuestVirtio {
  /** Address of the function. */
  readonly address: string;
  /** Device id, 23 is the IOMMU. */
  readonly deviceId: number;
  /** Driver that is bound; empty without one. */
  readonly driver: string;
  /** Feature bits that the driver and the device agreed on. */
  readonly features: bigint;
}

/** The facts of one boot, in the order in which they came. */
export class Facts {
  readonly #facts: readonly { readonly fact: string; readonly value: string }[];

  constructor(lines: readonly string[]) {
    this.#facts = lines.flatMap((line) => factOf(line) ?? []);
  }

  /** All values of a name. */
  all(name: string): string[] {
    return this.#facts.filter(({ fact }) => fact === name).map(({ value }) => value);
  }

  /** The only value of a name. @throws Error when there is none or more than one. */
  one(name: string): string {
    const values = this.all(name);
    if (values.length !== 1) throw new Error(`the guest told ${values.length} times about "${name}", not once`);
    return values[0]!;
  }

  /** The guest's groups. */
  get groups(): GuestGroup[] {
    return this.all('group').map((line) => {
      const [id = '', type = '', ...devices] = line.split(' ');
      const reserved = this.all('reserved')
        .map((each) => each.split(' '))
        .filter(([group]) => group === id)
        .map(([, start = '', end = '', kind = '']) => ({ start: BigInt(start), end: BigInt(end), type: kind }));
      return { id: Number(id), type, devices, reserved };
    });
  }

  /** The group of a function. @throws Error when it is in none. */
  group(address: string): GuestGroup {
    const found = this.groups.find(({ devices }) => devices.includes(address));
    if (found === undefined) throw new Error(`the guest has no group of ${address}`);
    return found;
  }

  /** The guest's virtio devices. */
  get virtio(): GuestVirtio[] {
    return this.all('virtio').map((line) => {
      const [address = '', device = '', bits = '', driver = ''] = line.split(' ');
      // sysfs shows bit 0 first.
      const features = BigInt(`0b${Array.from(bits).reverse().join('')}`);
      return { address, deviceId: Number(device), driver, features };
    });
  }

  /** Bytes read from the random number generator. */
  get random(): Buffer {
    return Buffer.from(this.all('random').join(''), 'hex');
  }

  /** Kernel messages about the IOMMU, the endpoints, and everything that must not happen. */
  get messages(): string[] {
    return this.all('message');
  }
}

function factOf(line: string): { fact: string; value: string } | undefined {
  const at = line.indexOf('@@ {"fact"');
  if (at < 0) return undefined;
  try {
    return JSON.parse(line.slice(at + 3)) as { fact: string; value: string };
  } catch {
    return undefined;
  }
}

/** True when each byte is the one before it plus 1, modulo 256: what the deterministic generator delivers. */
export function counts(bytes: Uint8Array): boolean {
  return bytes.every((byte, i) => i === 0 || byte === ((bytes[i - 1]! + 1) & 0xff));
}

/** Kernel messages that are a fault of the kernel or of what it runs on. */
export function troubles(messages: readonly string[]): string[] {
  return messages.filter((line) => /BUG:|WARNING:|Oops|Call Trace|soft lockup|rcu.*stall/i.test(line));
}
