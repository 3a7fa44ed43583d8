/** Read as it is by runtimes that read TypeScript. */

import { defineHandler } from "@tasker-systems/tasker";

export const greet = defineHandler("typed.greet", { inputs: { name: "name" } }, async ({ name, context }) => {
  if (!context.isRetry()) {
    Promise.reject(new Error("a stray rejection"));
    process.exit(3);
  }
  const runtime: string = "Bun" in globalThis ? "bun" : "Deno" in globalThis ? "deno" : "node";
  return { greeting: `Hello, ${name}!`, runtime, attempt: context.attempt, alive: context.heartbeat() };
});
