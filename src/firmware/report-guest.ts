// The guest's side of a report: what each endpoint reports (RESV_MEM), the holes in guest RAM, and what they cost.
// Not a verdict (report.ts). Ranges have INCLUSIVE ends.
import type { AddressRange } from '../base/ranges.ts';
import { overlaps, rangeSize } from '../base/ranges.ts';
import { U64_MAX, hex } from '../base/check.ts';
import type { GuestMode, Hole } from './holes.ts';
import { guestHoles, layRam } from './holes.ts';
import type { HostRegion } from './region.ts';
import { HYPERTRANSPORT } from './region.ts';
import type { Context } from './report-context.ts';
import { matesOf, memberOf } from './report-context.ts';
import type { ReportDevice } from './report-types.ts';
import type { ResvMem } from './resv-mem.ts';
import { toResvMem } from './resv-mem.ts';
import { WarningList } from './warnings.ts';

/** Where Linux puts the doorbells of a device that has no MSI region. */
const GUEST_MSI_WINDOW: AddressRange = { start: 0x800_0000n, end: 0x80f_ffffn };
const ALL: AddressRange = { start: 0n, end: U64_MAX };

/** What an endpoint with these regions reports; the platform's own ones are added. */
export function reservedOf(context: Context, name: string, regions: readonly HostRegion[]): ResvMem | undefined {
  const { resv, warnings } = context;
  const all = [...regions, ...platformRegions(context)];
  try {
    return toResvMem(all, { ...resv, name: 'regions' });
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    warnings.add(name, `RESV_MEM: ${error.message}`);
  }
  try {
    return toResvMem(all, { ...resv, probeSize: 0xffff_ffff });
  } catch {
    return undefined;
  }
}

/** Reserved on every host of the platform although no table says so. */
function platformRegions({ platform, resv }: Context): HostRegion[] {
  if (platform !== 'amd' || resv.arch === 'arm') return [];
  const { start: base, end: limit } = HYPERTRANSPORT;
  return [
    { source: 'ivrs', base, limit, segment: 0, type: 'reserved', devices: [], where: 'HyperTransport', platform },
  ];
}

/** Holes for the devices asked for, or for all and for regions whose device is not known. */
export function holesOf(context: Context, devices: readonly ReportDevice[], mode: GuestMode): Hole[] {
  const { holesFor } = context.input;
  const lists = devices
    .filter((device) => holesFor?.includes(device.name) ?? true)
    .map((device) => device.resv?.reserved ?? []);
  // Also without a device: whatever is assigned or added later has the MSI window and the platform's ranges.
  const nameless = holesFor === undefined ? context.regions.filter((region) => region.devices.length === 0) : [];
  lists.push(reservedOf(context, 'regions without a device', nameless)?.reserved ?? []);
  return guestHoles(lists, mode, context.resv.inputRange ?? ALL);
}

/** What the holes lose only because relaxable regions are reported. */
export function relaxableCost(
  context: Context,
  devices: readonly ReportDevice[],
  holes: readonly Hole[],
  mode: GuestMode,
): bigint {
  if (context.resv.relaxable === 'omit' || !context.regions.some((r) => r.type === 'direct-relaxable')) return 0n;
  const quiet: Context = {
    ...context,
    resv: { ...context.resv, relaxable: 'omit', probeSize: 0xffff_ffff },
    warnings: new WarningList(),
  };
  const without = devices.map((device): ReportDevice => {
    const members = matesOf(context, device.name).map((mate) => memberOf(context, mate));
    const all = [...new Set(members.flatMap((member) => member.regions))];
    return { ...device, resv: reservedOf(quiet, device.name, all) };
  });
  const cost = taken(context, holes) - taken(context, holesOf(quiet, without, mode));
  return cost > 0n ? cost : 0n;
}

/** Bytes of RAM, or of addresses where no layout is given, that holes take. */
function taken({ input: { ram } }: Context, holes: readonly AddressRange[]): bigint {
  if (ram !== undefined) return layRam(ram, holes).lost;
  return holes.reduce((sum, range) => sum + rangeSize(range), 0n);
}

/** Without an MSI region a Linux guest puts its own window at 0x8000000: it must not lie in a RESERVED one. */
export function flagGuestMsi({ warnings }: Context, devices: readonly ReportDevice[]): void {
  for (const { name, resv } of devices) {
    const list = resv?.reserved ?? [];
    if (list.some(({ kind }) => kind === 'msi')) continue;
    const hit = list.find((region) => overlaps(region, GUEST_MSI_WINDOW));
    if (hit === undefined) continue;
    warnings.add(
      name,
      `no MSI region: a Linux guest then takes ${hex(GUEST_MSI_WINDOW.start)}-${hex(GUEST_MSI_WINDOW.end)} for its doorbells, which the RESERVED region ${hex(hit.start)}-${hex(hit.end)} covers; report the guest's doorbell with --msi`,
    );
  }
}
