// Runs the tests of native/ under AddressSanitizer and, where they make no system call that Miri lacks, under Miri. Needs
// the nightly toolchain with miri and rust-src (`rustup toolchain install nightly -c miri -c rust-src`); says so without.
import { spawnSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const manifest = join(root, 'native/Cargo.toml');

function run(name, args, env) {
  console.log(`${name}: cargo ${args.join(' ')}`);
  const { status } = spawnSync('cargo', args, {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, CARGO_TARGET_DIR: join(tmpdir(), `virtio-iommu-${name}`), ...env },
  });
  return status === 0;
}

if (spawnSync('cargo', ['+nightly', '--version']).status !== 0) {
  console.error('the nightly toolchain is missing: rustup toolchain install nightly -c miri -c rust-src');
  process.exit(1);
}
const target = 'x86_64-unknown-linux-gnu';
const address = ['+nightly', 'test', '--manifest-path', manifest, '--target', target];
const pure = ['chain::', 'columns::', 'container::', 'iommufd_areas::', 'registry::', 'poll::'];
const results = [
  run('asan', address, { RUSTFLAGS: '-Zsanitizer=address' }),
  run('miri', ['+nightly', 'miri', 'test', '--manifest-path', manifest, '--lib', '--', ...pure], {
    MIRIFLAGS: '-Zmiri-disable-isolation',
  }),
];
process.exit(results.every(Boolean) ? 0 : 1);
