/** The handlers that the tests' workflows call. */

import { appendFileSync, existsSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setImmediate, setTimeout as sleep } from "node:timers/promises";
import {
  BatchableStepHandler,
  Decision,
  defineBatchAnalyzer,
  defineDecisionHandler,
  defineHandler,
  RetryableError,
  StepHandler,
  ValidationError,
} from "@tasker-systems/tasker";

/** @typedef {import("@tasker-systems/tasker").StepContext} StepContext */

/**
 * Appends a line to the log that the test reads, in one write.
 * @param {StepContext} context
 * @param {string} text
 */
function note(context, text) {
  appendFileSync(context.getInput("log"), `${text}\n`);
}

export const first = defineHandler("flows.first", { inputs: { number: "number" } }, ({ number, context }) => ({
  number: number + context.getConfig("add"),
}));

export const second = defineHandler("flows.second", { depends: { before: "first" } }, async ({ before }) => {
  await setImmediate();
  return { number: before.number * 2 };
});

export class Third extends StepHandler {
  static handlerName = "flows.Third";
  static handlerMethods = ["call", "undo"];

  /** @param {StepContext} context */
  async call(context) {
    const numbers = ["first", "second"].map((step) => context.getDependencyField(step, "number"));
    return this.success({ numbers, attempt: context.attempt }, { by: "a class" });
  }

  /** @param {StepContext} context */
  async undo(context) {
    return { undone: context.getDependencyField("third", "numbers") };
  }
}

export const choose = defineDecisionHandler("flows.choose", { inputs: { amount: "amount" } }, ({ amount }) =>
  amount === 0 ? Decision.skip("nothing") : Decision.route(amount > 100 ? "large" : "small", { amount }),
);

export const echo = defineHandler("flows.echo", {}, ({ context }) => context.inputData);

export const names = defineHandler("flows.names", {}, ({ context }) => context.getDependencyResultKeys().sort());

export const split = defineBatchAnalyzer("flows.split", { workerTemplate: "work" }, ({ context }) => ({
  totalItems: context.getInput("items"),
  batchSize: context.getInput("batch_size", 30),
}));

export class Work extends BatchableStepHandler {
  static handlerName = "flows.Work";

  /** @param {StepContext} context */
  async call(context) {
    const batch = this.getBatchContext(context);
    if (batch === null || batch.isNoOp) {
      return this.handleNoOpWorker(context);
    }
    const cursor = batch.checkpointCursor;
    note(context, `${batch.batchId} ${context.attempt} ${cursor}`);
    if (context.getInput("hang_at") === cursor && context.attempt === 1) {
      await context.waitCancelled(60_000);
    }
    const end = Math.min(cursor + 10, batch.endCursor);
    let total = batch.accumulatedResults ?? 0;
    for (let item = cursor; item < end; item++) {
      total += item;
    }
    const itemsProcessed = end - batch.startCursor;
    if (end < batch.endCursor) {
      return this.checkpointYield(end, itemsProcessed, total);
    }
    return this.batchWorkerSuccess({ itemsProcessed, itemsSucceeded: itemsProcessed, results: [total] });
  }
}

export class Merge extends BatchableStepHandler {
  static handlerName = "flows.Merge";

  /** @param {StepContext} context */
  async call(context) {
    const scenario = this.detectAggregationScenario(context, "split", "work_");
    return this.aggregateBatchWorkerResults(scenario, { total: 0 }, (results) => ({
      total: Object.values(results).reduce((sum, { results: [part] }) => sum + part, 0),
    }));
  }
}

/** @param {number} levels */
function deep(levels) {
  /** @type {unknown} */
  let value = 1;
  for (let level = 0; level < levels; level++) {
    value = [value];
  }
  return value;
}

function circular() {
  /** @type {{ x: unknown[] }} */
  const value = { x: [] };
  value.x.push(value);
  return value;
}

/** @type {Record<string, () => unknown>} */
const UNSAYABLE = {
  nan: () => ({ x: [Number.NaN] }),
  infinity: () => ({ x: [Number.NEGATIVE_INFINITY] }),
  absent: () => ({ x: [undefined] }),
  hole: () => ({ x: new Array(1) }),
  bytes: () => ({ x: [Buffer.from("raw")] }),
  set: () => ({ x: [new Set([1])] }),
  map: () => ({ x: [new Map()] }),
  error: () => ({ x: [new Error("no data")] }),
  promise: () => ({ x: [Promise.resolve(1)] }),
  function: () => ({ x: [() => 1] }),
  symbol: () => ({ x: [Symbol("s")] }),
  key: () => ({ x: { [Symbol("k")]: 2 } }),
  huge: () => ({ x: [2n ** 53n + 1n] }),
  nul: () => ({ x: ["a\0b"] }),
  surrogate: () => ({ x: ["\ud800"] }),
  surrogateKey: () => ({ x: { "\udfff": 1 } }),
  circular,
  getter: () => ({
    get x() {
      throw new Error("not you");
    },
  }),
  proxy: () => ({ x: revoked() }),
  deep: () => ({ x: deep(100) }),
  bottomless: () => ({ x: deep(100_000) }),
  large: () => "x".repeat(1 << 20),
};

export const unsayable = Object.keys(UNSAYABLE);

function revoked() {
  const { proxy, revoke } = Proxy.revocable({}, {});
  revoke();
  return proxy;
}

class Unspeakable extends Error {
  /** @returns {string} */
  get message() {
    throw new Error("even this");
  }

  /** @returns {string} */
  get name() {
    throw this;
  }
}

/** @type {Record<string, () => unknown>} */
const RAISED = {
  exit: () => process.exit(3),
  nothing: () => undefined,
  null: () => null,
  number: () => 7,
  text: () => "just text",
  symbol: () => Symbol("thrown"),
  bigint: () => 2n ** 64n,
  frozen: () => Object.freeze({ code: 1 }),
  getters: () => ({
    get message() {
      throw new Error("no");
    },
    get constructor() {
      throw new Error("no");
    },
  }),
  proxy: revoked,
  orphan: () => Object.create(null),
  unspeakable: () => new Unspeakable(),
  surrogates: () => new Error("half \ud800 pair and \0"),
  long: () => new Error("x".repeat(100_000)),
  abort: () => new DOMException("nobody's", "AbortError"),
  aggregate: () => new AggregateError([new Error("inner")], "outer"),
  overflow: function overflow() {
    return overflow();
  },
  permanent: () => new ValidationError("never", { errorCode: "E7", metadata: { field: "amount" } }),
};

export const raised = Object.keys(RAISED);

/** @param {StepContext} context */
function throwWhatIsAskedFor(context) {
  const wanted = RAISED[context.getInput("raise")];
  if (wanted !== undefined && context.attempt === 1) {
    throw wanted();
  }
}

/** Leaves behind what nobody awaits: a rejection, and an error of a timer. */
function stray() {
  Promise.reject(new Error("a stray rejection"));
  setTimeout(() => {
    throw new Error("a stray error");
  }, 0);
  setTimeout(() => process.exit(4), 0);
}

/** @param {number} ms */
function block(ms) {
  const until = performance.now() + ms;
  while (performance.now() < until);
}

/** @type {Record<string, (context: StepContext) => Promise<unknown>>} */
const DONE = {
  later: async (context) => {
    if (!context.isRetry()) {
      throw new RetryableError("not yet", 1.5);
    }
  },
  slow: async (context) => {
    if (!context.isRetry()) {
      note(context, "begun");
      await sleep(30_000, undefined, { signal: context.signal }).catch((error) => {
        note(context, `${error.name}: ${context.signal.reason.message}`);
        throw error;
      });
    }
  },
  never: async (context) => {
    if (!context.isRetry()) {
      note(context, "for ever");
      await new Promise(() => {});
    }
  },
  "wait for cancel": async (context) => {
    note(context, "begun");
    note(context, `cancelled ${await context.waitCancelled(30_000)} ${context.heartbeat()}`);
  },
  gate: async (context) => {
    note(context, "begun");
    while (!existsSync(context.getInput("gate"))) {
      await sleep(10);
    }
  },
  great: async () => ({ integers: [1e20, 2 ** 53 + 2, -1e308], exact: 2n ** 53n }),
  block: async (context) => block(context.getInput("ms")),
  stray: async () => stray(),
  meet: async (context) => {
    // Ends only once as many run at the same time as were asked for.
    const folder = context.getInput("folder");
    writeFileSync(join(folder, context.taskUuid), "");
    while (readdirSync(folder).length < context.getInput("count")) {
      await sleep(10);
    }
  },
};

export const single = defineHandler("flows.single", {}, async ({ context }) => {
  throwWhatIsAskedFor(context);
  const wanted = context.getInputOr("do", context.getConfig("do", "nothing else"));
  if (wanted in UNSAYABLE) {
    return UNSAYABLE[wanted]?.();
  }
  return (await DONE[wanted]?.(context)) ?? { pid: process.pid, attempt: context.attempt };
});

/** Throws before there is a promise. */
export class SinglePlain extends StepHandler {
  static handlerName = "flows.single_plain";

  /**
   * @override
   * @param {StepContext} context
   */
  call(context) {
    throwWhatIsAskedFor(context);
    return { pid: process.pid, attempt: context.attempt };
  }
}
