/**
 * Handlers alone, and whole workflows, without PostgreSQL or a worker.
 *
 *     const result = await run(charge, makeContext({}, { dependencies: { validate_cart: { total: 5 } } }));
 *     expect(result.result).toEqual({ charged: 5 });
 *
 *     const order = await runWorkflow("templates/order.yaml", { items: 3 }, { handlers: [validateCart, charge] });
 *     expect(order.results.charge).toEqual({ charged: 5 });
 */

import { StepContext } from "./context.ts";
import { type HandlerClass, invoke, type StepHandler } from "./handler.ts";
import type { Fields, Json } from "./json.ts";
import { encoded, ofReturn, ofThrown } from "./outcome.ts";
import type { Checkpoint } from "./result.ts";
import { StepHandlerResult } from "./result.ts";
import { runAs } from "./running.ts";

export {
  runWorkflow,
  type Workflow,
  type WorkflowAttempt,
  type WorkflowOptions,
  type WorkflowStep,
} from "./simulated.ts";

/** What a context is made of beside the task's input. */
export interface ContextOptions {
  /** Results of earlier steps, by name. */
  dependencies?: Fields;
  config?: Fields;
  attempt?: number;
  maxAttempts?: number;
  /** A cursor; an empty one is a batch worker that has nothing to do. */
  batch?: { startCursor?: Json; endCursor?: Json; batchId?: string; batchSize?: number };
  checkpoint?: Partial<Checkpoint>;
  stepName?: string;
  namespace?: string;
  timeoutMs?: number;
  cancelled?: boolean;
}

/** The context of an attempt. */
export function makeContext(inputs: Json = {}, options: ContextOptions = {}): StepContext {
  const { dependencies = {}, config = {}, attempt = 1, maxAttempts = 3, stepName = "step" } = options;
  const task = crypto.randomUUID();
  const context = new StepContext({
    taskUuid: task,
    stepUuid: crypto.randomUUID(),
    correlationId: task,
    namespace: options.namespace ?? "test",
    stepName,
    handlerName: "test",
    attempt,
    maxAttempts,
    idempotencyKey: `${task}:${stepName}`,
    inputData: inputs,
    stepConfig: config,
    dependencyResults: dependencies,
    stepInputs: options.batch === undefined ? {} : batchOf(options.batch),
    checkpoint: options.checkpoint
      ? { cursor: null, itemsProcessed: 0, accumulatedResults: null, ...options.checkpoint }
      : null,
    deadline: performance.now() + (options.timeoutMs ?? 30_000),
  });
  if (options.cancelled) {
    context.cancel();
  }
  return context;
}

/**
 * Calls a handler (a class or an instance) as a worker would: what it throws becomes a failure, and what can't be
 * encoded `result_not_serializable`. A result is answered as later steps would read it.
 */
export async function run(
  handler: HandlerClass | StepHandler,
  context: StepContext = makeContext(),
  method = "call",
): Promise<StepHandlerResult> {
  let result: StepHandlerResult;
  try {
    const instance = typeof handler === "function" ? new handler() : handler;
    result = ofReturn(await runAs(context, () => invoke(instance, method, context)));
  } catch (error) {
    result = ofThrown(error);
  }
  const said = JSON.parse(encoded("0.0", result));
  if (said.type === "success") {
    return StepHandlerResult.success(said.result, said.metadata);
  }
  if (said.type === "failure" && said.error_type !== result.errorType) {
    return StepHandlerResult.failure(said.message, said.error_type, said.retryable);
  }
  return result;
}

function batchOf(batch: NonNullable<ContextOptions["batch"]>) {
  const { startCursor, endCursor, batchId = "001", batchSize } = batch;
  const isNoOp = Object.keys(batch).length === 0;
  const cursor = { batch_id: batchId, start_cursor: startCursor, end_cursor: endCursor, batch_size: batchSize };
  return { isNoOp, cursor: isNoOp ? {} : cursor };
}
