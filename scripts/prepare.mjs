// Builds dist/ on `npm ci` in a clone, and the native addon where cargo is there. Never fails the install: without the
// TypeScript compiler (for example after `npm ci --omit=dev`) or without cargo it says so. Needs nothing but Node.
// With `--strict` it builds dist/ only and fails when that does. VIOMMU_SKIP_NATIVE=1 leaves the addon alone.
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** Longest build of the addon on an install: it takes about a minute on two cores, a download comes on top. */
const NATIVE_MINUTES = 8;

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

/** A sentence on why the addon is not built, undefined when it is. */
function buildNative() {
  if (!existsSync(join(root, 'native/Cargo.toml'))) return undefined; // an installed package has its addon, or needs none
  if (process.platform !== 'linux') return 'real hosts need Linux';
  if (spawnSync('cargo', ['--version'], { stdio: 'ignore' }).status !== 0) return 'cargo is not installed';
  const napi = findNapi();
  if (napi === undefined) return '@napi-rs/cli is not installed';
  const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const [, ...options] = scripts['build:native'].split(' ');
  const settings = { cwd: root, stdio: 'ignore', timeout: NATIVE_MINUTES * 60_000 };
  const { status, signal } = spawnSync(process.execPath, [napi, ...options], settings);
  if (status === 0) return undefined;
  return signal === null ? 'its build failed' : `its build took more than ${NATIVE_MINUTES} minutes`;
}

function findNapi() {
  const folder = join(root, 'node_modules/@napi-rs/cli');
  if (!existsSync(join(folder, 'package.json'))) return undefined;
  return join(folder, JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')).bin.napi);
}

function tryToBuildNative() {
  let reason;
  try {
    reason = buildNative();
  } catch (error) {
    reason = error.message;
  }
  if (reason !== undefined) {
    say(`the native addon is not built, ${reason}: only real hosts (VFIO, iommufd) need it; npm run build:native`);
  }
}

const strict = process.argv.includes('--strict');
const complete = tryToBuild();
if (strict && !complete) process.exitCode = 1;
if (!strict && process.env.VIOMMU_SKIP_NATIVE !== '1') tryToBuildNative();
