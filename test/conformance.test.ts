// Every vector of spec/vectors through a real ring, on both ring formats and through every transport; those of
// VIOMMU_EXTRA_DATA on a split ring when it is set.
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import type { RunOptions } from '../src/testing/conformance/rig-transport.ts';
import { RING_KINDS, TRANSPORT_KINDS } from '../src/testing/conformance/rig-transport.ts';
import { runCase } from '../src/testing/conformance/run-case.ts';
import { readVectorFile } from '../src/testing/conformance/vector-file.ts';
import type { VectorCase } from '../src/testing/conformance/vector-types.ts';

const OWN = fileURLToPath(new URL('../spec/vectors', import.meta.url));
const EXTRA = process.env['VIOMMU_EXTRA_DATA'];

/** Files of cases in a folder; `defaults.json` describes the default device and holds none. */
function vectorFiles(folder: string): string[] {
  return readdirSync(folder).filter((name) => name.endsWith('.json') && name !== 'defaults.json');
}

function runFolder(folder: string): void {
  for (const name of vectorFiles(folder)) {
    describe(name, () => {
      const cases = readVectorFile(name, JSON.parse(readFileSync(join(folder, name), 'utf8')));
      it.each(cases.map((each) => [each.id, each] as const))('%s', (_id, each) => {
        const { passed, why } = runCase(each);
        expect(passed, why).toBe(true);
      });
    });
  }
}

describe('conformance vectors through the ring', () => {
  runFolder(OWN);
  it('are at least 150 of our own', () => {
    const cases = vectorFiles(OWN).flatMap((name) =>
      readVectorFile(name, JSON.parse(readFileSync(join(OWN, name), 'utf8'))),
    );
    expect(cases.length).toBeGreaterThanOrEqual(150);
  });
});

/** Other ways than a split ring without registers, which is above. */
const OTHER_WAYS = RING_KINDS.flatMap((ring) => TRANSPORT_KINDS.map((transport) => ({ ring, transport }))).filter(
  ({ ring, transport }) => ring !== 'split' || transport !== 'none',
);
/** Requests from which on a case says nothing about registers that a shorter one does not. */
const LONG = 4096;

function isLong({ setup, request }: VectorCase): boolean {
  return [...setup, request].some((operation) => operation.op === 'repeat' && operation.count >= LONG);
}

function failures(cases: readonly VectorCase[], options: RunOptions): string[] {
  return cases
    .filter((each) => options.transport === 'none' || !isLong(each))
    .map((each) => runCase(each, options))
    .filter(({ passed }) => !passed)
    .map(({ id, why }) => `${id}: ${why}`);
}

describe.each(OTHER_WAYS)('conformance vectors on a $ring ring, transport $transport', (options) => {
  it.each(vectorFiles(OWN))('%s', (name) => {
    const cases = readVectorFile(name, JSON.parse(readFileSync(join(OWN, name), 'utf8')));
    expect(failures(cases, options)).toEqual([]);
  });
});

describe('extra conformance vectors', () => {
  const folder = EXTRA === undefined ? undefined : join(EXTRA, 'vectors');
  if (folder !== undefined && existsSync(folder)) runFolder(folder);
  else it.skip('VIOMMU_EXTRA_DATA names no folder with vectors/: skipped', () => undefined);
});
