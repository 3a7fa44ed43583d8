/** What a handler gives back. */

import type { Fields, Json } from "./json.ts";

/** Marks results, also those of another copy of this package in the same process. */
const RESULT = Symbol.for("tasker.StepHandlerResult");

/** How far a step got. */
export interface Checkpoint {
  cursor: Json;
  itemsProcessed: number;
  accumulatedResults: Json;
}

/** What a handler returns. Make one with {@link success}, {@link failure} or a mixin's methods. */
export class StepHandlerResult {
  readonly [RESULT] = true;
  success = false;
  result: Json = null;
  errorMessage: string | undefined = undefined;
  errorType: string | undefined = undefined;
  errorCode: string | undefined = undefined;
  retryable = true;
  metadata: Fields = {};
  /** Seconds until the next attempt; the template's `max_backoff_ms` caps it. */
  retryAfter: number | undefined = undefined;
  /** Where this is no end but a stop on the way. */
  checkpoint: Checkpoint | undefined = undefined;

  constructor(init: Partial<StepHandlerResult>) {
    Object.assign(this, init);
  }

  /** The step is done; later steps read `result`. */
  static success(result?: Json, metadata: Fields = {}): StepHandlerResult {
    return new StepHandlerResult({ success: true, result: result ?? {}, metadata });
  }

  /** The attempt failed. */
  static failure(
    message: string,
    errorType = "handler_error",
    retryable = true,
    metadata: Fields = {},
    errorCode?: string,
    retryAfter?: number,
  ): StepHandlerResult {
    return new StepHandlerResult({ errorMessage: message, errorType, retryable, metadata, errorCode, retryAfter });
  }

  /**
   * Stores how far the step got and runs its handler again from there at once, in the same attempt. After a failure or
   * a crash the next attempt begins there.
   */
  static checkpointYield(cursor: Json, itemsProcessed: number, accumulatedResults: Json = null): StepHandlerResult {
    return new StepHandlerResult({ success: true, checkpoint: { cursor, itemsProcessed, accumulatedResults } });
  }

  /** Whether the step is done. */
  isSuccess(): boolean {
    return this.success;
  }

  /** Whether the attempt failed. */
  isFailure(): boolean {
    return !this.success;
  }
}

/** Whether a returned value is a result already. */
export function isResult(value: unknown): value is StepHandlerResult {
  return typeof value === "object" && value !== null && (value as Partial<StepHandlerResult>)[RESULT] === true;
}
