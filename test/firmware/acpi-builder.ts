// A small builder of ACPI tables for tests: independent of the readers under test, right or broken on purpose.
// Limits are inclusive, as in the tables.

/** Little-endian bytes of a number of `size` bytes. */
export function le(value: number | bigint, size: number): number[] {
  const bytes: number[] = [];
  let left = BigInt(value);
  for (let i = 0; i < size; i++) {
    bytes.push(Number(left & 0xffn));
    left >>= 8n;
  }
  return bytes;
}

/** ASCII codes of a text. */
export function codes(text: string): number[] {
  return Array.from(text, (letter) => letter.charCodeAt(0));
}

function ascii(text: string, size: number): number[] {
  return codes(text.padEnd(size, ' ')).slice(0, size);
}

/** A whole table: header with right length and checksum around `body` (everything behind the 36-byte header). */
export function acpi(signature: string, revision: number, body: readonly number[]): Uint8Array {
  const bytes = Uint8Array.from([
    ...ascii(signature, 4),
    ...le(36 + body.length, 4),
    revision,
    0,
    ...ascii('TEST', 6),
    ...ascii('TESTTABL', 8),
    ...le(1, 4),
    ...ascii('TEST', 4),
    ...le(1, 4),
    ...body,
  ]);
  bytes[9] = -bytes.reduce((sum, byte) => sum + byte, 0) & 0xff;
  return bytes;
}

/** A device scope; `path` is pairs of device and function. */
export function scope(
  type: number,
  startBus: number,
  path: readonly (readonly [number, number])[],
  enumId = 0,
): number[] {
  return [type, 6 + path.length * 2, 0, 0, enumId, startBus, ...path.flat()];
}

/** An RMRR structure. */
export function rmrr(base: bigint, limit: bigint, scopes: readonly number[][], segment = 0): number[] {
  const flat = scopes.flat();
  return [
    ...le(1, 2),
    ...le(24 + flat.length, 2),
    ...le(0, 2),
    ...le(segment, 2),
    ...le(base, 8),
    ...le(limit, 8),
    ...flat,
  ];
}

/** Any DMAR structure: type and content behind the 4-byte head. */
export function structure(type: number, content: readonly number[]): number[] {
  return [...le(type, 2), ...le(4 + content.length, 2), ...content];
}

/** A DMAR table with a host address width of `bits`. */
export function dmar(structures: readonly (readonly number[])[], bits = 39, revision = 1): Uint8Array {
  return acpi('DMAR', revision, [bits - 1, 0, ...le(0, 10), ...structures.flat()]);
}

/** An IVMD block. */
export function ivmd(fields: {
  type: number;
  flags: number;
  deviceId: number;
  aux?: number;
  segment?: number;
  start: bigint;
  length: bigint;
}): number[] {
  const { type, flags, deviceId, aux = 0, segment = 0, start, length } = fields;
  return [
    type,
    flags,
    ...le(32, 2),
    ...le(deviceId, 2),
    ...le(aux, 2),
    ...le(segment, 2),
    ...le(0, 6),
    ...le(start, 8),
    ...le(length, 8),
  ];
}

/** An IVRS table; `width` is the physical address width in IVinfo. */
export function ivrs(blocks: readonly (readonly number[])[], width = 48): Uint8Array {
  return acpi('IVRS', 2, [...le(width << 8, 4), ...le(0, 8), ...blocks.flat()]);
}

/** An IORT id mapping; `count` is the number of ids. */
export function idMapping(input: number, count: number, output: number, reference: number): number[] {
  return [...le(input, 4), ...le(count - 1, 4), ...le(output, 4), ...le(reference, 4), ...le(0, 4)];
}

/** An IORT node: content behind the 16-byte head, then mappings. */
export function iortNode(
  type: number,
  revision: number,
  content: readonly number[],
  mappings: readonly number[][] = [],
): number[] {
  const flat = mappings.flat();
  const at = 16 + content.length;
  return [
    type,
    ...le(at + flat.length, 2),
    revision,
    ...le(0, 4),
    ...le(mappings.length, 4),
    ...le(mappings.length === 0 ? 0 : at, 4),
    ...content,
    ...flat,
  ];
}

/** Content of an RMR node with descriptors [base, length]. */
export function rmrContent(flags: number, descriptors: readonly (readonly [bigint, bigint])[]): number[] {
  const list = descriptors.flatMap(([base, length]) => [...le(base, 8), ...le(length, 8), ...le(0, 4)]);
  return [...le(flags, 4), ...le(descriptors.length, 4), ...le(28, 4), ...list];
}

/** Content of a root complex node. */
export function rootContent(segment: number): number[] {
  return [...le(0, 8), ...le(0, 4), ...le(segment, 4), ...le(64, 4)];
}

/** An IORT table; `padding` bytes stand before the first node. */
export function iort(nodes: readonly (readonly number[])[], padding = 0, revision = 5): Uint8Array {
  const body = [...le(nodes.length, 4), ...le(48 + padding, 4), ...le(0, 4), ...le(0, padding), ...nodes.flat()];
  return acpi('IORT', revision, body);
}
