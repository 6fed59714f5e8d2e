// Checks of a function and its group: is it there, is there an IOMMU, who is in the group, which driver has it.
import type { HostCheck } from './survey-check.ts';
import { check } from './survey-check.ts';
import { isBridge, isVfioPci } from './survey-drivers.ts';
import type { Subject } from './survey-judge.ts';
import type { HostSurvey } from './survey.ts';

const MOST_NAMES = 6;

/** The function itself. */
export function deviceCheck({ device, detail, survey }: Subject): HostCheck {
  if (device === undefined) {
    return check('device', 'problem', 'there is no such PCI function', ['list the functions: virtio-iommu host']);
  }
  if (isBridge(device)) {
    return check('device', 'problem', 'it is a bridge, which vfio-pci never takes', ['pass the functions behind it']);
  }
  const pf = detail.physicalFunction;
  if (device.virtualFunction && pf !== undefined && isVfioPci(survey.index.devices.get(pf)?.driver)) {
    const what = `it is a virtual function of ${pf}, which a VFIO driver has: opening it needs a VF token`;
    return check('device', 'problem', what, [`give ${pf} back to its host driver`]);
  }
  if (device.virtualFunction) return check('device', 'ok', `virtual function${pf === undefined ? '' : ` of ${pf}`}`);
  if (detail.virtualFunctions > 0) {
    const what = `${detail.virtualFunctions} virtual functions are on: they go when its driver goes`;
    return check('device', 'note', what, ['pass a virtual function instead']);
  }
  return check('device', 'ok', 'an ordinary function');
}

/** Whether an IOMMU translates for the function. */
export function iommuCheck({ survey, device, group, detail }: Subject): HostCheck {
  const { groups } = survey.facts.snapshot;
  if (groups.length === 0) return check('iommu', 'problem', 'no IOMMU is in use on this machine', howToTurnOn(survey));
  if (device?.group === undefined || group === undefined) {
    const what = 'it is in no IOMMU group: no IOMMU translates for it';
    return check('iommu', 'problem', what, ['another slot or device; the kernel log says which devices an IOMMU has']);
  }
  if (survey.noIommuGroups.includes(group.id)) {
    const what = 'its group has no IOMMU (enable_unsafe_noiommu_mode): nothing would keep the guest in its memory';
    return check('iommu', 'problem', what, howToTurnOn(survey));
  }
  const unit = survey.iommus.find(({ name }) => name === detail.iommu);
  const named = unit === undefined ? 'an IOMMU' : `${unit.name} (${unit.kind})`;
  const type = survey.groupTypes.get(group.id);
  return check('iommu', 'ok', `${named} translates for it${type === undefined ? '' : `, default domain ${type}`}`);
}

/** What turns an IOMMU on, in the words of this machine. */
export function howToTurnOn(survey: HostSurvey): string[] {
  const { facts, processor, virtualMachine } = survey;
  const line = facts.commandLine ?? '';
  const has = (name: 'DMAR' | 'IVRS' | 'IORT'): boolean => facts.tables.has(name) || facts.unreadable.includes(name);
  const off = /(?:^|\s)(?:iommu=off|(?:intel|amd)_iommu=off)(?:\s|$)/.exec(line)?.[0].trim();
  const ways: string[] = [];
  if (off !== undefined) ways.push(`take ${off} off the kernel command line`);
  if (has('DMAR')) {
    const asked = /(?:^|\s)intel_iommu=on/.test(line);
    ways.push(
      asked ? 'intel_iommu=on is given: the kernel log (DMAR) says why it was not done' : 'boot with intel_iommu=on',
    );
  }
  if (has('IVRS') && off === undefined) {
    ways.push(
      'firmware shows an AMD IOMMU (IVRS): boot a kernel with CONFIG_AMD_IOMMU; its log (AMD-Vi) says the rest',
    );
  }
  if (has('IORT'))
    ways.push('boot a kernel with the driver of the SMMU (CONFIG_ARM_SMMU_V3); its log (arm-smmu) says the rest');
  if (has('DMAR') || has('IVRS') || has('IORT')) return ways;
  if (virtualMachine) {
    const devices = 'QEMU: -device intel-iommu,intremap=on, or virtio-iommu-pci';
    return [...ways, `this is a virtual machine: give it an IOMMU (${devices})`];
  }
  const names = { intel: 'VT-d', amd: 'AMD-Vi (IOMMU)', arm: 'the SMMU', unknown: 'VT-d, AMD-Vi or the SMMU' };
  ways.push(`turn ${names[processor]} on in the firmware: it gives the kernel no table of an IOMMU (DMAR, IVRS, IORT)`);
  return processor === 'intel' ? [...ways, 'boot with intel_iommu=on'] : ways;
}

/** The other members, and whether they let the group go. */
export function groupCheck({ name, mates, group }: Subject): HostCheck {
  const others = mates.filter((mate) => mate.name !== name);
  const id = group?.id ?? '?';
  if (others.length === 0) return check('group', 'ok', `alone in group ${id}`);
  const guilty = others.filter(({ role }) => role === 'host');
  if (guilty.length > 0) {
    const list = names(guilty.map((mate) => `${mate.name} (${mate.driver ?? ''})`));
    const what = `group ${id} goes as a whole, and host drivers have ${list}`;
    return check('group', 'todo', what, ['bind all of them to vfio-pci (see the commands): the host loses them']);
  }
  const functions = others.filter(({ role }) => role !== 'bridge');
  if (functions.length === 0) return check('group', 'ok', `group ${id} holds nothing else but bridges`);
  const what = `group ${id} goes as a whole, with ${names(functions.map((mate) => mate.name))}`;
  return check('group', 'note', what);
}

/** The driver of the function. */
export function driverCheck({ device, survey, name }: Subject): HostCheck {
  const driver = device?.driver;
  if (isVfioPci(driver)) return check('driver', 'ok', `${driver ?? ''} has it`);
  const load = survey.vfio.modules.vfio_pci ? '' : ' (load it first)';
  if (driver === undefined) return check('driver', 'todo', 'no driver has it', [`bind it to vfio-pci${load}`]);
  return check('driver', 'todo', `the host's ${driver} has ${name}`, [`bind it to vfio-pci${load}: the host loses it`]);
}

/** What says that groups are not what they seem. */
export function isolationCheck({ survey, report, name }: Subject): HostCheck[] {
  const checks: HostCheck[] = [];
  if ((survey.facts.commandLine ?? '').includes('pcie_acs_override=')) {
    const what =
      'pcie_acs_override is on the command line: groups may be split where devices can still reach each other';
    checks.push(check('isolation', 'note', what, ['boot without it, and pass what is then in one group']));
  }
  const component = survey.report.components.find(({ devices }) => devices.includes(name));
  const tied = (component?.devices ?? []).filter((other) => other !== name);
  const elsewhere = tied.filter((other) => survey.index.devices.get(other)?.group !== report?.group);
  if (elsewhere.length > 0) {
    const what = `firmware memory ties it to ${names(elsewhere)}, which are not in its group`;
    checks.push(check('isolation', 'note', what, ['virtio-iommu rmrr graph shows what they share']));
  }
  return checks;
}

/** Uses that the host loses. */
export function hostUseCheck({ detail, device }: Subject): HostCheck[] {
  const checks: HostCheck[] = [];
  if (detail.bootDisplay && !isVfioPci(device?.driver)) {
    checks.push(check('host use', 'note', 'it is the display of the firmware: the host loses its console'));
  }
  if (device?.classCode !== undefined && CHIPSET.has(device.classCode >> 8)) {
    checks.push(check('host use', 'note', 'it is a part of the chipset, which is seldom meant to be passed through'));
  }
  return checks;
}

/** Host bridge, ISA bridge. */
const CHIPSET = new Set([0x0600, 0x0601]);

function names(list: readonly string[]): string {
  const left = list.length - MOST_NAMES;
  return left > 0 ? `${list.slice(0, MOST_NAMES).join(', ')} and ${left} more` : list.join(', ');
}
