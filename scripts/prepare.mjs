// Builds dist/ on `npm ci` in a clone. Never fails the install: without the TypeScript compiler (for example after
// `npm ci --omit=dev`) it says so and stops. Needs nothing but Node. With `--strict` it fails when the build does.
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));

function say(text) {
  console.warn(`virtio-iommu: ${text}`);
}

function findCompiler() {
  try {
    const require = createRequire(join(root, 'package.json'));
    const manifest = require.resolve('typescript/package.json');
    return join(dirname(manifest), JSON.parse(readFileSync(manifest, 'utf8')).bin.tsc);
  } catch {
    return undefined;
  }
}

/** npx runs the command of a clone where it is: it has to be executable, which the compiler does not see to. */
function makeExecutable() {
  const { bin } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  for (const file of Object.values(bin)) if (existsSync(join(root, file))) chmodSync(join(root, file), 0o755);
}

/** True when dist is complete. */
function build() {
  if (!existsSync(join(root, 'tsconfig.build.json'))) return true; // an installed package has dist, not the build files
  const tsc = findCompiler();
  if (tsc === undefined) {
    say('dist is not built: the TypeScript compiler is not installed (npm ci installs it)');
    return false;
  }
  // What a former version left would be packed too.
  rmSync(join(root, 'dist'), { recursive: true, force: true });
  const { status, error } = spawnSync(process.execPath, [tsc, '-p', 'tsconfig.build.json'], {
    cwd: root,
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  makeExecutable();
  if (status !== 0) say(`dist may be incomplete${error ? ` (${error.message})` : ''}: npm run build shows why`);
  return status === 0;
}

function tryToBuild() {
  try {
    return build();
  } catch (error) {
    say(`dist is not built: ${error.message}`);
    return false;
  }
}

const complete = tryToBuild();
if (process.argv.includes('--strict') && !complete) process.exitCode = 1;
