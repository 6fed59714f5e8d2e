// The text of `virtio-iommu host`: the overview, and the one screen about a device. Pure.
import { bytesText } from '../host/survey-check.ts';
import type { CheckState } from '../host/survey-check.ts';
import type { Column } from './host-layout.ts';
import { aligned, plain, wrapped } from './host-layout.ts';
import type { HostDevice, HostOverview } from './host-json.ts';

const TITLE = 12;

/** The overview: limits first, then groups and functions. */
export function overviewText(host: HostOverview, columns: number): string {
  const common = commonRegions(host);
  const lines = [
    ...factLines(host, columns),
    ...(common.length === 0 ? [] : wrapped(title('reserved'), `in every group: ${common.join(', ')}`, columns, TITLE)),
    '',
    ...(host.groups.length === 0 ? noIommu(host, columns) : groupLines(host, new Set(common), columns)),
    ...ungroupedLines(host, columns),
  ];
  return `${lines.join('\n')}\n`;
}

function title(text: string): string {
  return text.padEnd(TITLE);
}

function factLines(host: HostOverview, columns: number): string[] {
  const { vfio, limits, iommus } = host;
  const line = (head: string, text: string): string[] => wrapped(title(head), text, columns, TITLE);
  const units = iommus.map(({ name, kind, addressBits }) => {
    return `${name} (${kind}${addressBits === null ? '' : `, ${addressBits} bits`})`;
  });
  const loaded = Object.entries(vfio.modules).map(([name, there]) => `${name} ${there ? 'loaded' : 'not loaded'}`);
  const unsafe = Object.entries(vfio.allowUnsafeInterrupts).filter(([, on]) => on === true);
  const accepted = unsafe.length === 0 ? '' : `, but accepted as unsafe by ${unsafe.map(([name]) => name).join(', ')}`;
  const lock = limits.lockLimit;
  const locking =
    lock === null ? 'not told' : lock === 'unlimited' ? 'no limit' : `${bytesText(lock)} for this process`;
  const huge = limits.hugePages.map(({ size, total, free }) => `${bytesText(size)}: ${free} of ${total} free`);
  const { memoryTotal: total, memoryAvailable: free } = limits;
  const memory = total === null ? 'not told' : `${bytesText(total)}${free === null ? '' : `, ${bytesText(free)} free`}`;
  return [
    ...line('kernel', host.kernel === null ? 'not told' : `Linux ${host.kernel}`),
    ...line('IOMMU', units.length === 0 ? 'none is listed' : units.join(', ')),
    ...line('interrupts', `remapping ${REMAPPING[host.interruptRemapping]}${accepted}`),
    ...line('backend', `${host.backend.choice}: ${host.backend.reason}`),
    ...line('files', `/dev/vfio/vfio ${vfio.container}, /dev/iommu ${vfio.iommufd}`),
    ...line('modules', loaded.join(', ')),
    ...line('entries', vfio.dmaEntryLimit === null ? 'not told' : `${vfio.dmaEntryLimit} (dma_entry_limit)`),
    ...line('locking', `${locking}; vm.max_map_count ${limits.maxMapCount ?? 'not told'}`),
    ...line('memory', `${memory}${huge.length === 0 ? '' : `; huge pages of ${huge.join(', ')}`}`),
  ];
}

const REMAPPING = { on: 'on', off: 'off', unknown: 'not told' } as const;

/** Regions that every group has: said once. */
function commonRegions({ groups }: HostOverview): string[] {
  const [first, ...rest] = groups;
  if (first === undefined || rest.length === 0) return [];
  const lists = rest.map((group) => new Set(group.reserved.map(regionText)));
  return first.reserved.map(regionText).filter((text) => lists.every((list) => list.has(text)));
}

function regionText({ start, end, type }: HostOverview['groups'][number]['reserved'][number]): string {
  return `${start}-${end} ${type}`;
}

function noIommu(host: HostOverview, columns: number): string[] {
  const ways = host.toDo.flatMap((way, i) => wrapped(`  ${i + 1}. `, way, columns, 5));
  const head = 'No IOMMU is in use on this machine: nothing can be passed through. To do:';
  return [...wrapped('', head, columns, 0), ...ways];
}

const COLUMNS: readonly Column[] = [
  { head: 'group', right: true },
  { head: 'function' },
  { head: 'class', gives: true },
  { head: 'driver', gives: true },
  { head: 'pass through' },
];

const STATES: Readonly<Record<HostOverview['ungrouped'][number]['state'], string>> = {
  ready: 'ready',
  bind: 'bind first',
  refused: 'refused',
  unknown: 'not known',
  bridge: '- (bridge)',
  no: 'no',
};

function groupLines(host: HostOverview, common: ReadonlySet<string>, columns: number): string[] {
  const rows: string[][] = [];
  const notes: string[][] = [];
  for (const { id, functions, others, reserved } of host.groups) {
    const own = reserved.map(regionText).filter((text) => !common.has(text));
    const list = functions.map((each) => [each.name, each.class ?? '?', each.driver ?? '-', STATES[each.state]]);
    list.push(...others.map((name) => [name, 'not PCI', '-', '-']));
    if (list.length === 0) list.push(['(empty)', '-', '-', '-']);
    for (const [i, cells] of list.entries()) {
      rows.push([i === 0 ? id : '', ...cells]);
      notes.push(i === list.length - 1 && own.length > 0 ? wrapped(' '.repeat(7), own.join(', '), columns, 7) : []);
    }
  }
  const [head = '', ...lines] = aligned(COLUMNS, rows, columns);
  const table = [head, ...lines.flatMap((line, i) => [line, ...notes[i]!])];
  const about = 'bind first: a driver of the host has it, or another member of its group; ';
  return [...table, '', ...wrapped('', `${about}details: virtio-iommu host FUNCTION`, columns, 0)];
}

function ungroupedLines({ ungrouped, groups }: HostOverview, columns: number): string[] {
  if (groups.length === 0 || ungrouped.length === 0) return [];
  return wrapped(
    '',
    `In no group, so no IOMMU translates for them: ${ungrouped.map(({ name }) => name).join(', ')}`,
    columns,
    2,
  );
}

/** The verdict with the checks behind it. */
function verdictText({ verdict, checks }: HostDevice): string {
  const named = (state: CheckState): string =>
    [...new Set(checks.filter((each) => each.state === state).map(({ name }) => name))].join(', ');
  const unknown = named('unknown');
  const doubt = unknown === '' ? '' : ` (not certain: ${unknown})`;
  if (verdict === 'no') return `CANNOT BE PASSED THROUGH, because of: ${named('problem')}`;
  if (verdict === 'steps') return `CAN BE PASSED THROUGH, but first: ${named('todo')}${doubt}`;
  return `CAN BE PASSED THROUGH NOW${doubt}`;
}

const MARKS: Readonly<Record<CheckState, string>> = {
  ok: 'ok',
  note: 'note',
  todo: 'TODO',
  problem: 'PROBLEM',
  unknown: '?',
};
const MARK = 9;
const NAME = 17;

/** One screen about a device. */
export function deviceText(device: HostDevice, columns: number): string {
  const about = [
    [device.class ?? 'PCI function', device.ids === null ? [] : `[${device.ids}]`].flat().join(' '),
    device.group === null ? null : `group ${device.group}`,
    device.driver === null ? null : `driver ${device.driver}`,
  ].filter((part) => part !== null);
  return `${[
    ...wrapped(`${plain(device.device)}  `, about.join(', '), columns, 14),
    ...wrapped('', verdictText(device), columns, 2),
    '',
    ...device.checks.flatMap((each) => checkLines(each, columns)),
    ...memberLines(device, columns),
    ...(device.commands.length === 0
      ? []
      : ['', 'Commands for root', ...device.commands.map((line) => `  ${plain(line)}`)]),
    ...(device.canPass ? useLines(device) : []),
  ].join('\n')}\n`;
}

function checkLines({ state, name, what, remedies }: HostDevice['checks'][number], columns: number): string[] {
  const indent = MARK + NAME;
  const shown = remedies.flatMap((remedy) => wrapped(`${' '.repeat(indent)}> `, remedy, columns, indent + 2));
  return [...wrapped(`${MARKS[state].padEnd(MARK)}${name.padEnd(NAME)}`, what, columns, indent), ...shown];
}

function memberLines({ members, group }: HostDevice, columns: number): string[] {
  if (members.length < 2) return [];
  const heads: readonly Column[] = [
    { head: '  member' },
    { head: 'class', gives: true },
    { head: 'driver', gives: true },
    { head: 'role' },
  ];
  const rows = members.map(({ name, class: kind, driver, role }) => [`  ${name}`, kind, driver ?? '-', ROLES[role]]);
  return ['', `Group ${group ?? '?'}`, ...aligned(heads, rows, columns)];
}

const ROLES: Readonly<Record<HostDevice['members'][number]['role'], string>> = {
  bridge: 'stays with the host',
  vfio: 'ready',
  free: 'not in the way',
  harmless: 'not in the way',
  host: 'in use by the host',
};

function useLines({ device, backend }: HostDevice): string[] {
  const qemu =
    backend.choice === 'iommufd'
      ? `-object iommufd,id=iommufd0 -device vfio-pci,host=${device},iommufd=iommufd0`
      : `-device vfio-pci,host=${device}`;
  return [
    '',
    'Use, with ID the endpoint id that the guest sees',
    `  const context = openHostContext({ device: '${device}' });`,
    `  iommu.addEndpoint(passthroughEndpoint({ context, device: '${device}', id: ID }));`,
    `  QEMU without this package: ${qemu}`,
  ];
}
