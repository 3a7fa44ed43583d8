/**
 * Tasks from TypeScript.
 *
 *     const client = new TaskerClient();
 *     const task = await client.createTask({ name: "order", namespace: "shop", context: { amount: 12.5 } });
 *     console.log((await client.waitTask(task.task_uuid)).status);
 */

import { ClientError } from "./errors.ts";
import type { Fields, Json } from "./json.ts";
import { heard, type NativeClient, native } from "./native.ts";
import { serverOfWorker } from "./worker.ts";

/** How a client introduces itself, and where the server is. */
export interface ClientOptions {
  /** The server; without it, that of this process's worker or of the configuration (`TASKER_ORCHESTRATION_URL`). */
  url?: string;
  /** Said of every task that is created. */
  initiator?: string;
  sourceSystem?: string;
}

/** A task to create. Other keys are those of the HTTP API: `priority`, `tags`, `idempotency_key`, … */
export interface NewTask {
  name: string;
  /** `default` without it. */
  namespace?: string;
  /** `1.0.0` without it; null is the template's newest. */
  version?: string | null;
  context?: Fields;
  initiator?: string;
  source_system?: string;
  reason?: string;
  tags?: readonly string[];
  priority?: number;
  idempotency_key?: string;
  correlation_id?: string;
  parent_correlation_id?: string;
  [key: string]: Json;
}

/** A record of the HTTP API, with all its keys (docs/http-api.md). */
export type TaskRecord = Fields & { task_uuid: string; status: string; steps?: StepRecord[] };
/** A step of a task. */
export type StepRecord = Fields & { step_uuid: string; task_uuid: string; name: string; results: Json };

/** One page, and how to get the next. */
export type Page<K extends string, T> = Record<K, T[]> & {
  pagination: { next_cursor: string | null; has_next: boolean } & Fields;
};

/** What {@link TaskerClient.listTasks} may be asked for. */
export interface TaskFilters {
  limit?: number;
  /** The `next_cursor` of the page before. */
  cursor?: string;
  namespace?: string;
  name?: string;
  status?: string;
  initiator?: string;
  source_system?: string;
  tag?: string;
  correlation_id?: string;
  created_after?: string;
  created_before?: string;
}

/**
 * A client of one server. Records are those of the HTTP API. Each method throws {@link ClientError} where the server
 * refuses or none answers.
 */
export class TaskerClient {
  readonly #native: NativeClient;
  readonly #initiator: string;
  readonly #sourceSystem: string;

  constructor({ url, initiator = "tasker-typescript", sourceSystem = "tasker" }: ClientOptions = {}) {
    this.#native = heard(native().client(url ?? serverOfWorker()));
    this.#initiator = initiator;
    this.#sourceSystem = sourceSystem;
  }

  /** Creates a task. A lost connection is tried again where there is an `idempotency_key`. */
  createTask(task: NewTask): Promise<TaskRecord> {
    return this.#call("create_task", this.#request(task));
  }

  /** Creates up to 1,000 tasks, each on its own: each answer has `index`, `status` and `task` or `error`. */
  createTasks(tasks: readonly NewTask[]): Promise<(Fields & { status: number; task?: TaskRecord })[]> {
    return this.#call("create_tasks", { tasks: tasks.map((task) => this.#request(task)) });
  }

  /** The task with its steps. */
  getTask(taskUuid: string): Promise<TaskRecord> {
    return this.#call("get_task", { task_uuid: taskUuid });
  }

  /** One page of tasks, newest first. */
  listTasks(filters: TaskFilters = {}): Promise<Page<"tasks", TaskRecord>> {
    return this.#call("list_tasks", { limit: 50, ...filters });
  }

  /** Cancels the task; no step of it is begun after this. */
  cancelTask(taskUuid: string): Promise<TaskRecord> {
    return this.#call("cancel_task", { task_uuid: taskUuid });
  }

  /**
   * Waits until the task has ended or is blocked by failures, at most so many milliseconds; answers the task as it is
   * then.
   */
  async waitTask(taskUuid: string, timeoutMs?: number): Promise<TaskRecord> {
    return (await this.#call("wait_task", { task_uuid: taskUuid, timeout_ms: timeoutMs })).task;
  }

  /** The steps of the task. */
  listTaskSteps(taskUuid: string): Promise<StepRecord[]> {
    return this.#call("list_task_steps", { task_uuid: taskUuid });
  }

  /** One step of the task. */
  getStep(taskUuid: string, stepUuid: string): Promise<StepRecord> {
    return this.#call("get_step", { task_uuid: taskUuid, step_uuid: stepUuid });
  }

  /** Every attempt of the step that ended, with its result or error. */
  getStepAuditHistory(taskUuid: string, stepUuid: string): Promise<Fields[]> {
    return this.#call("get_step_audit_history", { task_uuid: taskUuid, step_uuid: stepUuid });
  }

  /** Every transition of the task so far. */
  getTaskHistory(taskUuid: string): Promise<Fields[]> {
    return this.#call("get_task_history", { task_uuid: taskUuid });
  }

  /** For each step that has not ended well, why. */
  explain(taskUuid: string): Promise<Fields> {
    return this.#call("explain", { task_uuid: taskUuid });
  }

  /** One page of registered templates. */
  listTemplates(query: { namespace?: string } & Fields = {}): Promise<Page<"templates", Fields>> {
    return this.#call("list_templates", query);
  }

  /** How the server is: `status` is `healthy`, `degraded` or `unhealthy`. */
  healthCheck(): Promise<Fields & { status: string }> {
    return this.#call("health_check", {});
  }

  #request({ namespace = "default", version = "1.0.0", context = {}, ...task }: NewTask): Fields {
    const own = { initiator: this.#initiator, source_system: this.#sourceSystem, reason: "Task requested" };
    return { namespace, context, ...own, ...task, ...(version === null ? {} : { version }) };
  }

  async #call(operation: string, args: Fields): Promise<Json> {
    const { answer, error } = JSON.parse(await this.#native.call(JSON.stringify({ operation, arguments: args })));
    if (error) {
      const { code, message, status, retry_after: retryAfter, details } = error;
      throw new ClientError(code, message, {
        status: status ?? undefined,
        retryAfter: retryAfter ?? undefined,
        details,
      });
    }
    return answer;
  }
}
