/** Whole workflows in memory: the tests' templates with the tests' handlers, and what only a test would do. */

import { mkdtempSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import {
  defineHandler,
  HandlerRegistry,
  PermanentError,
  PublisherRegistry,
  RetryableError,
  StepHandlerResult,
} from "@tasker-systems/tasker";
import { runWorkflow } from "@tasker-systems/tasker/testing";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import * as flows from "./handlers/flows.js";
import * as shop from "./handlers/shop.js";
import { HERE, Server, type Told, WorkerProcess } from "./support.ts";

const server = new Server(inject("server"));
let worker: WorkerProcess;

beforeAll(async () => {
  worker = await WorkerProcess.start(server, join(inject("folder"), "simulated.log"));
});

afterAll(async () => {
  expect(await worker.terminate(), worker.errors()).toBe(0);
});

const { raised: _raised, unsayable: _unsayable, ...handlers } = flows;
const FLOWS = Object.values(handlers);
const template = (name: string) => join(HERE, "templates", `${name}.yaml`);

const RETRIES = `
name: retries
namespace_name: test
version: 1.0.0
input_schema: {type: object, required: [times]}
steps:
  - name: fetch
    handler: fetch
    retry: {max_attempts: 5, backoff: exponential, backoff_base_ms: 3600000, max_backoff_ms: 86400000}
  - {name: store, handler: store, dependencies: [fetch]}
environments:
  test: {steps: [{name: fetch, retry: {max_attempts: 2}}]}
`;

const fetching = defineHandler("fetch", { inputs: { times: "times", code: "code" } }, ({ times, code, context }) => {
  if (code !== undefined) {
    throw new PermanentError("gone", { errorCode: code });
  }
  if (context.attempt <= times) {
    throw new RetryableError("busy");
  }
  return { fetched: context.attempt };
});

const store = defineHandler("store", { depends: { before: "fetch" } }, async ({ before }) => ({
  stored: before.fetched,
}));

test("hours of backoff pass in no time", async () => {
  const workflow = await runWorkflow(RETRIES, { times: 3 }, { handlers: [fetching, store] });
  expect([workflow.status, workflow.results.store]).toEqual(["complete", { stored: 4 }]);
  const tries = workflow.attempts.filter(({ step }) => step === "fetch");
  const [first, second, third = 0, fourth = 0] = tries.map(({ atMs }) => Math.round(atMs / 3_600_000));
  expect([first, second, third === 3 || third === 4, fourth >= 6 && fourth <= 9]).toEqual([0, 1, true, true]);
  expect(workflow.elapsedMs).toBe(workflow.attempts.at(-1)?.atMs);
  expect(tries.map(({ error }) => error?.message)).toEqual(["busy", "busy", "busy", undefined]);
});

test("a step that fails blocks what depends on it", async () => {
  const workflow = await runWorkflow(RETRIES, { times: 0, code: "E410" }, { handlers: { fetch: fetching, store } });
  expect([workflow.status, workflow.elapsedMs]).toEqual(["blocked_by_failures", 0]);
  expect([workflow.steps.fetch?.state, workflow.steps.store?.state]).toEqual(["error", "pending"]);
  expect(workflow.attempts).toMatchObject([{ error: { error_code: "E410", retryable: false } }]);
  const fewer = await runWorkflow(RETRIES, { times: 3 }, { handlers: [fetching, store], environment: "test" });
  expect([fewer.status, fewer.steps.fetch?.attempts]).toEqual(["blocked_by_failures", 2]);
});

test.each<[string, Told]>([
  ["linear", { number: 4 }],
  ["decision", { amount: 500 }],
  ["decision", { amount: 0 }],
  ["batch", { items: 70 }],
  ["batch", { items: 0 }],
  ["single", { do: "nan" }],
  ["single", { raise: "permanent" }],
])("a workflow ends in memory as it ends on a server: %s %s", async (name, given) => {
  const input = { ...given, log: join(mkdtempSync(join(inject("folder"), "test-")), "log") };
  const { status, task: _, ...real } = await server.run(name, input);
  const workflow = await runWorkflow(template(name), input, { handlers: FLOWS });
  expect(workflow.status).toBe(status);
  const seen = Object.values(workflow.steps).map((step) => [step.name, step.state, step.attempts, step.result]);
  const steps = Object.values<Told>(real);
  const told = steps.map((step) => [step.name, step.current_state, step.attempts, step.results]);
  expect(Object.fromEntries(seen.map((step) => [step[0], step]))).toEqual(
    Object.fromEntries(told.map((step) => [step[0], step])),
  );
  for (const step of steps) {
    const audited = (await server.audit(step)).map(({ attempt, outcome, error }) => [attempt, outcome, error ?? null]);
    const tried = workflow.attempts.filter((each) => each.step === step.name);
    expect(tried.map(({ attempt, outcome, error }) => [attempt, outcome, error])).toEqual(audited);
  }
});

test("a template is read by its path or its URL, and run with a registry", async () => {
  const registry = new HandlerRegistry();
  await registry.loadFromPath(join(HERE, "handlers/flows.js"));
  const workflow = await runWorkflow(pathToFileURL(template("linear")), { number: 4 }, { handlers: registry });
  expect(workflow.results).toMatchObject({ third: { numbers: [5, 10], attempt: 1 }, undo: { undone: [5, 10] } });
});

test("resolvers are asked as in a worker", async () => {
  const registry = new HandlerRegistry();
  registry.registerResolver("all", async (name) => (name === "fetch" ? fetching : name === "store" ? store : null));
  expect((await runWorkflow(RETRIES, { times: 0 }, { handlers: registry })).status).toBe("complete");
  const asked = RETRIES.replace("handler: store", "handler: {callable: store, resolver: all}");
  expect((await runWorkflow(asked, { times: 0 }, { handlers: registry })).status).toBe("complete");
});

test("events are what would be published", async () => {
  const publishers = new PublisherRegistry();
  publishers.register(new shop.Receipt());
  const workflow = await runWorkflow(template("shop"), {}, { handlers: [shop.pay], publishers });
  expect(workflow.events.map(({ name }) => name)).toEqual(["order.paid", "order.seen", "order.tried"]);
  const metadata = { by: "receipt", event: "order.paid" };
  expect(workflow.events[0]).toMatchObject({ payload: { amount: 5 }, metadata, delivery_mode: "broadcast" });
  const skipping = await runWorkflow(template("shop"), { do: "skip" }, { handlers: [shop.pay], publishers });
  expect([skipping.status, skipping.events.map(({ name }) => name)]).toEqual(["complete", ["order.tried"]]);
});

test.each<[string, RegExp | { code: string }, () => Promise<unknown>]>([
  ["an input", { code: "bad_input" }, () => runWorkflow(RETRIES, {}, { handlers: [fetching, store] })],
  ["a template", { code: "bad_template" }, () => runWorkflow("name: x\n", {}, { handlers: [fetching] })],
  ["a handler", /`store`/, () => runWorkflow(RETRIES, { times: 0 }, { handlers: [fetching] })],
  [
    "a resolver",
    /resolver `sql`/,
    () => {
      const asked = RETRIES.replace("handler: store", "handler: {callable: store, resolver: sql}");
      return runWorkflow(asked, { times: 0 }, { handlers: [fetching, store] });
    },
  ],
])("what a server refuses or a worker waits for is told: %s", async (_, why, call) => {
  const error: Told = await call().catch((error) => error);
  expect(error).toBeInstanceOf(Error);
  expect(error).toMatchObject(why instanceof RegExp ? { message: expect.stringMatching(why) } : why);
});

test("a handler can't end the process of the test", async () => {
  const { attempts } = await runWorkflow(template("single"), { raise: "exit" }, { handlers: FLOWS });
  expect(attempts.map(({ outcome }) => outcome)).toEqual(["failure", "success"]);
  expect(attempts[0]?.error?.message).toContain("called process.exit(3)");
});

test("a workflow without end is given up", async () => {
  const forever = defineHandler("flows.single", {}, () => StepHandlerResult.checkpointYield(1, 1));
  await expect(runWorkflow(template("single"), {}, { handlers: [forever], mostRuns: 20 })).rejects.toThrow("20 runs");
});
