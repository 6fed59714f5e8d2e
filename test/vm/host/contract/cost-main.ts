// The program of the bench in the machine: measures, and writes all of it in one line.
import { Reporter } from '../../base/reporter.ts';
import { prepareEnv } from '../guest-env.ts';
import { measureCosts } from './cost.ts';

const report = new Reporter();
report.note(`costs ${JSON.stringify(await measureCosts(prepareEnv()))}`);
