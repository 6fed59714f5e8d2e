// Checks of what the host lets this process do: interrupts, permission, locked memory, entries, windows, address width, reset.
import type { HostCheck } from './survey-check.ts';
import { bytesText, check } from './survey-check.ts';
import { isVfioPci } from './survey-drivers.ts';
import type { Subject } from './survey-judge.ts';

/** The module parameter's default and most, U16_MAX. */
const DEFAULT_ENTRIES = 65_535;
/** Below this no guest of any use can be given a device. */
const LEAST_LOCK = 64 * 2 ** 20;
/** The default of vm.max_map_count. */
const DEFAULT_MAPS = 65_530;
const MOST_WINDOW_PIECES = 32_768;
const LIMIT_FILE = '/sys/module/vfio_iommu_type1/parameters/dma_entry_limit';

/** Interrupt remapping: without it Linux attaches no device (EPERM) unless a module parameter accepts the risk. */
export function interruptCheck({ survey, backend }: Subject): HostCheck {
  const name = 'interrupts';
  if (survey.interruptRemapping === 'on') return check(name, 'ok', 'interrupt remapping is on');
  const module = backend.backend === 'type1' ? 'vfio_iommu_type1' : 'iommufd';
  if (survey.vfio.unsafeInterrupts[backend.backend] === true) {
    const what = `${module}.allow_unsafe_interrupts is on: the guest can forge interrupts of the host`;
    return check(name, 'note', what);
  }
  const on = survey.virtualMachine
    ? 'give this virtual machine interrupt remapping (QEMU: -device intel-iommu,intremap=on)'
    : 'turn interrupt remapping on in the firmware (VT-d, x2APIC), without intremap=off';
  const risk = `or accept that the guest can forge interrupts: ${module}.allow_unsafe_interrupts=1`;
  if (survey.interruptRemapping === 'off') {
    return check(name, 'problem', 'interrupt remapping is off: Linux refuses to attach the device (EPERM)', [on, risk]);
  }
  return check(name, 'unknown', 'whether interrupts are remapped is not told (root sees the kernel log)', [on, risk]);
}

/** The device files, where they exist already. */
export function permissionCheck({ survey, group, device, backend, detail }: Subject): HostCheck[] {
  if (group === undefined || !isVfioPci(device?.driver)) return [];
  const own = detail.vfioFile;
  // Which file iommufd has is part of the choice of the backend.
  if (backend.backend === 'iommufd' && own === undefined) return [];
  const file = backend.backend === 'iommufd' ? `/dev/vfio/devices/${own ?? ''}` : `/dev/vfio/${group.id}`;
  const state = backend.backend === 'iommufd' ? survey.vfioFile(own ?? '') : survey.groupFile(group.id);
  if (state === 'usable') return [check('permission', 'ok', `this user may open ${file}`)];
  if (state === 'forbidden') {
    return [
      check('permission', 'todo', `this user may not open ${file}`, [
        `chown "$USER" ${file} (a rule of udev keeps it)`,
      ]),
    ];
  }
  return [check('permission', 'unknown', `${file} is missing, though a VFIO driver has the device`)];
}

/** RLIMIT_MEMLOCK against the memory that will be pinned. */
export function lockCheck({ survey, ram, backend }: Subject): HostCheck {
  const name = 'locked memory';
  const { locked, lockLimit, unlimitedBy } = survey.limits;
  if (unlimitedBy !== undefined) {
    const why = unlimitedBy === 'capability' ? 'CAP_IPC_LOCK' : 'RLIMIT_MEMLOCK';
    return check(name, 'ok', `no limit for this process (${why})`);
  }
  if (lockLimit === undefined) return check(name, 'unknown', 'the limit of this process is not told');
  const need = ram ?? LEAST_LOCK;
  const once = backend.backend === 'type1' ? 'once for each group that the guest is given' : 'once';
  const counted = `guest memory counts ${once}`;
  if (lockLimit - locked >= need) {
    const judged = ram === undefined ? `tell the guest's with --ram` : `${bytesText(ram)} fit`;
    return check(name, 'ok', `${bytesText(lockLimit)} may be locked (${counted}): ${judged}`);
  }
  const what =
    ram === undefined
      ? `only ${bytesText(lockLimit)} may be locked, too little for a guest (${counted})`
      : `${bytesText(lockLimit)} may be locked, ${bytesText(ram)} are needed (${counted})`;
  const kib = Math.ceil((ram ?? 2 ** 32) / 1024);
  return check(name, 'todo', what, [`ulimit -l ${kib} (root), LimitMEMLOCK= of a systemd unit, or CAP_IPC_LOCK`]);
}

/** Whether the host has the memory at all; only with `--ram`. */
export function memoryCheck({ survey, ram }: Subject): HostCheck[] {
  const { memoryTotal, memoryAvailable, hugePages } = survey.limits;
  if (ram === undefined || memoryTotal === undefined) return [];
  if (memoryTotal < ram) {
    return [
      check('memory', 'problem', `the host has ${bytesText(memoryTotal)}, less than the guest's ${bytesText(ram)}`),
    ];
  }
  if (memoryAvailable !== undefined && memoryAvailable < ram && !hugePages.some((one) => one.free * one.size >= ram)) {
    const what = `${bytesText(memoryAvailable)} are free, the guest's ${bytesText(ram)} are pinned as a whole`;
    return [check('memory', 'todo', what, ['free memory, or give the guest less'])];
  }
  return [check('memory', 'ok', `${bytesText(memoryAvailable ?? memoryTotal)} are free`)];
}

/** vfio_iommu_type1.dma_entry_limit. */
export function entryCheck({ survey, backend }: Subject): HostCheck {
  if (backend.backend === 'iommufd') return check('entries', 'ok', 'no limit of entries');
  const { entryLimit } = survey.vfio;
  if (entryLimit === undefined) {
    return check('entries', 'note', `${DEFAULT_ENTRIES} for each container, once vfio_iommu_type1 is loaded`);
  }
  if (entryLimit >= DEFAULT_ENTRIES) return check('entries', 'ok', `${entryLimit} for each container`);
  const what = `only ${entryLimit} for each container (default ${DEFAULT_ENTRIES})`;
  return check('entries', 'note', what, [`echo ${DEFAULT_ENTRIES} > ${LIMIT_FILE}`]);
}

/** vm.max_map_count, for gather windows (type1 only). */
export function windowCheck({ survey, backend }: Subject): HostCheck[] {
  const { maxMapCount } = survey.limits;
  if (backend.backend === 'iommufd' || maxMapCount === undefined) return [];
  const pieces = Math.min(MOST_WINDOW_PIECES, Math.floor(maxMapCount / 2));
  const what = `vm.max_map_count ${maxMapCount}: about ${pieces} scattered pieces gathered at a time`;
  if (maxMapCount >= DEFAULT_MAPS) return [check('windows', 'ok', what)];
  return [check('windows', 'note', what, [`sysctl vm.max_map_count=${DEFAULT_MAPS}`])];
}

/** Bits of I/O virtual addresses. */
export function widthCheck({ survey, detail }: Subject): HostCheck[] {
  const bits = survey.iommus.find(({ name }) => name === detail.iommu)?.addressBits;
  if (bits === undefined) return [];
  const most = bytesText(2 ** bits);
  return [
    check('address width', 'ok', `at most ${bits} bits of I/O virtual address (${most}): input_range ends there`),
  ];
}

/** Whether the function can be reset between guests. */
export function resetCheck({ detail }: Subject): HostCheck[] {
  const { resetMethods } = detail;
  if (resetMethods === undefined) return [];
  if (resetMethods !== '')
    return [check('reset', 'ok', resetMethods === 'some' ? 'it can be reset' : `it can be reset: ${resetMethods}`)];
  const what = 'it has no reset: the next user finds it as the guest left it';
  return [check('reset', 'note', what, ['reset the bus or the machine between guests'])];
}
