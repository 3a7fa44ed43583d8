/** A worker: fetches steps, runs handlers, hands in outcomes. Everything else is done in Rust (docs/boundary.md). */

import { StepContext, type StepMessage } from "./context.ts";
import { WorkerError } from "./errors.ts";
import { handlerMethods, invoke } from "./handler.ts";
import type { Fields } from "./json.ts";
import { type Level, log, setLogLevel } from "./log.ts";
import { BOUNDARY_VERSION, heard, type NativeWorker, native } from "./native.ts";
import { encoded, failed, ofReturn, ofThrown } from "./outcome.ts";
import { type Mapping, PublisherRegistry, withEvents } from "./publishers.ts";
import { HandlerRegistry } from "./registry.ts";
import { StepHandlerResult } from "./result.ts";
import { currentStep, guardProcess, runAs } from "./running.ts";
import { SubscriberRegistry } from "./subscribers.ts";

const POLL_MS = 60_000;
/** What the addon takes as a time. */
const LONGEST_MS = 2 ** 32 - 1;
/** What handlers have to end once nobody waits for them any more. */
const LAST_WORDS_MS = 2_000;

/** What a worker is started with; the rest is configuration (docs/configuration.md). */
export interface WorkerConfig {
  /** Claim from this namespace only, or from these. */
  namespace?: string;
  namespaces?: readonly string[];
  databaseUrl?: string;
  workerId?: string;
  /** The one file of configuration, in place of the usual ones. */
  configPath?: string;
  logLevel?: Level;
  /** Variables of the configuration; they win over the environment's. */
  variables?: Readonly<Record<string, string>>;
  /** Run so many steps made up in memory and end, to be measured. */
  rehearsal?: number;
}

/** What one poll brings. */
interface Batch {
  steps: StepMessage[];
  notices: { id: string; notice: "cancelled" | "timed_out" | "dropped" }[];
  events: { subscription: string; event: Fields }[];
  questions: { resolver: string; callable: string; method: string }[];
}

/** One run of a handler. */
interface Run {
  step: StepMessage;
  context: StepContext;
  /** Settles when the handler does, if ever. */
  end: Promise<void>;
}

/** An outcome on its way to the boundary. */
interface Outgoing {
  step: StepMessage;
  said: string;
  events: readonly Mapping[];
}

/** Who is told what happens to steps: the step as it came, or its outcome. */
export type Observer = (event: string, said: Fields) => void;

/** Those who are told; empty but for programs that watch (`compat.ts`). */
export const observers = new Set<Observer>();

/** The servers of the workers that run in this process, in the order of their starts. */
const serving = new Map<WorkerServer, string>();

/** The server of this process's worker, while one runs. */
export function serverOfWorker(): string | undefined {
  return serving.values().next().value;
}

/** The worker of a program, for the handlers of a registry. It may be started again once it has stopped. */
export class WorkerServer {
  readonly registry: HandlerRegistry;
  readonly publishers: PublisherRegistry = PublisherRegistry.instance();
  readonly subscribers: SubscriberRegistry = SubscriberRegistry.instance();
  #native: NativeWorker | undefined;
  #starting = false;
  #about = { worker_id: "", concurrency: 0, environment: "", orchestration_url: "" };
  #serving: Promise<void> = Promise.resolve();
  #isServing = false;
  readonly #runs = new Map<string, Run>();
  /** What ended in this turn of the event loop: it is handed in together. */
  #outbox: Outgoing[] = [];

  constructor(registry: HandlerRegistry = HandlerRegistry.instance()) {
    this.registry = registry;
  }

  /** Starts. Where the registry is empty, it is filled from `TYPESCRIPT_HANDLER_PATH`. */
  async start(config: WorkerConfig = {}): Promise<this> {
    if (this.#starting || this.#native !== undefined) {
      throw new WorkerError("already_running", "this worker is running");
    }
    this.#starting = true;
    try {
      await this.#start(config);
    } finally {
      this.#starting = false;
    }
    return this;
  }

  async #start(config: WorkerConfig): Promise<void> {
    if (config.logLevel !== undefined) {
      setLogLevel(config.logLevel);
    }
    if (this.registry.handlerCount() === 0) {
      await this.registry.loadFromEnv();
    }
    const rehearsal = config.rehearsal === undefined ? undefined : { steps: config.rehearsal };
    const message = {
      version: BOUNDARY_VERSION,
      handlers: handlersOf(this.registry),
      resolvers: this.registry.resolverNames(),
      publishers: this.publishers.names(),
      subscriptions: this.subscribers.globs(),
      variables: variablesOf(config),
      rehearsal,
    };
    const worker = heard(await native().start(JSON.stringify(message)));
    this.#native = worker;
    this.#about = JSON.parse(worker.about());
    this.subscribers.startAll();
    serving.set(this, this.#about.orchestration_url);
    this.#isServing = true;
    this.#serving = this.#serve(worker);
  }

  /** As the server and `explain` know it. */
  get workerId(): string {
    return this.#about.worker_id;
  }

  /** How many handlers may run at once. */
  get concurrency(): number {
    return this.#about.concurrency;
  }

  /**
   * Claims nothing more, lets handlers end for so many milliseconds (the configuration's `worker.stop_grace_ms` without
   * it), and leaves. What still runs then is told by its signal, and counts no more.
   */
  async stop(graceMs?: number): Promise<void> {
    if (this.#native === undefined) {
      throw new WorkerError("stopped", "the worker does not run");
    }
    const own = currentStep();
    if ([...this.#runs.values()].some(({ context }) => context === own)) {
      throw new WorkerError("stop_in_handler", "a handler can't stop its worker: it would wait for itself");
    }
    const worker = this.#native;
    heard(await worker.stop(graceMs === undefined ? undefined : Math.min(Math.max(0, graceMs), LONGEST_MS)));
    await this.#serving;
    await Promise.all([this.#abandon(), this.subscribers.stopAll()]);
    this.#native = undefined;
  }

  /** The same as {@link stop}. */
  shutdown(graceMs?: number): Promise<void> {
    return this.stop(graceMs);
  }

  /** Whether it fetches steps. */
  isRunning(): boolean {
    return this.#isServing;
  }

  /** Settles once it fetches no more steps, for whatever reason. */
  wait(): Promise<void> {
    return this.#serving;
  }

  /** What it is and does. */
  status(): { running: boolean; workerId: string; concurrency: number; activeHandlers: number; handlers: string[] } {
    const { workerId, concurrency } = this;
    const handlers = this.registry.listHandlers();
    return { running: this.isRunning(), workerId, concurrency, activeHandlers: this.#runs.size, handlers };
  }

  /** Whether it does what it should. */
  healthCheck(): { healthy: boolean; error?: string } {
    return this.isRunning() ? { healthy: true } : { healthy: false, error: "the worker does not run" };
  }

  /** What the worker hands out, until it stops. */
  async *#batches(worker: NativeWorker): AsyncGenerator<Batch, void, undefined> {
    while (true) {
      yield JSON.parse(heard(await worker.poll(POLL_MS)));
    }
  }

  async #serve(worker: NativeWorker): Promise<void> {
    const unguard = guardProcess();
    try {
      for await (const { notices, steps, questions, events } of this.#batches(worker)) {
        for (const { id, notice } of notices) {
          this.#notice(id, notice);
        }
        for (const step of steps) {
          this.#begin(worker, step);
        }
        for (const question of questions) {
          void this.#resolve(worker, question);
        }
        for (const { subscription, event } of events) {
          this.subscribers.tell(subscription, event);
        }
      }
    } catch (error) {
      if (!(error instanceof WorkerError && error.code === "stopped")) {
        log.error(`the worker ended: ${error instanceof Error ? error.message : error}`);
        this.#native = undefined;
      }
    } finally {
      this.#isServing = false;
      serving.delete(this);
      unguard();
    }
  }

  #notice(id: string, notice: string): void {
    this.#runs.get(id)?.context.cancel(`the attempt is ${notice.replaceAll("_", " ")}`);
    if (notice !== "cancelled") {
      // Nobody waits for it: if it hangs for ever, nothing of it is kept.
      this.#runs.delete(id);
    }
  }

  #begin(worker: NativeWorker, step: StepMessage): void {
    const context = StepContext.fromFfiEvent(step, () => pulse(worker, step.id));
    if (observers.size > 0) {
      observed("step.execution.received", step);
    }
    const run: Run = { step, context, end: Promise.resolve() };
    this.#runs.set(step.id, run);
    run.end = runAs(context, () => this.#run(worker, run));
  }

  async #run(worker: NativeWorker, run: Run): Promise<void> {
    const { step, context } = run;
    let result: StepHandlerResult;
    try {
      const Handler =
        step.resolver === null
          ? this.registry.getHandlerClass(step.handler_name)
          : await this.registry.find(step.resolver, step.handler_name, step.method);
      result =
        Handler === undefined
          ? StepHandlerResult.failure(`the handler \`${step.handler_name}\` was unregistered`)
          : ofReturn(await invoke(new Handler(), step.method, context));
    } catch (error) {
      result = failed(context, error);
    }
    const said = encoded(step.id, result);
    const events = step.publishes.length === 0 ? [] : await this.publishers.mappings(context, said);
    this.#runs.delete(step.id);
    if (this.#outbox.push({ step, said: withEvents(said, events), events }) === 1) {
      // Once nothing else of this turn is left to do: handlers that end together are handed in together.
      process.nextTick(() => this.#handIn(worker));
    }
  }

  #handIn(worker: NativeWorker): void {
    const outgoing = this.#outbox;
    this.#outbox = [];
    try {
      const message = `{"outcomes":[${outgoing.map(({ said }) => said).join(",")}]}`;
      const answer = heard(worker.complete(message));
      if (observers.size > 0) {
        outgoing.forEach(tellOfEnd);
      }
      if (outgoing.some(({ events }) => events.length > 0)) {
        const { verdicts } = JSON.parse(answer);
        for (const { events } of outgoing.filter((_, at) => verdicts[at] === "accepted")) {
          for (const event of events) {
            void event.handedIn();
          }
        }
      }
    } catch (error) {
      if (!(error instanceof WorkerError && error.code === "stopped")) {
        const names = outgoing.map(({ step }) => step.step_name).join(", ");
        log.error(`an outcome of ${names} was refused: ${ofThrown(error).errorMessage}`);
      }
    }
  }

  /** Asks a resolver, which may import: the steps that wait need not wait for that. */
  async #resolve(worker: NativeWorker, question: Batch["questions"][number]): Promise<void> {
    const { resolver, callable, method } = question;
    const found = (await this.registry.find(resolver, callable, method)) !== undefined;
    // Where it is refused, the worker has stopped.
    worker.complete(JSON.stringify({ outcomes: [], answers: [{ ...question, found }] }));
  }

  /** Tells handlers that still run that nobody waits for them. */
  async #abandon(): Promise<void> {
    const left = [...this.#runs.values()];
    this.#runs.clear();
    for (const { context } of left) {
      context.cancel("the worker has stopped");
    }
    let timer: NodeJS.Timeout | undefined;
    const patience = new Promise((resolve) => {
      timer = setTimeout(resolve, LAST_WORDS_MS);
    });
    await Promise.race([Promise.all(left.map(({ end }) => end)), patience]);
    clearTimeout(timer);
  }
}

function tellOfEnd({ said }: Outgoing): void {
  const outcome = JSON.parse(said);
  const ended = { success: "step.execution.completed", failure: "step.execution.failed" }[outcome.type as string];
  if (ended !== undefined) {
    observed(ended, outcome);
  }
}

function observed(event: string, said: Fields): void {
  for (const observer of observers) {
    try {
      observer(event, said);
    } catch (error) {
      log.error(`an observer of ${event}: ${ofThrown(error).errorMessage}`);
    }
  }
}

function pulse(worker: NativeWorker, id: string): boolean {
  try {
    const { attempts } = JSON.parse(heard(worker.heartbeat(JSON.stringify({ ids: [id] }))));
    return attempts[0].state === "running";
  } catch {
    return false;
  }
}

function handlersOf(registry: HandlerRegistry): Record<string, readonly string[]> {
  const named = registry.listHandlers().map((name) => {
    const handler = registry.getHandlerClass(name);
    return [name, handler === undefined ? [] : handlerMethods(handler)];
  });
  return Object.fromEntries(named);
}

function variablesOf(config: WorkerConfig): Record<string, string> {
  const said = {
    TASKER__WORKER__NAMESPACES: config.namespaces?.join(",") || config.namespace,
    DATABASE_URL: config.databaseUrl,
    TASKER_WORKER_ID: config.workerId,
    TASKER_CONFIG_PATH: config.configPath,
    ...config.variables,
  };
  return Object.fromEntries(Object.entries(said).filter((pair): pair is [string, string] => pair[1] !== undefined));
}
