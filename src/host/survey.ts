// A survey of a Linux host for passed-through devices: groups, drivers, modules, device files, limits. Node only, files
// only: needs no addon, opens no device, changes nothing. Works on copies of /sys, /proc and /dev; what is missing there is
// undefined or empty, never an error. Not here: judgement (survey-judge.ts).
import { checkOptions } from '../base/check.ts';
import type { ReportDevice, ReportInput, RmrrReport } from '../firmware/report-types.ts';
import { buildReport } from '../firmware/report.ts';
import { parseDmar } from '../firmware/dmar.ts';
import { parseIort } from '../firmware/iort.ts';
import { parseIvrs } from '../firmware/ivrs.ts';
import { parseKernelLog } from '../firmware/kernel-log.ts';
import type { KernelVersion } from '../firmware/kernel-version.ts';
import { parseKernelVersion } from '../firmware/kernel-version.ts';
import type { SysfsDevice, SysfsGroup } from '../firmware/sysfs.ts';
import { snapshotRegions } from '../firmware/sysfs.ts';
import type { FileState } from './survey-files.ts';
import { HostFiles } from './survey-files.ts';
import type { InterruptRemapping, SurveyIommu } from './survey-iommu.ts';
import { interruptRemapping, readIommus } from './survey-iommu.ts';
import type { SurveyLimits } from './survey-limits.ts';
import { readLimits } from './survey-limits.ts';
import type { HostFacts, HostRoots } from './sysfs.ts';
import { readHost } from './sysfs.ts';

/** Modules that matter, in the order in which they are shown. */
export const SURVEY_MODULES = ['vfio', 'vfio_pci', 'vfio_iommu_type1', 'iommufd'] as const;

/** State of VFIO and iommufd on the host. */
export interface SurveyVfio {
  /** True when the module is loaded; false also for one that is built in and has no parameters. */
  readonly modules: Readonly<Record<(typeof SURVEY_MODULES)[number], boolean>>;
  /** /dev/vfio/vfio. */
  readonly container: FileState;
  /** /dev/iommu. */
  readonly iommufd: FileState;
  /** vfio_iommu_type1.dma_entry_limit: what the next container gets; undefined while the module is not loaded. */
  readonly entryLimit: number | undefined;
  /** The option to accept hosts without interrupt remapping, of the two modules. */
  readonly unsafeInterrupts: { readonly type1: boolean | undefined; readonly iommufd: boolean | undefined };
  /** Names in /dev/vfio: groups (`7`), `noiommu-7`, `devices`. */
  readonly groupFiles: readonly string[];
}

/** Facts of one function that the snapshot does not hold. */
export interface SurveyFunction {
  /** `8086:10d3`, undefined when it is not told. */
  readonly ids: string | undefined;
  /** Name of its IOMMU. */
  readonly iommu: string | undefined;
  /** Ways to reset it (`flr pm bus`), `` when the kernel has none; undefined when it does not tell. */
  readonly resetMethods: string | undefined;
  /** The firmware showed its boot messages there. */
  readonly bootDisplay: boolean;
  /** The physical function of a virtual one. */
  readonly physicalFunction: string | undefined;
  /** Virtual functions that are switched on. */
  readonly virtualFunctions: number;
  /** Its character device of VFIO (`vfio0`), there when a VFIO driver has it and the kernel has them. */
  readonly vfioFile: string | undefined;
}

/** Everything that was found. */
export interface HostSurvey {
  readonly facts: HostFacts;
  /** The kernel's version, where /proc tells it. */
  readonly kernel: KernelVersion | undefined;
  /** Functions, groups and verdicts on reserved memory by name. */
  readonly index: {
    readonly devices: ReadonlyMap<string, SysfsDevice>;
    readonly groups: ReadonlyMap<string, SysfsGroup>;
    readonly reports: ReadonlyMap<string, ReportDevice>;
  };
  readonly iommus: readonly SurveyIommu[];
  readonly interruptRemapping: InterruptRemapping;
  /** What the processor is: tells how to turn an IOMMU on. */
  readonly processor: 'intel' | 'amd' | 'arm' | 'unknown';
  /** True when the processor says that a hypervisor runs below. */
  readonly virtualMachine: boolean;
  /** Group ids whose devices VFIO drives without an IOMMU (enable_unsafe_noiommu_mode). */
  readonly noIommuGroups: readonly string[];
  /** Types of the groups' default domains (`DMA-FQ`, `identity`), where told. */
  readonly groupTypes: ReadonlyMap<string, string>;
  readonly vfio: SurveyVfio;
  readonly limits: SurveyLimits;
  /** Reserved memory: verdict for each device, and what ties devices. */
  readonly report: RmrrReport;
  /** More about a function; read when asked. */
  readonly functionOf: (name: string) => SurveyFunction;
  /** State of the file of a group in /dev/vfio. */
  readonly groupFile: (group: string) => FileState;
  /** State of a character device in /dev/vfio/devices. */
  readonly vfioFile: (name: string) => FileState;
}

/** Reads the host, or copies of its file systems. @throws TypeError for wrong roots. */
export function surveyHost(roots: HostRoots = {}): HostSurvey {
  checkRoots(roots);
  const given = new HostFiles(roots.sys ?? '/sys');
  const base = given.has('sys') && !given.has('kernel') ? `${roots.sys}/sys` : (roots.sys ?? '/sys');
  const sys = new HostFiles(base);
  const proc = new HostFiles(roots.proc ?? '/proc');
  const dev = new HostFiles(roots.dev ?? '/dev');
  const facts = readHost(roots);
  const cpu = proc.text('cpuinfo') ?? '';
  const { devices, groups: groupList } = facts.snapshot;
  const groups = groupList.map(({ id }) => id);
  const kernel = facts.kernel === undefined ? undefined : parseKernelVersion(facts.kernel);
  const report = reportOf(facts, kernel);
  return {
    facts,
    kernel,
    index: {
      devices: new Map(devices.map((device) => [device.name, device])),
      groups: new Map(groupList.map((group) => [group.id, group])),
      reports: new Map(report.devices.map((device) => [device.name, device])),
    },
    iommus: readIommus(sys),
    interruptRemapping: interruptRemapping(proc.text('interrupts'), facts.kernelLog),
    processor: processorOf(cpu),
    virtualMachine: /^flags\s*:.*\bhypervisor\b/m.test(cpu),
    noIommuGroups: groups.filter((id) => sys.text(`kernel/iommu_groups/${id}/name`, 64) === 'vfio-noiommu'),
    groupTypes: new Map(groups.flatMap((id) => typeOf(sys, id))),
    vfio: readVfio(sys, dev, proc),
    limits: readLimits(proc, sys),
    report,
    functionOf: (name) => readFunction(sys, name),
    groupFile: (group) => dev.state(`vfio/${group}`),
    vfioFile: (name) => dev.state(`vfio/devices/${name}`),
  };
}

function checkRoots(roots: HostRoots): void {
  checkOptions('roots', roots, ['sys', 'proc', 'dev']);
  for (const [name, root] of Object.entries(roots) as [string, unknown][]) {
    if (root !== undefined && typeof root !== 'string') throw new TypeError(`roots.${name} must be a string`);
  }
}

function typeOf(sys: HostFiles, id: string): [string, string][] {
  const type = sys.text(`kernel/iommu_groups/${id}/type`, 64);
  return type === undefined ? [] : [[id, type]];
}

function processorOf(cpu: string): HostSurvey['processor'] {
  if (cpu.includes('GenuineIntel')) return 'intel';
  if (/AuthenticAMD|HygonGenuine/.test(cpu)) return 'amd';
  return cpu.includes('CPU implementer') ? 'arm' : 'unknown';
}

function readVfio(sys: HostFiles, dev: HostFiles, proc: HostFiles): SurveyVfio {
  const loaded = new Set((proc.text('modules') ?? '').split('\n').map((line) => line.split(' ', 1)[0]));
  const has = (name: string): boolean => loaded.has(name) || sys.has(`module/${name}`);
  return {
    modules: {
      vfio: has('vfio'),
      vfio_pci: has('vfio_pci') || sys.has('bus/pci/drivers/vfio-pci'),
      vfio_iommu_type1: has('vfio_iommu_type1'),
      iommufd: has('iommufd'),
    },
    container: dev.state('vfio/vfio'),
    iommufd: dev.state('iommu'),
    entryLimit: sys.number('module/vfio_iommu_type1/parameters/dma_entry_limit'),
    unsafeInterrupts: {
      type1: sys.flag('module/vfio_iommu_type1/parameters/allow_unsafe_interrupts'),
      iommufd: sys.flag('module/iommufd/parameters/allow_unsafe_interrupts'),
    },
    groupFiles: dev.list('vfio').filter((name) => name !== 'vfio'),
  };
}

function readFunction(sys: HostFiles, name: string): SurveyFunction {
  const at = `bus/pci/devices/${name}`;
  const [vendor, device] = ['vendor', 'device'].map((file) => sys.text(`${at}/${file}`, 64)?.replace(/^0x/, ''));
  const isId = (text: string | undefined): boolean => text !== undefined && /^[0-9a-f]{4}$/i.test(text);
  const methods = sys.text(`${at}/reset_method`, 256);
  // Before 5.15 only a file `reset` told that there is a way. Linux shows neither where there is none; a copy may lack files.
  const noReset = sys.has(`${at}/enable`) ? '' : undefined;
  return {
    ids: isId(vendor) && isId(device) ? `${vendor}:${device}` : undefined,
    iommu: sys.link(`${at}/iommu`),
    resetMethods: methods ?? (sys.has(`${at}/reset`) ? 'some' : noReset),
    bootDisplay: sys.number(`${at}/boot_vga`) === 1,
    physicalFunction: sys.link(`${at}/physfn`),
    virtualFunctions: sys.number(`${at}/sriov_numvfs`) ?? 0,
    vfioFile: sys.list(`${at}/vfio-dev`)[0],
  };
}

const READERS = { DMAR: parseDmar, IVRS: parseIvrs, IORT: parseIort } as const;

/** What the `rmrr` report says of this host; a table that is broken is left out with a warning. */
function reportOf(facts: HostFacts, kernel: KernelVersion | undefined): RmrrReport {
  const log = facts.kernelLog === undefined ? undefined : parseKernelLog(facts.kernelLog);
  const tables = [...facts.tables].map(([name, bytes]) => {
    const { kind, regions, warnings } = READERS[name](bytes);
    return { kind, name, regions, warnings };
  });
  const sources: ReportInput['sources'] = [
    ...tables,
    { kind: 'sysfs', name: 'sysfs', ...snapshotRegions(facts.snapshot) },
    ...(log === undefined ? [] : [{ kind: 'dmesg' as const, name: 'log', ...regionsOf(log) }]),
  ];
  return buildReport({
    sources,
    snapshot: facts.snapshot,
    kernel,
    relaxRmrr: log?.relaxAllRmrr === true ? 'active' : 'unknown',
    refusals: log?.refusals ?? [],
    resv: { probeSize: 0xffff_ffff },
  });
}

function regionsOf({
  regions,
  warnings,
}: ReturnType<typeof parseKernelLog>): Pick<ReportInput['sources'][number], 'regions' | 'warnings'> {
  return { regions, warnings };
}
