/** Handlers alone, without a server. */

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  ApiHandler,
  applyAPI,
  applyBatchable,
  applyDecision,
  BatchableStepHandler,
  currentStep,
  Decision,
  DecisionHandler,
  defineApiHandler,
  defineBatchAnalyzer,
  defineBatchWorker,
  defineDecisionHandler,
  defineHandler,
  detectAggregationScenario,
  ErrorClassifier,
  type HandlerClass,
  HandlerRegistry,
  NetworkError,
  PermanentError,
  RateLimitError,
  RetryableError,
  ShutdownController,
  type StepContext,
  StepHandler,
  StepHandlerResult,
  WorkerServer,
} from "@tasker-systems/tasker";
import { makeContext, run } from "@tasker-systems/tasker/testing";
import { afterEach, expect, test } from "vitest";
import { z } from "zod";

const Cart = z.object({ total: z.number(), currency: z.string().default("EUR") });

const charge = defineHandler(
  "charge",
  {
    version: "2.0.0",
    depends: { cart: ["validate", Cart], note: "remark" },
    inputs: { tip: ["tip", z.number().default(1)], missing: "missing" },
  },
  async ({ cart, note, tip, missing, context }) => {
    const total: number = cart.total + tip;
    return {
      charged: total,
      currency: cart.currency,
      note,
      isMissing: missing === undefined,
      attempt: context.attempt,
    };
  },
);

/** A handler that returns this. */
const returning = (value: unknown) => defineHandler("x", {}, () => value);

/** A handler that throws this. */
const throwing = (error: unknown) =>
  defineHandler("x", {}, async () => {
    throw error;
  });

const folders: string[] = [];

function folderOf(files: Record<string, string>): string {
  const folder = mkdtempSync(join(tmpdir(), "tasker-handlers-"));
  folders.push(folder);
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(join(folder, name, ".."), { recursive: true });
    writeFileSync(join(folder, name), text);
  }
  return folder;
}

afterEach(() => {
  for (const folder of folders.splice(0)) {
    rmSync(folder, { recursive: true });
  }
});

test("a function is given what its options say", async () => {
  const context = makeContext({ tip: 2 }, { dependencies: { validate: { total: 5, more: 1 } }, attempt: 2 });
  const expected = { charged: 7, currency: "EUR", note: null, isMissing: true, attempt: 2 };
  expect((await run(charge, context)).result).toEqual(expected);
  const withoutTip = makeContext({}, { dependencies: { validate: { total: 5 } } });
  expect((await run(charge, withoutTip)).result.charged).toBe(6);
  const wrong = await run(charge, makeContext({}, { dependencies: { validate: { sum: 5 } } }));
  expect(wrong).toMatchObject({ errorType: "validation_error", retryable: false });
  expect(wrong.errorMessage).toContain("the result of `validate`");
  expect((await run(charge)).errorType, "no such result").toBe("validation_error");
});

test("what a schema does not have is an error of the compiler", async () => {
  const wrong = defineHandler("x", { depends: { cart: ["validate", Cart] } }, ({ cart }) => ({
    // @ts-expect-error the schema has no such field
    missing: cart.sum === undefined,
  }));
  const context = makeContext({}, { dependencies: { validate: { total: 1, sum: 2 } } });
  expect((await run(wrong, context)).result, "and the schema keeps it out").toEqual({ missing: true });
});

test("the whole input can be given a type", async () => {
  const Order = z.object({ id: z.number() });
  const take = defineHandler("take", { inputs: Order }, ({ inputs }) => ({ next: inputs.id + 1 }));
  expect((await run(take, makeContext({ id: 1 }))).result).toEqual({ next: 2 });
  expect(await run(take, makeContext({ id: "1" }))).toMatchObject({ errorType: "validation_error", retryable: false });
});

test("a handler knows its step wherever it is", async () => {
  const deep = async () => currentStep()?.stepName;
  const handler = defineHandler("x", {}, async () => ({ step: await Promise.resolve().then(deep) }));
  expect((await run(handler, makeContext({}, { stepName: "pay" }))).result).toEqual({ step: "pay" });
  expect(currentStep()).toBeUndefined();
});

test("a signal has fired where it is asked for only after the cancel, and fires once", async () => {
  const context = makeContext({}, { cancelled: true });
  expect([context.cancelled, context.signal.aborted, context.signal.reason.name]).toEqual([true, true, "AbortError"]);
  const other = makeContext();
  let heard = 0;
  other.signal.addEventListener("abort", () => {
    heard += 1;
  });
  other.cancel("the first reason");
  other.cancel("the second");
  expect([heard, other.signal.reason.message, await other.waitCancelled()]).toEqual([1, "the first reason", true]);
  expect(other.signal).toBe(other.signal);
});

test("errors say what becomes of the attempt", async () => {
  const said = async (error: unknown) => {
    const { errorType, retryable, retryAfter, errorMessage } = await run(throwing(error));
    return [errorType, retryable, retryAfter, errorMessage];
  };
  expect(await said(new RetryableError("later", 7))).toEqual(["retryable_error", true, 7, "later"]);
  expect(await said(new RateLimitError("slow", { retryAfter: 0.5 }))).toEqual(["rate_limit", true, 0.5, "slow"]);
  expect(await said(new PermanentError("no", { errorType: "card" }))).toEqual(["card", false, undefined, "no"]);
  expect(await said(new TypeError("odd"))).toEqual(["handler_error", true, undefined, "TypeError: odd"]);
  expect(await said("text")).toEqual(["handler_error", true, undefined, "string: text"]);
  expect(await said({ constructor: { name: Number.NaN } })).toEqual([
    "handler_error",
    true,
    undefined,
    expect.anything(),
  ]);
  expect(await said(undefined)).toEqual(["handler_error", true, undefined, "undefined"]);
  expect(ErrorClassifier.isRetryable(new NetworkError("x"))).toBe(true);
  expect(ErrorClassifier.isPermanent(new PermanentError("x"))).toBe(true);
  class Own extends PermanentError {
    static override readonly errorType = "own";
  }
  expect(await said(new Own("mine"))).toEqual(["own", false, undefined, "mine"]);
  const ofAnotherCopy = { [Symbol.for("tasker.StepFailure")]: true, retryable: false, errorType: "far", metadata: {} };
  expect(await said(Object.assign(new Error("x"), ofAnotherCopy))).toEqual(["far", false, undefined, "x"]);
});

test("plain values are results", async () => {
  const resultOf = async (value: unknown) => (await run(returning(value))).result;
  expect(await resultOf(undefined)).toEqual({});
  expect(await resultOf([1, [2, "x"], { a: null }])).toEqual([1, [2, "x"], { a: null }]);
  expect(await resultOf({ at: new Date(0) })).toEqual({ at: "1970-01-01T00:00:00.000Z" });
  const shared = [1];
  expect(await resultOf({ a: shared, b: shared }), "twice is not circular").toEqual({ a: [1], b: [1] });
  expect(await resultOf({ exact: 2n ** 53n, great: 1e20, tiny: -5e-324 })).toEqual({
    exact: 2 ** 53,
    great: 1e20,
    tiny: -5e-324,
  });
  class Point {
    x = 1;
    get length() {
      return 1;
    }
  }
  expect(await resultOf(new Point())).toEqual({ x: 1 });
});

test.each([
  ["/a~1b/1/c", { "a/b": [1, { c: Number.NaN }] }],
  ["/0", [new Uint8Array(1)]],
  ["/a", { a: 2n ** 60n }],
  ["/a", { a: undefined }],
  ["/a/0", { a: [() => 1] }],
  ["/a", { a: "\udc00" }],
  ["/a/b", { a: { b: Object(1) } }],
  ["/a/b", { a: { b: { toJSON: () => Symbol("x") } } }],
  ["/a", Object.defineProperty({}, "a", { enumerable: true, get: () => JSON.parse("{") })],
])("what JSON can't carry is refused with its place %s", async (place, value) => {
  const failed = await run(returning(value));
  expect(failed).toMatchObject({ errorType: "result_not_serializable", retryable: false });
  expect(failed.errorMessage).toContain(`the result at ${place} `);
  const metadata = await run(returning(StepHandlerResult.success({}, { m: value })));
  expect(metadata.errorType).toBe("result_not_serializable");
});

test("decisions name steps or none", async () => {
  const routed = await run(defineDecisionHandler("d", {}, () => Decision.route(["a", "b"], { tier: "gold" })));
  expect(routed.result.decision_point_outcome).toEqual({ type: "create_steps", step_names: ["a", "b"] });
  expect(routed.result.routing_context).toEqual({ tier: "gold" });
  const skipped = await run(defineDecisionHandler("d", {}, async () => Decision.skip("nothing")));
  expect(skipped.result).toEqual({ decision_point_outcome: { type: "no_branches" }, reason: "nothing" });
  const wrong = defineDecisionHandler("d", {}, () => ["a"] as unknown as Decision);
  expect((await run(wrong)).errorType).toBe("configuration_error");

  class ByClass extends DecisionHandler {
    async call(context: StepContext) {
      return context.getInput("go") ? this.decisionSuccess("a") : this.decisionFailure("unclear");
    }
  }
  const gone = await run(ByClass, makeContext({ go: true }));
  expect(gone.result.decision_point_outcome.step_names).toEqual(["a"]);
  expect((await run(ByClass, makeContext(), "nothing")).errorMessage).toContain("no method `nothing`");
  expect(gone.metadata).toMatchObject({ decision_handler: "ByClass" });
  expect((await run(ByClass)).retryable).toBe(false);
});

test("splits cover everything once", async () => {
  const split = await run(
    defineBatchAnalyzer("s", { workerTemplate: "w" }, () => ({
      totalItems: 250,
      batchSize: 100,
      metadata: { by: "id" },
    })),
  );
  const outcome = split.result.batch_processing_outcome;
  expect(outcome).toMatchObject({ type: "create_batches", worker_template_name: "w", total_items: 250 });
  expect(outcome.cursor_configs).toEqual([
    { batch_id: "001", start_cursor: 0, end_cursor: 100, batch_size: 100 },
    { batch_id: "002", start_cursor: 100, end_cursor: 200, batch_size: 100 },
    { batch_id: "003", start_cursor: 200, end_cursor: 250, batch_size: 50 },
  ]);
  const none = await run(defineBatchAnalyzer("s", {}, () => ({ totalItems: 0, batchSize: 100 })));
  expect(none.result.batch_processing_outcome).toEqual({ type: "no_batches" });
  const byDate = await run(
    defineBatchAnalyzer("s", {}, () => [
      { startCursor: "2024-01", endCursor: "2024-02" },
      { startCursor: "2024-02", endCursor: null, batchId: "b" },
    ]),
  );
  expect(byDate.result.batch_processing_outcome.cursor_configs).toEqual([
    { batch_id: "001", start_cursor: "2024-01", end_cursor: "2024-02" },
    { batch_id: "b", start_cursor: "2024-02", end_cursor: null },
  ]);
  class Splits extends BatchableStepHandler {
    async call() {}
  }
  const splits = new Splits();
  for (const [total, size, most] of [
    [10_000, 100, 10],
    [7, 3, undefined],
    [1, 1, 1],
    [101, 10, 4],
  ] as const) {
    const ranges = splits.createCursorRanges(total, size, 1, most);
    const covered = ranges.flatMap((each) =>
      Array.from({ length: each.endCursor - each.startCursor }, (_, at) => each.startCursor + at),
    );
    expect(covered).toEqual(Array.from({ length: total }, (_, at) => at));
    expect(ranges.length).toBeLessThanOrEqual(most ?? total);
  }
  expect(splits.createCursorConfigs(10, 3)).toHaveLength(3);
  expect(() => splits.createCursorRanges(5, 0)).toThrow(RangeError);
});

test("a batch worker sees its batch and its checkpoint", async () => {
  const work = defineBatchWorker("w", {}, ({ batchContext }) => {
    const { checkpointCursor: at, accumulatedResults: gathered } = batchContext;
    return at < batchContext.endCursor
      ? StepHandlerResult.checkpointYield(at + 5, 5, [...(gathered ?? []), at])
      : { gathered };
  });
  const batch = { startCursor: 10, endCursor: 20 };
  const first = await run(work, makeContext({}, { batch }));
  expect(first.checkpoint).toEqual({ cursor: 15, itemsProcessed: 5, accumulatedResults: [10] });
  const last = await run(work, makeContext({}, { batch, checkpoint: { cursor: 20, accumulatedResults: [10, 15] } }));
  expect(last.result).toEqual({ gathered: [10, 15] });
  expect((await run(work, makeContext({}, { batch: {} }))).result).toEqual({ no_op: true, items_processed: 0 });
  expect((await run(work)).errorType, "no batch worker").toBe("configuration_error");
});

test("results of batches are brought together", async () => {
  const results = {
    split: { batch_processing_outcome: { type: "create_batches" } },
    work_001: { items_processed: 3, items_succeeded: 2, items_failed: 1, errors: ["x"] },
    work_002: { items_processed: 4, items_succeeded: 4 },
  };
  class Merge extends BatchableStepHandler {
    async call(context: StepContext) {
      return this.aggregateBatchWorkerResults(this.detectAggregationScenario(context, "split", "work_"));
    }
  }
  const merged = await run(Merge, makeContext({}, { dependencies: results }));
  expect(merged.result).toMatchObject({ total_processed: 7, total_failed: 1, errors: ["x"], worker_count: 2 });
  for (const broken of [{}, { split: {} }]) {
    expect(() => detectAggregationScenario(broken, "split", "work_")).toThrow();
  }
});

test("abilities can be given to a class and to an instance", async () => {
  class Both extends applyBatchable(applyDecision(StepHandler)) {
    async call() {
      return this.decisionSuccess(this.createCursorRanges(2, 1).map((each) => `s${each.startCursor}`));
    }
  }
  expect((await run(Both)).result.decision_point_outcome.step_names).toEqual(["s0", "s1"]);

  class ByInstance extends StepHandler {
    readonly able = applyDecision(applyAPI(this));

    skipBranches() {
      return this.failure("its own method stays");
    }

    async call() {
      return this.able === this ? this.able.skipBranches() : undefined;
    }
  }
  expect((await run(ByInstance)).errorMessage).toBe("its own method stays");
});

test("a registry takes each name once", () => {
  const registry = new HandlerRegistry();
  registry.register(charge);
  registry.register(charge);
  class Other extends StepHandler {
    async call() {
      return 1;
    }
  }
  registry.register(Other);
  registry.register("alias", Other);
  expect(registry.listHandlers()).toEqual(["Other", "alias", "charge"]);
  expect(registry.resolve("charge")?.version).toBe("2.0.0");
  expect(registry.resolve("charge")?.name).toBe("charge");
  expect(registry.resolve("nobody")).toBeNull();
  class Heir extends charge {}
  registry.register(Heir);
  expect(registry.getHandlerClass("Heir"), "a name is not inherited").toBe(Heir);
  class Boastful extends Other {
    static override handlerMethods = ["call", "refund"];
  }
  const base = StepHandler as unknown as HandlerClass;
  for (const refused of [ApiHandler as unknown as HandlerClass, base, 7 as unknown as HandlerClass, Boastful]) {
    expect(() => registry.register(refused)).toThrow(/no handler|no call|no method/);
  }
  expect(() => registry.register("charge", Other)).toThrow(/registered already/);
  expect([registry.unregister("alias"), registry.unregister("alias")]).toEqual([true, false]);
});

test("handlers are found in folders, also those that another copy of the package made", async () => {
  const brand = 'Symbol.for("tasker.StepHandler")';
  const folder = folderOf({
    "a.mjs": `export class A { static [${brand}] = true; call() {} }\nexport const alias = A;\nexport const other = 1;`,
    "inner/b.mjs": `import { A } from "../a.mjs";\nexport class B extends A { static handlerName = "named.b" }`,
    "inner/b.test.mjs": "throw new Error('a test')",
    "inner/types.d.ts": "export type T = 1;",
    "c.js": `module.exports.C = class C { static [${brand}] = true; call() {} };`,
    "c.ts": "the source of c.js",
    "node_modules/x/index.js": "throw new Error('somebody else's)",
    "notes.md": "no module",
  });
  const registry = new HandlerRegistry();
  expect(await registry.loadFromPath(folder)).toBe(3);
  expect(registry.listHandlers()).toEqual(["A", "C", "named.b"]);
  await expect(registry.loadFromPath(join(folder, "nowhere"))).rejects.toThrow("does not exist");
  await expect(registry.loadFromPath(folderOf({ "broken.mjs": "export const = 1" }))).rejects.toThrow(
    "broken.mjs can't be loaded",
  );
});

test("a worker that was not started and one that has stopped say so", async () => {
  const worker = new WorkerServer(new HandlerRegistry());
  expect(worker.isRunning()).toBe(false);
  expect(worker.healthCheck().healthy).toBe(false);
  await expect(worker.stop()).rejects.toMatchObject({ code: "stopped" });
  await expect(worker.start({ variables: {} })).rejects.toMatchObject({ code: "bad_message" });
  await expect(worker.wait()).resolves.toBeUndefined();
});

test("a shutdown is told once", async () => {
  const shutdown = new ShutdownController();
  expect(shutdown.isRequested).toBe(false);
  shutdown.trigger("first");
  shutdown.trigger("second");
  expect([await shutdown.promise, shutdown.reason, shutdown.isRequested]).toEqual(["first", "first", true]);
});

test("requests are classified by their status", async () => {
  const server = createServer((request, answer) => {
    const status = Number(new URL(request.url ?? "", "http://x").searchParams.get("status"));
    if (status === 0) {
      return; // Never answered.
    }
    answer.writeHead(status, status === 429 ? { "retry-after": "7" } : status === 302 ? { location: "/other" } : {});
    answer.end(JSON.stringify({ key: request.headers["x-key"], method: request.method, path: request.url }));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/`;

  class Client extends ApiHandler {
    static override baseUrl = base;
    static override defaultHeaders = { "x-key": "secret" };

    async call(context: StepContext) {
      const answer = await this.post("/pay", { params: { status: context.getInput("status") }, body: { a: 1 } });
      return answer.ok ? this.apiSuccess(answer) : this.apiFailure(answer);
    }
  }
  const statuses = [200, 302, 404, 422, 429, 500, 501, 503];
  const told = await Promise.all(statuses.map((status) => run(Client, makeContext({ status }))));
  expect(told[0]?.result).toEqual({ key: "secret", method: "POST", path: "/v1/pay?status=200" });
  expect(told.flatMap((result, at) => (!result.success && result.retryable ? [statuses[at]] : []))).toEqual([
    429, 500, 503,
  ]);
  expect(told[4]).toMatchObject({ retryAfter: 7, errorCode: "HTTP_429" });

  const pay = defineApiHandler(
    "pay",
    { baseUrl: base, defaultTimeout: 100, inputs: { status: "status" } },
    async ({ api, status }) => api.get("pay", { params: { status } }),
  );
  expect(await run(pay, makeContext({ status: 429 }))).toMatchObject({ retryAfter: 7, retryable: true });
  expect((await run(pay, makeContext({ status: 200 }))).result.method).toBe("GET");
  expect(await run(pay, makeContext({ status: 0 }))).toMatchObject({ errorType: "timeout", retryable: true });
  const cancelled = makeContext({ status: 0 }, { cancelled: true });
  expect((await run(Client, cancelled)).errorMessage, "a request ends with its attempt").toContain("AbortError");
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  expect(await run(Client, makeContext({ status: 200 }))).toMatchObject({
    errorType: "network_error",
    retryable: true,
  });
});
