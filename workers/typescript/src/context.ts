/** What a handler is given. */

import type { Fields, Json } from "./json.ts";
import type { Checkpoint } from "./result.ts";

/** A step as the boundary says it (docs/boundary.md). */
export interface StepMessage {
  id: string;
  task_uuid: string;
  step_uuid: string;
  correlation_id: string;
  namespace: string;
  step_name: string;
  handler_name: string;
  method: string;
  attempt: number;
  max_attempts: number;
  idempotency_key: string;
  ms_left: number;
  cancelled: boolean;
  input: Json;
  step_config: Fields | null;
  dependency_results: Fields;
  checkpoint: { cursor: Json; items_processed: number; accumulated_results: Json } | null;
  batch_config: Fields | null;
  batch: ({ is_no_op: boolean } & Fields) | null;
  batch_failures: Record<string, { message: string; error_type: string }>;
  /** Who found the handler, where it is not registered by its name. */
  resolver: string | null;
  /** The events that have a publisher, and after which outcomes. */
  publishes: { name: string; publisher: string; on: ("success" | "retryable" | "permanent")[] }[];
}

/** How a template wants a batchable step split. */
export interface BatchSettings {
  batchSize: number;
  parallelism: number;
  cursorField: string | null;
  workerTemplate: string | null;
  failureStrategy: string;
}

/** Of a batch worker what it is to work on; of another step nothing. */
export interface StepInputs {
  isNoOp?: boolean;
  cursor?: Fields;
}

/** What a context is made of; what is left out has a plain value. */
export type StepContextInit = Partial<
  Pick<
    StepContext,
    | "taskUuid"
    | "stepUuid"
    | "correlationId"
    | "namespace"
    | "stepName"
    | "handlerName"
    | "attempt"
    | "maxAttempts"
    | "idempotencyKey"
    | "inputData"
    | "stepConfig"
    | "dependencyResults"
    | "stepInputs"
    | "checkpoint"
    | "batchConfig"
    | "batchFailures"
    | "deadline"
    | "event"
    | "retryCount"
    | "maxRetries"
  >
>;

/** One attempt of a step, as its handler sees it. */
export class StepContext {
  taskUuid = "";
  stepUuid = "";
  correlationId = "";
  namespace = "";
  stepName = "";
  handlerName = "";
  /** From 1. */
  attempt = 1;
  /** The number of the last attempt that the step may have. */
  maxAttempts = 1;
  /** The same at every attempt: give it to other systems, so that they recognise a repeated request. */
  idempotencyKey = "";
  /** The task's context. */
  inputData: Json = {};
  /** The handler's `initialization` in the template. */
  stepConfig: Fields = {};
  /** The results of all steps before this one, by name. */
  dependencyResults: Fields = {};
  stepInputs: StepInputs = {};
  /** How far an earlier run got; null at the first. */
  checkpoint: Checkpoint | null = null;
  batchConfig: BatchSettings | null = null;
  /** The errors of batch workers before this step that failed although it runs, by step name. */
  batchFailures: Record<string, { message: string; errorType: string }> = {};
  /** When the attempt's time is over, by `performance.now()`. */
  deadline = Number.POSITIVE_INFINITY;
  /** The step as the boundary said it. */
  event: StepMessage | null = null;

  /** Made when it is asked for: most handlers never do. */
  #abort: AbortController | undefined;
  #cancelled: DOMException | undefined;
  readonly #pulse: (() => boolean) | undefined;

  constructor({ retryCount, maxRetries, ...init }: StepContextInit = {}, pulse?: () => boolean) {
    Object.assign(this, init);
    this.attempt = init.attempt ?? (retryCount ?? 0) + 1;
    this.maxAttempts = init.maxAttempts ?? maxRetries ?? 1;
    this.#pulse = pulse;
  }

  /** From a step of the boundary's messages. */
  static fromFfiEvent(step: StepMessage, pulse?: () => boolean): StepContext {
    const context = new StepContext(
      {
        taskUuid: step.task_uuid,
        stepUuid: step.step_uuid,
        correlationId: step.correlation_id,
        namespace: step.namespace,
        stepName: step.step_name,
        handlerName: step.handler_name,
        attempt: step.attempt,
        maxAttempts: step.max_attempts,
        idempotencyKey: step.idempotency_key,
        inputData: step.input,
        stepConfig: step.step_config ?? {},
        dependencyResults: step.dependency_results,
        stepInputs: inputsOf(step.batch),
        checkpoint: checkpointOf(step.checkpoint),
        batchConfig: batchConfigOf(step.batch_config),
        batchFailures: failuresOf(step.batch_failures),
        deadline: performance.now() + step.ms_left,
        event: step,
      },
      pulse,
    );
    if (step.cancelled) {
      context.cancel();
    }
    return context;
  }

  /** Fires when the outcome counts no more: the task was cancelled, the lease lost, or time is over. Hand it on. */
  get signal(): AbortSignal {
    if (this.#abort === undefined) {
      this.#abort = new AbortController();
      if (this.#cancelled !== undefined) {
        this.#abort.abort(this.#cancelled);
      }
    }
    return this.#abort.signal;
  }

  /** Whether {@link signal} has fired. */
  get cancelled(): boolean {
    return this.#cancelled !== undefined;
  }

  /** Fires {@link signal}; the worker does. */
  cancel(reason = "the outcome of this attempt counts no more"): void {
    this.#cancelled ??= new DOMException(reason, "AbortError");
    this.#abort?.abort(this.#cancelled);
  }

  /** Waits until {@link cancelled}, at most so many milliseconds; answers whether it is. */
  async waitCancelled(timeoutMs?: number): Promise<boolean> {
    if (!this.cancelled) {
      await new Promise<void>((resolve) => {
        const done = () => {
          clearTimeout(timer);
          this.signal.removeEventListener("abort", done);
          resolve();
        };
        const timer = timeoutMs === undefined ? undefined : setTimeout(done, timeoutMs);
        this.signal.addEventListener("abort", done);
      });
    }
    return this.cancelled;
  }

  /** Milliseconds until the attempt's time is over. */
  timeLeft(): number {
    return Math.max(0, this.deadline - performance.now());
  }

  /** Whether the outcome still counts. The lease needs no heartbeat: it lasts as long as the handler runs. */
  heartbeat(): boolean {
    if (this.#pulse !== undefined && !this.cancelled && !this.#pulse()) {
      this.cancel();
    }
    return !this.cancelled;
  }

  /** Attempts before this one. */
  get retryCount(): number {
    return this.attempt - 1;
  }

  /** How many attempts the step may have; the same as `maxAttempts`. */
  get maxRetries(): number {
    return this.maxAttempts;
  }

  /** Whether there was an attempt before this one. */
  isRetry(): boolean {
    return this.attempt > 1;
  }

  /** Whether no attempt will follow, whatever comes of this one. */
  isLastRetry(): boolean {
    return this.attempt >= this.maxAttempts;
  }

  /** One key of the task's context; `fallback` where it is absent. */
  getInput<T = Json>(key: string, fallback?: T): T {
    return member(this.inputData, key) ?? (hasMember(this.inputData, key) ? null : fallback);
  }

  /** One key of the task's context; `fallback` where it is absent or null. */
  getInputOr<T = Json>(key: string, fallback: T): T {
    return member(this.inputData, key) ?? fallback;
  }

  /** The same as {@link getInput}. */
  getTaskField<T = Json>(key: string, fallback?: T): T {
    return this.getInput(key, fallback);
  }

  /** One key of the handler's settings; `fallback` where it is absent. */
  getConfig<T = Json>(key: string, fallback?: T): T {
    return member(this.stepConfig, key) ?? (hasMember(this.stepConfig, key) ? null : fallback);
  }

  /** The result of a step before this one; null where there is none. */
  getDependencyResult<T = Json>(step: string): T {
    return member(this.dependencyResults, step) ?? null;
  }

  /** What lies at `path` in the result of a step before this one; undefined where there is nothing. */
  getDependencyField<T = Json>(step: string, ...path: (string | number)[]): T {
    return path.reduce<Json>((value, key) => member(value, key), member(this.dependencyResults, step));
  }

  /** The names of the steps whose results are here. */
  getDependencyResultKeys(): string[] {
    return Object.keys(this.dependencyResults);
  }

  /** The results of the steps whose names begin with `prefix`, in the order of the steps. */
  getAllDependencyResults<T = Json>(prefix = ""): T[] {
    const found = Object.entries(this.dependencyResults).filter(([step]) => step.startsWith(prefix));
    return found.map(([, result]) => result);
  }

  /** Whether an earlier run stored how far it got. */
  get hasCheckpoint(): boolean {
    return this.checkpoint !== null;
  }

  /** Where to go on; null at the first run. */
  get checkpointCursor(): Json {
    return this.checkpoint?.cursor ?? null;
  }

  /** How many items were processed so far. */
  get checkpointItemsProcessed(): number {
    return this.checkpoint?.itemsProcessed ?? 0;
  }

  /** What was gathered so far; null at the first run. */
  get accumulatedResults(): Json {
    return this.checkpoint?.accumulatedResults ?? null;
  }
}

/** What an object says itself: `constructor` and its like are nobody's data. */
function member(value: Json, key: string | number): Json {
  return hasMember(value, key) ? value[key] : undefined;
}

function hasMember(value: Json, key: string | number): boolean {
  return typeof value === "object" && value !== null && Object.hasOwn(value, key);
}

function inputsOf(batch: StepMessage["batch"]): StepInputs {
  if (batch === null) {
    return {};
  }
  const { is_no_op: isNoOp, ...cursor } = batch;
  return { isNoOp, cursor };
}

function checkpointOf(said: StepMessage["checkpoint"]): Checkpoint | null {
  if (said === null) {
    return null;
  }
  return {
    cursor: said.cursor,
    itemsProcessed: said.items_processed,
    accumulatedResults: said.accumulated_results,
  };
}

function batchConfigOf(said: Fields | null): BatchSettings | null {
  if (said === null) {
    return null;
  }
  return {
    batchSize: said.batch_size,
    parallelism: said.parallelism,
    cursorField: said.cursor_field ?? null,
    workerTemplate: said.worker_template ?? null,
    failureStrategy: said.failure_strategy,
  };
}

function failuresOf(said: StepMessage["batch_failures"]): StepContext["batchFailures"] {
  const renamed = Object.entries(said).map(([step, { message, error_type: errorType }]) => [
    step,
    { message, errorType },
  ]);
  return Object.fromEntries(renamed);
}
