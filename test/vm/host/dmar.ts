// An ACPI DMAR table with RMRRs added (Intel VT-d specification, sections 8.1 and 8.4), as firmware would give it, so that a kernel sees
// devices with reserved memory. Not here: how it gets into the machine. Ends are inclusive, as in the table.

/** Memory that firmware wants mapped 1:1 for one PCI function of bus 0. */
export interface AddedRmrr {
  readonly base: bigint;
  readonly limit: bigint;
  readonly device: number;
}

const Header = { length: 4, checksum: 9, oemRevision: 24 } as const;
const RMRR = { type: 1, size: 32 } as const;
const SCOPE = { offset: 24, endpoint: 1, size: 8 } as const;

/** The table with more RMRRs; its revision rises, else Linux keeps the one of the firmware. */
export function withRmrrs(table: Uint8Array, added: readonly AddedRmrr[]): Uint8Array {
  const bytes = new Uint8Array(table.length + added.length * RMRR.size);
  bytes.set(table);
  const view = new DataView(bytes.buffer);
  added.forEach(({ base, limit, device }, i) => {
    const at = table.length + i * RMRR.size;
    view.setUint16(at, RMRR.type, true);
    view.setUint16(at + 2, RMRR.size, true);
    view.setBigUint64(at + 8, base, true);
    view.setBigUint64(at + 16, limit, true);
    bytes.set([SCOPE.endpoint, SCOPE.size, 0, 0, 0, 0, device, 0], at + SCOPE.offset);
  });
  view.setUint32(Header.length, bytes.length, true);
  view.setUint32(Header.oemRevision, view.getUint32(Header.oemRevision, true) + 1, true);
  bytes[Header.checksum] = 0;
  bytes[Header.checksum] = -bytes.reduce((sum, byte) => sum + byte, 0) & 0xff;
  return bytes;
}
