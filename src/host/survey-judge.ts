// Can a PCI function be passed through, and how: the checks of one function of a surveyed host, and the commands that make it
// ready. Pure: a survey in, data out. Not here: single checks (survey-checks-*.ts), text (cli).
import { checkInteger, checkOneOf, checkOptions } from '../base/check.ts';
import type { ReservedRegion } from '../base/reserved.ts';
import { pciClassName } from '../firmware/pci-class.ts';
import type { ReportDevice } from '../firmware/report-types.ts';
import type { SysfsDevice, SysfsGroup } from '../firmware/sysfs.ts';
import type { Backend, BackendChoice } from './open-host-rules.ts';
import { checkDevice } from './reserved.ts';
import { backendCheck, foreseeBackend } from './survey-backend.ts';
import type { HostCheck } from './survey-check.ts';
import { commandsOf } from './survey-commands.ts';
import {
  deviceCheck,
  driverCheck,
  groupCheck,
  hostUseCheck,
  iommuCheck,
  isolationCheck,
} from './survey-checks-device.ts';
import {
  entryCheck,
  interruptCheck,
  lockCheck,
  memoryCheck,
  permissionCheck,
  resetCheck,
  widthCheck,
  windowCheck,
} from './survey-checks-host.ts';
import { firmwareCheck, reservedCheck } from './survey-checks-memory.ts';
import { isBridge, isHarmless, isVfioPci } from './survey-drivers.ts';
import type { HostSurvey, SurveyFunction } from './survey.ts';

/** `ready`: now. `steps`: after the commands. `no`: a check is a problem. */
export type PassVerdict = 'ready' | 'steps' | 'no';

/** What stands behind the driver of a member. */
export type MemberRole = 'bridge' | 'vfio' | 'free' | 'harmless' | 'host';

/** A member of the group. */
export interface GroupMate {
  readonly name: string;
  readonly class: string;
  readonly driver: string | undefined;
  /** `host`: its driver keeps the group from being given away. */
  readonly role: MemberRole;
}

/** What is known when a function is judged. */
export interface Subject {
  readonly survey: HostSurvey;
  readonly name: string;
  /** Undefined: there is no such function. */
  readonly device: SysfsDevice | undefined;
  readonly detail: SurveyFunction;
  readonly group: SysfsGroup | undefined;
  readonly mates: readonly GroupMate[];
  readonly report: ReportDevice | undefined;
  readonly backend: BackendChoice;
  /** RAM of the guest in bytes, undefined when not told. */
  readonly ram: number | undefined;
}

/** The answer for one function. */
export interface DeviceJudgement {
  readonly name: string;
  readonly verdict: PassVerdict;
  readonly class: string | undefined;
  readonly ids: string | undefined;
  readonly driver: string | undefined;
  readonly group: string | undefined;
  readonly mates: readonly GroupMate[];
  readonly checks: readonly HostCheck[];
  /** Shell commands for root, in order; empty when none is needed or none would help. */
  readonly commands: readonly string[];
  readonly backend: BackendChoice;
  /** What its endpoint reports; undefined where the group's list is missing or cannot be trusted. */
  readonly reserved: readonly ReservedRegion[] | undefined;
}

/** What the caller wants. */
export interface JudgeOptions {
  /** RAM of the guest in bytes. */
  readonly ram?: number | undefined;
  /** The backend that the guest will get; default what `openHostContext` would take. */
  readonly backend?: Backend | undefined;
}

/** Judges a function (`ssss:bb:dd.f`). @throws TypeError or RangeError that names the wrong argument. */
export function judgeDevice(survey: HostSurvey, name: string, options: JudgeOptions = {}): DeviceJudgement {
  checkDevice('name', name);
  checkOptions('options', options, ['ram', 'backend']);
  if (options.ram !== undefined) checkInteger('options.ram', options.ram, 1, Number.MAX_SAFE_INTEGER);
  if (options.backend !== undefined) checkOneOf('options.backend', options.backend, ['type1', 'iommufd']);
  const subject = subjectOf(survey, name, options);
  const { device, group, mates, detail, backend } = subject;
  const { check: reservedState, reserved } = reservedCheck(subject);
  const checks = checksOf(subject, reservedState);
  const verdict = verdictOf(checks);
  return {
    name,
    verdict,
    class: classText(device),
    ids: detail.ids,
    driver: device?.driver,
    group: group?.id,
    mates,
    checks,
    commands: verdict === 'no' ? [] : commandsOf(subject),
    backend,
    reserved,
  };
}

/** A short verdict for tables: only what keeps the device itself from being given away. */
export function judgeBriefly(
  survey: HostSurvey,
  name: string,
): 'ready' | 'bind' | 'refused' | 'unknown' | 'bridge' | 'no' {
  const { devices, groups, reports } = survey.index;
  const device = devices.get(name);
  const group = device?.group === undefined ? undefined : groups.get(device.group);
  if (device === undefined || group === undefined || survey.noIommuGroups.includes(group.id)) return 'no';
  if (isBridge(device)) return 'bridge';
  const verdict = reports.get(name)?.eligibility.verdict;
  if (verdict === 'refused' || verdict === 'unknown') return verdict;
  const bound = isVfioPci(device.driver) && group.devices.every((mate) => mateOf(survey, mate).role !== 'host');
  return bound ? 'ready' : 'bind';
}

function checksOf(subject: Subject, reserved: HostCheck): HostCheck[] {
  const { group, device } = subject;
  if (device === undefined) return [deviceCheck(subject)];
  const first = [deviceCheck(subject), iommuCheck(subject)];
  // Without a group, or for a bridge, the rest has no subject.
  if (group === undefined || isBridge(device)) return first;
  return [
    ...first,
    groupCheck(subject),
    driverCheck(subject),
    firmwareCheck(subject),
    reserved,
    interruptCheck(subject),
    backendCheck(subject),
    ...permissionCheck(subject),
    lockCheck(subject),
    ...memoryCheck(subject),
    entryCheck(subject),
    ...windowCheck(subject),
    ...widthCheck(subject),
    ...resetCheck(subject),
    ...isolationCheck(subject),
    ...hostUseCheck(subject),
  ];
}

function subjectOf(survey: HostSurvey, name: string, { ram, backend }: JudgeOptions): Subject {
  const { devices, groups, reports } = survey.index;
  const device = devices.get(name);
  const detail = survey.functionOf(name);
  const group = device?.group === undefined ? undefined : groups.get(device.group);
  return {
    survey,
    name,
    device,
    detail,
    group,
    mates: (group?.devices ?? []).map((mate) => mateOf(survey, mate)),
    report: reports.get(name),
    backend:
      backend === undefined
        ? foreseeBackend(survey, { detail, driver: device?.driver })
        : { backend, reason: 'asked for by the caller' },
    ram,
  };
}

function mateOf(survey: HostSurvey, name: string): GroupMate {
  const device = survey.index.devices.get(name);
  if (device === undefined) return { name, class: 'not PCI', driver: undefined, role: 'free' };
  const harmless = isHarmless(device, survey.kernel);
  return { name, class: classText(device) ?? '?', driver: device.driver, role: roleOf(device, harmless) };
}

function roleOf(device: SysfsDevice, harmless: boolean): MemberRole {
  if (!harmless) return 'host';
  if (isBridge(device)) return 'bridge';
  if (isVfioPci(device.driver)) return 'vfio';
  return device.driver === undefined ? 'free' : 'harmless';
}

function classText(device: SysfsDevice | undefined): string | undefined {
  return device?.classCode === undefined ? undefined : pciClassName(device.classCode);
}

function verdictOf(checks: readonly HostCheck[]): PassVerdict {
  if (checks.some(({ state }) => state === 'problem')) return 'no';
  return checks.some(({ state }) => state === 'todo') ? 'steps' : 'ready';
}
