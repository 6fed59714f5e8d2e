// Prints which requirement is implemented where and tested by what: `npx tsx spec/report.ts [--json] [--write]`.
//   --json   one record per id with every test by name;  --write  stores the file names in requirements.json.
// Exit status 1 when an id of the device, its transports or its rings has no test, or is not named by a comment in each file
// that its entry lists.
import { writeFileSync } from 'node:fs';
import type { Found, Requirement } from './scan.ts';
import {
  REQUIREMENTS_FILE,
  loadRequirements,
  misplaced,
  placesOf,
  scanComments,
  scanTestTitles,
  scanVectors,
  untested,
} from './scan.ts';

interface Row extends Requirement {
  /** `file: name of the vector or test`. */
  readonly testNames: readonly string[];
}

const comments = scanComments();
const tests = [...scanVectors(), ...scanTestTitles()];
const rows = loadRequirements().map((each) => rowOf(each));

if (process.argv.includes('--write')) {
  const lines = rows.map((row) => `  ${JSON.stringify({ ...row, testNames: undefined })}`);
  writeFileSync(REQUIREMENTS_FILE, `[\n${lines.join(',\n')}\n]\n`);
}
if (process.argv.includes('--json')) console.log(JSON.stringify(rows, null, 2));
else printTable();

const requirements = loadRequirements();
const wrong = [
  ...misplaced(requirements, comments),
  ...untested(requirements, tests).map(({ id }) => `${id}: no test names it`),
];
for (const line of wrong) console.error(line);
if (wrong.length > 0) process.exitCode = 1;

function rowOf(each: Requirement): Row {
  const found = tests.filter((test) => test.id === each.id);
  return {
    ...each,
    implementedIn: placesOf(each, comments),
    tests: files(found),
    testNames: found.map((test) => `${test.file}: ${test.test}`),
  };
}

function files(found: readonly Found[]): string[] {
  return [...new Set(found.map((each) => each.file))].sort();
}

function printTable(): void {
  const cells = rows.map((row) => [
    row.id,
    row.level,
    row.scope,
    row.implementedIn.join(' ') || '-',
    row.tests.length === 0 ? 'NONE' : `${row.testNames.length} in ${row.tests.join(' ')}`,
  ]);
  const table = [['id', 'level', 'scope', 'implemented in', 'tests'], ...cells];
  const widths = [0, 1, 2, 3].map((i) => Math.max(...table.map((line) => line[i]!.length)));
  for (const line of table) {
    console.log(line.map((cell, i) => (i < widths.length ? cell.padEnd(widths[i]!) : cell)).join('  '));
  }
  const device = rows.filter((row) => row.scope !== 'driver');
  console.log(
    `${rows.length} requirements; of ${device.length} for the device ${count(device, 'tests')} are tested` +
      ` and ${count(device, 'implementedIn')} are named in the code`,
  );
}

function count(list: readonly Row[], key: 'tests' | 'implementedIn'): number {
  return list.filter((row) => row[key].length > 0).length;
}
