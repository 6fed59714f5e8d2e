// Loads modules of src/ in a realm that has the ECMAScript globals and nothing of Node: no process, no Buffer, no require,
// and a linker that refuses every import that is not a relative path. Runs in a child process (test/browser-safe.test.ts):
//   node --experimental-vm-modules child.mjs < request.json > answer.json
// Request: [{ entries: [path...], call?: [path, exported function], overlay?: { path: source } }], paths from the root.
// Answer: [{ ok: true, value } | { ok: false, error }].
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join, posix } from 'node:path';
import { fileURLToPath } from 'node:url';
import vm from 'node:vm';
import ts from 'typescript';

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
/** What a browser has and ECMAScript has not; the core may use these. */
const BROWSER_GLOBALS = { TextDecoder, TextEncoder };
const COMPILER_OPTIONS = {
  target: ts.ScriptTarget.ES2023,
  module: ts.ModuleKind.ES2022,
  verbatimModuleSyntax: true,
};
const compiled = new Map();

function compile(path, text) {
  return ts.transpileModule(text, { fileName: path, compilerOptions: COMPILER_OPTIONS }).outputText;
}

function sourceOf(path, overlay) {
  if (overlay[path] !== undefined) return compile(path, overlay[path]);
  if (!compiled.has(path)) compiled.set(path, compile(path, readFileSync(join(ROOT, path), 'utf8')));
  return compiled.get(path);
}

async function run({ entries, call, overlay = {} }) {
  const context = vm.createContext({ ...BROWSER_GLOBALS });
  vm.runInContext('delete globalThis.console', context); // V8 puts one into every realm
  const modules = new Map();
  const load = (path) => {
    if (!modules.has(path)) {
      modules.set(path, new vm.SourceTextModule(sourceOf(path, overlay), { context, identifier: path }));
    }
    return modules.get(path);
  };
  const link = (specifier, from) => {
    if (!specifier.startsWith('.')) throw new Error(`${from.identifier} imports ${specifier}, which is blocked`);
    return load(posix.join(posix.dirname(from.identifier), specifier));
  };
  for (const entry of [...entries, ...(call === undefined ? [] : [call[0]])]) {
    const module = load(entry);
    if (module.status === 'unlinked') await module.link(link);
    await module.evaluate();
  }
  return call === undefined ? modules.size : load(call[0]).namespace[call[1]]();
}

const answers = [];
for (const request of JSON.parse(readFileSync(0, 'utf8'))) {
  try {
    answers.push({ ok: true, value: await run(request) });
  } catch (error) {
    answers.push({ ok: false, error: String(error?.message ?? error) });
  }
}
writeFileSync(1, JSON.stringify(answers));
