// What the room rules look at in one source file: its imports, the globals that it uses, whether it is composition only.
import { posix } from 'node:path';
import ts from 'typescript';

/** One import or re-export. */
export interface Import {
  /** Path from the project's root for a relative import, the specifier as written otherwise. */
  readonly target: string;
  readonly relative: boolean;
  /** Erased by the compiler. */
  readonly typeOnly: boolean;
}

/** Facts about one file. */
export interface SourceFacts {
  readonly file: string;
  readonly lines: number;
  readonly imports: readonly Import[];
  /** Free identifiers among `globals` that the file uses. */
  readonly globals: readonly string[];
  /** False when a statement is neither an import nor a re-export. */
  readonly compositionOnly: boolean;
}

/** Reads the facts of `text`; `globals` are the names to look for. */
export function readSource(file: string, text: string, globals: readonly string[]): SourceFacts {
  const source = ts.createSourceFile(file, text, ts.ScriptTarget.ES2023, true);
  const imports: Import[] = [];
  const used = new Set<string>();
  const declared = new Set<string>();
  const visit = (node: ts.Node): void => {
    const found = importOf(node);
    if (found !== undefined) imports.push(resolved(file, ...found));
    if (isDeclaredName(node)) declared.add(node.text);
    else if (ts.isIdentifier(node) && globals.includes(node.text) && !isMemberName(node)) used.add(node.text);
    ts.forEachChild(node, visit);
  };
  visit(source);
  return {
    file,
    lines: text.replace(/\n$/, '').split('\n').length,
    imports,
    globals: [...used].filter((name) => !declared.has(name)),
    compositionOnly: source.statements.every(
      (statement) => ts.isImportDeclaration(statement) || ts.isExportDeclaration(statement),
    ),
  };
}

/** Specifier of an import, and whether it is erased; undefined when the node imports nothing. */
function importOf(node: ts.Node): [string, boolean] | undefined {
  if (ts.isImportDeclaration(node)) {
    return [textOf(node.moduleSpecifier), node.importClause?.phaseModifier === ts.SyntaxKind.TypeKeyword];
  }
  if (ts.isExportDeclaration(node) && node.moduleSpecifier !== undefined) {
    return [textOf(node.moduleSpecifier), node.isTypeOnly];
  }
  if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)) return [textOf(node.argument.literal), true];
  if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
    return [node.arguments[0] === undefined ? '' : textOf(node.arguments[0]), false];
  }
  return undefined;
}

function textOf(node: ts.Node): string {
  return ts.isStringLiteralLike(node) ? node.text : '(computed)';
}

function resolved(file: string, specifier: string, typeOnly: boolean): Import {
  const relative = specifier.startsWith('.');
  const target = relative ? posix.join(posix.dirname(file), specifier) : specifier;
  return { target, relative, typeOnly };
}

function isDeclaredName(node: ts.Node): node is ts.Identifier {
  if (!ts.isIdentifier(node)) return false;
  const { parent } = node;
  return (
    (ts.isVariableDeclaration(parent) || ts.isParameter(parent) || ts.isFunctionDeclaration(parent)) &&
    parent.name === node
  );
}

/** `a.process`, `{ process: 1 }`, a method or a field: names that are no reference to a global. */
function isMemberName(node: ts.Identifier): boolean {
  const { parent } = node;
  return (
    (ts.isPropertyAccessExpression(parent) && parent.name === node) ||
    ((ts.isPropertyAssignment(parent) || ts.isClassElement(parent) || ts.isTypeElement(parent)) && parent.name === node)
  );
}
