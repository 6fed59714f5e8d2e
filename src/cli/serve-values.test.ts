import { describe, expect, it } from 'vitest';
import {
  parseDomainRange,
  parseLoopback,
  parsePciAddress,
  parseRange,
  parseReserved,
  parseU64,
} from './serve-values.ts';

describe('a PCI address', () => {
  it.each([
    ['3', 0x18, '3.0'],
    ['3.0', 0x18, '3.0'],
    ['03.7', 0x1f, '3.7'],
    ['1e.1', 0xf1, '1e.1'],
    ['00:10.0', 0x80, '10.0'],
    ['0000:00:1A.2', 0xd2, '1a.2'],
  ])('%s is %i', (text, bdf, shown) => {
    expect(parsePciAddress(text)).toMatchObject({ bdf, text: shown });
  });

  it.each(['', '20', '3.8', '01:00.0', '1:3.0', '3.', 'x', '3.0.0', '-1'])('%j is none', (text) => {
    expect(() => parsePciAddress(text)).toThrow(/must be a function of the root bus/);
  });

  it.each([
    ['0.0', /the host bridge/],
    ['1f.3', /ICH9/],
  ])('%s is taken', (text, message) => {
    expect(() => parsePciAddress(text)).toThrow(message);
  });
});

describe('numbers and ranges', () => {
  it('are decimal or 0x, up to 64 bits', () => {
    expect([parseU64('0'), parseU64('0xFFFFFFFFFFFFFFFF'), parseU64('18446744073709551615')]).toEqual([
      0n,
      2n ** 64n - 1n,
      2n ** 64n - 1n,
    ]);
    for (const text of ['', '-1', '0x', '1k', '0x10000000000000000', '18446744073709551616', '1.5', ' '])
      expect(() => parseU64(text)).toThrow(/64-bit number/);
  });

  it('have inclusive ends', () => {
    expect(parseRange('0x1000-0x1fff')).toEqual({ start: 0x1000n, end: 0x1fffn });
    expect(parseRange('5-5')).toEqual({ start: 5n, end: 5n });
    expect(() => parseRange('5-4')).toThrow(/must not end before it starts/);
    for (const text of ['5', '1-2-3', '', '-']) expect(() => parseRange(text)).toThrow(/must be/);
    expect(parseDomainRange('0-4294967295')).toEqual({ start: 0, end: 0xffff_ffff });
    expect(() => parseDomainRange('0-4294967296')).toThrow(/at most at 0xffffffff/);
  });

  it('may have a kind', () => {
    expect(parseReserved('1-2')).toEqual({ start: 1n, end: 2n, kind: 'reserved' });
    expect(parseReserved('1-2:msi')).toEqual({ start: 1n, end: 2n, kind: 'msi' });
    for (const text of ['1-2:direct', '1-2:', '1-2:msi:msi']) expect(() => parseReserved(text)).toThrow(/START-END:/);
  });
});

describe('a loopback port', () => {
  it.each([
    ['127.0.0.1:0', '127.0.0.1', 0],
    ['127.255.1.2:9464', '127.255.1.2', 9464],
    ['localhost:65535', '127.0.0.1', 65_535],
    ['[::1]:1', '::1', 1],
  ])('%s', (text, host, port) => {
    expect(parseLoopback(text)).toEqual({ host, port });
  });

  it.each([
    '0.0.0.0:1',
    '10.0.0.1:1',
    '[::]:1',
    '::1:1',
    'example.org:1',
    '127.0.0.1.evil:1',
    '127.1:1',
    '127.0.0.256:1',
  ])('%s could be reached by another machine, or is no address', (text) => {
    expect(() => parseLoopback(text)).toThrow(/must be a loopback address/);
  });

  it.each(['127.0.0.1', '127.0.0.1:65536', '127.0.0.1:', ':', ''])('%j has no port', (text) => {
    expect(() => parseLoopback(text)).toThrow(/must be HOST:PORT/);
  });
});
