// Makes the package of the addon for each platform in native/npm, with the addons that lie in native/: one built here
// (`npm run build:native`), others brought from their machines. A platform without its addon is named and left without.
import { copyFileSync, existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const folder = join(root, 'native/npm');
const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
const { status } = spawnSync('npx', ['--no-install', 'napi', 'create-npm-dirs', '--npm-dir', 'native/npm'], {
  cwd: root,
  stdio: ['ignore', 'ignore', 'inherit'],
});
if (status !== 0) process.exit(status ?? 1);
for (const platform of readdirSync(folder).sort()) {
  const name = `virtio-iommu.${platform}.node`;
  const built = join(root, 'native', name);
  if (existsSync(built)) copyFileSync(built, join(folder, platform, name));
  writeFileSync(
    join(folder, platform, 'README.md'),
    `# virtio-iommu-${platform}\n\nThe native addon of virtio-iommu ${version} for ${platform}.\n`,
  );
  console.log(
    `${platform.padEnd(18)} ${existsSync(built) ? 'ready' : `${name} is missing: build it on that platform`}`,
  );
}
