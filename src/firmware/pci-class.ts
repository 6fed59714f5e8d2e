// PCI class codes in lspci's words, and the two classes whose RMRRs Linux calls relaxable.
// A class code is 0xCCSSPP: base class, subclass, programming interface. Only common subclasses have names of their own.

const BASE: readonly string[] = [
  'Unclassified device',
  'Mass storage controller',
  'Network controller',
  'Display controller',
  'Multimedia controller',
  'Memory controller',
  'Bridge',
  'Communication controller',
  'Generic system peripheral',
  'Input device controller',
  'Docking station',
  'Processor',
  'Serial bus controller',
  'Wireless controller',
  'Intelligent controller',
  'Satellite communications controller',
  'Encryption controller',
  'Signal processing controller',
  'Processing accelerators',
  'Non-Essential Instrumentation',
];

const SUB: ReadonlyMap<number, string> = new Map([
  [0x0100, 'SCSI storage controller'],
  [0x0101, 'IDE interface'],
  [0x0104, 'RAID bus controller'],
  [0x0106, 'SATA controller'],
  [0x0107, 'Serial Attached SCSI controller'],
  [0x0108, 'Non-Volatile memory controller'],
  [0x0200, 'Ethernet controller'],
  [0x0207, 'Infiniband controller'],
  [0x0280, 'Network controller'],
  [0x0300, 'VGA compatible controller'],
  [0x0302, '3D controller'],
  [0x0380, 'Display controller'],
  [0x0401, 'Multimedia audio controller'],
  [0x0403, 'Audio device'],
  [0x0500, 'RAM memory'],
  [0x0600, 'Host bridge'],
  [0x0601, 'ISA bridge'],
  [0x0604, 'PCI bridge'],
  [0x0680, 'Bridge'],
  [0x0700, 'Serial controller'],
  [0x0780, 'Communication controller'],
  [0x0800, 'PIC'],
  [0x0806, 'IOMMU'],
  [0x0880, 'System peripheral'],
  [0x0b40, 'Co-processor'],
  [0x0c00, 'FireWire (IEEE 1394)'],
  [0x0c03, 'USB controller'],
  [0x0c04, 'Fibre Channel'],
  [0x0c05, 'SMBus'],
  [0x0c07, 'IPMI Interface'],
  [0x0d11, 'Bluetooth'],
  [0x1080, 'Encryption controller'],
  [0x1180, 'Signal processing controller'],
  [0x1200, 'Processing accelerators'],
]);

/** lspci's name of a class code. */
export function pciClassName(classCode: number): string {
  const named = SUB.get(classCode >> 8);
  if (named !== undefined) return named;
  return BASE[classCode >> 16] ?? `Class ${(classCode >> 8).toString(16).padStart(4, '0')}`;
}

/** True for USB host controllers (0c03xx). */
export function isUsb(classCode: number): boolean {
  return classCode >> 8 === 0x0c03;
}

/** True for display devices (03xxxx). */
export function isDisplay(classCode: number): boolean {
  return classCode >> 16 === 0x03;
}
