/**
 * Publishers: what is published of a step's outcome (docs/domain-events.md).
 *
 *     class Receipt extends BasePublisher {
 *       readonly publisherName = "receipt";
 *
 *       override transformPayload({ result }: StepEventContext) {
 *         return { amount: result.amount };
 *       }
 *     }
 *     PublisherRegistry.instance().register(new Receipt());
 *
 * Register them before the worker starts, in a module of the handlers for example: a worker says at its start what it has.
 */

import type { StepContext } from "./context.ts";
import { ConfigurationError } from "./errors.ts";
import { encode, type Fields, type Json } from "./json.ts";
import { log } from "./log.ts";
import { ofThrown } from "./outcome.ts";

/** What a publisher is given: one outcome of a step. */
export class StepEventContext {
  taskUuid = "";
  stepUuid = "";
  stepName = "";
  namespace = "";
  correlationId = "";
  attempt = 1;
  eventName = "";
  /** The step's result, after a success. */
  result: Json = null;
  /** The outcome's. */
  metadata: Fields = {};
  /** After a failure, as it is published: `message`, `error_type` and, where there is one, `error_code`. */
  error: { message: string; error_type?: string; error_code?: string } | null = null;

  constructor(init: Partial<Omit<StepEventContext, "payload">> = {}) {
    Object.assign(this, init);
  }

  /** Of a success. */
  static fromStepContext(context: StepContext, result: Json = null, metadata: Fields = {}): StepEventContext {
    const { taskUuid, stepUuid, stepName, namespace, correlationId, attempt } = context;
    const ids = { taskUuid, stepUuid, stepName, namespace, correlationId };
    return new StepEventContext({ ...ids, attempt, result, metadata });
  }

  /** What is published without a publisher: the result, or the error. */
  get payload(): Json {
    return this.error ?? this.result;
  }
}

type MaybePromise<T> = T | Promise<T>;

/**
 * Makes the payload of the events whose templates name it (`publishes_events[].publisher`). It runs before the outcome
 * is handed in, so it should be quick and ask nobody.
 *
 * What it throws costs the event and nothing else: the step's outcome stays as it is, the event is not published, and
 * the worker logs and counts it.
 */
export abstract class BasePublisher {
  /** What templates call it. */
  abstract readonly publisherName: string;

  /** False publishes nothing. The template's condition holds already. */
  shouldPublish(_context: StepEventContext): MaybePromise<boolean> {
    return true;
  }

  /** The payload that is published. */
  transformPayload(context: StepEventContext): MaybePromise<Json> {
    return context.payload;
  }

  /** The event's `metadata`; none where this is empty. */
  additionalMetadata(_context: StepEventContext): MaybePromise<Fields> {
    return {};
  }

  /** The last word: false publishes nothing. */
  beforePublish(_eventName: string, _payload: Json, _metadata: Fields): MaybePromise<boolean> {
    return true;
  }

  /** The outcome was handed in with the event. Whether the attempt counts, and the event with it, is seen later. */
  afterPublish(_eventName: string, _payload: Json, _metadata: Fields): MaybePromise<void> {}

  /** A method of this publisher threw, or the payload can't be said in JSON. */
  onPublishError(eventName: string, error: unknown, _payload: Json): MaybePromise<void> {
    log.error(`the publisher ${this.publisherName} of ${eventName} failed: ${ofThrown(error).errorMessage}`);
  }

  /** Runs all methods as a worker does, without a worker: for tests. Answers whether there would be an event. */
  async publish(context: StepEventContext, eventName = context.eventName || context.stepName): Promise<boolean> {
    const mapping = await Mapping.of(this, eventName, context);
    await mapping.handedIn();
    return mapping.isPublished;
  }
}

/** Publishes what would be published without it. */
export class DefaultPublisher extends BasePublisher {
  readonly publisherName = "default";
}

/** What a publisher makes of one outcome. */
export class Mapping {
  isPublished = false;
  readonly #publisher: BasePublisher;
  readonly #name: string;
  #payload: Json = null;
  #metadata: Fields = {};
  #said = "";

  private constructor(publisher: BasePublisher, name: string) {
    this.#publisher = publisher;
    this.#name = name;
  }

  static async of(publisher: BasePublisher, name: string, context: StepEventContext): Promise<Mapping> {
    const mapping = new Mapping(publisher, name);
    try {
      mapping.#said = await mapping.#ask(context);
    } catch (error) {
      mapping.#said = `"error":${encode("the error", ofThrown(error).errorMessage)}`;
      await mapping.#failed(error);
    }
    return mapping;
  }

  async #ask(context: StepEventContext): Promise<string> {
    const publisher = this.#publisher;
    if (!(await publisher.shouldPublish(context))) {
      return '"skip":true';
    }
    this.#payload = await publisher.transformPayload(context);
    this.#metadata = await publisher.additionalMetadata(context);
    if (!(await publisher.beforePublish(this.#name, this.#payload, this.#metadata))) {
      return '"skip":true';
    }
    const payload = `"payload":${encode("the payload", this.#payload)}`;
    const metadata = encode("the metadata", this.#metadata);
    this.isPublished = true;
    return metadata === "{}" ? payload : `${payload},"metadata":${metadata}`;
  }

  /** For the boundary's outcome. */
  encoded(): string {
    const names = [this.#name, this.#publisher.publisherName].map((name) => encode("a name", name));
    return `{"name":${names[0]},"publisher":${names[1]},${this.#said}}`;
  }

  /** The outcome was taken. */
  async handedIn(): Promise<void> {
    if (this.isPublished) {
      try {
        await this.#publisher.afterPublish(this.#name, this.#payload, this.#metadata);
      } catch (error) {
        await this.#failed(error);
      }
    }
  }

  async #failed(error: unknown): Promise<void> {
    try {
      await this.#publisher.onPublishError(this.#name, error, this.#payload);
    } catch (second) {
      log.error(`onPublishError of ${this.#publisher.constructor.name}: ${ofThrown(second).errorMessage}`);
    }
  }
}

/** The publishers of a worker, by name. Most programs have one: {@link instance}. */
export class PublisherRegistry {
  static #instance: PublisherRegistry | undefined;
  readonly #publishers = new Map<string, BasePublisher>();
  #isFrozen = false;

  /** The one of this process. */
  static instance(): PublisherRegistry {
    PublisherRegistry.#instance ??= new PublisherRegistry();
    return PublisherRegistry.#instance;
  }

  /** Registers a publisher under its name. Throws where the name is taken by another class, or it is too late. */
  register(publisher: BasePublisher): void {
    const name = publisher.publisherName;
    if (this.#isFrozen) {
      throw new ConfigurationError("publishers are registered before the worker starts");
    }
    const known = this.#publishers.get(name) ?? publisher;
    if (known.constructor !== publisher.constructor) {
      throw new ConfigurationError(`a publisher named \`${name}\` is registered already`);
    }
    this.#publishers.set(name, known);
  }

  /** The publisher of this name. */
  get(name: string): BasePublisher | undefined {
    return this.#publishers.get(name);
  }

  /** The publisher of this name, else a {@link DefaultPublisher}. */
  getOrDefault(name?: string): BasePublisher {
    return this.get(name ?? "") ?? new DefaultPublisher();
  }

  /** Every name, sorted. */
  names(): string[] {
    return [...this.#publishers.keys()].sort();
  }

  /** Throws where one of these is missing. */
  validateRequired(names: Iterable<string>): void {
    const missing = [...names].filter((name) => !this.#publishers.has(name)).sort();
    if (missing.length > 0) {
      throw new ConfigurationError(`no publisher is registered as ${missing.map((name) => `\`${name}\``).join(", ")}`);
    }
  }

  /** No more are taken from now on. */
  freeze(): void {
    this.#isFrozen = true;
  }

  /** Whether {@link freeze} was called. */
  get isFrozen(): boolean {
    return this.#isFrozen;
  }

  /** Forgets all, and takes more. */
  clear(): void {
    this.#publishers.clear();
    this.#isFrozen = false;
  }

  /** What the publishers make of an encoded outcome, of the events that the step may publish. */
  async mappings(context: StepContext, encoded: string): Promise<Mapping[]> {
    const outcome = JSON.parse(encoded);
    if (outcome.type === "checkpoint_yield") {
      return [];
    }
    const kind = outcome.type === "success" ? "success" : outcome.retryable ? "retryable" : "permanent";
    const made: Mapping[] = [];
    for (const { name, publisher: wanted, on } of context.event?.publishes ?? []) {
      const publisher = this.get(wanted);
      if (publisher !== undefined && on.includes(kind)) {
        const said = StepEventContext.fromStepContext(context, outcome.result, outcome.metadata);
        said.eventName = name;
        if (kind !== "success") {
          const { message, error_type, error_code } = outcome;
          said.error = { message, ...(error_type && { error_type }), ...(error_code && { error_code }) };
        }
        made.push(await Mapping.of(publisher, name, said));
      }
    }
    return made;
  }
}

/** The outcome with what publishers made of it. */
export function withEvents(encoded: string, events: readonly Mapping[]): string {
  return events.length === 0
    ? encoded
    : `${encoded.slice(0, -1)},"events":[${events.map((event) => event.encoded()).join(",")}]}`;
}
