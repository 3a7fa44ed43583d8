/** The handlers of conformance/README.md in TypeScript's world, as a program without a compiler has them. */

import { writeFileSync } from "node:fs";
import {
  BatchableStepHandler,
  Decision,
  defineBatchAnalyzer,
  defineDecisionHandler,
  defineHandler,
  NetworkError,
  NotFoundError,
  PermanentError,
  RateLimitError,
  RetryableError,
  StepHandler,
  ValidationError,
} from "@tasker-systems/tasker";

/** @typedef {import("@tasker-systems/tasker").StepContext} StepContext */

const STRIDE = 10;

/** @type {Record<string, new (message: string, options: { errorCode?: string, retryAfter?: number }) => Error>} */
const ERRORS = {
  permanent: PermanentError,
  retryable: RetryableError,
  validation: ValidationError,
  not_found: NotFoundError,
  network: NetworkError,
  rate_limit: RateLimitError,
};

/**
 * The sum of the whole numbers from `start` to before `end`.
 * @param {number} start
 * @param {number} end
 */
function sumOf(start, end) {
  return ((end - start) * (start + end - 1)) / 2;
}

export const echo = defineHandler("conformance.echo", {}, ({ context }) => ({
  input: context.inputData,
  config: context.stepConfig,
  dependencies: context.dependencyResults,
}));

export class ContextOf extends StepHandler {
  static handlerName = "conformance.context";

  /** @param {StepContext} context */
  async call(context) {
    return {
      namespace: context.namespace,
      step_name: context.stepName,
      handler_name: context.handlerName,
      attempt: context.attempt,
      max_retries: context.maxRetries,
      retry_count: context.retryCount,
      is_retry: context.isRetry(),
      is_last_retry: context.isLastRetry(),
      alive: context.heartbeat(),
    };
  }
}

export const fail = defineHandler("conformance.fail", {}, async ({ context }) => {
  const { error, message, error_code: errorCode, retry_after: retryAfter, until } = context.stepConfig;
  const Failure = ERRORS[error];
  if (context.attempt >= until || Failure === undefined) {
    return { attempt: context.attempt };
  }
  throw new Failure(message, { errorCode, retryAfter });
});

export class Refuse extends StepHandler {
  static handlerName = "conformance.refuse";

  /** @param {StepContext} context */
  async call(context) {
    const { message, error_type, retryable, metadata, error_code } = context.stepConfig;
    return this.failure(message, error_type, retryable, metadata, error_code);
  }
}

class Unspeakable extends Error {
  /** @returns {string} */
  get message() {
    throw new Error("not even this");
  }
}

/** @type {Record<string, (message: string) => never>} */
const RAISED = {
  plain: (message) => {
    throw new Error(message);
  },
  empty: () => {
    throw new Error();
  },
  unspeakable: () => {
    throw new Unspeakable();
  },
  exit: () => process.exit(3),
  long: () => {
    throw new Error("long ".repeat(20_000));
  },
  control: () => {
    throw new Error("a\0b\ud800");
  },
};

export const raise = defineHandler("conformance.raise", {}, ({ context }) =>
  RAISED[context.getConfig("kind")]?.(context.getConfig("message")),
);

export const hang = defineHandler("conformance.hang", {}, async ({ context }) => {
  await context.waitCancelled(60_000);
});

export const watchCancel = defineHandler("conformance.watch_cancel", { inputs: { file: "file" } }, async (args) => {
  writeFileSync(args.file, "started");
  await args.context.waitCancelled(60_000);
  writeFileSync(args.file, "seen");
});

export const route = defineDecisionHandler("conformance.route", { inputs: { steps: "route" } }, ({ steps }) =>
  steps.length > 0 ? Decision.route(steps) : Decision.skip("nothing"),
);

export const split = defineBatchAnalyzer(
  "conformance.split",
  { inputs: { totalItems: "items", batchSize: "batch_size" } },
  ({ totalItems, batchSize }) => ({ totalItems, batchSize }),
);

export class Work extends BatchableStepHandler {
  static handlerName = "conformance.work";

  /** @param {StepContext} context */
  async call(context) {
    const batch = this.getBatchContext(context);
    if (batch === null || batch.isNoOp) {
      return this.handleNoOpWorker(context);
    }
    const start = batch.checkpointCursor;
    const end = Math.min(start + STRIDE, batch.endCursor);
    const total = (batch.accumulatedResults ?? 0) + sumOf(start, end);
    const done = end - batch.startCursor;
    if (end < batch.endCursor) {
      return this.checkpointYield(end, done, total);
    }
    return this.batchWorkerSuccess({ itemsProcessed: done, itemsSucceeded: done, results: [total] });
  }
}

export class Merge extends BatchableStepHandler {
  static handlerName = "conformance.merge";

  /** @param {StepContext} context */
  async call(context) {
    const scenario = this.detectAggregationScenario(context, "split", "work_");
    return this.aggregateBatchWorkerResults(scenario, { total: 0 }, (results) => ({
      total: Object.values(results).reduce((sum, { results: [part] }) => sum + part, 0),
    }));
  }
}

export class Resume extends BatchableStepHandler {
  static handlerName = "conformance.resume";

  /** @param {StepContext} context */
  async call(context) {
    const { attempt } = context;
    const start = context.checkpointCursor ?? 0;
    const counted = context.accumulatedResults ?? { sum: 0, resumed_at: 0, attempt: 0 };
    const { sum, resumed_at } = counted.attempt === attempt ? counted : { ...counted, resumed_at: start };
    if (attempt === 1 && start === context.getInput("fail_at")) {
      throw new RetryableError("not beyond this");
    }
    const items = context.getInput("items");
    const end = Math.min(start + STRIDE, items);
    const now = { sum: sum + sumOf(start, end), resumed_at, attempt };
    return end === items ? now : this.checkpointYield(end, end, now);
  }
}

function circular() {
  /** @type {unknown[]} */
  const value = [];
  value.push(value);
  return value;
}

/** @type {Record<string, () => unknown>} */
const ODD = {
  nan: () => Number.NaN,
  infinity: () => Number.POSITIVE_INFINITY,
  nul: () => "x\0",
  surrogate: () => "\ud800",
  big: () => 2n ** 53n + 1n,
  not_json: () => new Map(),
  circular,
};

export const odd = defineHandler("conformance.odd", {}, ({ context }) => ({
  a: [ODD[context.getConfig("kind")]?.()],
}));

export const deep = defineHandler("conformance.deep", {}, ({ context }) => {
  /** @type {unknown} */
  let value = 1;
  for (let level = 0; level < context.getConfig("levels"); level++) {
    value = [value];
  }
  return value;
});

export const large = defineHandler("conformance.large", {}, ({ context }) => ({
  text: "é".repeat(context.getConfig("n")),
}));

export const die = defineHandler("conformance.die", {}, ({ context }) => {
  if (context.attempt === 1) {
    process.kill(process.pid, "SIGKILL");
  }
  return { attempt: context.attempt };
});

export const block = defineHandler("conformance.block", {}, ({ context }) => {
  // The event loop waits, and all that is on it.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, context.getConfig("ms"));
  return { attempt: context.attempt };
});

export const churn = defineHandler("conformance.churn", {}, ({ context }) => {
  const wanted = context.getConfig("objects");
  let objects = 0;
  for (; objects < wanted; objects++) {
    circular();
    if (objects % 5_000 === 0) {
      // Enough for the collector to come by.
      Array.from({ length: 50_000 }, () => ({}));
    }
  }
  return { objects };
});

export const whoami = defineHandler("conformance.whoami", {}, () => ({ language: "typescript" }));
