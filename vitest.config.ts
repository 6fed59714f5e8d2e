import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['src/**/*.test.ts', 'test/**/*.test.ts', 'spec/**/*.test.ts'],
    exclude: ['test/vm/**', 'test/slow/**', 'node_modules/**', 'dist/**'],
    pool: 'threads',
    testTimeout: 30_000,
  },
});
