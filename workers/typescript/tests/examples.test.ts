/** Every example gives what the Rust handlers of the same template give. */

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { eventually, HERE, Server, startServer, type Told, WorkerProcess } from "./support.ts";

const EXAMPLES = join(HERE, "../../rust");
const data = (name: string) => join(EXAMPLES, "data", name);
const folder = inject("folder");
/** Its own worker runs the Rust handlers. */
const rust = new Server(inject("server"));
let own: Awaited<ReturnType<typeof startServer>>;
let server: Server;
let worker: WorkerProcess;

beforeAll(async () => {
  const templates = join(EXAMPLES, "templates");
  for (const file of readdirSync(templates)) {
    await rust.call("POST", "/v1/templates", { yaml: readFileSync(join(templates, file), "utf8") });
  }
  // The Rust worker in this one sees nothing of the examples.
  const variables = { TASKER__WORKER__NAMESPACES: "nobody" };
  own = await startServer(join(folder, "examples"), templates, variables);
  server = new Server(own.place);
  worker = await WorkerProcess.start(server, join(folder, "examples.log"), {
    program: [join(HERE, "../node_modules/.bin/bun"), join(HERE, "../dist/cli.js")],
    handlers: join(HERE, "../examples/handlers"),
    more: ["--handlers", join(HERE, "../bench/handlers.js")],
  });
});

afterAll(async () => {
  expect(await worker.terminate(), worker.errors()).toBe(0);
  await own.stop();
});

/** How a task ended: of each step its state and attempts, its result, and the last error; ids of tasks are left out. */
async function ended(where: Server, namespace: string, name: string, input: unknown): Promise<Told> {
  const { status, task, ...steps } = await where.run(name, input, namespace);
  const told: Told = { status };
  for (const step of Object.values<Told>(steps)) {
    const error = (await where.audit(step)).at(-1)?.error ?? null;
    told[step.name] = {
      state: step.current_state,
      attempts: step.attempts,
      result: step.results,
      error: error && { type: error.error_type, code: error.error_code ?? null, retryable: error.retryable },
    };
  }
  return JSON.parse(JSON.stringify(told).replaceAll(task, "TASK"));
}

const products = { products_file: data("products.csv") };
const order = { order_file: data("order.json"), ...products };
const sources = {
  sales_file: data("sales.csv"),
  customers_file: data("customers.json"),
  stock_file: data("stock.csv"),
  period_days: 181,
};

test.each<[string, string, Told, string[]?]>([
  ["examples", "linear", { number: 6 }],
  ["examples", "diamond", { number: -3 }],
  ["examples", "tree8", { number: 2 }],
  ["examples", "dag7", { number: 2 }],
  ["shop", "order_fulfillment", order],
  ["shop", "order_fulfillment", { ...order, order_file: data("nothing.json") }],
  ["shop", "order_fulfillment", { ...order, order_file: data("customers.json") }],
  ["finance", "expense_approval", { amount_cents: 4_000, purpose: "Flowers" }, ["route"]],
  ["finance", "expense_approval", { amount_cents: 60_000, purpose: "Travel to Brno" }, ["route"]],
  ["finance", "expense_approval", { amount_cents: 900_000, purpose: "equipment" }, ["route"]],
  ["shop", "catalogue_import", products, ["split"]],
  ["analytics", "analytics_pipeline", sources],
  ["analytics", "analytics_pipeline", { ...sources, stock_file: data("sales.csv") }],
  ["shop", "checkpoint_resume", { ...products, fail_at: 400 }],
  ["examples", "error_scenarios", { scenario: "flaky" }],
  ["examples", "error_scenarios", { scenario: "rate_limited" }],
  ["examples", "error_scenarios", { scenario: "invalid" }],
  ["examples", "error_scenarios", { scenario: "broken" }],
  ["shop", "domain_events", { order_id: "O-1001", amount_cents: 4_990 }],
  ["accounts", "user_registration", { email: " Ada@Example.org ", plan: "pro" }],
  ["accounts", "user_registration", { email: "bela@example.org", plan: "free" }],
  ["accounts", "user_registration", { email: "nowhere", plan: "free" }],
])("%s.%s does with %o as in Rust", async (namespace, name, input, splits = []) => {
  const [expected, found] = [await ended(rust, namespace, name, input), await ended(server, namespace, name, input)];
  for (const step of splits) {
    // What else a decision or a split says than its outcome is the language's affair.
    const [theirs, ours] = [expected, found].map((told) => told[step].result);
    for (const key of ["decision_point_outcome", "batch_processing_outcome"]) {
      expect(Object.keys(ours[key] ?? {}).length).toBe(Object.keys(theirs[key] ?? {}).length);
    }
    found[step].result = theirs;
  }
  expect(found).toEqual(expected);
});

test("what is published is heard in the worker, as people write it", async () => {
  await server.run("domain_events", { order_id: "O-7", amount_cents: 1_205 }, "shop");
  await eventually("the subscriber tells it", () => worker.said.includes("order O-7 is paid: 12.05\n"));
});

test("what `tasker bench` runs is served", async () => {
  const head = "name: linear1\nnamespace_name: bench\nversion: 1.0.0\n";
  await server.call("POST", "/v1/templates", { yaml: `${head}steps:\n  - {name: s0, handler: bench.nothing}\n` });
  const { status, s0 } = await server.run("linear1", { n: 1 }, "bench");
  expect([status, s0.results]).toEqual(["complete", { ok: true }]);
});

test("TypeScript's part of the task in four languages", async () => {
  const { capitalise } = await import("../examples/handlers/polyglot.ts");
  const { makeContext, run } = await import("@tasker-systems/tasker/testing");
  const { result } = await run(capitalise, makeContext({ text: " the quick  émile\truns" }));
  expect(result).toEqual({ language: "typescript", capitals: "The Quick Émile Runs" });
});
