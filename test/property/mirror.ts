// What a host context has to let through, worked out from the reference model, and the comparison with what it does.
// Ends INCLUSIVE in the model, exclusive for regions of memory; entries count pages of 4 KiB.
import type { ModelDevice } from '../../spec/model/device.ts';
import type { ModelDomain, ModelRegion } from '../../spec/model/state.ts';
import type { SimulatedHost, SimulatedType1Context } from '../../src/host/simulated.ts';
import type { BenchRegion } from './bench.ts';

/** Guest memory and what is behind it in the process. */
export interface MirroredMemory {
  readonly regions: readonly BenchRegion[];
  /** Physical page of the host behind a guest-physical address, -1 where there is no memory. */
  physicalPageOf(gpa: bigint): number;
}

interface WantedEntry {
  readonly iova: bigint;
  readonly bytes: bigint;
  readonly rights: number;
  readonly gpa: bigint;
}

/** Compares one context with the model; undefined when it is exactly in step. */
export function compareMirror(
  bench: MirroredMemory,
  host: SimulatedHost,
  context: SimulatedType1Context,
  model: ModelDevice,
): string | undefined {
  const wanted = wantedEntries(bench, context, model).sort((a, b) => (a.iova < b.iova ? -1 : 1));
  const found = context.entries();
  const text = (list: { iova: bigint; bytes: bigint; rights: number }[]): string =>
    list.map((e) => `0x${e.iova.toString(16)}+0x${e.bytes.toString(16)}/${e.rights}`).join(' ') || 'nothing';
  const seen = found.map((e) => ({ iova: BigInt(e.iova) * 4096n, bytes: BigInt(e.pages) * 4096n, rights: e.rights }));
  if (text(seen) !== text(wanted)) return `${context.name} holds ${text(seen)} instead of ${text(wanted)}`;
  const prober = host.prober(context.endpoints[0]!);
  for (const { iova, bytes, rights, gpa } of wanted) {
    for (const offset of [0n, bytes - 4096n]) {
      const page = prober.physicalPageAt(Number((iova + offset) / 4096n), (rights & 1) === 0);
      if (page !== bench.physicalPageOf(gpa + offset)) {
        return `${context.name} leads 0x${(iova + offset).toString(16)} to another page than the guest's`;
      }
    }
  }
  return undefined;
}

/** One entry for each stretch of memory behind each mapping, or behind each stretch of address space in bypass. */
function wantedEntries(bench: MirroredMemory, context: SimulatedType1Context, model: ModelDevice): WantedEntry[] {
  const members = model.state.endpoints.filter(({ id }) => context.endpoints.includes(id));
  const targets = new Set(members.map(({ domain }) => targetOf(model, domain)));
  const [target] = targets;
  if (targets.size !== 1 || target === undefined || target === 'blocked') return [];
  if (target === 'bypass') {
    const holes = members.flatMap(({ regions }) => regions);
    return bench.regions.flatMap(({ start, end, readOnly }) =>
      outside(start, end, holes).map(([first, behind]) => ({
        iova: first,
        bytes: behind - first,
        rights: readOnly ? 1 : 3,
        gpa: first,
      })),
    );
  }
  return target.mappings.flatMap(({ virtStart, virtEnd, physStart, flags }) =>
    bench.regions.flatMap(({ start, end, readOnly }) => {
      const first = start > physStart ? start : physStart;
      const physBehind = physStart + (virtEnd - virtStart) + 1n;
      const behind = end < physBehind ? end : physBehind;
      const rights = flags & (readOnly ? 1 : 3);
      if (first >= behind || rights === 0) return [];
      return [{ iova: virtStart + (first - physStart), bytes: behind - first, rights, gpa: first }];
    }),
  );
}

function targetOf(model: ModelDevice, domain: ModelDomain | undefined): ModelDomain | 'bypass' | 'blocked' {
  if (domain !== undefined) return domain.bypass ? 'bypass' : domain;
  const { offered, bypass } = { offered: model.offered, bypass: model.state.bypass };
  const passes = offered.includes('BYPASS_CONFIG') ? bypass : model.state.negotiated.includes('BYPASS');
  return passes ? 'bypass' : 'blocked';
}

/** Pages of [start, end) that no hole touches, as [first, behind) pairs. */
function outside(start: bigint, end: bigint, holes: readonly ModelRegion[]): [bigint, bigint][] {
  const list: [bigint, bigint][] = [];
  for (let page = start; page < end; page += 4096n) {
    if (holes.some((hole) => hole.start < page + 4096n && page <= hole.end)) continue;
    const last = list.at(-1);
    if (last?.[1] === page) last[1] = page + 4096n;
    else list.push([page, page + 4096n]);
  }
  return list;
}
