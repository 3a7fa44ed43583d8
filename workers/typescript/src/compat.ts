/**
 * Names that start-up code written for other releases calls. Each does what is left of it to do: the worker fetches
 * steps, runs handlers and reports by itself, so that a poller and a subscriber have nothing to.
 */

export { EventEmitter } from "node:events";

import { WorkerError } from "./errors.ts";
import type { HandlerClass, StepHandler } from "./handler.ts";
import { type LogFields, log } from "./log.ts";
import { native } from "./native.ts";
import { HandlerRegistry } from "./registry.ts";
import { type WorkerConfig, WorkerServer } from "./worker.ts";

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

/** What was started by hand and is a part of {@link WorkerServer} here. Starting it does nothing. */
class Started {
  #isRunning = false;

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

/** The worker needs none: it fetches steps as soon as there are any. */
export class EventPoller extends Started {}

/** The worker needs none: it calls handlers itself. */
export class StepExecutionSubscriber extends Started {}

/** The worker needs none. */
export class EventSystem extends Started {}

const said = (message: string, fields?: LogFields) => (fields ? `${message} ${JSON.stringify(fields)}` : message);

export const logError = (message: string, fields?: LogFields): void => log.error(said(message, fields));
export const logWarn = (message: string, fields?: LogFields): void => log.warn(said(message, fields));
export const logInfo = (message: string, fields?: LogFields): void => log.info(said(message, fields));
export const logDebug = (message: string, fields?: LogFields): void => log.debug(said(message, fields));
export const logTrace = logDebug;
