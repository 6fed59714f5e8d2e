// How long the table readers take for a full-size DMAR: 64 KiB, every structure an RMRR with several scopes.
// Prints the median, the 95th percentile and the limit; exit status 1 above the limit. Run: tsx bench/firmware-decode.ts
import { performance } from 'node:perf_hooks';
import { parseDmar } from '../src/firmware/dmar.ts';
import { dmar, rmrr, scope } from '../test/firmware/acpi-builder.ts';

const LIMIT_MS = 5;
const WARM_UP = 50;
const RUNS = 300;
const TABLE_BYTES = 1 << 16;

/** RMRRs of four scopes each, apart from each other, so that nothing is odd and nothing is cut short by a warning limit. */
function table(): Uint8Array {
  const scopes = [0, 1, 2, 3].map((fn) =>
    scope(1, 0, [
      [0x1c, 0],
      [0, fn],
    ]),
  );
  const size = rmrr(0n, 0n, scopes).length;
  const count = Math.floor((TABLE_BYTES - 48) / size);
  const base = (i: number): bigint => 0x1000_0000n + BigInt(i) * 0x2000n;
  return dmar(Array.from({ length: count }, (_, i) => rmrr(base(i), base(i) + 0xfffn, scopes)));
}

/** The same size, every structure odd: base and limit 0, so that every check has something to say. */
function oddTable(): Uint8Array {
  const one = rmrr(0n, 0n, [scope(1, 0, [[0x1d, 0]])]);
  return dmar(Array.from({ length: Math.floor((TABLE_BYTES - 48) / one.length) }, () => one));
}

function measure(name: string, bytes: Uint8Array): boolean {
  const times: number[] = [];
  for (let i = 0; i < WARM_UP + RUNS; i++) {
    const start = performance.now();
    const { regions } = parseDmar(bytes);
    const time = performance.now() - start;
    if (regions.length === 0) throw new Error('nothing was decoded');
    if (i >= WARM_UP) times.push(time);
  }
  times.sort((a, b) => a - b);
  const at = (share: number): number => times[Math.floor(share * (times.length - 1))] ?? 0;
  const { regions, warnings } = parseDmar(bytes);
  console.log(
    `${name}: DMAR of ${bytes.length} bytes, ${regions.length} RMRRs, ${warnings.length} warnings: ` +
      `median ${at(0.5).toFixed(2)} ms, p95 ${at(0.95).toFixed(2)} ms, limit ${LIMIT_MS} ms`,
  );
  return at(0.5) <= LIMIT_MS;
}

const good = [measure('clean', table()), measure('odd', oddTable())];
process.exitCode = good.every(Boolean) ? 0 : 1;
