import { defineConfig } from 'vitest/config';

/** Tests that boot real kernels in virtual machines; `npm run test:vm:host` and `npm run test:vm:guest` choose a folder. */
export default defineConfig({
  test: {
    root: new URL('../..', import.meta.url).pathname,
    include: ['test/vm/**/*.vm.ts'],
    pool: 'threads',
    testTimeout: 600_000,
    hookTimeout: 900_000,
    // A machine retries itself when the emulator says that its guest crashed, and only then.
    retry: 0,
  },
});
