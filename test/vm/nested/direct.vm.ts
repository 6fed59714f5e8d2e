// A physical device passed through by `serve`, driven over its socket: one level of emulation.
import { describe } from 'vitest';
import { declareTests } from '../base/report.ts';
import { bootDirect } from './machine.ts';

const machine = await bootDirect();

describe('a device of the host behind serve', () => declareTests(machine, ['direct']));
