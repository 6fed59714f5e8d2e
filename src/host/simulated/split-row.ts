// Cuts a row of an interval table in two; its value may count along with its keys. Ends exclusive.
import type { IntervalTable } from '../../intervals/table.ts';
import { NONE } from '../../intervals/table.ts';

/** Cuts the row that holds `key` inside, so that a row starts at `key`. `counts` false: both parts keep the value. */
export function splitRow(rows: IntervalTable, key: number, counts = true): void {
  const slot = rows.find(key);
  if (slot === NONE) return;
  const start = rows.startAt(slot);
  if (start === key) return;
  const [end, value, flags] = [rows.endAt(slot), rows.valueAt(slot), rows.flagsAt(slot)];
  rows.remove(start);
  rows.insert(start, key, value, flags);
  rows.insert(key, end, counts ? value + key - start : value, flags);
}
