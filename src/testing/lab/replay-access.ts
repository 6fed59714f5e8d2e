// What recorded endpoints did (accesses, copies, faults, fault records), done again and compared.
import type { AccessPiece, IommuCore } from '../../iommu/core.ts';
import type { FaultReport } from '../requests.ts';
import type { TraceCopy, TraceEvent, TraceFault, TracePiece, TraceTranslate } from '../trace-record.ts';

/** What differs, what was recorded, what was seen. */
export type AccessDifference = readonly [what: string, recorded: string, seen: string];

/** Records of what an endpoint did. */
export type AccessRecord = TraceTranslate | TraceCopy | TraceFault | TraceEvent;

/** Does one record again; a fault record is looked for in `events` and taken out. */
export function replayAccess(
  core: IommuCore,
  record: AccessRecord,
  events: FaultReport[],
): AccessDifference | undefined {
  switch (record.op) {
    case 'XLATE':
      return compareTranslation(core, record);
    case 'COPY': {
      const ok =
        reaches(core, record.endpoint, record.source, record.length, 'read') &&
        reaches(core, record.endpoint, record.target, record.length, 'write');
      return ok === record.ok ? undefined : ['copy', String(record.ok), String(ok)];
    }
    case 'FAULT': {
      const access = record.direction === 'W' ? 'write' : 'read';
      return core.translate(record.endpoint, record.iova, 1, access).ok ? ['access', 'fault', 'allowed'] : undefined;
    }
    case 'EVENT': {
      const found = events.findIndex(
        (event) =>
          event.endpoint === record.endpoint &&
          event.reason === record.reason &&
          event.usedLength === record.length &&
          (record.iova === undefined || event.address === undefined || event.address === record.iova),
      );
      if (found < 0) return ['fault record', 'present', 'absent'];
      events.splice(found, 1);
      return undefined;
    }
  }
}

function reaches(core: IommuCore, endpoint: number, iova: bigint, length: bigint, access: 'read' | 'write'): boolean {
  return length === 0n || core.translate(endpoint, iova, Number(length), access).ok;
}

function compareTranslation(core: IommuCore, record: TraceTranslate): AccessDifference | undefined {
  const access = record.direction === 'W' ? 'write' : 'read';
  const result = core.translate(record.endpoint, record.iova, record.length, access);
  const recorded = describe(record.pieces);
  const seen = result.ok ? describe(result.pieces) : `fault at 0x${result.fault.iova.toString(16)}`;
  return recorded === seen ? undefined : ['translation', recorded, seen];
}

/** Pieces as text, neighbours joined, so that two ways to cut the same bytes compare equal. */
function describe(pieces: readonly (TracePiece | AccessPiece)[]): string {
  const joined: { gpa: bigint; length: number }[] = [];
  for (const { gpa, length } of pieces) {
    const last = joined.at(-1);
    if (last !== undefined && last.gpa + BigInt(last.length) === gpa) last.length += length;
    else joined.push({ gpa, length });
  }
  return joined.map(({ gpa, length }) => `0x${gpa.toString(16)}+${length}`).join(' ');
}
