// Packages of a Debian suite, fetched with apt's own signed metadata into a private state and unpacked beside the system:
// nothing is installed, no URL or version is pinned. The archive's address comes from the machine's own apt sources.
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';

const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';
const ATTEMPTS = 3;
/** Lists of packages are fetched again after this time; milliseconds. */
const LIST_AGE = 6 * 3_600_000;

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

/** What is wanted of the archive. */
export interface Selection {
  /** Suites to look in; one that this machine's own sources do not name and that is of another archive is left out. */
  readonly suites: readonly string[];
  /** Packages, each as `name` or `name/suite`, or a choice made from the metadata. */
  readonly names: readonly string[] | ((archive: Archive) => readonly string[]);
  /** False: these packages only, without what they depend on. */
  readonly dependencies: boolean;
}

/** The metadata of the suites of a {@link Selection}. */
export interface Archive {
  /** Packages whose name matches, oldest version first. */
  readonly named: (pattern: RegExp) => string[];
}

/**
 * Downloads packages of a suite with all they depend on, and unpacks them below `cache`. Packages and an unpacked tree of
 * the same versions are used again. Needs apt, dpkg and the Debian archive keyring; no root.
 */
export function unpackedPackages(suite: string, names: readonly string[], cache: string): Tree {
  return unpackedSelection({ suites: [suite], names, dependencies: true }, cache);
}

/** {@link unpackedPackages} for any selection; processes that ask for the same cache at the same time take turns. */
export function unpackedSelection(selection: Selection, cache: string): Tree {
  mkdirSync(cache, { recursive: true });
  return alone(join(cache, 'lock'), () => {
    prepare(selection.suites, cache);
    const names = typeof selection.names === 'function' ? selection.names(archive(cache)) : selection.names;
    const packages = selection.dependencies ? installed(cache, names) : downloaded(cache, names);
    return unpacked(cache, packages);
  });
}

/** A private state for apt: lists of the suites, fetched again when they are old, and no package installed. */
function prepare(suites: readonly string[], cache: string): void {
  for (const folder of ['lists/partial', 'archives/partial', 'etc'])
    mkdirSync(join(cache, folder), { recursive: true });
  writeFileSync(join(cache, 'status'), '');
  const lines = suites.flatMap((suite) => {
    const address = archiveAddress(suite);
    return address === undefined ? [] : [`deb [signed-by=${KEYRING}] ${address} ${suite} main\n`];
  });
  const sources = join(cache, 'etc/sources.list');
  const stamp = join(cache, 'updated');
  const wanted = lines.join('');
  const fresh = existsSync(stamp) && Date.now() - statSync(stamp).mtimeMs < LIST_AGE;
  if (fresh && readFileSync(sources, 'utf8') === wanted) return;
  writeFileSync(sources, wanted);
  retried(() => apt(cache, 'apt-get', 'update'));
  writeFileSync(stamp, '');
}

function archive(cache: string): Archive {
  const all = apt(cache, 'apt-cache', 'pkgnames').split('\n');
  return {
    named: (pattern) => {
      const names = all.filter((name) => pattern.test(name));
      const versions = names.length === 0 ? [] : candidates(cache, names);
      return versions.sort((a, b) => compareVersions(a.version, b.version)).map(({ name }) => name);
    },
  };
}

/** The version of each name that apt would take; names that are only spoken of have none and are left out. */
function candidates(cache: string, names: readonly string[]): { name: string; version: string }[] {
  const text = apt(cache, 'apt-cache', 'policy', ...names.map((name) => name.replace(/\/.*/, '')));
  const found = [...text.matchAll(/^(\S+):\n {2}Installed: .*\n {2}Candidate: (\S+)$/gm)];
  return found.flatMap(([, name = '', version = '']) => (version === '(none)' ? [] : [{ name, version }]));
}

function compareVersions(a: string, b: string): number {
  const is = (relation: string): boolean => spawnSync('dpkg', ['--compare-versions', a, relation, b]).status === 0;
  return is('lt') ? -1 : is('eq') ? 0 : 1;
}

function installed(cache: string, names: readonly string[]): string[] {
  const install = ['install', '--yes', '--no-install-recommends', ...names];
  const plan = apt(cache, 'apt-get', ...install, '--simulate');
  retried(() => apt(cache, 'apt-get', ...install, '--download-only'));
  return [...new Set([...plan.matchAll(/^Inst (\S+) \((\S+) /gm)].map(named))].sort();
}

function downloaded(cache: string, names: readonly string[]): string[] {
  const found = candidates(cache, names);
  if (found.length !== names.length) throw new Error(`the archive has not all of ${names.join(', ')}`);
  const archives = join(cache, 'archives');
  const present = new Set(packageFiles(archives).keys());
  const wanted = found.map(({ name, version }) => `${name} ${version}`).sort();
  for (const each of wanted.filter((name) => !present.has(name)))
    retried(() => apt(cache, 'apt-get', 'download', each.replace(' ', '=')));
  return wanted;
}

function unpacked(cache: string, packages: readonly string[]): Tree {
  const digest = createHash('sha256').update(packages.join('\n')).digest('hex').slice(0, 16);
  const path = join(cache, `tree-${digest}`);
  if (existsSync(path)) return { path, packages };
  const found = packageFiles(join(cache, 'archives'));
  for (const [name, file] of found) if (!packages.includes(name)) rmSync(file);
  for (const old of readdirSync(cache)) if (old.startsWith('tree-')) rmSync(join(cache, old), { recursive: true });
  for (const name of packages) execFileSync('dpkg', ['-x', fileOf(found, name), `${path}.new`]);
  renameSync(`${path}.new`, path);
  return { path, packages };
}

function packageFiles(folder: string): Map<string, string> {
  const files = readdirSync(folder).filter((file) => file.endsWith('.deb'));
  return new Map(files.map((file) => [packageName(join(folder, file)), join(folder, file)]));
}

/** Runs `step` while no other process does with the same lock; a lock whose process is gone counts for nothing. */
function alone<T>(lock: string, step: () => T): T {
  for (;;) {
    try {
      writeFileSync(lock, String(process.pid), { flag: 'wx' });
      break;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      if (isStale(lock)) rmSync(lock, { force: true });
      else Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 200);
    }
  }
  try {
    return step();
  } finally {
    rmSync(lock, { force: true });
  }
}

function isStale(lock: string): boolean {
  try {
    const owner = Number(readFileSync(lock, 'utf8'));
    if (owner > 0) process.kill(owner, 0);
    return owner === 0 && Date.now() - statSync(lock).mtimeMs > 10_000;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH';
  }
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

/**
 * Where a suite comes from: where this machine's sources name it, else the archive of this machine's own Debian suite, so
 * that a mirror of the user's choice stays in use. Security suites have archives of their own: undefined when not named.
 */
function archiveAddress(suite: string): string | undefined {
  const own = /^VERSION_CODENAME="?([a-z]+)/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? '';
  const address = namedAddress(suite) ?? (suite.endsWith('-security') ? undefined : namedAddress(own));
  if (address !== undefined || suite.endsWith('-security')) return address;
  throw new Error(`the apt sources of this machine name no archive for the Debian suite "${own}"`);
}

function namedAddress(suite: string): string | undefined {
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
  return undefined;
}

function stanzaAddress(stanza: string, suite: string): string | undefined {
  const field = (name: string): string[] => new RegExp(`^${name}: *(.*)$`, 'm').exec(stanza)?.[1]?.split(/ +/) ?? [];
  return field('Suites').includes(suite) && field('Components').includes('main') ? field('URIs')[0] : undefined;
}

function apt(cache: string, program: 'apt-get' | 'apt-cache', ...args: readonly string[]): string {
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
  return execFileSync(program, ['-qq', ...options.flatMap((option) => ['-o', option]), ...args], {
    cwd: join(cache, 'archives'),
    maxBuffer: 2 ** 26,
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
