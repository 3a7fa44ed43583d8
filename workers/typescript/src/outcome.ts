/** From what a handler returned or threw to the boundary's outcome. */

import type { StepContext } from "./context.ts";
import { isStepFailure } from "./errors.ts";
import { encode, NotPortable } from "./json.ts";
import { log } from "./log.ts";
import { isResult, StepHandlerResult } from "./result.ts";

const MESSAGE_CHARS = 8 * 1024;
const LONGEST_S = 365 * 24 * 3600;

/** A plain value is a success. */
export function ofReturn(value: unknown): StepHandlerResult {
  return isResult(value) ? value : StepHandlerResult.success(value);
}

/** The failed attempt, told in the log: with its stack where the error is nobody's intention. */
export function failed(context: StepContext, error: unknown): StepHandlerResult {
  const result = ofThrown(error);
  try {
    if (!context.cancelled) {
      const told = `${context.stepName} of task ${context.taskUuid} failed at attempt ${context.attempt}`;
      const stack = result.errorType === "handler_error" && error instanceof Error ? `\n${error.stack}` : "";
      log[result.retryable ? "warn" : "error"](`${told}: ${result.errorMessage}${stack}`);
    }
  } catch {
    // The handler's own code, or the program's logger: the attempt has failed all the same.
  }
  return result;
}

/** Whatever was thrown is a failed attempt; what can't say what it is, too. */
export function ofThrown(error: unknown): StepHandlerResult {
  try {
    const name = nameOf(error);
    if (isStepFailure(error)) {
      const metadata = { exception: name, ...error.metadata };
      const { errorType, retryable, errorCode, retryAfter } = error;
      return StepHandlerResult.failure(messageOf(error) || name, errorType, retryable, metadata, errorCode, retryAfter);
    }
    const message = messageOf(error);
    return StepHandlerResult.failure(message ? `${name}: ${message}` : name, "handler_error", true, {
      exception: name,
    });
  } catch {
    return StepHandlerResult.failure("what was thrown can't say what it is");
  }
}

function nameOf(error: unknown): string {
  if (error instanceof Error) {
    return String(error.name || error.constructor.name);
  }
  return typeof error === "object" && error !== null ? (error.constructor?.name ?? "Object") : typeof error;
}

function messageOf(error: unknown): string {
  if (error instanceof Error) {
    return text(error.message);
  }
  if (typeof error === "object" && error !== null) {
    const { message } = error as { message?: unknown };
    return typeof message === "string" ? text(message) : text(JSON.stringify(error) ?? "");
  }
  return error === undefined ? "" : text(String(error));
}

/** The boundary's outcome. What can't be encoded becomes a permanent failure that says where. */
export function encoded(attempt: string, result: StepHandlerResult): string {
  try {
    return said(attempt, result);
  } catch (error) {
    const why = error instanceof NotPortable ? error.message : "the result can't be read: what it does itself throws";
    return said(attempt, StepHandlerResult.failure(why, "result_not_serializable", false));
  }
}

function said(attempt: string, result: StepHandlerResult): string {
  const parts = [`"id":${encode("the id", attempt)}`];
  const add = (key: string, value: unknown, what = `the ${key}`) => parts.push(`"${key}":${encode(what, value)}`);
  if (result.success && result.checkpoint) {
    const { cursor, itemsProcessed, accumulatedResults } = result.checkpoint;
    add("type", "checkpoint_yield");
    add("cursor", cursor ?? null, "the checkpoint's cursor");
    add("items_processed", itemsProcessed, "the checkpoint's items_processed");
    add("accumulated_results", accumulatedResults ?? null, "the checkpoint's accumulated_results");
    return `{${parts.join(",")}}`;
  }
  if (result.success) {
    add("type", "success");
    add("result", result.result ?? {});
  } else {
    add("type", "failure");
    add("message", text(String(result.errorMessage || "no message")));
    add("retryable", Boolean(result.retryable));
    add("error_type", name(result.errorType));
    add("error_code", name(result.errorCode));
    add("retry_after_ms", milliseconds(result.retryAfter));
  }
  if (result.metadata && Object.keys(result.metadata).length > 0) {
    add("metadata", result.metadata);
  }
  return `{${parts.join(",")}}`;
}

/** Half surrogate pairs are no text, and an endless message helps nobody. */
function text(value: string): string {
  return String(value).slice(0, MESSAGE_CHARS).toWellFormed();
}

function name(value: unknown): string | null {
  return value === undefined || value === null ? null : text(String(value));
}

function milliseconds(seconds: number | undefined): number | null {
  if (typeof seconds !== "number" || Number.isNaN(seconds)) {
    return null;
  }
  return Math.trunc(Math.min(Math.max(seconds, 0), LONGEST_S) * 1000);
}
