/**
 * Handlers as functions.
 *
 *     export const charge = defineHandler(
 *       "payments.charge",
 *       { depends: { cart: "validate_cart" }, inputs: { currency: "currency" } },
 *       async ({ cart, currency, context }) => ({ charged: cart.total, currency }),
 *     );
 *
 * The function is given, in one object, what the options say, and `context`. What it returns is the step's result.
 */

import { APIMixin, type ApiHandler, ApiResponse, applyAPI } from "./api.ts";
import {
  applyBatchable,
  type BatchAnalyzerOutcome,
  type BatchableMixin,
  BatchWorkerContext,
  type CursorConfig,
  noOpResult,
} from "./batchable.ts";
import type { StepContext } from "./context.ts";
import { applyDecision, type DecisionMixin } from "./decision.ts";
import { ConfigurationError, isStepFailure, ValidationError } from "./errors.ts";
import { type HandlerClass, StepHandler } from "./handler.ts";
import type { Fields, Json } from "./json.ts";
import { ofReturn } from "./outcome.ts";
import { isResult, type StepHandlerResult } from "./result.ts";

/** Anything that checks a value and gives it a type, such as a schema of zod. */
export interface Parser<T> {
  parse(value: unknown): T;
}

/** A key or a step by its name, alone or with what gives its value a type. */
export type Wanted = string | readonly [name: string, parser: Parser<unknown>];

/** What each argument of a function is read from. */
export type WantedByArgument = Readonly<Record<string, Wanted>>;

type Typed<W> = W extends readonly [string, Parser<infer T>] ? T : Json;
type TypedEach<W> = { [K in keyof W]: Typed<W[K]> };

/** What a function is given: results by argument, inputs by argument or as one under `inputs`, and the context. */
export type HandlerArgs<D, I> = TypedEach<D> &
  (I extends Parser<infer T> ? { inputs: T } : TypedEach<I>) & {
    context: StepContext;
  };

/** What a definition says beside its function. */
export interface HandlerOptions<D, I> {
  version?: string;
  /** Results of earlier steps by argument: `{ cart: "validate_cart" }` or `{ cart: ["validate_cart", Cart] }`. */
  depends?: D;
  /** Keys of the task's context by argument, or a parser for all of it, which is then `inputs`. */
  inputs?: I;
}

type None = Record<never, never>;
type Inputs = WantedByArgument | Parser<unknown>;
type Returned = StepHandlerResult | Json;
type MaybePromise<T> = T | Promise<T>;

/** What a function of {@link defineDecisionHandler} returns. */
export class Decision {
  readonly stepNames: readonly string[];
  readonly routingContext: Fields;
  readonly reason: string;

  private constructor(stepNames: readonly string[], routingContext: Fields, reason: string) {
    this.stepNames = stepNames;
    this.routingContext = routingContext;
    this.reason = reason;
  }

  /** Creates these steps. */
  static route(steps: string | readonly string[], routingContext: Fields = {}): Decision {
    return new Decision(typeof steps === "string" ? [steps] : steps, routingContext, "");
  }

  /** Creates none. */
  static skip(reason = "", routingContext: Fields = {}): Decision {
    return new Decision([], routingContext, reason);
  }
}

/** What a function of {@link defineBatchAnalyzer} returns: `0..totalItems` in batches of `batchSize`. */
export interface BatchConfig {
  totalItems: number;
  batchSize: number;
  metadata?: Fields;
}

/** A handler that a function was made into. */
export type DefinedHandler = HandlerClass;

/** Makes the function the handler of this name. */
export function defineHandler<const D extends WantedByArgument = None, const I extends Inputs = None>(
  name: string,
  options: HandlerOptions<D, I>,
  fn: (args: HandlerArgs<D, I>) => MaybePromise<Returned | void>,
): DefinedHandler {
  return made(StepHandler, name, options, (_, args) => fn(args as HandlerArgs<D, I>), ofReturn);
}

/** What an API handler's definition says. */
export interface ApiHandlerOptions<D, I> extends HandlerOptions<D, I> {
  baseUrl?: string;
  /** Milliseconds. */
  defaultTimeout?: number;
  defaultHeaders?: Record<string, string>;
}

/**
 * For steps that make requests: the function is given the handler, with the methods of {@link APIMixin}, as `api`. An
 * {@link ApiResponse} that it returns is a success or a failure by its status.
 */
export function defineApiHandler<const D extends WantedByArgument = None, const I extends Inputs = None>(
  name: string,
  options: ApiHandlerOptions<D, I>,
  fn: (args: HandlerArgs<D, I> & { api: ApiHandler }) => MaybePromise<Returned | ApiResponse | void>,
): DefinedHandler {
  const finish = (value: unknown) => {
    if (!(value instanceof ApiResponse)) {
      return ofReturn(value);
    }
    return value.ok ? new APIMixin().apiSuccess(value) : new APIMixin().apiFailure(value);
  };
  const run: Run = (api, args) => fn({ ...args, api } as unknown as HandlerArgs<D, I> & { api: ApiHandler });
  const { baseUrl, defaultTimeout, defaultHeaders } = options;
  return Object.assign(made(applyAPI(StepHandler), name, options, run, finish), {
    baseUrl,
    defaultTimeout,
    defaultHeaders,
  });
}

/** For steps of type `decision`: the function returns a {@link Decision}. */
export function defineDecisionHandler<const D extends WantedByArgument = None, const I extends Inputs = None>(
  name: string,
  options: HandlerOptions<D, I>,
  fn: (args: HandlerArgs<D, I>) => MaybePromise<Decision | StepHandlerResult>,
): DefinedHandler {
  const finish = (value: unknown, handler: StepHandler & DecisionMixin) => {
    if (isResult(value)) {
      return value;
    }
    if (!(value instanceof Decision)) {
      throw new ConfigurationError(`a decision handler returns a Decision, not ${kind(value)}`);
    }
    return value.stepNames.length > 0
      ? handler.decisionSuccess(value.stepNames, value.routingContext)
      : handler.skipBranches(value.reason, value.routingContext);
  };
  return made(applyDecision(StepHandler), name, options, (_, args) => fn(args as HandlerArgs<D, I>), finish);
}

/**
 * For steps of type `batchable`: the function returns a {@link BatchConfig}, a list of batches, or a
 * {@link BatchAnalyzerOutcome}. Batches are of `workerTemplate`, else of the template's only one.
 */
export function defineBatchAnalyzer<const D extends WantedByArgument = None, const I extends Inputs = None>(
  name: string,
  options: HandlerOptions<D, I> & { workerTemplate?: string },
  fn: (
    args: HandlerArgs<D, I>,
  ) => MaybePromise<BatchConfig | readonly CursorConfig[] | BatchAnalyzerOutcome | StepHandlerResult>,
): DefinedHandler {
  const finish = (value: unknown, handler: StepHandler & BatchableMixin) =>
    isResult(value) ? value : handler.batchAnalyzerSuccess(splitOf(value, handler), {}, options.workerTemplate);
  return made(applyBatchable(StepHandler), name, options, (_, args) => fn(args as HandlerArgs<D, I>), finish);
}

/**
 * For steps of type `batch_worker`: the function is given its batch as `batchContext`. It is not called where there is
 * nothing to do.
 */
export function defineBatchWorker<const D extends WantedByArgument = None, const I extends Inputs = None>(
  name: string,
  options: HandlerOptions<D, I>,
  fn: (args: HandlerArgs<D, I> & { batchContext: BatchWorkerContext }) => MaybePromise<Returned | void>,
): DefinedHandler {
  const run: Run = (_, args) => {
    const batchContext = BatchWorkerContext.of(args.context);
    if (batchContext === null) {
      throw new ConfigurationError(`${args.context.stepName} is no step of type batch_worker`);
    }
    return batchContext.isNoOp
      ? noOpResult()
      : fn({ ...args, batchContext } as unknown as HandlerArgs<D, I> & { batchContext: BatchWorkerContext });
  };
  return made(applyBatchable(StepHandler), name, options, run, ofReturn);
}

type Args = Fields & { context: StepContext };
type Run = (handler: StepHandler, args: Args) => unknown;

function made<H>(
  Base: abstract new (...given: never[]) => H,
  name: string,
  options: HandlerOptions<WantedByArgument, Inputs>,
  run: Run,
  finish: (value: unknown, handler: H) => StepHandlerResult,
): DefinedHandler {
  const Handler = class extends (Base as unknown as HandlerClass) {
    static override handlerName = name;
    static override handlerVersion = options.version ?? "1.0.0";

    override async call(context: StepContext): Promise<StepHandlerResult> {
      return finish(await run(this, argumentsOf(options, context)), this as unknown as H);
    }
  };
  Object.defineProperty(Handler, "name", { value: name });
  return Handler;
}

function argumentsOf({ depends = {}, inputs = {} }: HandlerOptions<WantedByArgument, Inputs>, context: StepContext) {
  const args: Args = { context };
  for (const [argument, wanted] of Object.entries(depends)) {
    const [step, parser] = typeof wanted === "string" ? [wanted] : wanted;
    const result = context.getDependencyResult(step);
    args[argument] = parser === undefined ? result : parsed(parser, result ?? undefined, `the result of \`${step}\``);
  }
  if (isParser(inputs)) {
    args.inputs = parsed(inputs, context.inputData, "the input");
    return args;
  }
  for (const [argument, wanted] of Object.entries(inputs)) {
    const [key, parser] = typeof wanted === "string" ? [wanted] : wanted;
    const value = context.getInput(key);
    args[argument] = parser === undefined ? value : parsed(parser, value, `the input \`${key}\``);
  }
  return args;
}

function isParser(inputs: Inputs): inputs is Parser<unknown> {
  return typeof (inputs as Parser<unknown>).parse === "function";
}

function parsed(parser: Parser<unknown>, value: unknown, what: string): unknown {
  try {
    return parser.parse(value);
  } catch (error) {
    if (isStepFailure(error)) {
      throw error;
    }
    const why = error instanceof Error ? error.message : String(error);
    throw new ValidationError(`${what} is not what the handler takes: ${why}`, { cause: error });
  }
}

function splitOf(value: unknown, handler: BatchableMixin): BatchAnalyzerOutcome {
  if (Array.isArray(value)) {
    return { cursorConfigs: value };
  }
  if (typeof value === "object" && value !== null) {
    const said = value as Partial<BatchConfig & BatchAnalyzerOutcome>;
    if (said.cursorConfigs !== undefined) {
      return said as BatchAnalyzerOutcome;
    }
    if (said.totalItems !== undefined && said.batchSize !== undefined) {
      return handler.createBatchOutcome(said.totalItems, said.batchSize, said.metadata);
    }
  }
  throw new ConfigurationError(`a batch analyzer returns totalItems and batchSize, or batches, not ${kind(value)}`);
}

function kind(value: unknown): string {
  return value === null ? "null" : Array.isArray(value) ? "a list" : typeof value;
}
