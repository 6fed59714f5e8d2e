// Steps and cases of the iommufd contract in short, for the lists of them. Bytes as bigint; sizes, not ends.
import type { Expected, IommufdCase, IommufdStep } from './iommufd-case.ts';
import { IoasFlag } from './iommufd-rules.ts';

/** Rights of a map at a fixed address. */
export const READ = IoasFlag.fixed | IoasFlag.readable;
export const READ_WRITE = READ | IoasFlag.writeable;

type MapStep = Extract<IommufdStep, { call: 'map' }>;

export function map(iova: bigint, length: bigint, errno: Expected = 0, more: Partial<MapStep> = {}): IommufdStep {
  return { call: 'map', ioas: 'device', iova, length, flags: READ_WRITE, buffer: 'ram', offset: 0n, errno, ...more };
}

export function keep(iova: bigint, length: bigint, more: Partial<MapStep> = {}): IommufdStep {
  return map(iova, length, 0, { ioas: 'vault', ...more });
}

export function unmap(iova: bigint, length: bigint, errno: number, done = length, partial = false): IommufdStep {
  return { call: 'unmap', iova, length, errno, done: errno === 0 ? done : length, partial };
}

export function unmapDma(iova: bigint, size: bigint, errno: number, done: bigint, more: object = {}): IommufdStep {
  return { call: 'unmapDma', iova, size, errno, done, ...more };
}

export function copy(sourceIova: bigint, iova: bigint, length: bigint, errno = 0, flags = READ_WRITE): IommufdStep {
  return { call: 'copy', sourceIova, iova, length, flags, errno };
}

export function attach(errno = 0): IommufdStep {
  return { call: 'attach', errno };
}

export const detach: IommufdStep = { call: 'detach', errno: 0 };

export function one(title: string, areas: number, ...steps: IommufdStep[]): IommufdCase {
  return { title, areas, steps };
}

export function cut(title: string, areas: number, ...steps: IommufdStep[]): IommufdCase {
  return { title, areas, steps, mode: 'cut' };
}

export function limited(testCase: IommufdCase): IommufdCase {
  return { ...testCase, limited: true };
}

export function lazy(title: string, areas: number, ...steps: IommufdStep[]): IommufdCase {
  return { title, areas, steps, attached: false, locked: 0 };
}
