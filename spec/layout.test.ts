// The golden layouts are consistent in themselves: packed without holes, and of the size they claim.
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

interface Layout {
  readonly struct: string;
  readonly size: number;
  readonly fields: readonly {
    readonly name: string;
    readonly offset: number;
    readonly size: number;
    readonly type: string;
  }[];
}

const folder = join(import.meta.dirname, 'layout');
const names = readdirSync(folder).filter((name) => name !== 'constants.json');
const WIDTH: Readonly<Record<string, number>> = { u8: 1, le16: 2, le32: 4, le64: 8, head: 4, property: 4 };

describe('golden layouts', () => {
  it('exist for every struct', () => {
    const wanted = 'attach config detach fault head map probe property resv-mem tail unmap'.split(' ');
    expect(names.map((name) => name.replace('.json', '')).sort()).toEqual(wanted);
  });

  it.each(names)('%s has no hole, no overlap and the size it says', (name) => {
    const layout = JSON.parse(readFileSync(join(folder, name), 'utf8')) as Layout;
    let at = 0;
    for (const field of layout.fields) {
      expect(field.offset, `${layout.struct}.${field.name}`).toBe(at);
      const [, type, count] = /^(\w+?)(?:\[(\d+)\])?$/.exec(field.type) ?? [];
      expect(field.size, `${layout.struct}.${field.name}`).toBe(WIDTH[type ?? '']! * Number(count ?? 1));
      at += field.size;
    }
    expect(layout.size).toBe(at);
  });
});
