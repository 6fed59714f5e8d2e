// Packages of a Debian suite, fetched with apt's own signed metadata into a private state and unpacked beside the system:
// nothing is installed, no URL or version is pinned. The archive's address comes from the machine's own apt sources.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';

const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';
const ATTEMPTS = 3;

/** An unpacked set of packages. */
export interface Tree {
  readonly path: string;
  /** `name version`, sorted. */
  readonly packages: readonly string[];
}

/** Where downloads are kept between runs: outside the project. */
export function cacheFolder(name: string): string {
  const { XDG_CACHE_HOME: base = '' } = process.env;
  return join(base === '' ? join(homedir(), '.cache') : base, 'virtio-iommu', name);
}

/**
 * Downloads packages of a suite with all they depend on, and unpacks them below `cache`. Packages and an unpacked tree of
 * the same versions are used again. Needs apt, dpkg and the Debian archive keyring; no root.
 */
export function unpackedPackages(suite: string, names: readonly string[], cache: string): Tree {
  const archives = join(cache, 'archives');
  for (const folder of ['lists/partial', 'archives/partial', 'etc'])
    mkdirSync(join(cache, folder), { recursive: true });
  writeFileSync(join(cache, 'status'), '');
  writeFileSync(join(cache, 'etc/sources.list'), `deb [signed-by=${KEYRING}] ${archiveAddress()} ${suite} main\n`);
  retried(() => apt(cache, 'update'));
  const install = ['install', '--yes', '--no-install-recommends', ...names];
  const wanted = new Set([...apt(cache, ...install, '--simulate').matchAll(/^Inst (\S+) \((\S+) /gm)].map(named));
  retried(() => apt(cache, ...install, '--download-only'));
  const files = readdirSync(archives).filter((file) => file.endsWith('.deb'));
  const found = new Map(files.map((file) => [packageName(join(archives, file)), join(archives, file)]));
  for (const [name, file] of found) if (!wanted.has(name)) rmSync(file);
  const packages = [...wanted].sort();
  const path = join(cache, `tree-${packages.join('-').replace(/[^a-zA-Z0-9.+~-]+/g, '_')}`.slice(0, 200));
  if (!existsSync(path)) {
    for (const old of readdirSync(cache)) if (old.startsWith('tree-')) rmSync(join(cache, old), { recursive: true });
    for (const name of packages) execFileSync('dpkg', ['-x', fileOf(found, name), `${path}.new`]);
    renameSync(`${path}.new`, path);
  }
  return { path, packages };
}

/** The command line that runs a program of the tree on the tree's own C library. */
export function ownLoader(tree: Tree): string[] {
  const base = join(tree.path, 'usr/lib');
  for (const triplet of readdirSync(base)) {
    const folder = join(base, triplet);
    const loader = triplet.endsWith('-linux-gnu')
      ? readdirSync(folder).find((file) => /^ld-linux.*\.so\.\d$/.test(file))
      : undefined;
    if (loader !== undefined) return [join(folder, loader), '--library-path', folder];
  }
  throw new Error(`no dynamic loader below ${base}`);
}

/** The archive that this machine's own Debian suite comes from; a mirror of the user's choice stays in use. */
function archiveAddress(): string {
  const suite = /^VERSION_CODENAME="?([a-z]+)/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? '';
  const parts = '/etc/apt/sources.list.d';
  const files = [
    '/etc/apt/sources.list',
    ...(existsSync(parts) ? readdirSync(parts).map((file) => join(parts, file)) : []),
  ];
  for (const file of files.filter((name) => existsSync(name))) {
    const text = readFileSync(file, 'utf8').replace(/^#.*\n/gm, '');
    const addresses = file.endsWith('.sources') ? text.split(/\n\s*\n/).map((part) => stanzaAddress(part, suite)) : [];
    const line = new RegExp(`^deb(?: \\[[^\\]]*\\])? +(\\S+) +${suite} .*main`, 'm').exec(text)?.[1];
    const address = [...addresses, line].find((found) => found !== undefined);
    if (address !== undefined) return address;
  }
  throw new Error(`the apt sources of this machine name no archive for the Debian suite "${suite}"`);
}

function stanzaAddress(stanza: string, suite: string): string | undefined {
  const field = (name: string): string[] => new RegExp(`^${name}: *(.*)$`, 'm').exec(stanza)?.[1]?.split(/ +/) ?? [];
  return field('Suites').includes(suite) && field('Components').includes('main') ? field('URIs')[0] : undefined;
}

function apt(cache: string, ...args: readonly string[]): string {
  const options = [
    `Dir::State=${cache}`,
    `Dir::State::lists=${join(cache, 'lists')}`,
    `Dir::State::status=${join(cache, 'status')}`,
    `Dir::Cache=${cache}`,
    `Dir::Cache::archives=${join(cache, 'archives')}`,
    `Dir::Etc::sourcelist=${join(cache, 'etc/sources.list')}`,
    'Dir::Etc::sourceparts=-',
    'Dir::Etc::preferences=-',
    'Dir::Etc::preferencesparts=-',
    'Debug::NoLocking=1',
    'APT::Sandbox::User=',
    'APT::Get::AllowUnauthenticated=0',
    'Acquire::Retries=2',
  ];
  return execFileSync('apt-get', ['-qq', ...options.flatMap((option) => ['-o', option]), ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C.UTF-8' },
  }).toString();
}

function packageName(file: string): string {
  const fields = execFileSync('dpkg-deb', ['-f', file, 'Package', 'Version']).toString();
  return `${/^Package: (.*)$/m.exec(fields)?.[1] ?? '?'} ${/^Version: (.*)$/m.exec(fields)?.[1] ?? '?'}`;
}

function named(match: RegExpMatchArray): string {
  return `${match[1] ?? ''} ${match[2] ?? ''}`;
}

function fileOf(found: ReadonlyMap<string, string>, name: string): string {
  const file = found.get(name);
  if (file === undefined) throw new Error(`apt did not download ${name}`);
  return file;
}

function retried(step: () => unknown): void {
  for (let attempt = 1; ; attempt++) {
    try {
      step();
      return;
    } catch (error) {
      if (attempt === ATTEMPTS) throw error;
    }
  }
}
