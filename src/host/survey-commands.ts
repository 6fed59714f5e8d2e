// The shell commands that make a function ready, for root. Text only; they are shown, never run.
import type { Subject } from './survey-judge.ts';
import { isVfioPci } from './survey-drivers.ts';

/** Commands in order; empty when a VFIO driver has everything already. */
export function commandsOf({ survey, name, device, mates, backend, group }: Subject): string[] {
  const commands: string[] = [];
  const { modules, container } = survey.vfio;
  const host = mates.filter((mate) => mate.name !== name && mate.role === 'host' && isFunctionName(mate.name));
  const bind = [
    ...(isVfioPci(device?.driver) ? [] : [{ name, driver: device?.driver }]),
    ...host.map((mate) => ({ name: mate.name, driver: mate.driver })),
  ];
  if (bind.length > 0 && !modules.vfio_pci) commands.push('modprobe vfio-pci');
  if (backend.backend === 'type1' && (container === 'absent' || !modules.vfio_iommu_type1)) {
    commands.push('modprobe vfio_iommu_type1');
  }
  for (const each of bind) {
    const folder = `/sys/bus/pci/devices/${each.name}`;
    commands.push(`echo vfio-pci > ${folder}/driver_override`);
    if (each.driver !== undefined) commands.push(`echo ${each.name} > ${folder}/driver/unbind`);
    commands.push(`echo ${each.name} > /sys/bus/pci/drivers_probe`);
  }
  const file = group === undefined ? undefined : `/dev/vfio/${group.id}`;
  if (file !== undefined && backend.backend === 'type1' && survey.groupFile(group?.id ?? '') === 'forbidden') {
    commands.push(`chown "$USER" ${file}`);
  }
  return commands;
}

/** Names come from a directory: only what is a function's name may stand in a command. */
function isFunctionName(name: string): boolean {
  return /^[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$/.test(name);
}
