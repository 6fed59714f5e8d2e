// Reads a vitest JSON report: prints what failed and what was skipped, then one line "PASSED FAILED".
//   node .ci/vitest-report.mjs REPORT EXIT-STATUS
// A run that ended badly without a failing test (a file that does not load, an unhandled error) counts one failure.
// Exit status 1 when there is no readable report.
import { readFileSync } from 'node:fs';
import { relative } from 'node:path';

const [path, exitStatus] = process.argv.slice(2);

function readReport() {
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch {
    return undefined;
  }
}

const report = readReport();
if (!Array.isArray(report?.testResults)) process.exit(1);

let passed = 0;
let failed = 0;
const skipped = [];
const lines = [];
for (const file of report.testResults) {
  const name = relative(process.cwd(), file.name);
  const tests = file.assertionResults ?? [];
  for (const test of tests) {
    const title = `${name}: ${test.fullName}`;
    if (test.status === 'passed') passed++;
    else if (test.status === 'failed') {
      failed++;
      lines.push(`   FAILED  ${title}`);
    } else skipped.push(title);
  }
  if (file.status === 'failed' && !tests.some((test) => test.status === 'failed')) {
    failed++;
    lines.push(`   FAILED  ${name}: ${String(file.message || 'the file could not be run').split('\n')[0]}`);
  }
}
if (exitStatus !== '0' && failed === 0) {
  failed++;
  lines.push(`   FAILED  the test run ended with exit status ${exitStatus}`);
}
if (passed + failed === 0) {
  failed++;
  lines.push('   FAILED  the report holds no test');
}
for (const title of skipped) lines.push(`   skipped ${title}`);
lines.push(`   ${passed} tests passed, ${failed} failed, ${skipped.length} skipped`);
process.stdout.write(`${[...lines, `${passed} ${failed}`].join('\n')}\n`);
