// Random calls of two groups on the real iommufd and on the simulated one side by side: errno, sizes, areas and pinned pages must
// agree after each. Runs in the machine. Unit: 4 KiB pages; unmaps are now and then some bytes off.
import assert from 'node:assert/strict';
import { GuestRam } from '../../../src/host/guest-ram.ts';
import { IommufdContext } from '../../../src/host/iommufd.ts';
import type { IommufdIoas, IommufdMode } from '../../../src/host/iommufd.ts';
import { SimulatedHost } from '../../../src/host/simulated/host.ts';
import type { SimulatedIommufdContext } from '../../../src/host/simulated/iommufd-context.ts';
import type { IoctlResult } from '../../../src/host/simulated/type1-rules.ts';
import { Random } from '../../../src/testing/random.ts';
import type { Reporter } from '../base/reporter.ts';
import type { GuestEnv } from '../host/guest-env.ts';
import { bindToVfio, groupOf } from '../host/guest-env.ts';
import { PEER } from './peer.ts';
import { pinnedPages } from './process.ts';

const K4 = 4096n;
const RAM_PAGES = 64;
const SEQUENCES = 30;
const STEPS = 60;
/** I/O pages that calls touch, and pages of one call. */
const SPAN = 40;
const LONGEST = 12;

export async function run(report: Reporter, env: GuestEnv): Promise<void> {
  for (const mode of ['large', 'cut'] as const) {
    await report.check(`${mode}: ${SEQUENCES} sequences of ${STEPS} calls as in the simulation`, () => {
      for (let seed = 1; seed <= SEQUENCES; seed++) new Pair(env, mode, seed).run();
    });
  }
}

/** One call and what both say of it. */
interface Outcome {
  readonly text: string;
  readonly real: IoctlResult | number;
  readonly simulated: IoctlResult | number;
}

/** One group on both implementations. */
interface Side {
  readonly name: string;
  readonly real: IommufdContext;
  readonly simulated: SimulatedIommufdContext;
}

/** Both implementations, with two groups and a "vault" each. */
class Pair {
  readonly #random: Random;
  readonly #label: string;
  readonly #host = new SimulatedHost({ kernel: '6.12' });
  readonly #sides: readonly [Side, Side];
  readonly #simulatedVault: SimulatedIommufdContext;
  readonly #simulatedVa: bigint;
  readonly #vault: IommufdIoas;
  readonly #ram = GuestRam.create({ size: BigInt(RAM_PAGES) * K4 });
  readonly #pinned: number;

  constructor(env: GuestEnv, mode: IommufdMode, seed: number) {
    this.#random = new Random(seed);
    this.#label = `seed ${seed}`;
    const side = (name: string, id: number, group: number): Side => {
      const simulated = this.#host.createContext({ group: id, endpoints: [id], flavour: 'iommufd', mode });
      return { name, real: IommufdContext.open({ group, mode }), simulated };
    };
    bindToVfio(PEER);
    this.#sides = [side('first', 1, env.edu.group), side('second', 2, groupOf(PEER))];
    this.#simulatedVault = this.#host.createContext({ group: 3, endpoints: [3], flavour: 'iommufd', attached: false });
    this.#simulatedVa = this.#host.addressSpace.mmap({ length: this.#ram.size, kind: 'memfd' }).hva;
    this.#vault = this.#sides[0].real.allocate();
    this.#pinned = pinnedPages();
  }

  run(): void {
    try {
      for (let step = 0; step < STEPS; step++) {
        const { text, real, simulated } = this.#step();
        const where = `${this.#label}, step ${step}: ${text}`;
        assert.deepEqual(real, simulated, where);
        for (const each of this.#sides) {
          assert.deepEqual(areasOf(each.real.ioas), entriesOf(each.simulated), `${where}: ${each.name}`);
          assert.equal(each.real.attached, each.simulated.attached, `${where}: ${each.name}`);
        }
        assert.deepEqual(areasOf(this.#vault), entriesOf(this.#simulatedVault), where);
        assert.equal(pinnedPages() - this.#pinned, this.#host.lockedPages, where);
      }
    } finally {
      for (const { real } of this.#sides) real.close();
      this.#ram.close();
    }
  }

  #step(): Outcome {
    const side = this.#sides[this.#random.below(2)]!;
    const outcome = this.#call(side, this.#random.below(15));
    return { ...outcome, text: `${side.name}: ${outcome.text}` };
  }

  #call(side: Side, kind: number): Outcome {
    const iova = BigInt(this.#random.below(SPAN)) * K4;
    const length = BigInt(1 + this.#random.below(LONGEST)) * K4;
    if (kind < 4) return this.#map(side, iova, length, kind === 0);
    if (kind < 7) return this.#unmap(side, iova, length, false);
    if (kind < 9) return this.#unmap(side, iova, length, true);
    if (kind < 11) return this.#copy(side, iova, length);
    if (kind < 14) return this.#move(side, kind === 11);
    const { real, simulated } = side;
    if (this.#random.below(2) === 0) return { text: 'attach', real: real.attach(), simulated: simulated.attach() };
    real.detach();
    simulated.detach();
    return { text: 'detach', real: 0, simulated: 0 };
  }

  #move({ real, simulated }: Side, alone: boolean): Outcome {
    if (alone) return { text: 'attachAlone', real: real.attachAlone(), simulated: simulated.attachAlone() };
    const other = this.#sides[real === this.#sides[0].real ? 1 : 0];
    return {
      text: `attachTo ${other.name}`,
      real: real.attachTo(other.real),
      simulated: simulated.attachTo(other.simulated),
    };
  }

  /** IOMMU_IOAS_MAP_FIXED_IOVA with one or both rights. */
  #flags(): number {
    return 1 | (2 * (1 + this.#random.below(3)));
  }

  #map(side: Side, iova: bigint, length: bigint, vault: boolean): Outcome {
    const offset = BigInt(this.#random.below(RAM_PAGES - LONGEST)) * K4;
    const args = { flags: this.#flags(), iova, length };
    const real = vault ? this.#vault : side.real.ioas;
    const simulated = vault ? this.#simulatedVault : side.simulated;
    return {
      text: `map ${vault ? 'into the vault ' : ''}${shown(args)}`,
      real: real.map({ ...args, userVa: this.#ram.hva + offset }),
      simulated: simulated.ioasMap({ ...args, userVa: this.#simulatedVa + offset }),
    };
  }

  #unmap({ real, simulated }: Side, iova: bigint, length: bigint, legacy: boolean): Outcome {
    const [low, high] = [this.#bytesOff(), this.#bytesOff()];
    const from = iova + low < 0n ? 0n : iova + low;
    const bytes = length + high;
    const text = `${legacy ? 'unmapDma' : 'unmap'} ${shown({ from, bytes })}`;
    if (legacy) {
      const args = { iova: from, size: bytes };
      return { text, real: real.unmapDma(args), simulated: simulated.unmapDma(args) };
    }
    const args = { iova: from, length: bytes };
    return { text, real: real.ioas.unmap(args), simulated: simulated.ioasUnmap(args) };
  }

  #copy({ real, simulated }: Side, iova: bigint, length: bigint): Outcome {
    const args = { flags: this.#flags(), sourceIova: BigInt(this.#random.below(SPAN)) * K4, iova, length };
    return {
      text: `copy ${shown(args)}`,
      real: real.ioas.copy({ source: this.#vault, ...args }),
      simulated: simulated.ioasCopy({ source: this.#simulatedVault, ...args }),
    };
  }

  #bytesOff(): bigint {
    return [0n, 0n, 0n, 0n, 0n, 1n, -1n, 7n][this.#random.below(8)]!;
  }
}

function areasOf(ioas: IommufdIoas): string[] {
  return ioas.areas().map(({ start, end }) => shown({ start, end }));
}

function entriesOf(context: SimulatedIommufdContext): string[] {
  return context.entries().map(({ iova, pages }) => {
    const start = BigInt(iova) * K4;
    return shown({ start, end: start + BigInt(pages) * K4 - 1n });
  });
}

function shown(values: Readonly<Record<string, bigint | number>>): string {
  return Object.entries(values)
    .map(([name, value]) => `${name} 0x${value.toString(16)}`)
    .join(' ');
}
