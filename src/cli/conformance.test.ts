import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { conformance, conformanceCommand } from './conformance.ts';
import { CliError } from './errors.ts';

const folder = mkdtempSync(join(tmpdir(), 'conformance-'));
afterAll(() => rmSync(folder, { recursive: true }));

function file(name: string, content: string): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

function vector(id: string, status: string, lenient = status): unknown {
  const request = { op: 'req', type: 'ATTACH', domain: 1, endpoint: 8, flags: 0 };
  return {
    id,
    request,
    title: `title of ${id}`,
    expect: { status: [status], status_if_only_MUSTs_enforced: [lenient] },
  };
}

const good = file('good.json', JSON.stringify([vector('a', 'OK'), vector('b', 'OK')]));
const mixed = file('mixed.json', `\uFEFF${JSON.stringify([vector('a', 'OK'), vector('c\u001b[1m', 'NOENT', 'OK')])}`);
const bad = file('bad.json', JSON.stringify([{ ...(vector('d', 'OK') as object), colour: 1 }]));

describe('conformance', () => {
  it('says that every case passes', () => {
    expect(conformance([good], {})).toEqual({ text: '2 of 2 cases pass, 0 fail\n', exitCode: 0 });
    expect(conformance([good], { verbose: true }).text).toMatch(/a .* pass .* OK .* title of a/);
  });

  it('prints exactly the counts and the failures as JSON', () => {
    expect(conformance([good, good], { json: true })).toEqual({
      text: '{"cases":4,"passed":4,"failed":[]}\n',
      exitCode: 0,
    });
    const { text, exitCode } = conformance([good, mixed], { json: true });
    expect(JSON.parse(text)).toEqual({
      cases: 4,
      passed: 3,
      failed: [{ id: 'c\u001b[1m', why: 'ATTACH gave OK, expected NOENT' }],
    });
    expect(exitCode).toBe(1);
  });

  it('lists failures, names those that meet the MUSTs, and prints no escape sequence of a file', () => {
    const { text, exitCode } = conformance([good, mixed], {});
    expect(exitCode).toBe(1);
    expect(text).toMatch(/mixed\.json .* ATTACH gave OK, expected NOENT/);
    expect(text).toMatch(/1 of the failing cases would pass if only the MUSTs were enforced: c\\u\{1b\}\[1m/);
    expect(text).toMatch(/3 of 4 cases pass, 1 fail\n$/);
    expect(text).not.toContain('\u001b');
  });

  it.each([
    ['no file', [], /needs at least one/],
    ['a file that is not there', [join(folder, 'none.json')], /none\.json: ENOENT/],
    ['a folder', [folder], /conformance-\w+: EISDIR/],
    ['a file that is no JSON', [file('cut.json', '[{"id":\n')], /cut\.json: /],
    ['a file that is not in the format', [good, bad], /bad\.json: d: colour: unknown key$/],
  ])('ends with status 2 for %s', (_, files, message) => {
    let error: unknown;
    try {
      conformance(files, {});
    } catch (caught) {
      error = caught;
    }
    expect(error).toBeInstanceOf(CliError);
    expect((error as CliError).exitCode).toBe(2);
    expect((error as CliError).message).toMatch(message);
    expect((error as CliError).message).not.toMatch(/\n/);
  });

  it.each([
    ['split', 'pci'],
    ['packed', 'none'],
    ['packed', 'mmio'],
  ] as const)('runs on %s rings through %s', (ring, transport) => {
    expect(conformance([good, mixed], { ring, transport }).text).toMatch(/3 of 4 cases pass, 1 fail\n$/);
  });

  it('takes ring formats and transports by name, split and none by default', () => {
    const command = conformanceCommand()
      .exitOverride()
      .configureOutput({ writeErr: () => undefined });
    expect(command.opts()).toEqual({ ring: 'split', transport: 'none' });
    expect(() => command.parse(['--ring', 'round'], { from: 'user' })).toThrow(/split, packed/);
    expect(() => command.parse(['--transport', 'ccw'], { from: 'user' })).toThrow(/none, pci, mmio/);
  });

  it('is a command with these options', () => {
    const command = conformanceCommand();
    expect(command.name()).toBe('conformance');
    expect(command.options.map((option) => option.long)).toEqual(['--json', '--verbose', '--ring', '--transport']);
  });
});
