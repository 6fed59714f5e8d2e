// What QEMU is to be given: the VIOT table and the command line that connects the served functions.
// Not here: the functions themselves. QEMU's own functions are not in the table: it does their DMA without asking us.
import { buildViot } from '../firmware/viot.ts';
import type { EndpointSettings, ServeSettings } from './serve-options.ts';

/** Bytes of the header of an ACPI table, which `-acpitable data=` makes itself. */
const ACPI_HEADER = 36;
const OEM_ID = 'VIRTIO';
const OEM_TABLE_ID = 'VIOMMU';
const MIB = 2 ** 20;

/** A VIOT table without its header: one node for the IOMMU, one for each endpoint, whose id is its BDF. */
export function viotBody(settings: Pick<ServeSettings, 'iommu' | 'endpoints'>): Uint8Array {
  const table = buildViot({
    iommus: [{ kind: 'pci', segment: 0, bdf: settings.iommu.addr.bdf }],
    endpoints: settings.endpoints.map(({ addr: { bdf } }) => ({
      kind: 'pci-range',
      iommu: 0,
      endpointStart: bdf,
      segmentStart: 0,
      segmentEnd: 0,
      bdfStart: bdf,
      bdfEnd: bdf,
    })),
  });
  return table.subarray(ACPI_HEADER);
}

/**
 * QEMU's arguments (the command first): RAM that the functions can map, the table, the functions. What the guest boots
 * from is for the user to add.
 */
export function qemuArguments(settings: ServeSettings): string[] {
  const { iommu, endpoints, viot, qemu } = settings;
  const size = qemu.memory % MIB === 0 ? `${qemu.memory / MIB}M` : `${qemu.memory}B`;
  const functions = [iommu, ...endpoints].sort((a, b) => a.addr.bdf - b.addr.bdf);
  return [
    qemu.command,
    // q35's default devices would take the places of ours.
    '-nodefaults',
    ...['-machine', 'q35,memory-backend=mem', '-m', size],
    ...['-object', `memory-backend-memfd,id=mem,size=${size},share=on`],
    '-acpitable',
    `sig=VIOT,rev=0,oem_id=${OEM_ID},oem_table_id=${OEM_TABLE_ID},data=${viot.replaceAll(',', ',,')}`,
    ...functions.flatMap((each) => ['-device', deviceJson(each, functions, qemu.messageTimeout)]),
  ];
}

type Place = Pick<EndpointSettings, 'addr' | 'socket'>;

/** QEMU takes an object as a property in JSON only. */
function deviceJson({ addr, socket }: Place, all: readonly Place[], messageTimeout: number): string {
  const others = all.filter((other) => other.addr.device === addr.device).length > 1;
  return JSON.stringify({
    driver: 'vfio-user-pci',
    addr: addr.text,
    ...(others ? { multifunction: true } : {}),
    socket: { type: 'unix', path: socket },
    'x-msg-timeout': messageTimeout,
  });
}

const SAFE = /^[\w@%+=:,./-]+$/;

/** Arguments as a shell reads them, one option to a line. */
export function shellText(args: readonly string[]): string {
  const words = args.map((word) => (SAFE.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`));
  const lines: string[] = [];
  for (const word of words) {
    if (lines.length === 0 || word.startsWith('-')) lines.push(word);
    else lines.push(`${lines.pop()!} ${word}`);
  }
  return lines.join(' \\\n  ');
}
