// Every requirement for the device has a test, and nobody names a requirement that does not exist.
// Not looked at yet: the scopes transport-pci, transport-mmio and packed. Driver ids need no test of their own.
import { describe, expect, it } from 'vitest';
import { commentsOf, loadRequirements, scanComments, scanTestTitles, scanVectors, titlesOf } from './scan.ts';

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
    const tested = new Set(tests.map((test) => test.id));
    const untested = requirements.filter((each) => each.scope === 'device' && !tested.has(each.id));
    expect(untested.map((each) => `${each.id}: ${each.text}`)).toEqual([]);
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
  it('finds ids in square brackets of titles, and nowhere else', () => {
    const source = `
      it('maps [D-MAP-1]', () => expect('[D-MAP-2]').toBe(1));
      it.each([1, 2])('does %s [D-UNM-4, T-UNM-EX4]', () => {});
      describe("moves [D-ATT-6]", () => {}); // it was D-ATT-7
      test(\`D-ATT-1 without brackets\`, () => {});`;
    expect(titlesOf(source, 'f').map((found) => found.id)).toEqual(['D-MAP-1', 'D-UNM-4', 'T-UNM-EX4', 'D-ATT-6']);
  });

  it('finds ids in comments once per file, and not in code', () => {
    const source = `// [5.13.6.5] D-MAP-1: RANGE\nconst a = 'D-MAP-2';\n/* D-MAP-3\n D-MAP-1 */ const b = 1; // T-ST-8`;
    expect(commentsOf(source, 'f').map((found) => found.id)).toEqual(['D-MAP-1', 'D-MAP-3', 'T-ST-8']);
  });
});
