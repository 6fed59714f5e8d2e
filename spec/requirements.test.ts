// Every requirement for the device, its transports and its rings has a test and a place in the code, and nobody names one
// that does not exist. Driver ids need no test of their own.
import { describe, expect, it } from 'vitest';
import {
  commentsOf,
  loadRequirements,
  misplaced,
  scanComments,
  scanTestTitles,
  scanVectors,
  titlesOf,
  untested,
} from './scan.ts';

const requirements = loadRequirements();
const known = new Set(requirements.map((each) => each.id));
const tests = [...scanVectors(), ...scanTestTitles()];

describe('requirements', () => {
  it('have unique ids, a text and a known scope', () => {
    const ids = requirements.map((each) => each.id);
    expect(ids.filter((id, i) => ids.indexOf(id) !== i)).toEqual([]);
    const scopes = ['device', 'driver', 'transport-pci', 'transport-mmio', 'packed'];
    for (const each of requirements) {
      expect(scopes, each.id).toContain(each.scope);
      expect(each.text.length, each.id).toBeGreaterThan(10);
      expect(each.section, each.id).toMatch(/^\d/);
    }
  });

  it('number 71 for devices, 40 for drivers, 26 of text and 7 examples', () => {
    const count = (pattern: RegExp) => requirements.filter((each) => pattern.test(each.id)).length;
    expect([count(/^D-/), count(/^DRV-/), count(/^T-(?!UNM-EX)/), count(/^T-UNM-EX[1-7]$/)]).toEqual([71, 40, 26, 7]);
  });

  it('for the device are all tested', () => {
    expect(untested(requirements, tests).map((each) => `${each.id}: ${each.text}`)).toEqual([]);
  });

  it('for the device are named by a comment in each file that they list, and in no other', () => {
    expect(misplaced(requirements, scanComments()), 'run npx tsx spec/report.ts --write').toEqual([]);
  });

  it('are the only ones that tests and code name', () => {
    const unknown = [...tests, ...scanComments()].filter((found) => !known.has(found.id));
    expect(unknown.map((found) => `${found.file}: ${found.id} ${found.test}`)).toEqual([]);
  });

  it('point only to files that still name them', () => {
    const live = new Set([...tests, ...scanComments()].map((found) => `${found.id} ${found.file}`));
    const stored = requirements.flatMap((each) =>
      [...each.tests, ...each.implementedIn].map((file) => `${each.id} ${file}`),
    );
    expect(
      stored.filter((entry) => !live.has(entry)),
      'run npx tsx spec/report.ts --write',
    ).toEqual([]);
  });
});

describe('the scanner', () => {
  it('finds ids in brackets of titles, and nowhere else', () => {
    const source = `
      it('maps [D-MAP-1]', () => expect('[D-MAP-2]').toBe(1));
      it.each([1, 2])('does %s [D-UNM-4, T-UNM-EX4]', () => {});
      describe("moves [D-ATT-6] at once (D-ATT-9)", () => {}); // it was D-ATT-7
      test(\`D-ATT-1 without brackets\`, () => {});`;
    const ids = titlesOf(source, 'f').map((found) => found.id);
    expect(ids).toEqual(['D-MAP-1', 'D-UNM-4', 'T-UNM-EX4', 'D-ATT-6', 'D-ATT-9']);
  });

  it('tells what is listed and not named, named and not listed, and not listed at all', () => {
    const device = requirements.find((each) => each.id === 'D-MAP-1')!;
    const driver = requirements.find((each) => each.id === 'DRV-ATT-1')!;
    const named = ['src/a.ts', 'src/testing/b.ts'].map((file) => ({ id: 'D-MAP-1', file, test: '' }));
    const of = (...implementedIn: string[]) => misplaced([{ ...device, implementedIn }, driver], named);
    expect(of('src/a.ts')).toEqual([]);
    expect(of()).toEqual(['D-MAP-1: no file is listed']);
    expect(of('src/a.ts', 'src/c.ts')).toEqual(['D-MAP-1: no comment of src/c.ts names it']);
    expect(of('src/testing/b.ts')).toEqual([
      'D-MAP-1: no comment of src/testing/b.ts names it',
      'D-MAP-1: src/a.ts is not listed',
    ]);
  });

  it('tells what has no test, transports and packed rings too, but not driver ids', () => {
    const all = untested(requirements, []).map((each) => each.id);
    expect(all).toEqual(requirements.filter(({ scope }) => scope !== 'driver').map(({ id }) => id));
    expect(all).toEqual(expect.arrayContaining(['D-MAP-1', 'D-RING-8', 'D-PCI-1', 'D-MMIO-1']));
    const found = all.filter((id) => id !== 'D-PCI-1').map((id) => ({ id, file: 'a.test.ts', test: id }));
    expect(untested(requirements, found).map((each) => each.id)).toEqual(['D-PCI-1']);
  });

  it('finds ids in comments once per file, and not in code', () => {
    const source = `// [5.13.6.5] D-MAP-1: RANGE\nconst a = 'D-MAP-2';\n/* D-MAP-3\n D-MAP-1 */ const b = 1; // T-ST-8`;
    expect(commentsOf(source, 'f').map((found) => found.id)).toEqual(['D-MAP-1', 'D-MAP-3', 'T-ST-8']);
  });
});
