// Ways to break the device, one change each. `find` stands exactly once in the file; a suite in `suites` must fail.

/** One broken device. */
export interface Mutant {
  readonly id: string;
  readonly file: string;
  readonly find: string;
  readonly replace: string;
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
const coalesce = (file: string, id: string, find: string, replace: string): Mutant => ({
  id,
  file: `src/coalesce/${file}.ts`,
  find,
  replace,
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
  iommu('map', 'map over reserved memory', 'if (domain.reserved.meets(start, end))', 'if (false as boolean)'),
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
  iommu('map', 'physical wrap accepted', '<= limit - length', '<= limit'),
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
  iommu('unmap', 'split at the start allowed', 'table.startAt(slot) < start ||', 'false ||'),
  iommu('unmap', 'split at the end allowed', 'domain.table.endAt(slot) > end', 'domain.table.endAt(slot) > end + 1e9'),
  iommu(
    'unmap',
    'unaligned end counts as whole',
    'granule.isLast(endHigh, endLow) ? last + 1 : last',
    'granule.isLast(endHigh, endLow) ? last + 1 : last + 1',
  ),
  iommu('unmap', 'unmap forgets the host', 'domain.planner.unmap(segment.token,', 'void (segment.token,'),
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
    'queue.push(segment.head[i]!, abi.Tail.SIZE);',
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
    'chain.writableLength < abi.Tail.SIZE',
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
  coalesce('forward', 'a failed map leaves its pieces', 'mirror.undoMaps(batch, start, stopped);', 'void start;'),
  coalesce(
    'forward',
    'the first context keeps what the second refused',
    'if (mirrors[k]!.source !== undefined) mirrors[k]!.unmapRange(iova, pages);',
    'void k;',
  ),
  coalesce('mirror', 'a failed unmap is shrugged off', "this.block('UNMAP', undo.errno[0]!, iova)", 'void 0'),
  coalesce('source', 'bypass reaches reserved memory', 'start = hole.end;', 'start = hole.start;'),
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
];
