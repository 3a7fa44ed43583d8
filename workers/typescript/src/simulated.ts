/** Whole workflows without PostgreSQL or a worker: the lifecycle is in memory, and has a time of its own. */

import { readFile } from "node:fs/promises";
import { StepContext, type StepMessage } from "./context.ts";
import { ConfigurationError } from "./errors.ts";
import { type HandlerClass, handlerMethods, invoke } from "./handler.ts";
import type { Fields, Json } from "./json.ts";
import { heard, native } from "./native.ts";
import { encoded, failed, ofReturn } from "./outcome.ts";
import { PublisherRegistry, withEvents } from "./publishers.ts";
import { HandlerRegistry } from "./registry.ts";
import { guardProcess, runAs } from "./running.ts";

/** What runs a workflow beside its template and its input. */
export interface WorkflowOptions {
  /** Classes and defined functions, alone or by the names that the template calls; without them all that are registered. */
  handlers?: readonly HandlerClass[] | Readonly<Record<string, HandlerClass>> | HandlerRegistry;
  /** Whose overrides of the template count. */
  environment?: string;
  publishers?: PublisherRegistry;
  /** Runs of handlers after which the workflow is taken to have no end. */
  mostRuns?: number;
}

/** A step of a {@link Workflow}. */
export interface WorkflowStep {
  name: string;
  state: string;
  attempts: number;
  result: Json;
}

/** An attempt of a {@link Workflow}. */
export interface WorkflowAttempt {
  step: string;
  attempt: number;
  /** When it ended, in the task's own time. */
  atMs: number;
  outcome: string;
  result: Json;
  error: { message: string; error_type: string; error_code: string | null; retryable: boolean } | null;
}

/** A task that was run in memory, to its end. */
export interface Workflow {
  /** `complete`, `blocked_by_failures`, … */
  status: string;
  /** Milliseconds that retries were waited for, in the task's own time. */
  elapsedMs: number;
  /** By name. */
  steps: Record<string, WorkflowStep>;
  /** The results of the steps that are complete, by name. */
  results: Fields;
  /** In their order. */
  attempts: WorkflowAttempt[];
  /** The domain events that were published: what docs/domain-events.md shows, and `delivery_mode`. */
  events: Fields[];
}

/**
 * Runs all steps of a template (a path, or its YAML) in this process: decisions, batches, checkpoints, retries and
 * events as a server and a worker have them. Backoffs pass in no time: the task's own goes on to the next retry when
 * there is nothing else to do. Not simulated: timeouts, cancels, limits of resources.
 *
 * Throws ConfigurationError where a handler is missing, and what a server would refuse as WorkerError.
 */
export async function runWorkflow(
  template: string | URL,
  input: Json = {},
  options: WorkflowOptions = {},
): Promise<Workflow> {
  const { environment, publishers = PublisherRegistry.instance(), mostRuns = 10_000 } = options;
  const registry = registryOf(options.handlers);
  const start = { template: await text(template), input, environment, publishers: publishers.names() };
  const simulation = heard(native().simulate(JSON.stringify(start)));
  const unguard = guardProcess();
  try {
    for (let runs = 0; ; ) {
      const { steps }: { steps: StepMessage[] } = JSON.parse(heard(simulation.next()));
      if (steps.length === 0) {
        return workflowOf(JSON.parse(heard(simulation.state())));
      }
      for (const step of steps) {
        runs += 1;
        if (runs > mostRuns) {
          throw new Error(`after ${mostRuns} runs of handlers the workflow has not ended`);
        }
        const said = await attempt(await handlerOf(registry, step), step, publishers);
        heard(simulation.complete(`{"outcomes":[${said}]}`));
      }
    }
  } finally {
    unguard();
  }
}

function registryOf(handlers: WorkflowOptions["handlers"]): HandlerRegistry {
  if (handlers === undefined || handlers instanceof HandlerRegistry) {
    return handlers ?? HandlerRegistry.instance();
  }
  const registry = new HandlerRegistry();
  for (const [name, handler] of Array.isArray(handlers)
    ? handlers.map((each) => ["", each])
    : Object.entries(handlers)) {
    registry.register(name, handler);
  }
  return registry;
}

function text(template: string | URL): Promise<string> | string {
  return typeof template === "string" && template.includes("\n") ? template : readFile(template, "utf8");
}

/** As a worker looks for it: by the resolver that the template names, by its name, by the other resolvers. */
async function handlerOf(registry: HandlerRegistry, step: StepMessage): Promise<HandlerClass> {
  const { handler_name: name, method, resolver: named } = step;
  const resolvers = registry.resolverNames();
  if (named !== null && !resolvers.includes(named)) {
    throw new ConfigurationError(`no resolver \`${named}\` for the step \`${step.step_name}\``);
  }
  const others = [null, ...resolvers.filter((each) => each !== named)];
  for (const resolver of named === null ? others : [named, ...others]) {
    const found = resolver === null ? registry.getHandlerClass(name) : await registry.find(resolver, name, method);
    if (found !== undefined && handlerMethods(found).includes(method)) {
      return found;
    }
  }
  throw new ConfigurationError(
    `no handler \`${name}\` with the method \`${method}\` for the step \`${step.step_name}\``,
  );
}

async function attempt(Handler: HandlerClass, step: StepMessage, publishers: PublisherRegistry): Promise<string> {
  const context = StepContext.fromFfiEvent(step);
  return runAs(context, async () => {
    const returned = invokeWith(Handler, step.method, context);
    const said = encoded(step.id, await returned.then(ofReturn, (error) => failed(context, error)));
    return withEvents(said, await publishers.mappings(context, said));
  });
}

async function invokeWith(Handler: HandlerClass, method: string, context: StepContext): Promise<unknown> {
  return invoke(new Handler(), method, context);
}

function workflowOf(state: Json): Workflow {
  const steps: WorkflowStep[] = state.steps;
  const complete = steps.filter((step) => step.state === "complete");
  return {
    status: state.status,
    elapsedMs: state.now_ms,
    steps: Object.fromEntries(steps.map((step) => [step.name, step])),
    results: Object.fromEntries(complete.map((step) => [step.name, step.result])),
    attempts: state.attempts.map(({ at_ms: atMs, ...attempt }: Fields) => ({ ...attempt, atMs })),
    events: state.events.map(({ event, delivery_mode }: Fields) => ({ ...event, delivery_mode })),
  };
}
