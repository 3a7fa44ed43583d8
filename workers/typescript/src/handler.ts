/** The class of a handler. */

import type { StepContext } from "./context.ts";
import { ConfigurationError } from "./errors.ts";
import type { Fields, Json } from "./json.ts";
import { StepHandlerResult } from "./result.ts";

/** Marks handler classes, also those of another copy of this package in the same process. */
const HANDLER = Symbol.for("tasker.StepHandler");

/**
 * User code that runs one step. It may run more than once for the same step: see `StepContext.idempotencyKey`. Each
 * attempt has an instance of its own, made without arguments.
 */
export abstract class StepHandler {
  static readonly [HANDLER] = true;
  /** What templates call it; the class's name where this is not given. */
  static handlerName?: string;
  static handlerVersion?: string;
  /** What templates may name as `method`; each takes a context, as `call` does. */
  static handlerMethods?: readonly string[];

  /** Makes one attempt. A value that is no {@link StepHandlerResult} is the result of a success. */
  abstract call(context: StepContext): Promise<StepHandlerResult | Json> | StepHandlerResult | Json;

  /** What templates call it. */
  get name(): string {
    return handlerName(this.constructor as HandlerClass);
  }

  /** The handler's own version. */
  get version(): string {
    return (this.constructor as HandlerClass).handlerVersion ?? "1.0.0";
  }

  /** For people. */
  get capabilities(): string[] {
    return ["process"];
  }

  /** A JSON Schema of the handler's settings, for people. */
  configSchema(): Fields | null {
    return null;
  }

  /** The step is done. */
  success(result?: Json, metadata?: Fields): StepHandlerResult {
    return StepHandlerResult.success(result, metadata);
  }

  /** The attempt failed. */
  failure(
    message: string,
    errorType?: string,
    retryable?: boolean,
    metadata?: Fields,
    errorCode?: string,
  ): StepHandlerResult {
    return StepHandlerResult.failure(message, errorType, retryable, metadata, errorCode);
  }
}

/** For the compiler only: a handler whose `call` is there. */
declare class Runnable extends StepHandler {
  call(context: StepContext): ReturnType<StepHandler["call"]>;
}

/** The class of a handler that can be run. */
export type HandlerClass = Omit<typeof StepHandler, "prototype"> & (new () => Runnable);

/** What templates call a handler: its own name, not that of a class it inherits from. */
export function handlerName(handler: HandlerClass): string {
  return (Object.hasOwn(handler, "handlerName") && handler.handlerName) || handler.name;
}

/** The methods of a handler that templates may name. */
export function handlerMethods(handler: HandlerClass): readonly string[] {
  return handler.handlerMethods ?? ["call"];
}

/** Calls one of a handler's methods, and awaits even what a `then` of its own makes of that. */
export async function invoke(handler: object, method: string, context: StepContext): Promise<unknown> {
  const code = (handler as Record<string, unknown>)[method];
  if (typeof code !== "function") {
    throw new ConfigurationError(`${handler.constructor.name} has no method \`${method}\``);
  }
  return await code.call(handler, context);
}

/** Whether a value is a handler that can be run: what has no `call` is only a base for others. */
export function isHandlerClass(value: unknown): value is HandlerClass {
  return typeof value === "function" && HANDLER in value && typeof value.prototype?.call === "function";
}

/** Refuses what is no handler, saying why. */
export function checkHandler(value: unknown): asserts value is HandlerClass {
  if (typeof value !== "function" || !(HANDLER in value)) {
    throw new ConfigurationError(`${typeof value} is no handler: neither a StepHandler class nor a defined function`);
  }
  if (!isHandlerClass(value)) {
    throw new ConfigurationError(`${value.name} has no call()`);
  }
  for (const method of handlerMethods(value)) {
    if (typeof value.prototype[method] !== "function") {
      throw new ConfigurationError(`${value.name} has no method \`${method}\`, which its handlerMethods names`);
    }
  }
}
