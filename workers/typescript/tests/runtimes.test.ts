/** The same addon and the same package in the other runtimes, with handlers in TypeScript as they are. */

import { existsSync } from "node:fs";
import { join } from "node:path";
import { expect, inject, test } from "vitest";
import { CLI, eventually, HERE, Server, WorkerProcess } from "./support.ts";

const server = new Server(inject("server"));
const BIN = join(HERE, "../node_modules/.bin");
const ALLOWED = ["--allow-ffi", "--allow-read", "--allow-env", "--allow-net", "--allow-sys"];

test.each([
  ["bun", ["run", CLI]],
  ["deno", ["run", ...ALLOWED, CLI]],
])("a workflow runs in %s", async (runtime, given) => {
  const program = join(BIN, runtime);
  expect(existsSync(program), `${runtime} is a development dependency`).toBe(true);
  const log = join(inject("folder"), `${runtime}.log`);
  const worker = await WorkerProcess.start(server, log, {
    program: [program, ...given],
    handlers: join(HERE, "typed"),
    more: ["--namespace", "ts_typed"],
  });
  const steps = await server.run("typed", { name: "Ada" }, "ts_typed");
  expect(steps.greet.results).toEqual({ greeting: "Hello, Ada!", runtime, attempt: 2, alive: true });
  const [first] = await server.audit(steps.greet);
  expect(first.error.message).toContain("called process.exit(3)");
  await eventually("the stray rejection is told", () => worker.errors().includes("a stray rejection"));
  expect(await worker.terminate(), worker.errors()).toBe(0);
});
