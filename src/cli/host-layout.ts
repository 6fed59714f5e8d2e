// Plain text within a number of columns: wrapped lines and aligned columns. What comes from a host may hold any byte: only
// printable ASCII leaves here.

/** Text with every byte that a terminal could take for more than a character made a `?`. */
export function plain(text: string): string {
  return text.replace(/[^ -~]/g, '?');
}

/** Breaks text at blanks so that no line is longer than `columns` where a blank allows it; further lines start with `indent` blanks. */
export function wrapped(head: string, text: string, columns: number, indent: number): string[] {
  const lines: string[] = [];
  let line = head;
  let empty = true;
  for (const word of plain(text).split(/ +/)) {
    if (!empty && line.length + 1 + word.length > columns) {
      lines.push(line.trimEnd());
      line = ' '.repeat(indent);
      empty = true;
    }
    line += empty ? word : ` ${word}`;
    empty = false;
  }
  return [...lines, line.trimEnd()];
}

/** One column. */
export interface Column {
  readonly head: string;
  /** `true`: cut to what is left of the line. */
  readonly gives?: boolean;
  readonly right?: boolean;
}

const GAP = '  ';
const LEAST = 8;

/** Aligned columns; those that give share what the others leave of `columns`, and cells too long for them end in `~`. */
export function aligned(columns: readonly Column[], rows: readonly (readonly string[])[], width: number): string[] {
  const cells = [columns.map(({ head }) => head), ...rows].map((row) => row.map(plain));
  const widths = columns.map((_, i) => cells.reduce((most, row) => Math.max(most, row[i]!.length), 0));
  const gap = GAP.length * (columns.length - 1);
  for (;;) {
    const over = widths.reduce((sum, each) => sum + each, gap) - width;
    if (over <= 0) break;
    let widest = -1;
    for (const [i, column] of columns.entries()) {
      if (column.gives === true && widths[i]! > LEAST && (widest < 0 || widths[i]! > widths[widest]!)) widest = i;
    }
    if (widest < 0) break;
    widths[widest] = widths[widest]! - 1;
  }
  return cells.map((row) =>
    row
      .map((cell, i) => {
        const room = widths[i]!;
        const cut = cell.length > room ? `${cell.slice(0, room - 1)}~` : cell;
        return columns[i]!.right === true ? cut.padStart(room) : cut.padEnd(room);
      })
      .join(GAP)
      .trimEnd(),
  );
}
