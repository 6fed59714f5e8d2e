// Which backend a device would get, foreseen from files: the rule of open-host.ts without opening anything.
import type { BackendChoice } from './open-host-rules.ts';
import type { HostCheck } from './survey-check.ts';
import { check } from './survey-check.ts';
import { isVfioPci } from './survey-drivers.ts';
import type { Subject } from './survey-judge.ts';
import type { HostSurvey, SurveyFunction } from './survey.ts';

/** Foresees the backend of a device, or of any device where `of` is undefined. */
export function foreseeBackend(
  survey: HostSurvey,
  of?: { readonly detail: SurveyFunction; readonly driver: string | undefined },
): BackendChoice {
  const { iommufd } = survey.vfio;
  const type1 = (reason: string): BackendChoice => ({ backend: 'type1', reason });
  if (iommufd === 'absent') return type1('there is no /dev/iommu: this kernel has no iommufd, or it is not loaded');
  if (iommufd === 'forbidden') return type1('no permission for /dev/iommu');
  const free = 'the kernel has iommufd, which has no limit of entries';
  if (of === undefined) return { backend: 'iommufd', reason: free };
  const { detail, driver } = of;
  if (!isVfioPci(driver)) return { backend: 'iommufd', reason: `${free}; seen for sure once vfio-pci has the device` };
  if (detail.vfioFile === undefined) return type1('the kernel makes no file for the device in /dev/vfio/devices');
  const file = `/dev/vfio/devices/${detail.vfioFile}`;
  const state = survey.vfioFile(detail.vfioFile);
  if (state === 'usable') return { backend: 'iommufd', reason: free };
  // The name is there without the file too: it stands for the device, not for CONFIG_VFIO_DEVICE_CDEV.
  return type1(state === 'absent' ? `the kernel makes no ${file}` : `no permission for ${file}`);
}

/** Whether the kernel side of the backend is there. */
export function backendCheck({ survey, backend: { backend, reason }, detail, device }: Subject): HostCheck {
  const name = 'backend';
  const { container, modules, iommufd } = survey.vfio;
  if (backend === 'iommufd') {
    if (iommufd === 'usable') {
      const seen = foreseeBackend(survey, { detail, driver: device?.driver });
      return seen.backend === 'iommufd'
        ? check(name, 'ok', `iommufd: ${reason}`)
        : check(name, 'problem', `iommufd cannot be used: ${seen.reason}`, ['use type1']);
    }
    const what = `iommufd cannot be used: ${foreseeBackend(survey).reason}`;
    return iommufd === 'absent'
      ? check(name, 'problem', what, ['modprobe iommufd, on a kernel that has it (CONFIG_IOMMUFD)', 'use type1'])
      : check(name, 'todo', what, ['chown "$USER" /dev/iommu', 'use type1']);
  }
  if (container === 'absent') {
    return check(name, 'todo', 'type1, but /dev/vfio/vfio is missing: VFIO is not loaded', ['modprobe vfio-pci']);
  }
  if (container === 'forbidden') {
    return check(name, 'todo', 'type1, but this user may not open /dev/vfio/vfio', ['chmod 666 /dev/vfio/vfio']);
  }
  if (!modules.vfio_iommu_type1) {
    return check(name, 'todo', 'type1, but vfio_iommu_type1 is not loaded', ['modprobe vfio_iommu_type1']);
  }
  return check(name, 'ok', `type1: ${reason}`);
}
