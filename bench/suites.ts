// All suites, in the order in which they run and are reported. A later benchmark adds its suite here.
import type { Suite } from './suite.ts';
import { memorySuite } from './suite-memory.ts';
import { ringSuites } from './suite-ring.ts';
import { tableSuite } from './suite-table.ts';
import { translateSuite } from './suite-translate.ts';

export const suites: readonly Suite[] = [...ringSuites, tableSuite, translateSuite, memorySuite];
