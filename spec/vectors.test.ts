// Every vector file is in the format, ids are unique, and each statement is a requirement of the list.
import { describe, expect, it } from 'vitest';
import type { RequestOp, VectorCase } from './vector-format.ts';
import { MALFORMS, checkVectorFile } from './vector-format.ts';
import { OWN_VECTORS, extraVectors, readVectorFolder } from './vector-files.ts';
import requirements from './requirements.json' with { type: 'json' };

const own = readVectorFolder(OWN_VECTORS);
const ownCases = own.flatMap((file) => file.content as VectorCase[]);

describe('vector files', () => {
  it.each(own.map((file) => [file.name, file] as const))('%s is in the format', (name, file) => {
    expect(checkVectorFile(name, file.content)).toEqual([]);
  });

  it('hold at least 170 cases with unique ids', () => {
    const ids = ownCases.map((each) => each.id);
    expect(ids.filter((id, i) => ids.indexOf(id) !== i)).toEqual([]);
    expect(ids.length).toBeGreaterThanOrEqual(170);
  });

  it('name only requirements that exist', () => {
    const known = new Set(requirements.map((each) => each.id));
    const unknown = ownCases.flatMap((each) =>
      each.statement.filter((id) => !known.has(id)).map((id) => `${each.id}: ${id}`),
    );
    expect(unknown).toEqual([]);
  });

  it('damage the ring in every way', () => {
    const used = ownCases.flatMap(({ request }) => (request.op === 'ring' ? [request.malform] : []));
    expect(MALFORMS.filter((name) => !used.includes(name))).toEqual([]);
  });

  it('have descriptor layouts that add up', () => {
    const wrong = ownCases.flatMap((each) => requestsOf(each).flatMap((request) => layoutProblems(each.id, request)));
    expect(wrong).toEqual([]);
  });

  it('of VIOMMU_EXTRA_DATA are in the format', () => {
    const folder = extraVectors();
    if (folder === undefined) {
      console.info('VIOMMU_EXTRA_DATA is not set: no extra vector files were checked');
      return;
    }
    const files = readVectorFolder(folder);
    expect(files.flatMap((file) => checkVectorFile(file.name, file.content))).toEqual([]);
    const count = files.reduce((sum, file) => sum + (file.content as unknown[]).length, 0);
    console.info(`VIOMMU_EXTRA_DATA: ${count} extra cases are in the format`);
  });
});

describe('the checker', () => {
  const good: VectorCase = {
    id: 'x-1',
    title: 'a case',
    statement: ['D-OP-1'],
    level: 'MUST',
    setup: [],
    request: { op: 'req', type: 'ATTACH', domain: 1, endpoint: 8, flags: 0 },
    expect: { status: ['OK'], status_if_only_MUSTs_enforced: ['OK'], explicit: true },
  };

  it('accepts a case that is in order', () => {
    expect(checkVectorFile('f', [good])).toEqual([]);
  });

  it.each([
    ['a file that is no list', good],
    ['an unknown key', [{ ...good, colour: 'red' }]],
    ['a missing key', [{ ...good, setup: undefined }]],
    ['an unknown operation', [{ ...good, request: { op: 'jump' } }]],
    ['an operation named like an object method', [{ ...good, request: { op: 'toString' } }]],
    ['an unknown request type', [{ ...good, request: { op: 'req', type: 'FLUSH' } }]],
    ['a field of another struct', [{ ...good, request: { ...good.request, virt_start: 0 } }]],
    ['a missing field', [{ ...good, request: { op: 'req', type: 'ATTACH', endpoint: 8 } }]],
    ['a field that is no number', [{ ...good, request: { ...good.request, domain: '12' } }]],
    ['a negative number', [{ ...good, request: { ...good.request, domain: -1 } }]],
    ['a hex string of 65 bits', [{ ...good, request: { ...good.request, domain: '0x10000000000000000' } }]],
    ['an unknown status', [{ ...good, expect: { ...good.expect, status: ['FINE'] } }]],
    ['an unknown check', [{ ...good, expect: { ...good.expect, checks: [{ check: 'colour' }] } }]],
    ['an unknown level', [{ ...good, level: 'WILL' }]],
    ['an unknown ring damage', [{ ...good, request: { op: 'ring', malform: 'melt', request: good.request } }]],
    ['an unknown feature', [{ ...good, device: { offer_add: ['TELEPORT'] } }]],
    ['a batch with too few status lists', [{ ...good, request: { op: 'batch', requests: [good.request] } }]],
  ])('refuses %s', (_, content) => {
    expect(checkVectorFile('f', JSON.parse(JSON.stringify(content)))).not.toEqual([]);
  });
});

function requestsOf(each: VectorCase): RequestOp[] {
  const checks = (each.expect.checks ?? []).flatMap((check) => (check.check === 'req' ? [check.request] : []));
  const ops = [...each.setup, each.request, ...checks];
  return ops.flatMap((op) => {
    if (op.op === 'req') return [op];
    if (op.op === 'repeat' || op.op === 'ring') return [op.request];
    return op.op === 'batch' ? op.requests.filter((request) => request.op === 'req') : [];
  });
}

function layoutProblems(id: string, request: RequestOp): string[] {
  const bytes = { ATTACH: 20, DETACH: 20, MAP: 36, UNMAP: 28, PROBE: 72 }[request.type];
  const readable = request.readable_len ?? bytes;
  const writable = request.writable_len ?? (request.type === 'PROBE' ? (request.probe_size ?? 512) + 4 : 4);
  const wrong: string[] = [];
  if (request.readable_layout !== undefined && sum(request.readable_layout) !== readable) wrong.push(`${id}: readable`);
  if (request.writable_layout !== undefined && sum(request.writable_layout) !== writable) wrong.push(`${id}: writable`);
  return wrong;
}

function sum(lengths: readonly number[]): number {
  return lengths.reduce((total, length) => total + length, 0);
}
