import { defineConfig } from "vitest/config";

// What is tested is what is installed: the tests import the package by its name, as it was built into dist.
export default defineConfig({
  test: {
    include: ["tests/**/*.test.ts"],
    globalSetup: "tests/setup.ts",
    testTimeout: 120_000,
    hookTimeout: 120_000,
    fileParallelism: false,
  },
});
