/**
 * Errors that say what is to become of a step: throw one in a handler.
 *
 * A permanent error ends the step. A retryable one is tried again as the template says, or after `retryAfter` seconds.
 * Anything else that is thrown is retryable, because nobody said that it is not.
 */

import type { Fields } from "./json.ts";

/** Marks our errors, also those of another copy of this package in the same process. */
const FAILURE = Symbol.for("tasker.StepFailure");

/** What an error may say beside its message. */
export interface FailureOptions {
  /** The class of the failure; each kind of error has its own. */
  errorType?: string;
  errorCode?: string;
  metadata?: Fields;
  cause?: unknown;
}

/** The root of all errors of this package. */
export class TaskerError extends Error {
  constructor(message = "", options: { cause?: unknown } = {}) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** An error that says what becomes of its step. */
export abstract class StepFailure extends TaskerError {
  readonly [FAILURE] = true;
  abstract readonly retryable: boolean;
  readonly errorType: string;
  readonly errorCode: string | undefined;
  readonly metadata: Fields;

  constructor(message: string, errorType: string, options: FailureOptions) {
    super(message, "cause" in options ? { cause: options.cause } : {});
    this.errorType = options.errorType ?? errorType;
    this.errorCode = options.errorCode;
    this.metadata = options.metadata ?? {};
  }
}

/** Whether a thrown value says what becomes of its step. */
export function isStepFailure(error: unknown): error is StepFailure & { retryAfter?: number } {
  return typeof error === "object" && error !== null && (error as Partial<StepFailure>)[FAILURE] === true;
}

/** What a retryable error may say beside its message. */
export interface RetryOptions extends FailureOptions {
  /** Seconds until the next attempt. */
  retryAfter?: number;
}

/** Trying again may help; after `retryAfter` seconds, where that is given. */
export class RetryableError extends StepFailure {
  static readonly errorType: string = "retryable_error";
  readonly retryable = true;
  readonly retryAfter: number | undefined;

  constructor(message = "", retryAfter: number | RetryOptions = {}) {
    const options = typeof retryAfter === "number" ? { retryAfter } : retryAfter;
    super(message, new.target.errorType, options);
    this.retryAfter = options.retryAfter;
  }
}

/** Something took too long. */
export class TimeoutError extends RetryableError {
  static override readonly errorType: string = "timeout";
}

/** Another system could not be reached. */
export class NetworkError extends RetryableError {
  static override readonly errorType: string = "network_error";
}

/** Another system wants fewer requests. */
export class RateLimitError extends RetryableError {
  static override readonly errorType: string = "rate_limit";
}

/** Another system can't answer now. */
export class ServiceUnavailableError extends RetryableError {
  static override readonly errorType: string = "service_unavailable";
}

/** Somebody else holds what is needed. */
export class ResourceContentionError extends RetryableError {
  static override readonly errorType: string = "resource_contention";
}

/** Trying again can't help. */
export class PermanentError extends StepFailure {
  static readonly errorType: string = "permanent_error";
  readonly retryable = false;

  constructor(message = "", options: FailureOptions = {}) {
    super(message, new.target.errorType, options);
  }
}

/** The input is wrong. */
export class ValidationError extends PermanentError {
  static override readonly errorType: string = "validation_error";
}

/** What the step is about does not exist. */
export class NotFoundError extends PermanentError {
  static override readonly errorType: string = "not_found";
}

/** Another system does not know who we are. */
export class AuthenticationError extends PermanentError {
  static override readonly errorType: string = "authentication_error";
}

/** Another system does not let us. */
export class AuthorizationError extends PermanentError {
  static override readonly errorType: string = "authorization_error";
}

/** The handler is set up wrongly. */
export class ConfigurationError extends PermanentError {
  static override readonly errorType: string = "configuration_error";
}

/** A rule of the business forbids it. */
export class BusinessLogicError extends PermanentError {
  static override readonly errorType: string = "business_logic_error";
}

/** The worker refuses. */
export class WorkerError extends TaskerError {
  /** One of docs/boundary.md's, or `already_running`, `not_running`, `stop_in_handler`, `no_addon`. */
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

/** What more is known of a {@link ClientError}. */
export interface RefusalDetails {
  /** Of the HTTP answer. */
  status?: number;
  /** Seconds to wait before asking again, as far as the server says. */
  retryAfter?: number;
  /** What the server says beside the message. */
  details?: Fields;
}

/** A server refuses a client, or none answers. In a handler it is tried again, as any other error is. */
export class ClientError extends TaskerError {
  /** The server's, such as `TEMPLATE_NOT_FOUND`, or `USAGE`, `UNREACHABLE`, `TIMEOUT`, `DECODE`. */
  readonly code: string;
  /** Of the HTTP answer, where there was one. */
  readonly status: number | undefined;
  readonly retryAfter: number | undefined;
  readonly details: Fields;

  constructor(code: string, message: string, more: RefusalDetails = {}) {
    super(message);
    this.code = code;
    this.status = more.status;
    this.retryAfter = more.retryAfter;
    this.details = more.details ?? {};
  }
}

/** Whether trying again may help, by what was thrown. */
export const ErrorClassifier = {
  /** False for permanent errors only. */
  isRetryable(error: unknown): boolean {
    return !(isStepFailure(error) && !error.retryable);
  },

  /** True for permanent errors only. */
  isPermanent(error: unknown): boolean {
    return !ErrorClassifier.isRetryable(error);
  },
};
