// Ways to break the device, one change each. `find` stands exactly once in the file; a suite in `suites` must fail.

/** One broken device. */
export interface Mutant {
  readonly id: string;
  readonly file: string;
  readonly find: string;
  readonly replace: string;
  /** Suites that run against it; default those of main.ts. */
  readonly suites?: readonly string[];
}

const iommu = (file: string, id: string, find: string, replace: string): Mutant => ({
  id,
  file: `src/iommu/${file}.ts`,
  find,
  replace,
});
const wire = (file: string, id: string, find: string, replace: string): Mutant => ({
  id,
  file: `src/wire/${file}.ts`,
  find,
  replace,
});
const ring = (file: string, id: string, find: string, replace: string): Mutant => ({
  id,
  file: `src/virtio/${file}.ts`,
  find,
  replace,
  suites: ['src/virtio'],
});
const table = (file: string, id: string, find: string, replace: string): Mutant => ({
  id,
  file: `src/intervals/${file}.ts`,
  find,
  replace,
  suites: ['src/intervals'],
});
const coalesce = (file: string, id: string, find: string, replace: string): Mutant => ({
  id,
  file: `src/coalesce/${file}.ts`,
  find,
  replace,
});

const cutting = (file: string, id: string, find: string, replace: string): Mutant => ({
  ...coalesce(file, id, find, replace),
  suites: ['src/coalesce/cut.test.ts', 'src/coalesce/host-entries.test.ts'],
});

const ATTACH: readonly Mutant[] = [
  iommu('attach', 'attach forgets the reserved field', 'if (request.reservedSet)', 'if (false as boolean)'),
  iommu('attach', 'attach takes unknown flags', '(request.flags & ~known) !== 0', '(request.flags & ~known & 1) !== 0'),
  iommu(
    'attach',
    'bypass flag without negotiation',
    'state.bypassConfigNegotiated ? abi.VIRTIO_IOMMU_ATTACH_F_BYPASS : 0',
    'abi.VIRTIO_IOMMU_ATTACH_F_BYPASS',
  ),
  iommu(
    'attach',
    'unknown endpoint is INVAL',
    'if (endpoint === undefined) return abi.VIRTIO_IOMMU_S_NOENT',
    'if (endpoint === undefined) return abi.VIRTIO_IOMMU_S_INVAL',
  ),
  iommu(
    'attach',
    'domain range end off by one',
    'request.domain > domainRange.end',
    'request.domain >= domainRange.end',
  ),
  iommu('attach', 'domain range start unchecked', 'request.domain < domainRange.start ||', 'false ||'),
  iommu('attach', 'inconsistent bypass accepted', 'if (existing.bypass !== bypass)', 'if (false as boolean)'),
  iommu(
    'attach',
    'reserved regions may meet mappings',
    'if (existing.clashesWith(endpoint.reserved))',
    'if (false as boolean)',
  ),
  iommu(
    'attach',
    'old domain survives its last endpoint',
    'if (from?.remove(endpoint) === true) state.dropDomain(from);',
    'from?.remove(endpoint);',
  ),
  iommu(
    'attach',
    'domain cap off by one',
    'leavesEmpty >= state.options.maxDomains',
    'leavesEmpty > state.options.maxDomains',
  ),
  iommu(
    'attach',
    'attach does not ask the host',
    'const errno = settleForAttach(state, endpoint, to);',
    'const errno = settleForAttach === undefined ? 1 : 0;',
  ),
];

const DETACH: readonly Mutant[] = [
  iommu('detach', 'detach from any domain', 'endpoint.domain?.id !== request.domain', 'endpoint.domain === undefined'),
  iommu('detach', 'detach keeps the domain', 'if (last) state.dropDomain(domain);', ''),
  iommu(
    'detach',
    'detach leaves the host as it was',
    "settleEndpoint(state, endpoint, 'DETACH');",
    'void settleEndpoint;',
  ),
];

const MAP: readonly Mutant[] = [
  iommu('map', 'map without negotiation', 'if (!state.mapUnmapNegotiated)', 'if (false as boolean)'),
  iommu('map', 'unknown map flags accepted', 'if ((request.flags & ~known) !== 0)', 'if (false as boolean)'),
  iommu(
    'map',
    'mmio flag without negotiation',
    'state.mmioNegotiated ? KNOWN_FLAGS',
    'state !== undefined ? KNOWN_FLAGS',
  ),
  iommu('map', 'map into a bypass domain', 'if (domain.bypass)', 'if (false as boolean)'),
  iommu('map', 'input range start unchecked', 'start < state.inputStart ||', 'false ||'),
  iommu('map', 'input range end off by one', 'last >= state.inputEnd', 'last > state.inputEnd'),
  iommu('map', 'map over reserved memory', 'if (reserved.meets(start, end))', 'if (false as boolean)'),
  iommu(
    'map',
    'mapping cap off by one',
    'state.mappings >= state.options.maxMappings',
    'state.mappings > state.options.maxMappings',
  ),
  iommu(
    'map',
    'physical start not aligned',
    'if (!granule.isStart(request.physHigh, request.physLow)) return false;',
    '',
  ),
  iommu('map', 'physical wrap accepted', 'granule.physLimit - length', 'granule.physLimit'),
  iommu(
    'map',
    'inverted range compared by low words',
    'endHigh < startHigh || (endHigh === startHigh && endLow < startLow)',
    'endLow < startLow',
  ),
  iommu('map', 'rights widened on the host', 'phys * pages, request.flags);', 'phys * pages, request.flags | 3);'),
  iommu(
    'map',
    'rights widened in the table',
    'insert(start, end, phys, request.flags)',
    'insert(start, end, phys, request.flags | 2)',
  ),
  iommu('map', 'mapping one granule too long', 'const end = last + 1;', 'const end = last + 2;'),
  iommu('map', 'mappings not counted', 'state.mappings++;', ''),
];

const UNMAP: readonly Mutant[] = [
  iommu('unmap', 'unmap ignores reserved', 'if (request.reservedSet)', 'if (false as boolean)'),
  iommu('unmap', 'split at the start allowed', 'slotStart < start ||', 'false ||'),
  iommu('unmap', 'split at the end allowed', 'domain.table.endAt(slot) > end', 'domain.table.endAt(slot) > end + 1e9'),
  iommu(
    'unmap',
    'unaligned end counts as whole',
    'granule.isLast(endHigh, endLow) ? last + 1 : last',
    'granule.isLast(endHigh, endLow) ? last + 1 : last + 1',
  ),
  iommu('unmap', 'unmap forgets the host', 'domain.planner.unmap(segment.token,', 'void (segment.token,'),
  iommu('unmap', 'unmap of one mapping forgets the host', '  planner.unmap(segment.token,', '  void (planner,'),
  iommu('unmap', 'unmapped mappings stay counted', 'state.mappings -= removed;', 'void removed;'),
];

const PROBE: readonly Mutant[] = [
  iommu('probe', 'probe answers without the feature', '!state.probeUsable ||', 'false ||'),
  iommu(
    'probe',
    'short probe buffer off by one',
    'writable < probeSize + abi.Tail.SIZE)',
    'writable < probeSize + abi.Tail.SIZE - 1)',
  ),
  wire('reply', 'property length includes its header', 'ResvMem.SIZE - ProbeProperty.SIZE', 'ResvMem.SIZE'),
  wire(
    'reply',
    'msi reported as reserved',
    "region.kind === 'msi' ? VIRTIO_IOMMU_RESV_MEM_T_MSI",
    "region.kind === 'msi' ? VIRTIO_IOMMU_RESV_MEM_T_RESERVED",
  ),
  iommu(
    'request-queue',
    'tail reserved not cleared',
    'memory.writeWord(segment.tail[i]!, status)',
    'memory.writeWord(segment.tail[i]!, status | 0xa500)',
  ),
  wire(
    'request',
    'short requests are parsed',
    'needed === 0 || length < needed',
    'needed === 0 || length + 1 < needed',
  ),
];

const REPLY: readonly Mutant[] = [
  iommu(
    'request-queue',
    'used length 0 with a status',
    'queue.push(segment.head[i]!, TAIL_BYTES);',
    'queue.push(segment.head[i]!, status === 0 ? 4 : 0);',
  ),
  iommu(
    'request-queue',
    'unknown requests get a length',
    'queue.push(segment.head[i]!, 0);',
    'queue.push(segment.head[i]!, 4);',
  ),
  iommu(
    'request-queue',
    'tail without room is written',
    'chain.writableLength < TAIL_BYTES',
    'chain.writableLength < 1',
  ),
  iommu('segment', 'a refused mapping stays in the table', 'domain.table.remove(start);', 'void start;'),
  iommu(
    'segment',
    'a refused map is answered OK',
    'this.status[token] = statusOfErrno(errno);',
    'void statusOfErrno(errno);',
  ),
  iommu(
    'refusal',
    'refusals raise no fault record',
    'for (const endpoint of domain.endpoints) recordRefusal(state, endpoint, iova);',
    '',
  ),
];

const TRANSLATION: readonly Mutant[] = [
  iommu(
    'translate',
    'rights not checked in one page',
    '(table.flagsAt(slot) & right) === right',
    '(table.flagsAt(slot) & 3) !== 0',
  ),
  iommu('translate', 'rights not checked', '(table.flagsAt(slot) & right) === 0', '(table.flagsAt(slot) & 3) === 0'),
  iommu(
    'translate',
    'reads of the MSI window pass',
    'reserved.kindAt(region) !== MSI || !write',
    'reserved.kindAt(region) !== MSI',
  ),
  iommu('translate', 'reserved memory reachable in bypass', 'if (inside) {', 'if (inside && !identity) {'),
  iommu('translate', 'holes are skipped', 'table.startAt(slot) * scale > at ||', 'false ||'),
  iommu(
    'translate',
    'unattached endpoints reach memory',
    '} else if (domain === undefined) {',
    '} else if (domain === undefined && false) {',
  ),
  iommu('state', 'bypass needs the driver', "if (this.offers('bypassConfig'))", "if (this.accepted('bypassConfig'))"),
  iommu(
    'faults',
    'fault is cut to a small buffer',
    'fits ? chain.write(0, this.#record, abi.Fault.SIZE) : 0',
    'fits || true ? chain.write(0, this.#record, Math.min(abi.Fault.SIZE, chain.writableLength)) : 0',
  ),
  iommu(
    'fault-report',
    'fault names the wrong access',
    'write ? abi.VIRTIO_IOMMU_FAULT_F_WRITE',
    'write ? abi.VIRTIO_IOMMU_FAULT_F_READ',
  ),
];

const LIFE: readonly Mutant[] = [
  iommu(
    'core',
    'bypass returns at a device reset',
    'this.state.counters.deviceResets++;',
    'this.state.counters.deviceResets++; this.state.bypass = this.state.initialBypass;',
  ),
  iommu('core', 'bypass survives a system reset', 'this.state.bypass = this.state.initialBypass;', ''),
  iommu('core', 'reset keeps endpoints attached', 'endpoint.domain = undefined;', 'void endpoint;'),
  coalesce('mirror', 'a failed unmap is shrugged off', "this.block('UNMAP', undo.errno[0]!, iova, pages)", 'void 0'),
  coalesce('source', 'bypass reaches reserved memory', 'start = hole.end;', 'start = hole.start;'),
];

/** A broken host plan; the tests of `suite` beside the code must notice. */
const plan = (file: string, suite: string, id: string, find: string, replace: string): Mutant => ({
  id: `plan: ${id}`,
  file: file.includes('/') ? `src/${file}.ts` : `src/coalesce/${file}.ts`,
  find,
  replace,
  suites: suite.split(' ').map((name) => `src/coalesce/${name}.test.ts`),
});

const PLAN_SHAPE: readonly Mutant[] = [
  plan(
    'shaper',
    'shaper',
    'an entry one page too long',
    'return this.end + pages <= limit;',
    'return this.end + pages <= limit + 1;',
  ),
  plan(
    'shaper',
    'shaper',
    'gathers windows of 16 pieces',
    'if (this.pieces > this.#gatherAbove) {',
    'if (this.pieces >= this.#gatherAbove) {',
  ),
  plan(
    'shaper',
    'shaper',
    'joins across regions',
    'va === this.#nextVa && region === this.#region &&',
    'va === this.#nextVa &&',
  ),
  plan(
    'shaper',
    'shaper',
    'joins what is not contiguous',
    'va === this.#nextVa && region === this.#region &&',
    'region === this.#region &&',
  ),
  plan('shaper', 'shaper', 'joins across rights', 'iova === this.end && flags === this.flags', 'iova === this.end'),
  plan('shaper', 'shaper', 'joins across holes', 'iova === this.end && flags === this.flags', 'flags === this.flags'),
  plan(
    'shaper',
    'shaper',
    'a window one page too long',
    'this.end + pages - this.start > this.#windowMost',
    'this.end + pages - this.start > this.#windowMost + 1',
  ),
  plan('shaper', 'shaper', 'large mappings vanish in windows', 'return pages >= this.#window || ', 'return '),
  plan('shaper', 'shaper', 'cuts 2M pages of congruent runs', 'if (edge - start >= this.#window) limit = edge;', ''),
  plan(
    'shaper',
    'shaper',
    'a window of too many pieces',
    'limits.windowPieces === 0 ? Infinity : limits.windowPieces',
    'Infinity',
  ),
  plan(
    'shaper',
    'shaper',
    'forgets the pieces before a large one',
    'if (last > this.#gatherAbove) this.#gather(last);\n    else this.#emit(last);',
    'if (last > this.#gatherAbove) this.#gather(last);',
  ),
  plan(
    'stretch',
    'install',
    'gathers on anonymous memory',
    'rights === 0 || (found & REGION_GATHERABLE) === 0 ||',
    'rights === 0 ||',
  ),
  plan(
    'stretch',
    'install',
    'gathers where the embedder said never',
    "settings.gather !== 'never' && windowPieces > 1",
    'windowPieces > 1',
  ),
  plan(
    'stretch',
    'install',
    'gathers on iommufd and mediated devices',
    "settings.gather !== 'never' && windowPieces > 1",
    "settings.gather !== 'never'",
  ),
  plan('stretch', 'install', 'gathers on hosts with larger pages', ' && (pageSizes & 4096n) !== 0n', ''),
  plan(
    'iommu/memory-link',
    'install',
    'gathers hugetlb memory',
    'if (file?.pageSize !== 4096) return false;',
    'if (file === undefined) return false;',
  ),
  plan(
    'iommu/memory-link',
    'install',
    'gathers files sealed against writing',
    'return readOnly || !sealed;',
    'return readOnly || sealed || true;',
  ),
  plan(
    'install',
    'install',
    'joins across usable ranges',
    'if (shaper.continues(iova, flags) && !this.isEdge(iova)) {',
    'if (shaper.continues(iova, flags)) {',
  ),
  plan(
    'install',
    'install',
    'joins stretches across usable ranges',
    'table.flagsAt(slot) !== flags || this.isEdge(border)',
    'table.flagsAt(slot) !== flags',
  ),
  plan(
    'install',
    'install',
    'joins stretches across rights',
    'slot === NONE || table.flagsAt(slot) !== flags ||',
    'slot === NONE ||',
  ),
  plan(
    'install',
    'budget',
    'counts runs apart as one',
    'return (flags & GATHERABLE) !== 0 || this.#isOneRun(border);',
    'return true || this.#isOneRun(border);',
  ),
  plan('install', 'install', 'plans what no entry can show', 'if (start < edge && edge < end) return true;', ''),
  plan(
    'install',
    'install',
    'joins registers with memory',
    'const alone = !backing.locate(gpa, pages, rights) || (backing.foundFlags & HOST_MMIO) !== 0;',
    'const alone = !backing.locate(gpa, pages, rights);',
  ),
];

const PLAN_REMOVAL: readonly Mutant[] = [
  plan(
    'removal',
    'demotion',
    'keeps an entry of which a part was unmapped',
    'if (this.#cut.length > 0) takeApart(mirror, this.#cut, gone);',
    '',
  ),
  plan(
    'removal',
    'removal',
    'planned mappings survive their UNMAP',
    'mirror.plan.withdraw(ranges.start[i]!, ranges.end[i]!);',
    'void i;',
  ),
  plan(
    'removal',
    'removal',
    'one unmap takes what stays between',
    '(spanned || this.#nothingBetween(',
    '(true || this.#nothingBetween(',
  ),
  plan(
    'removal',
    'removal',
    'one unmap for each entry',
    '(spanned || this.#nothingBetween(',
    '(false && this.#nothingBetween(',
  ),
  plan(
    'removal',
    'removal',
    'an entry that reaches out goes whole',
    'if (from < ranges.start[i]! || to > end) {',
    'if (from < ranges.start[i]!) {',
  ),
  plan(
    'removal',
    'removal',
    'shrugs a refused UNMAP off',
    "mirror.block('UNMAP', batch.errno[stopped]!, batch.iova[stopped]!, batch.pages[stopped]);\n      return false;",
    'return false;',
  ),
  plan(
    'waiting',
    'waiting',
    'loses the part before an UNMAP',
    'if (from < start) this.add(from, start, flags, endOfMapping(from) < start);',
    '',
  ),
  plan(
    'waiting',
    'waiting',
    'keeps a page too much',
    'if (to > end) this.add(end, to, flags, endOfMapping(end) < to);',
    'if (to > end) this.add(end - 1, to, flags, endOfMapping(end) < to);',
  ),
  plan(
    'waiting',
    'waiting',
    'revoked parts become planned when cut',
    'if (from < start) this.add(from, start, flags,',
    'if (from < start) this.add(from, start, flags & ~REVOKED,',
  ),
  plan(
    'host-entries',
    'host-entries',
    'a stale entry',
    'this.#forget(first);\n      table.removeAt(first);',
    'this.#forget(first);',
  ),
  plan('host-entries', 'host-entries', 'gathered entries are not counted', 'this.gathered++;', ''),
  plan('demotion', 'demotion', 'the rest is not mapped in the same call', 'shape(mirror, batch, list);', ''),
  plan(
    'demotion',
    'demotion',
    'the rest in two halves instead of classes',
    'fits(appendClasses, budget.lowWater) || ',
    '',
  ),
  plan(
    'demotion',
    'demotion',
    'drops entries of live devices',
    'if (mirror.undisturbed) dropAndWait(mirror, list);',
    'if (mirror.entries.size >= 0) dropAndWait(mirror, list);',
  ),
  plan(
    'demotion',
    'removal',
    'pins again while nobody looks',
    'if (mirror.undisturbed) dropAndWait(mirror, list);',
    'if (mirror.entries.size < 0) dropAndWait(mirror, list);',
  ),
  plan(
    'demotion',
    'demotion',
    'windows are not counted',
    '  tally.windows++;\n  tally.longestWindow',
    '  tally.longestWindow',
  ),
  plan(
    'demotion',
    'demotion',
    'what has no room is not revoked',
    'for (const { rest } of list) for (const part of rest) revokeMissing(mirror, part);',
    '',
  ),
  plan(
    'demotion',
    'budget',
    'promises more than there is room for',
    'if (mirror.budget.taken <= mirror.budget.limit) continue;',
    'if (mirror.budget.limit >= 0) continue;',
  ),
  plan('remainder', 'memory-change', 'memory that goes is mapped again', 'if (gone?.(gpa, pages) === true || ', 'if ('),
  plan(
    'remainder',
    'demotion',
    'joins what is left over a hole',
    'if (last?.end === iova) {',
    'if (last !== undefined) {',
  ),
  plan(
    'revocation',
    'demotion',
    'a refused reinstallation is forgotten',
    'if (from !== NONE) mirror.waiting.add(from, end, flags, count > 1);',
    '',
  ),
  plan('tally', 'demotion', 'never lets the devices go on', 'this.#settings.resumeDma?.(context);', ''),
];

const PLAN_ROOM: readonly Mutant[] = [
  plan('budget', 'budget', 'keeps no entry free', 'return this.taken + (this.joins ? 1 : 0);', 'return this.taken;'),
  plan(
    'budget',
    'budget',
    'keeps two entries free',
    'return this.taken + (this.joins ? 1 : 0);',
    'return this.taken + (this.joins ? 2 : 0);',
  ),
  plan(
    'budget',
    'budget',
    'forgets what waits',
    'return entries.size + plan.batched + waiting.size - waiting.revoked',
    'return entries.size + plan.batched',
  ),
  plan(
    'budget',
    'budget',
    'low water one entry early',
    'return this.left < this.lowWater;',
    'return this.left <= this.lowWater;',
  ),
  plan('budget', 'budget', 'low water of a quarter', 'Math.floor(this.limit / 8)', 'Math.floor(this.limit / 4)'),
  plan('budget', 'budget', 'short entries are told again and again', 'this.#low = true;', ''),
  plan(
    'planner',
    'budget',
    'one entry beyond the limit',
    'plan.park();\n    if (budget.left >= 0) return 0;',
    'plan.park();\n    if (budget.left >= -1) return 0;',
  ),
  plan(
    'planner',
    'budget',
    'answers OK what it refused',
    'const errno = this.#plan(mirror, i);\n      if (errno !== 0) this.#refuse(i, errno, mirror);',
    'this.#plan(mirror, i);',
  ),
  plan(
    'planner',
    'budget',
    'the cap forgets what the kick has planned',
    'mirror.pages + waiting.pages + plan.pages + ram',
    'mirror.pages + waiting.pages + ram',
  ),
  plan('planner', 'budget', 'the cap is one page too low', '+ ram > mirror.pageCap', '+ ram >= mirror.pageCap'),
  plan(
    'planner',
    'planner',
    'a refused MAP stays in the other contexts',
    'this.#removal.apply(other);',
    'if (other === mirror) this.#removal.apply(other);',
  ),
  plan(
    'planner',
    'demotion',
    'revoked parts never come back',
    'if (mirror.waiting.revoked > 0 && !mirror.quiet) reinstallRevoked(mirror);',
    '',
  ),
  plan(
    'admission',
    'admission',
    'admits one entry too few',
    'if (need.entries > limit) return Errno.ENOSPC;',
    'if (need.entries >= limit) return Errno.ENOSPC;',
  ),
  plan(
    'admission',
    'admission',
    'admits one entry too many',
    'if (need.entries > limit) return Errno.ENOSPC;',
    'if (need.entries > limit + 1) return Errno.ENOSPC;',
  ),
  plan(
    'admission',
    'admission',
    'admits one page too few',
    'return need.pages > mirror.pageCap',
    'return need.pages >= mirror.pageCap',
  ),
  plan(
    'admission',
    'admission',
    'admits without an entry kept free',
    'if (need.entries < mappings) need.entries++;',
    '',
  ),
  plan(
    'mirror',
    'compaction',
    'compacts live contexts under exact',
    'const mayDisturb = this.undisturbed || compactsLive(settings.policy);',
    'const mayDisturb = this.undisturbed || settings.policy.length > 0;',
  ),
  plan('mirror', 'compaction', 'compacts under forward', "settings.policy === 'forward' ||", ''),
  plan(
    'mirror',
    'compaction',
    'does not compact when entries run short',
    'if (this.mappings !== undefined && this.budget.isLow) this.relieve();',
    '',
  ),
  plan(
    'mirror',
    'compaction',
    'says there is room in a blocked context',
    'if (this.source === undefined || this.entries.size >= before) return false;',
    'if (this.entries.size >= before) return false;',
  ),
  plan(
    'compaction',
    'compaction',
    'a refused group is not put back',
    'this.#restore(batch.iova[stopped]!, batch.iova[stopped]! + batch.pages[stopped]!);',
    '',
  ),
  plan(
    'compaction',
    'compaction',
    'compacts registers',
    'if ((flags & HOST_MMIO) !== 0 || mappings === undefined',
    'if (mappings === undefined',
  ),
  plan(
    'compaction',
    'compaction',
    'compacts across usable ranges',
    'if (!shaper.continues(iova, kind) || plan.isEdge(iova)) shaper.finish();',
    'if (!shaper.continues(iova, kind)) shaper.finish();',
  ),
  plan(
    'compaction',
    'compaction',
    'live windows are not told',
    'if (live) this.#tell(disturbance.end());',
    'if (live) disturbance.end();',
  ),
];

const PLAN_SEND: readonly Mutant[] = [
  plan(
    'planner',
    'install',
    'installs before a window is complete',
    'const done = mirror.quiet ? plan.sender.flush() : plan.installWaiting();',
    'const done = plan.installWaiting();',
  ),
  plan(
    'planner',
    'planner',
    'installs after the answer',
    'const done = mirror.quiet ? plan.sender.flush() : plan.installWaiting();',
    'const done = plan.sender.flush();',
  ),
  plan(
    'send',
    'install',
    'a failed planned installation is silent',
    'this.#mirror.block(operation, errno, this.failedAt, this.failedPages);',
    'void operation;',
  ),
  plan(
    'send',
    'install',
    'a failed planned installation is shrugged off',
    'if (!this.refusals.refuse(first, errno)) this.fail(first, next - first, errno);',
    'this.refusals.refuse(first, errno);',
  ),
  plan(
    'send',
    'install',
    'windows are left standing',
    'if (batch.pieceCount > 0) mirror.context.dropWindows(batch);',
    '',
  ),
  plan('send', 'install', 'refused entries are not tried 1:1', 'this.#oneByOne(start, end);', ''),
  plan(
    'send',
    'install',
    'too many pieces at a time',
    'if (!this.held && batch.pieceCount > 0 && batch.pieceCount + count > windowPieces) this.flush();',
    '',
  ),
  plan(
    'send',
    'install',
    'claims calls that were not saved',
    'const joins = batch.kind[i] === HostOp.gather || batch.note[i] === NOTE_JOINED;',
    'const joins = this.#mappings[i]! > 0;',
  ),
  plan(
    'install',
    'install',
    'tails stay planned on a live context',
    'if (!this.installWaiting()) this.sender.blockFailed(operation);',
    'void operation;',
  ),
  plan(
    'forward',
    'budget',
    'gives the free entry away',
    'waiting.size > waiting.revoked || plan.open ? budget.left : Infinity;',
    'false ? budget.left : Infinity;',
  ),
];

const PLAN_SWITCH: readonly Mutant[] = [
  plan(
    'replay',
    'admission',
    'ATTACH joins under forward',
    "source.kind === 'domain' && joinsWhenQuiet(mirror.settings.policy)",
    "source.kind === 'domain'",
  ),
  plan(
    'replay',
    'planner',
    'ATTACH leaves tails planned on a live context',
    'joins && !mirror.quiet',
    'joins && mirror.quiet',
  ),
  plan(
    'mirror',
    'planner',
    'a reset keeps what was planned',
    'this.entries.clear();\n      this.waiting.clear();\n      this.plan.forget();',
    'this.entries.clear();',
  ),
  plan(
    'mirror',
    'install',
    'a waking context gets its tails late',
    "if (this.mappings !== undefined) this.plan.installPlanned('installation of planned mappings');\n    this.quiet = false;",
    'this.quiet = false;',
  ),
  plan(
    'mirror',
    'planner',
    'a policy change forgets what was planned',
    "if (!joinsWhenQuiet(next) && this.mappings !== undefined) this.plan.installPlanned('change of policy');",
    '',
  ),
  plan(
    'replay',
    'planner',
    'an ATTACH that ended in a block is answered OK',
    'return errno === 0 && mirror.source !== source ? Errno.EIO : errno;',
    'return errno;',
  ),
  plan(
    'forward',
    'budget',
    'live MAPs take the entry kept free',
    'return budget.joins || waiting.size',
    'return waiting.size',
  ),
  plan(
    'install',
    'budget',
    'cuts promises without asking for room',
    'if (budget.taken > budget.limit && !this.#mirror.relieve()) revokeOneOf(this.#mirror, start, end);',
    'void budget;',
  ),
  plan(
    'compaction',
    'compaction',
    'forgets what it replaced when it sends early',
    'if (batch.pieceCount > 0 && batch.pieceCount + count > this.#mirror.context.limits.windowPieces) this.#send();\n    if (!this.#replaces(iova, iova + pages)) return;',
    'if (!this.#replaces(iova, iova + pages)) return;\n    if (batch.pieceCount > 0 && batch.pieceCount + count > this.#mirror.context.limits.windowPieces) this.#send();',
  ),
  plan(
    'compaction',
    'compaction',
    'one window keeps the joins back',
    'if (mirror.context.buildWindows(batch, 0) < batch.count) this.#dropGathers();',
    'if (mirror.context.buildWindows(batch, 0) < batch.count) return batch.clear();',
  ),
  plan(
    'send',
    'compaction planner',
    'maps into a blocked context',
    'if (mirror.isBlocked()) return;\n      if (stopped < single.count) {',
    'if (stopped < single.count) {',
  ),
  plan(
    'settings',
    'planner',
    'exact joins on live contexts',
    "return policy === 'kick' || policy === 'lossy';",
    "return policy !== 'forward';",
  ),
  plan('settings', 'planner', 'forward joins while quiet', "return policy !== 'forward';", 'return policy.length > 0;'),
  plan(
    'iommu/host-groups',
    'install',
    'an unknown device counts as off',
    'if (busMaster !== false) this.quiet = false;',
    'if (busMaster === true) this.quiet = false;',
  ),
  plan(
    'iommu/host-groups',
    'install',
    'the last device decides for its group',
    'if (busMaster !== false) this.quiet = false;',
    'this.quiet = busMaster === false;',
  ),
  plan(
    'memory-change',
    'memory-change',
    'half a mapping is planned whole',
    'if (joins && to - from === pages) plan.add(',
    'if (joins) plan.add(',
  ),
  plan(
    'memory-change',
    'memory-change',
    'other mappings of a window go with a region',
    'removal.apply(mirror, (gpa, pages) => gpa < end && gpa + pages > place.gpa);',
    'removal.apply(mirror, () => true);',
  ),
  plan(
    'memory-change',
    'memory-change',
    'memory that does not fit is half shown',
    "mirror.block('new memory region', Errno.ENOSPC, NONE)",
    'void 0',
  ),
];

const SHARED: readonly Mutant[] = [
  iommu('shared-space', 'a live group sees half of a plan', 'if (!group.quiet) mirror.setQuiet(false);', 'void 0;'),
  iommu(
    'shared-space',
    'a group joins what was blocked meanwhile',
    'mirror.source === source ? context.attachTo(mirror.context) : Errno.EIO',
    'context.attachTo(mirror.context)',
  ),
  iommu(
    'shared-space',
    'a group that leaves keeps the address space',
    'const errno = isSharing(context) ? context.attachAlone() : 0;',
    'const errno = 0;',
  ),
  iommu(
    'shared-space',
    'those who stay are as live as before',
    'groups.updateQuiet(former);\n  groups.updateQuiet(group.mirror);',
    'groups.updateQuiet(group.mirror);',
  ),
  iommu(
    'shared-space',
    'a refused move is not taken back',
    'const restores = mayRestore &&',
    'const restores = !mayRestore &&',
  ),
  iommu(
    'shared-space',
    'lost devices count as attached',
    'if (!mayRestore || group.mirror.source !== undefined) group.mirror.block',
    'if (!mayRestore) group.mirror.block',
  ),
  coalesce(
    'admission',
    'registers are found out too late',
    'if (need.mmio && mirror',
    'if (need.entries < 0 && mirror',
  ),
  iommu('shared-space', 'a blocked group is not tried again', 'const errno = part(groups, group);', 'const errno = 0;'),
  iommu(
    'host-groups',
    'one quiet group is enough',
    'users.every(({ quiet }) => quiet)',
    'users.some(({ quiet }) => quiet)',
  ),
  iommu(
    'host-groups',
    'the first to leave takes the mirror with it',
    'return this.usersOf(mirror).some(',
    'return this.usersOf(mirror).every(',
  ),
  iommu(
    'host-groups',
    'bypass shows what others may see',
    'return this.#bypass?.shows(holes, mmio) === true ? this.#bypass : undefined;',
    'return holes.length >= 0 || mmio ? this.#bypass : undefined;',
  ),
  iommu(
    'host-groups',
    'contexts share after close',
    'for (const group of this.#groups.values()) releaseGroup(this, group);',
    'for (const group of this.#groups.values()) group.mirror.quiesce();',
  ),
  coalesce(
    'mirror',
    'only the first group is stopped',
    'this.contexts.filter((context) => context.clearBusMaster() !== 0)',
    'this.contexts.slice(0, 1).filter((context) => context.clearBusMaster() !== 0)',
  ),
  coalesce(
    'tally',
    'a stall of one group is one of all',
    'this.#paused.length === this.#contexts.length ? undefined',
    'this.#paused.length > 0 ? undefined',
  ),
];

const CUT: readonly Mutant[] = [
  cutting(
    'cut',
    'a cut takes the whole entry',
    'const from = Math.max(entryStart, start);',
    'const from = entryStart;',
  ),
  cutting('cut', 'a cut goes to the end of the entry', 'const to = Math.min(entryEnd, end);', 'const to = entryEnd;'),
  cutting(
    'cut',
    'one call takes what lies between',
    'spanned || mirror.entries.isFree(cutBefore, from)',
    'spanned || from > cutBefore',
  ),
  cutting('cut', 'what is left of a refused cut is forgotten', 'takeApart(mirror, cut, gone);', 'void cut;'),
  cutting(
    'cut',
    'a range behind a refused one stays',
    'while (first < ranges.count && ranges.start[first]! < end) first++;',
    'first = ranges.count;',
  ),
  cutting(
    'cut',
    'an unmap that is refused is done',
    "mirror.block('UNMAP', batch.errno[i]!, start, end - start);",
    'void 0;',
  ),
  cutting(
    'host-entries',
    'the part behind a cut shows what was before it',
    'this.#add(page, end, va + (page - start), severalBehind',
    'this.#add(page, end, va, severalBehind',
  ),
  cutting('host-entries', 'a single mapping counts as joined', 'severalBefore ? flags : flags & ~JOINED', 'flags'),
  cutting(
    'planner',
    'joins on a host that cuts are dear',
    'mirror.quiet || mirror.context.limits.cuts === true',
    'mirror.quiet',
  ),
  coalesce(
    'source',
    'bypass shows registers that cannot be mapped',
    'if (!this.mmio && (table.flagsAt(slot) & HOST_MMIO) !== 0) continue;',
    '',
  ),
];

const IN_PLACE: readonly Mutant[] = [
  iommu(
    'request-queue',
    'reads over the end of a window',
    'length <= window.end - gpa && (offset',
    'length > 0 && (offset',
  ),
  iommu('request-queue', 'reads from the word before', '(offset & 3) === 0)', '(offset & 3) >= 0)'),
  ring(
    'split-queue',
    'rings stay where memory was',
    '!== this.#generation) this.#bind();',
    '!== this.#generation) void 0;',
  ),
  ring('split-queue', 'used entries go where memory was', 'longs.length > 0 && this.#current()', 'longs.length > 0'),
  ring(
    'split-queue',
    'a lost ring looks empty',
    'if (idx === this.#nextAvail) return EMPTY;',
    'if (((idx - this.#nextAvail) & 0xffff) === 0) return EMPTY;',
  ),
  ring(
    'split-queue',
    'a used entry stays inside one window',
    '!this.#memory.writeWord(this.#used + entry, head) ||',
    '!this.#memory.writeWords2(this.#used + entry, head, bytes) ||',
  ),
  ring('split-walk', 'indirect without the feature', 'indirect ? 0 : INDIRECT', 'indirect ? 0 : 0'),
  ring('split-walk', 'an indirect chain one too short', 'left = this.#size + 1;', 'left = this.#size;'),
  ring('split-walk', 'a table over the end of a window', 'bytes <= window.end - table && ', ''),
  ring('split-walk', 'a table from the word before', ' && ((table - window.start) & 3) === 0', ''),
];

const TABLE: readonly Mutant[] = [
  table('search', 'what was removed is found', ' && index >= ints[base * 2 + FIRST]!', ''),
  table('insert', 'a run passes the interval before it', ' || !clearBefore(tree, leaf, start)', ''),
  table(
    'remove',
    'the front of a leaf is still searched',
    'front ? -Infinity : Infinity',
    'front ? Infinity : Infinity',
  ),
];

/** All of them. */
export const MUTANTS: readonly Mutant[] = [
  ...ATTACH,
  ...DETACH,
  ...MAP,
  ...UNMAP,
  ...PROBE,
  ...REPLY,
  ...TRANSLATION,
  ...LIFE,
  ...SHARED,
  ...CUT,
  ...IN_PLACE,
  ...TABLE,
  ...PLAN_SHAPE,
  ...PLAN_REMOVAL,
  ...PLAN_ROOM,
  ...PLAN_SEND,
  ...PLAN_SWITCH,
];
