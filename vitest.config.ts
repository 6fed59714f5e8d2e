import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['src/**/*.test.ts', 'test/**/*.test.ts', 'spec/**/*.test.ts'],
    exclude: ['test/vm/**', 'test/slow/**', 'node_modules/**', 'dist/**'],
    pool: 'threads',
    // vitest leaves one core free by default: on two cores that doubles the time.
    maxWorkers: '100%',
    testTimeout: 30_000,
  },
});
