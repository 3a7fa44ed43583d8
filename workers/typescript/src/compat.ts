/**
 * Names that programs written for the TypeScript package of Tasker 0.1.x start and watch a worker with.
 *
 * There a program started pollers and subscribers itself; here the worker does that work, so most of these only watch.
 * docs/migration.md has them all. New programs need none of them.
 */

import { EventEmitter } from "node:events";
import { WorkerError } from "./errors.ts";
import type { HandlerClass, StepHandler } from "./handler.ts";
import type { Fields } from "./json.ts";
import { type LogFields, log } from "./log.ts";
import { native } from "./native.ts";
import { HandlerRegistry } from "./registry.ts";
import { observers, type WorkerConfig, WorkerServer } from "./worker.ts";

export { EventEmitter };

let server: WorkerServer | undefined;

/** Starts the worker of this process, for the handlers of `HandlerRegistry.instance()`. */
export async function bootstrapWorker(config: WorkerConfig = {}): Promise<WorkerServer> {
  if (isWorkerRunning()) {
    throw new WorkerError("already_running", "the worker of this process is running");
  }
  server ??= new WorkerServer();
  return server.start(config);
}

/** Stops the worker of this process, where there is one. */
export async function stopWorker(graceMs?: number): Promise<void> {
  if (isWorkerRunning()) {
    await server?.stop(graceMs);
  }
}

/** The same as {@link stopWorker}. */
export function transitionToGracefulShutdown(): Promise<void> {
  return stopWorker();
}

/** Whether the worker of this process runs. */
export function isWorkerRunning(): boolean {
  return server?.isRunning() ?? false;
}

/** What the worker of this process is and does. */
export function getWorkerStatus(): ReturnType<WorkerServer["status"]> {
  return (server ?? new WorkerServer()).status();
}

/** Whether the worker of this process does what it should. */
export function healthCheck(): ReturnType<WorkerServer["healthCheck"]> {
  return (server ?? new WorkerServer()).healthCheck();
}

/** The version of this package. */
export function getVersion(): string {
  return JSON.parse(native().version()).package;
}

/** The same as {@link getVersion}: the two are built together. */
export function getRustVersion(): string {
  return getVersion();
}

/** A registry under its other name. */
export class HandlerSystem {
  readonly registry: HandlerRegistry;

  constructor(registry = HandlerRegistry.instance()) {
    this.registry = registry;
  }

  /** See {@link HandlerRegistry.register}. */
  register(name: string, handler: HandlerClass): void {
    this.registry.register(name, handler);
  }

  /** See {@link HandlerRegistry.resolve}. */
  resolve(name: string): StepHandler | null {
    return this.registry.resolve(name);
  }

  /** See {@link HandlerRegistry.loadFromPath}. */
  loadFromPath(path: string): Promise<number> {
    return this.registry.loadFromPath(path);
  }

  /** See {@link HandlerRegistry.loadFromEnv}. */
  loadFromEnv(): Promise<number> {
    return this.registry.loadFromEnv();
  }

  /** See {@link HandlerRegistry.listHandlers}. */
  listHandlers(): string[] {
    return this.registry.listHandlers();
  }
}

/** What was started by hand and is a part of {@link WorkerServer} here. */
class Started {
  #isRunning = false;

  // biome-ignore lint/complexity/noUselessConstructor: former programs say what is not needed any more
  constructor(..._given: unknown[]) {}

  start(): void {
    this.#isRunning = true;
  }

  async stop(): Promise<void> {
    this.#isRunning = false;
  }

  isRunning(): boolean {
    return this.#isRunning;
  }
}

/** The worker needs none: it calls handlers itself. Starting it does nothing. */
export class StepExecutionSubscriber extends Started {}

/**
 * Tells of `step.execution.received` with the step as the boundary says it, of `step.execution.completed` and
 * `step.execution.failed` with the outcome, to whoever listens to its emitter.
 */
export class EventSystem extends Started {
  readonly #emitter = new EventEmitter();
  readonly #tell = (event: string, told: Fields) => void this.#emitter.emit(event, told);

  /** Begins to tell. */
  override start(): void {
    super.start();
    observers.add(this.#tell);
  }

  /** Ends, and forgets who listened. */
  override async stop(): Promise<void> {
    observers.delete(this.#tell);
    this.#emitter.removeAllListeners();
    await super.stop();
  }

  /** Names of the program's own may be told by it too. */
  getEmitter(): EventEmitter {
    return this.#emitter;
  }
}

/** Calls back with each step that the worker received. It polls nothing, and handlers run without it. */
export class EventPoller extends Started {
  readonly #callbacks = { step: [] as Callback[], metrics: [] as Callback[], error: [] as Callback[] };
  #received = 0;
  readonly #tell = (event: string, step: Fields) => {
    if (event !== "step.execution.received") {
      return;
    }
    this.#received += 1;
    try {
      call(this.#callbacks.step, step);
      call(this.#callbacks.metrics, this.getMetrics());
    } catch (error) {
      call(this.#callbacks.error, error);
    }
  };

  /** Calls it with each step, as the boundary says it. */
  onStepEvent(callback: Callback): this {
    this.#callbacks.step.push(callback);
    return this;
  }

  /** Calls it with {@link getMetrics} after each step. */
  onMetrics(callback: Callback): this {
    this.#callbacks.metrics.push(callback);
    return this;
  }

  /** Calls it with what the other callbacks throw. */
  onError(callback: Callback): this {
    this.#callbacks.error.push(callback);
    return this;
  }

  /** Begins to call back. */
  override start(): void {
    super.start();
    observers.add(this.#tell);
  }

  override async stop(): Promise<void> {
    observers.delete(this.#tell);
    await super.stop();
  }

  /** How many steps were received since the start, and how many handlers run. */
  getMetrics(): { received: number; activeHandlers: number } {
    return { received: this.#received, activeHandlers: getWorkerStatus().activeHandlers };
  }
}

// biome-ignore lint/suspicious/noExplicitAny: each event has a shape of its own
type Callback = (told: any) => unknown;

function call(callbacks: readonly Callback[], told: unknown): void {
  for (const callback of callbacks) {
    callback(told);
  }
}

const said = (message: string, fields?: LogFields) => (fields ? `${message} ${JSON.stringify(fields)}` : message);

export const logError = (message: string, fields?: LogFields): void => log.error(said(message, fields));
export const logWarn = (message: string, fields?: LogFields): void => log.warn(said(message, fields));
export const logInfo = (message: string, fields?: LogFields): void => log.info(said(message, fields));
export const logDebug = (message: string, fields?: LogFields): void => log.debug(said(message, fields));
export const logTrace = logDebug;
