// The table of rooms as data: who may import whom. Prose with reasons: spec/design.md. Not here: how it is checked.

/** A folder (or a few files) of src/ behind one wall. */
export interface Room {
  readonly name: string;
  /** Paths that belong to the room; the first room of the table that matches a file has it. */
  readonly files: RegExp;
  /** Rooms, or single files of rooms, that it may import. */
  readonly mayImport: readonly string[];
  /** Files of the room that may import `node:*`; none in a core room. */
  readonly node?: RegExp;
  /** Packages that it may import. */
  readonly packages?: readonly string[];
  /** True for rooms that run in a browser. */
  readonly core?: true;
}

/** What `iommu` may know of `virtio`: guest memory, chains, the face of a queue and of a device. Not rings, not transports. */
const VIRTIO_FACE = ['chain', 'device', 'device-model', 'memory', 'memory-types', 'virtqueue'].map(
  (name) => `src/virtio/${name}.ts`,
);
const CORE_ABOVE = [
  'base',
  'intervals',
  'virtio',
  'wire',
  'iommu',
  'coalesce',
  'host/context',
  'host/simulated',
  'firmware',
];
const NODE_ABOVE = [...CORE_ABOVE, 'host', 'devices', 'vfio-user', 'testing'];

export const ROOMS: readonly Room[] = [
  { name: 'base', files: /^src\/base\//, mayImport: [], core: true },
  { name: 'intervals', files: /^src\/intervals\//, mayImport: ['base'], core: true },
  { name: 'virtio', files: /^src\/virtio\//, mayImport: ['base'], core: true },
  { name: 'wire', files: /^src\/wire\//, mayImport: ['base'], core: true },
  {
    name: 'iommu',
    files: /^src\/iommu\//,
    mayImport: ['base', 'intervals', 'wire', 'coalesce', 'host/context', ...VIRTIO_FACE],
    core: true,
  },
  { name: 'coalesce', files: /^src\/coalesce\//, mayImport: ['base', 'intervals', 'host/context'], core: true },
  { name: 'host/context', files: /^src\/host\/(context|batch-check)\.ts$/, mayImport: ['base'], core: true },
  {
    name: 'host/simulated',
    files: /^src\/host\/simulated(\.ts$|\/)/,
    mayImport: ['base', 'intervals', 'host/context'],
    core: true,
  },
  {
    name: 'host',
    files: /^src\/host\//,
    mayImport: ['base', 'intervals', 'host/context', 'host/simulated', 'firmware'],
    node: /^src\/host\/(sysfs|survey-files|native)\.ts$/,
  },
  { name: 'firmware', files: /^src\/firmware\//, mayImport: ['base'], core: true },
  {
    name: 'devices',
    files: /^src\/devices\//,
    mayImport: ['base', 'virtio', 'src/iommu/dma-view.ts', 'host/context', 'host'],
  },
  {
    name: 'vfio-user',
    files: /^src\/vfio-user\//,
    mayImport: [
      'base',
      'virtio',
      'devices',
      ...['native', 'native-api', 'guest-ram', 'event-counter', 'refusals'].map((name) => `src/host/${name}.ts`),
    ],
    node: /./,
  },
  { name: 'testing/node', files: /^src\/testing\/node\//, mayImport: NODE_ABOVE, node: /./ },
  { name: 'testing', files: /^src\/testing\//, mayImport: CORE_ABOVE, core: true },
  {
    name: 'cli',
    files: /^src\/cli\//,
    mayImport: [...NODE_ABOVE, 'testing/node'],
    node: /./,
    packages: ['cli-table3', 'commander', 'vega', 'vega-lite', 'zod'],
  },
  // The bridge to node:diagnostics_channel is one function, so the entry file is its room.
  { name: 'diagnostics', files: /^src\/diagnostics\.ts$/, mayImport: ['iommu'], node: /./ },
  { name: 'core entry', files: /^src\/(index|testing)\.ts$/, mayImport: [...CORE_ABOVE, 'testing'], core: true },
  { name: 'node entry', files: /^src\/[^/]+\.ts$/, mayImport: [...NODE_ABOVE, 'testing/node'] },
];

/** Rooms whose files are composition only: imports and re-exports. */
export const ENTRY_ROOMS: readonly string[] = ['core entry', 'node entry'];

/** Globals that a browser does not have, or that the library has no business with (it is silent and has no clock). */
export const FORBIDDEN_GLOBALS: readonly string[] = [
  'Buffer',
  'console',
  'global',
  'globalThis',
  'performance',
  'process',
  'require',
  'setImmediate',
  'setInterval',
  'setTimeout',
];

/** Most lines of a source file. */
export const MAX_LINES = 400;

/** The room that a file belongs to. */
export function roomOf(file: string): Room | undefined {
  return ROOMS.find((room) => room.files.test(file));
}
