// Builds dist/ on `npm ci` in a clone. Never fails the install: without the
// TypeScript compiler (for example `npm ci --omit=dev`) it says so and stops.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));

function findCompiler() {
  try {
    return createRequire(join(root, 'package.json')).resolve('typescript/bin/tsc');
  } catch {
    return undefined;
  }
}

const tsc = findCompiler();
if (!existsSync(join(root, 'tsconfig.build.json'))) {
  process.exit(0); // an installed package ships dist, not the build files
} else if (tsc === undefined) {
  console.warn('virtio-iommu: dist not built, the TypeScript compiler is not installed (npm ci installs it)');
} else {
  const result = spawnSync(process.execPath, [tsc, '-p', 'tsconfig.build.json'], { cwd: root, stdio: 'inherit' });
  if (result.status !== 0) console.warn('virtio-iommu: dist not built, `npm run build` shows why');
}
