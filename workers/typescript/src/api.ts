/** Requests to other systems over HTTP, with `fetch`. */

import { NetworkError, TimeoutError } from "./errors.ts";
import { StepHandler } from "./handler.ts";
import type { Fields, Json } from "./json.ts";
import { type HandlerBase, mixed, type With } from "./mixin.ts";
import { StepHandlerResult } from "./result.ts";
import { currentStep } from "./running.ts";

const RETRYABLE = new Set([408, 429, 500, 502, 503, 504]);
const DEFAULT_TIMEOUT_MS = 30_000;

/** What a request may say beside its path. */
export interface RequestOptions {
  /** Of the URL. */
  params?: Record<string, string | number | boolean>;
  headers?: Record<string, string>;
  /** Sent as JSON; text, bytes and forms as they are. */
  body?: Json;
  /** Milliseconds. */
  timeout?: number;
}

/** An answer. */
export class ApiResponse {
  readonly statusCode: number;
  /** By lower-case name. */
  readonly headers: Record<string, string>;
  /** What the JSON says, or the text; null where there is nothing. */
  readonly body: Json;

  constructor(statusCode: number, headers: Record<string, string> = {}, body: Json = null) {
    this.statusCode = statusCode;
    this.headers = headers;
    this.body = body;
  }

  /** Whether it is a 2xx. */
  get ok(): boolean {
    return this.statusCode >= 200 && this.statusCode < 300;
  }

  /** Whether it is a 4xx. */
  get isClientError(): boolean {
    return this.statusCode >= 400 && this.statusCode < 500;
  }

  /** Whether it is a 5xx. */
  get isServerError(): boolean {
    return this.statusCode >= 500;
  }

  /** Whether trying again may help: 408, 429, 500, 502, 503, 504. */
  get isRetryable(): boolean {
    return RETRYABLE.has(this.statusCode);
  }

  /** Seconds, where `Retry-After` says so: a number or a date. */
  get retryAfter(): number | undefined {
    const said = this.headers["retry-after"]?.trim() ?? "";
    if (/^\d+$/.test(said)) {
      return Number(said);
    }
    const date = Date.parse(said);
    return Number.isNaN(date) ? undefined : Math.max(0, (date - Date.now()) / 1000);
  }
}

/** Where requests go and what they carry; static members of a handler's class. */
export interface ApiSettings {
  baseUrl?: string;
  /** Milliseconds; 30,000 where it is not given. */
  defaultTimeout?: number;
  defaultHeaders?: Record<string, string>;
}

/**
 * Requests for handlers. Redirects are not followed. A request ends with its attempt. One that is not answered throws a
 * {@link NetworkError} or {@link TimeoutError}, which are retried.
 */
export class APIMixin {
  /** GET. */
  get(path: string, options?: RequestOptions): Promise<ApiResponse> {
    return this.request("GET", path, options);
  }

  /** POST. */
  post(path: string, options?: RequestOptions): Promise<ApiResponse> {
    return this.request("POST", path, options);
  }

  /** PUT. */
  put(path: string, options?: RequestOptions): Promise<ApiResponse> {
    return this.request("PUT", path, options);
  }

  /** PATCH. */
  patch(path: string, options?: RequestOptions): Promise<ApiResponse> {
    return this.request("PATCH", path, options);
  }

  /** DELETE. */
  delete(path: string, options?: RequestOptions): Promise<ApiResponse> {
    return this.request("DELETE", path, options);
  }

  /** One request. */
  async request(method: string, path: string, options: RequestOptions = {}): Promise<ApiResponse> {
    const settings = this.constructor as ApiSettings;
    const timeout = AbortSignal.timeout(options.timeout ?? settings.defaultTimeout ?? DEFAULT_TIMEOUT_MS);
    const attempt = currentStep()?.signal;
    const signal = attempt === undefined ? timeout : AbortSignal.any([timeout, attempt]);
    const headers = { ...settings.defaultHeaders, ...options.headers };
    const target = urlOf(settings.baseUrl ?? "", path, options.params);
    try {
      const asked = { method, ...sent(headers, options.body), signal, redirect: "manual" as const };
      const answer = await fetch(target, asked);
      return new ApiResponse(answer.status, Object.fromEntries(answer.headers), bodyOf(await answer.text()));
    } catch (error) {
      if (timeout.aborted) {
        throw new TimeoutError(`${method} ${target} was not answered in time`, { cause: error });
      }
      if (attempt?.aborted) {
        throw error;
      }
      throw new NetworkError(`${method} ${target}: ${deepest(error)}`, { cause: error });
    }
  }

  /** The request succeeded: its body, or `result`. */
  apiSuccess(response: ApiResponse, result?: Json, includeResponse = false): StepHandlerResult {
    const metadata: Fields = { status_code: response.statusCode };
    if (includeResponse) {
      metadata.headers = response.headers;
    }
    return StepHandlerResult.success(result ?? response.body, metadata);
  }

  /** The request failed: retryable by its status, after its `Retry-After`. */
  apiFailure(response: ApiResponse, message?: string): StepHandlerResult {
    const { isRetryable, statusCode, retryAfter } = response;
    return StepHandlerResult.failure(
      message ?? `HTTP ${statusCode}`,
      isRetryable ? "retryable_error" : "permanent_error",
      isRetryable,
      { status_code: statusCode },
      `HTTP_${statusCode}`,
      retryAfter,
    );
  }

  /** The other system could not be reached. */
  connectionError(error: unknown, context = "request"): StepHandlerResult {
    return StepHandlerResult.failure(`${context}: ${deepest(error)}`, "network_error", true);
  }

  /** The other system did not answer in time. */
  timeoutError(error: unknown, context = "request"): StepHandlerResult {
    return StepHandlerResult.failure(`${context}: ${deepest(error)}`, "timeout", true);
  }
}

function urlOf(base: string, path: string, params: RequestOptions["params"] = {}): string {
  const isWhole = /^[a-z]+:\/\//i.test(path) || base === "";
  const url = new URL(isWhole ? path : `${base.replace(/\/+$/, "")}/${path.replace(/^\/+/, "")}`);
  for (const [name, value] of Object.entries(params)) {
    url.searchParams.set(name, String(value));
  }
  return url.href;
}

function sent(headers: Record<string, string>, body: Json): Pick<RequestInit, "headers" | "body"> {
  if (body === undefined) {
    return { headers };
  }
  const isPlain = Array.isArray(body) || Object.prototype.toString.call(body) === "[object Object]";
  if (isPlain || body === null || ["number", "boolean"].includes(typeof body)) {
    return { headers: { "content-type": "application/json", ...headers }, body: JSON.stringify(body) };
  }
  return { headers, body };
}

function bodyOf(text: string): Json {
  try {
    return text === "" ? null : JSON.parse(text);
  } catch {
    return text;
  }
}

/** What is at the bottom of an error of `fetch`, which itself only says that it failed. */
function deepest(error: unknown): string {
  let at = error;
  while (at instanceof Error && at.cause instanceof Error) {
    at = at.cause;
  }
  return at instanceof Error ? at.message || String((at as { code?: unknown }).code ?? at.name) : String(at);
}

/** Gives a class, or one instance, the methods of {@link APIMixin}. */
export function applyAPI<Base extends HandlerBase>(target: Base): With<Base, APIMixin>;
export function applyAPI<Handler extends StepHandler>(target: Handler): Handler & APIMixin;
export function applyAPI(target: HandlerBase | StepHandler): unknown {
  return mixed(target, APIMixin);
}

/** A handler that makes requests. */
export abstract class ApiHandler extends applyAPI(StepHandler) {
  static baseUrl?: string;
  static defaultTimeout?: number;
  static defaultHeaders?: Record<string, string>;

  override get capabilities(): string[] {
    return ["process", "http", "api"];
  }
}
