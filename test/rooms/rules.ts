// The rules of the rooms, each as a function from facts to a list of violations in words; an empty list is well.
import { isBuiltin } from 'node:module';
import type { Import, SourceFacts } from './source-file.ts';
import { ENTRY_ROOMS, MAX_LINES, roomOf } from './table.ts';

/** Imports that the table of rooms does not allow, and files that are in no room. */
export function wrongImports(files: readonly SourceFacts[]): string[] {
  const known = new Set(files.map((each) => each.file));
  return files.flatMap((facts) => {
    const room = roomOf(facts.file);
    if (room === undefined) return [`${facts.file} is in no room`];
    return facts.imports.flatMap((each) => {
      if (each.relative) return wrongRelative(facts.file, each.target, known);
      if (isBuiltin(each.target)) {
        return room.node?.test(facts.file) === true ? [] : [`${facts.file} (${room.name}) imports ${each.target}`];
      }
      const allowed = room.packages?.includes(each.target) === true;
      return allowed ? [] : [`${facts.file} (${room.name}) imports the package ${each.target}`];
    });
  });
}

function wrongRelative(file: string, target: string, known: ReadonlySet<string>): string[] {
  if (!known.has(target)) return [`${file} imports ${target}, which is not a source file`];
  const from = roomOf(file)!;
  const to = roomOf(target);
  if (to === undefined || from === to || from.mayImport.includes(to.name) || from.mayImport.includes(target)) return [];
  return [`${file} (${from.name}) imports ${target} (${to.name})`];
}

/** Core rooms that reach a room which needs Node, directly or not; follows what the compiler does not erase. */
export function nodeBehindCore(files: readonly SourceFacts[]): string[] {
  const byName = new Map(files.map((each) => [each.file, each]));
  const wrong: string[] = [];
  for (const { file } of files.filter((each) => roomOf(each.file)?.core === true)) {
    const path = pathTo(byName, file, (facts) => facts.imports.some((each) => isBuiltin(each.target)));
    if (path !== undefined) wrong.push(path.join(' -> '));
  }
  return wrong;
}

function pathTo(
  files: ReadonlyMap<string, SourceFacts>,
  from: string,
  found: (facts: SourceFacts) => boolean,
): string[] | undefined {
  const queue: string[][] = [[from]];
  const seen = new Set([from]);
  for (const path of queue) {
    const facts = files.get(path.at(-1)!);
    if (facts === undefined) continue;
    if (found(facts)) return path;
    for (const { target } of facts.imports.filter(isKept)) {
      if (seen.has(target)) continue;
      seen.add(target);
      queue.push([...path, target]);
    }
  }
  return undefined;
}

/** Globals that core rooms must not use. */
export function wrongGlobals(files: readonly SourceFacts[]): string[] {
  const core = files.filter((each) => roomOf(each.file)?.core === true);
  return core.flatMap(({ file, globals }) => globals.map((name) => `${file} uses ${name}`));
}

/** Files that are too long. */
export function tooLong(files: readonly SourceFacts[]): string[] {
  return files.filter(({ lines }) => lines > MAX_LINES).map(({ file, lines }) => `${file} has ${lines} lines`);
}

/** Entry files that hold more than imports and re-exports. */
export function logicInEntries(files: readonly SourceFacts[]): string[] {
  const entries = files.filter(({ file }) => ENTRY_ROOMS.includes(roomOf(file)?.name ?? ''));
  return entries.filter(({ compositionOnly }) => !compositionOnly).map(({ file }) => `${file} holds logic`);
}

/**
 * Import cycles: none at run time, and none through types either, except among files of one room, where a class and
 * its parts may name each other's types.
 */
export function cycles(files: readonly SourceFacts[]): string[] {
  const runTime = components(files, isKept).map((members) => `at run time: ${members.join(', ')}`);
  const typed = components(files, () => true)
    .filter((members) => new Set(members.map((file) => roomOf(file))).size > 1)
    .map((members) => `through types, between rooms: ${members.join(', ')}`);
  return [...runTime, ...typed];
}

function isKept(each: Import): boolean {
  return each.relative && !each.typeOnly;
}

/** Strongly connected groups of two or more files (Tarjan's algorithm), and files that import themselves. */
function components(files: readonly SourceFacts[], counts: (each: Import) => boolean): string[][] {
  const targets = new Map(
    files.map(({ file, imports }) => [file, imports.filter(counts).map((each) => each.target)] as const),
  );
  const order = new Map<string, number>();
  const low = new Map<string, number>();
  const stack: string[] = [];
  const found: string[][] = [];
  const visit = (file: string): void => {
    order.set(file, order.size);
    low.set(file, order.get(file)!);
    stack.push(file);
    for (const target of targets.get(file) ?? []) {
      if (!order.has(target)) visit(target);
      if (stack.includes(target)) low.set(file, Math.min(low.get(file)!, low.get(target)!));
    }
    if (low.get(file) !== order.get(file)) return;
    const members = stack.splice(stack.indexOf(file)).sort();
    if (members.length > 1 || targets.get(file)?.includes(file) === true) found.push(members);
  };
  for (const { file } of files) if (!order.has(file)) visit(file);
  return found;
}
