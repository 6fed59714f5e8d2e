// The shape of `virtio-iommu host --json`, as schemas and as values. Addresses are 0x strings, ends INCLUSIVE; sizes are
// bytes; null: the files do not tell; a limit of "unlimited" is that word.
import { z } from 'zod';
import { hex } from '../base/check.ts';
import { pciClassName } from '../firmware/pci-class.ts';
import { parseReservedRegions } from '../firmware/sysfs.ts';
import { foreseeBackend } from '../host/survey-backend.ts';
import { CHECKS } from '../host/survey-check.ts';
import type { DeviceJudgement } from '../host/survey-judge.ts';
import { judgeBriefly } from '../host/survey-judge.ts';
import type { HostSurvey } from '../host/survey.ts';

const Address = z.string().regex(/^0x[0-9a-f]{1,16}$/);
const Size = z.number().nonnegative();
const File = z.enum(['absent', 'forbidden', 'usable']);
const Choice = z.strictObject({ choice: z.enum(['type1', 'iommufd']), reason: z.string() });
const ClassCode = z.string().regex(/^0x[0-9a-f]{6}$/);

/** One function in the overview. */
const FunctionJson = z.strictObject({
  name: z.string(),
  class: z.string().nullable(),
  classCode: ClassCode.nullable(),
  driver: z.string().nullable(),
  /** ready: now; bind: after a driver change; refused, unknown: reserved memory; bridge: never; no: without an IOMMU. */
  state: z.enum(['ready', 'bind', 'refused', 'unknown', 'bridge', 'no']),
});

/** `host --json`. */
export const HostOverviewJson = z.strictObject({
  kernel: z.string().nullable(),
  iommus: z.array(
    z.strictObject({ name: z.string(), kind: z.string(), addressBits: z.number().int().min(1).max(64).nullable() }),
  ),
  interruptRemapping: z.enum(['on', 'off', 'unknown']),
  backend: Choice,
  vfio: z.strictObject({
    modules: z.record(z.string(), z.boolean()),
    container: File,
    iommufd: File,
    dmaEntryLimit: z.number().int().nullable(),
    allowUnsafeInterrupts: z.strictObject({ type1: z.boolean().nullable(), iommufd: z.boolean().nullable() }),
    groupFiles: z.array(z.string()),
  }),
  limits: z.strictObject({
    locked: Size,
    lockLimit: z.union([Size, z.literal('unlimited')]).nullable(),
    maxMapCount: z.number().int().nullable(),
    memoryTotal: Size.nullable(),
    memoryAvailable: Size.nullable(),
    hugePages: z.array(z.strictObject({ size: Size, total: Size, free: Size })),
  }),
  groups: z.array(
    z.strictObject({
      id: z.string(),
      type: z.string().nullable(),
      reserved: z.array(z.strictObject({ start: Address, end: Address, type: z.string() })),
      functions: z.array(FunctionJson),
      /** Members that are no PCI functions. */
      others: z.array(z.string()),
    }),
  ),
  /** PCI functions in no group. */
  ungrouped: z.array(FunctionJson),
  /** What turns an IOMMU on; empty when one is in use. */
  toDo: z.array(z.string()),
});

/** `host DEVICE --json`. */
export const HostDeviceJson = z.strictObject({
  device: z.string(),
  /** The exit status: true is 0. */
  canPass: z.boolean(),
  verdict: z.enum(['ready', 'steps', 'no']),
  class: z.string().nullable(),
  ids: z.string().nullable(),
  driver: z.string().nullable(),
  group: z.string().nullable(),
  members: z.array(
    z.strictObject({
      name: z.string(),
      class: z.string(),
      driver: z.string().nullable(),
      role: z.enum(['bridge', 'vfio', 'free', 'harmless', 'host']),
    }),
  ),
  checks: z.array(
    z.strictObject({
      name: z.enum(CHECKS),
      state: z.enum(['ok', 'note', 'todo', 'problem', 'unknown']),
      what: z.string(),
      remedies: z.array(z.string()),
    }),
  ),
  commands: z.array(z.string()),
  backend: Choice,
  /** What its endpoint reports in PROBE; null where that cannot be told. */
  reserved: z.array(z.strictObject({ start: Address, end: Address, kind: z.enum(['reserved', 'msi']) })).nullable(),
});

export type HostOverview = z.infer<typeof HostOverviewJson>;
export type HostDevice = z.infer<typeof HostDeviceJson>;

/** The overview as JSON values; `toDo` is what turns an IOMMU on. */
export function overviewJson(survey: HostSurvey, toDo: readonly string[]): HostOverview {
  const { facts, vfio, limits } = survey;
  const { backend, reason } = foreseeBackend(survey);
  const { type1, iommufd } = vfio.unsafeInterrupts;
  return {
    kernel: facts.kernel ?? null,
    iommus: survey.iommus.map(({ name, kind, addressBits }) => ({ name, kind, addressBits: addressBits ?? null })),
    interruptRemapping: survey.interruptRemapping,
    backend: { choice: backend, reason },
    vfio: {
      modules: { ...vfio.modules },
      container: vfio.container,
      iommufd: vfio.iommufd,
      dmaEntryLimit: vfio.entryLimit ?? null,
      allowUnsafeInterrupts: { type1: type1 ?? null, iommufd: iommufd ?? null },
      groupFiles: [...vfio.groupFiles],
    },
    limits: {
      locked: limits.locked,
      lockLimit: limits.lockLimit === Infinity ? 'unlimited' : (limits.lockLimit ?? null),
      maxMapCount: limits.maxMapCount ?? null,
      memoryTotal: limits.memoryTotal ?? null,
      memoryAvailable: limits.memoryAvailable ?? null,
      hugePages: limits.hugePages.map((each) => ({ ...each })),
    },
    ...membersJson(survey),
    toDo: [...toDo],
  };
}

function membersJson(survey: HostSurvey): Pick<HostOverview, 'groups' | 'ungrouped'> {
  const { groups, devices } = survey.facts.snapshot;
  const known = survey.index.devices;
  return {
    groups: groups.map((group) => ({
      id: group.id,
      type: survey.groupTypes.get(group.id) ?? null,
      reserved: parseReservedRegions(group.reservedRegions ?? '').regions.map(({ base, limit, type }) => ({
        start: hex(base),
        end: hex(limit),
        type,
      })),
      functions: group.devices.filter((name) => known.has(name)).map((name) => functionJson(survey, name)),
      others: group.devices.filter((name) => !known.has(name)),
    })),
    ungrouped: devices.filter(({ group }) => group === undefined).map(({ name }) => functionJson(survey, name)),
  };
}

function functionJson(survey: HostSurvey, name: string): z.infer<typeof FunctionJson> {
  const device = survey.index.devices.get(name);
  const code = device?.classCode;
  const known = code !== undefined && code <= 0xff_ffff;
  return {
    name,
    class: known ? pciClassName(code) : null,
    classCode: known ? `0x${code.toString(16).padStart(6, '0')}` : null,
    driver: device?.driver ?? null,
    state: judgeBriefly(survey, name),
  };
}

/** A judgement as JSON values. */
export function deviceJson(judgement: DeviceJudgement): HostDevice {
  const { name, verdict, checks, commands, backend, reserved } = judgement;
  return {
    device: name,
    canPass: verdict !== 'no',
    verdict,
    class: judgement.class ?? null,
    ids: judgement.ids ?? null,
    driver: judgement.driver ?? null,
    group: judgement.group ?? null,
    members: judgement.mates.map((mate) => ({ ...mate, driver: mate.driver ?? null })),
    checks: checks.map((each) => ({ ...each, remedies: [...each.remedies] })),
    commands: [...commands],
    backend: { choice: backend.backend, reason: backend.reason },
    reserved: reserved?.map(({ start, end, kind }) => ({ start: hex(start), end: hex(end), kind })) ?? null,
  };
}
