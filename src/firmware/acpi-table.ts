// The 36-byte header that every ACPI table starts with, and the view that the table readers share.
// Not a reader of any table's content. Offsets are bytes from the start of the table; `end` is exclusive.
import type { WarningList } from './warnings.ts';

/** Bytes of the common ACPI header. */
export const ACPI_HEADER_SIZE = 36;

/** Largest table that is read; what lies behind is reported and left alone. Real ones stay below 64 KiB. */
export const MAX_TABLE_BYTES = 1 << 20;

const HEADER = { signature: 0, length: 4, revision: 8, checksum: 9, oemId: 10, oemTableId: 16, oemRevision: 24 };

/** What the common header says. */
export interface AcpiHeader {
  /** Length that the table declares; the bytes at hand may be fewer. */
  readonly length: number;
  readonly revision: number;
  readonly oemId: string;
  readonly oemTableId: string;
  readonly oemRevision: number;
  /** False also when the table is cut off, since the sum cannot be formed then. */
  readonly checksumOk: boolean;
}

/** A table that was opened: its header, and a view of the bytes that may be read. */
export interface OpenTable {
  readonly header: AcpiHeader;
  readonly view: DataView;
  /** Exclusive end of what may be read: the declared length or the bytes at hand, whichever is less. */
  readonly end: number;
}

/**
 * Checks the header of an ACPI table and flags a bad checksum, length or revision.
 * Returns undefined (with a warning) when the bytes are too few or carry another signature.
 * @throws TypeError when `bytes` is not a Uint8Array.
 */
export function openAcpiTable(
  bytes: Uint8Array,
  expected: { readonly signature: string; readonly headerSize: number; readonly revisions: readonly number[] },
  warnings: WarningList,
): OpenTable | undefined {
  if (!(bytes instanceof Uint8Array)) throw new TypeError('bytes must be a Uint8Array');
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < expected.headerSize) {
    warnings.at(0, `the table has ${bytes.length} bytes, its header alone needs ${expected.headerSize}`);
    return undefined;
  }
  const signature = acpiSignature(bytes);
  if (signature !== expected.signature) {
    warnings.at(0, `the signature is ${JSON.stringify(signature)}, not "${expected.signature}"`);
    return undefined;
  }
  const header = readHeader(bytes, view);
  checkHeader(header, bytes, expected, warnings);
  return { header, view, end: Math.max(Math.min(header.length, bytes.length, MAX_TABLE_BYTES), expected.headerSize) };
}

/** The four characters a table starts with; anything that is not printable ASCII becomes a dot. */
export function acpiSignature(bytes: Uint8Array): string {
  return asciiText(bytes, HEADER.signature, 4);
}

/** Text of a fixed-size field: printable ASCII as is, NUL padding at the end dropped, the rest as dots. */
export function asciiText(bytes: Uint8Array, offset: number, length: number): string {
  let text = '';
  for (let i = offset; i < Math.min(offset + length, bytes.length); i++) {
    const code = bytes[i]!;
    text += code >= 0x20 && code < 0x7f ? String.fromCharCode(code) : code === 0 ? '\0' : '.';
  }
  return text.replace(/\0+$/, '').replaceAll('\0', '.');
}

/** Sum of bytes modulo 256; 0 for a whole table with a right checksum. */
export function byteSum(bytes: Uint8Array, length: number): number {
  let sum = 0;
  for (let i = 0; i < length; i++) sum += bytes[i]!;
  return sum & 0xff;
}

function readHeader(bytes: Uint8Array, view: DataView): AcpiHeader {
  const length = view.getUint32(HEADER.length, true);
  const complete = length <= bytes.length && length <= MAX_TABLE_BYTES;
  return {
    length,
    revision: bytes[HEADER.revision]!,
    oemId: asciiText(bytes, HEADER.oemId, 6).trimEnd(),
    oemTableId: asciiText(bytes, HEADER.oemTableId, 8).trimEnd(),
    oemRevision: view.getUint32(HEADER.oemRevision, true),
    checksumOk: complete && length >= ACPI_HEADER_SIZE && byteSum(bytes, length) === 0,
  };
}

function checkHeader(
  header: AcpiHeader,
  bytes: Uint8Array,
  expected: { readonly headerSize: number; readonly revisions: readonly number[] },
  warnings: WarningList,
): void {
  if (header.length < expected.headerSize) {
    warnings.at(HEADER.length, `the declared length ${header.length} is below the header's ${expected.headerSize}`);
  } else if (header.length > bytes.length) {
    warnings.at(HEADER.length, `the table declares ${header.length} bytes, only ${bytes.length} are there`);
  } else if (header.length < bytes.length) {
    warnings.at(header.length, `${bytes.length - header.length} bytes follow the declared end and are not read`);
  }
  if (Math.min(header.length, bytes.length) > MAX_TABLE_BYTES) {
    warnings.at(MAX_TABLE_BYTES, `only the first ${MAX_TABLE_BYTES} bytes are read`);
  }
  if (!header.checksumOk && header.length <= bytes.length) {
    warnings.at(HEADER.checksum, `the checksum is wrong (0x${bytes[HEADER.checksum]!.toString(16)}); Linux warns too`);
  }
  if (!expected.revisions.includes(header.revision)) {
    warnings.at(HEADER.revision, `revision ${header.revision} is not known (known: ${expected.revisions.join(', ')})`);
  }
}
