// `npx virtio-iommu conformance FILE...`: runs vector files against the device and says what was seen.
// Exit status: 0 when every case passes, 1 when one does not, 2 when a file or the usage is not in order (then nothing ran).
import { readFileSync, statSync } from 'node:fs';
import Table from 'cli-table3';
import { Command, Option } from 'commander';
import type { RingKind, RunOptions, TransportKind } from '../testing/conformance/rig-transport.ts';
import { RING_KINDS, TRANSPORT_KINDS } from '../testing/conformance/rig-transport.ts';
import type { CaseResult } from '../testing/conformance/run-case.ts';
import { runCase } from '../testing/conformance/run-case.ts';
import { VectorFileError, readVectorFile } from '../testing/conformance/vector-file.ts';
import type { VectorCase } from '../testing/conformance/vector-types.ts';
import { CliError } from './errors.ts';

/** Largest vector file in bytes. */
const MAX_FILE_BYTES = 64 * 1024 * 1024;

const EXAMPLES = `
Examples:
  $ virtio-iommu conformance vectors/*.json
  $ virtio-iommu conformance vectors.json --json
  $ virtio-iommu conformance vectors/*.json --ring packed --transport pci

Exit status: 0 every case passes, 1 one does not, 2 usage or a file that is not in the format (no case runs then).`;

/** Options of the command. */
export interface ConformanceOptions {
  readonly json?: boolean;
  readonly verbose?: boolean;
  /** Default 'split'. */
  readonly ring?: RingKind;
  /** Default 'none'. */
  readonly transport?: TransportKind;
}

interface FileResult extends CaseResult {
  readonly file: string;
}

/** The command, to be added to the program. */
export function conformanceCommand(): Command {
  return new Command('conformance')
    .description('run conformance vectors against the device, through a virtqueue in guest memory')
    .argument('[files...]', 'vector files (JSON)')
    .option('--json', 'print {"cases", "passed", "failed": [{"id", "why"}]} and nothing else')
    .option('--verbose', 'list the cases that pass, too')
    .addOption(new Option('--ring <format>', 'ring format of the virtqueues').choices(RING_KINDS).default('split'))
    .addOption(
      new Option('--transport <name>', 'drive the device through registers of this transport')
        .choices(TRANSPORT_KINDS)
        .default('none'),
    )
    .addHelpText('after', EXAMPLES)
    .action((files: string[], options: ConformanceOptions) => {
      const { text, exitCode } = conformance(files, options);
      process.stdout.write(text);
      process.exitCode = exitCode;
    });
}

/**
 * Runs vector files; what is to be printed, and the exit status 0 or 1.
 * @throws CliError with exit status 2 when there is no file, or one is not in the format; no case has run then.
 */
export function conformance(
  files: readonly string[],
  options: ConformanceOptions,
): { readonly text: string; readonly exitCode: number } {
  if (files.length === 0) throw new CliError('conformance needs at least one vector file', 2);
  const loaded = files.map((file) => ({ file, cases: load(file) }));
  const run: RunOptions = { ring: options.ring ?? 'split', transport: options.transport ?? 'none' };
  const results = loaded.flatMap(({ file, cases }) =>
    cases.map((each): FileResult => ({ file, ...runCase(each, run) })),
  );
  const failed = results.filter((result) => !result.passed);
  return {
    text: options.json === true ? toJson(results, failed) : toText(results, failed, options.verbose === true),
    exitCode: failed.length === 0 ? 0 : 1,
  };
}

function load(file: string): VectorCase[] {
  const parsed = parse(file);
  try {
    return readVectorFile(file, parsed);
  } catch (error) {
    if (error instanceof VectorFileError) throw new CliError(printable(error.message), 2);
    throw error;
  }
}

function parse(file: string): unknown {
  try {
    const { size } = statSync(file);
    if (size > MAX_FILE_BYTES) throw new RangeError(`has ${size} bytes, at most ${MAX_FILE_BYTES} are allowed`);
    return JSON.parse(readFileSync(file, 'utf8').replace(/^\uFEFF/, ''));
  } catch (error) {
    throw new CliError(printable(`${file}: ${error instanceof Error ? error.message : String(error)}`), 2);
  }
}

function toJson(results: readonly FileResult[], failed: readonly FileResult[]): string {
  const report = {
    cases: results.length,
    passed: results.length - failed.length,
    failed: failed.map(({ id, why }) => ({ id, why })),
  };
  return `${JSON.stringify(report)}\n`;
}

function toText(results: readonly FileResult[], failed: readonly FileResult[], verbose: boolean): string {
  const several = new Set(results.map(({ file }) => file)).size > 1;
  const shown = verbose ? results : failed;
  const lenient = failed.filter((result) => result.lenient);
  const lines: string[] = [];
  if (shown.length > 0) lines.push(tableOf(shown, several, verbose), '');
  if (lenient.length > 0) {
    const names = lenient.map(({ id }) => printable(id)).join(', ');
    lines.push(`${lenient.length} of the failing cases would pass if only the MUSTs were enforced: ${names}`);
  }
  lines.push(`${results.length - failed.length} of ${results.length} cases pass, ${failed.length} fail`);
  return `${lines.join('\n')}\n`;
}

function tableOf(shown: readonly FileResult[], several: boolean, verbose: boolean): string {
  const table = new Table({
    head: [...(several ? ['file'] : []), 'case', 'level', ...(verbose ? ['result'] : []), 'seen', 'title'],
    style: { head: [], border: [], compact: true },
    colWidths: [...(several ? [null] : []), null, null, ...(verbose ? [null] : []), 60, 50],
    wordWrap: true,
  });
  for (const { file, id, level, passed, why, title } of shown) {
    const result = verbose ? [passed ? 'pass' : 'FAIL'] : [];
    table.push([...(several ? [file] : []), id, level, ...result, why, title].map(printable));
  }
  return table.toString();
}

/** Text of a file on one line of a terminal: no control or direction characters. */
function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, (char) => `\\u{${char.codePointAt(0)!.toString(16)}}`);
}
