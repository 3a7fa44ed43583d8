/**
 * Subscribers: who in this process hears fast and broadcast events (docs/domain-events.md).
 *
 *     class Mailer extends BaseSubscriber {
 *       static override subscribesTo() {
 *         return ["order.*"];
 *       }
 *
 *       async handle({ payload }: DomainEvent) {
 *         await send(payload);
 *       }
 *     }
 *     SubscriberRegistry.instance().register(Mailer);
 *
 * Register them before the worker starts, in a module of the handlers for example: a worker says at its start what it has.
 */

import { ConfigurationError } from "./errors.ts";
import type { Fields, Json } from "./json.ts";
import { log } from "./log.ts";
import { ofThrown } from "./outcome.ts";
import { runAs } from "./running.ts";

/** Events that wait for one subscriber; what comes then is dropped. */
const INBOX = 1024;
/** What a subscriber has to handle what waits for it, once it is to end. */
const LAST_WORDS_MS = 2_000;

/** What a subscriber hears: all that docs/domain-events.md lists, and these. */
export interface DomainEvent extends Fields {
  eventName: string;
  eventId: string;
  payload: Json;
  /** Of which step it is, and what its publisher says beside the payload. */
  metadata: Fields & {
    taskUuid: string;
    stepUuid: string;
    stepName: string;
    namespace: string;
    correlationId: string;
  };
}

/**
 * Hears fast and broadcast events of the steps that this process's worker runs, one after another. Best effort: what
 * comes while 1,024 wait is dropped. What must not be lost is durable.
 */
export abstract class BaseSubscriber {
  /** Globs for names of events: `*` stands for any number of characters, `?` for one. */
  static subscribesTo(): readonly string[] {
    return [];
  }

  /** One event. */
  abstract handle(event: DomainEvent): void | Promise<void>;

  /** False passes over the event. */
  beforeHandle(_event: DomainEvent): boolean | Promise<boolean> {
    return true;
  }

  /** The event was handled. */
  afterHandle(_event: DomainEvent): void | Promise<void> {}

  /** A method of this subscriber threw; the event is lost to it. */
  onHandleError(event: DomainEvent, error: unknown): void | Promise<void> {
    log.error(`${this.constructor.name} failed at ${event.eventName}: ${ofThrown(error).errorMessage}`);
  }

  /** What this one hears. */
  globs(): readonly string[] {
    return (this.constructor as typeof BaseSubscriber).subscribesTo();
  }

  /** Whether it hears events of this name. */
  matches(eventName: string): boolean {
    return this.globs().some((glob) => matches(glob, eventName));
  }

  /** Handles an event; answers whether nothing was thrown. */
  async handleEventSafely(event: DomainEvent): Promise<boolean> {
    try {
      if (await this.beforeHandle(event)) {
        await this.handle(event);
        await this.afterHandle(event);
      }
      return true;
    } catch (error) {
      try {
        await this.onHandleError(event, error);
      } catch (second) {
        log.error(`onHandleError of ${this.constructor.name}: ${ofThrown(second).errorMessage}`);
      }
      return false;
    }
  }
}

/** The class of a subscriber. */
export type SubscriberClass = new () => BaseSubscriber;

/** Whether a whole name matches: `*` stands for any number of characters, `?` for one. */
export function matches(glob: string, name: string): boolean {
  const escaped = glob.replace(/[\\^$.|+()[\]{}]/g, "\\$&");
  return new RegExp(`^${escaped.replaceAll("*", ".*").replaceAll("?", ".")}$`, "su").test(name);
}

/** A subscriber with what waits for it. */
class Listener {
  readonly subscriber: BaseSubscriber;
  readonly globs: readonly string[];
  readonly counts = { handled: 0, failed: 0, dropped: 0 };
  readonly #inbox: DomainEvent[] = [];
  #hears = false;
  /** Settles once nothing waits. */
  #idle: Promise<void> | undefined;

  constructor(subscriber: BaseSubscriber) {
    this.subscriber = subscriber;
    this.globs = [...subscriber.globs()];
  }

  start(): void {
    this.#hears = true;
  }

  /** Hears no more; settles once what waits is handled, or its time is over. */
  async stop(): Promise<void> {
    this.#hears = false;
    let timer: NodeJS.Timeout | undefined;
    const patience = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, LAST_WORDS_MS);
    });
    await Promise.race([this.#idle, patience]);
    clearTimeout(timer);
    this.#inbox.length = 0;
  }

  /** Of the globs that match an event, the first one counts: each event is heard once. */
  tell(glob: string, event: DomainEvent): void {
    if (!this.#hears || glob !== this.globs.find((each) => matches(each, event.eventName))) {
      return;
    }
    if (this.#inbox.length >= INBOX) {
      this.counts.dropped += 1;
      return;
    }
    this.#inbox.push(event);
    this.#idle ??= runAs(`the subscriber ${this.subscriber.constructor.name}`, () => this.#listen());
  }

  async #listen(): Promise<void> {
    for (let event = this.#inbox.shift(); event !== undefined; event = this.#inbox.shift()) {
      this.counts[(await this.subscriber.handleEventSafely(event)) ? "handled" : "failed"] += 1;
    }
    this.#idle = undefined;
  }
}

/** Who hears events in this process. The worker starts and stops them with itself. */
export class SubscriberRegistry {
  static #instance: SubscriberRegistry | undefined;
  #listeners: Listener[] = [];
  /** What the running worker was started with. */
  #declared: Set<string> | undefined;

  /** The one of this process. */
  static instance(): SubscriberRegistry {
    SubscriberRegistry.#instance ??= new SubscriberRegistry();
    return SubscriberRegistry.#instance;
  }

  /** Registers a subscriber, or one of a class. Throws where the running worker would not bring it its events. */
  register(subscriber: BaseSubscriber | SubscriberClass): BaseSubscriber {
    const made = typeof subscriber === "function" ? new subscriber() : subscriber;
    const listener = new Listener(made);
    const declared = this.#declared;
    if (declared !== undefined && !listener.globs.every((glob) => declared.has(glob))) {
      throw new ConfigurationError("subscribers are registered before the worker starts");
    }
    this.#listeners.push(listener);
    if (declared !== undefined) {
      listener.start();
    }
    return made;
  }

  /** Forgets it, once it has handled what waits. */
  async unregister(subscriber: BaseSubscriber): Promise<void> {
    const gone = this.#listeners.filter((each) => each.subscriber === subscriber);
    this.#listeners = this.#listeners.filter((each) => each.subscriber !== subscriber);
    await Promise.all(gone.map((each) => each.stop()));
  }

  /** What all of them subscribe to. */
  globs(): string[] {
    return [...new Set(this.#listeners.flatMap((each) => each.globs))].sort();
  }

  /** Begins to hear. The worker does so at its start; `_poller` is for old code and is not needed. */
  startAll(_poller?: unknown): void {
    this.#declared = new Set(this.globs());
    for (const each of this.#listeners) {
      each.start();
    }
  }

  /** Ends, once what waits is handled. */
  async stopAll(): Promise<void> {
    this.#declared = undefined;
    await Promise.all(this.#listeners.map((each) => each.stop()));
  }

  /** Ends and forgets all. */
  async clear(): Promise<void> {
    await this.stopAll();
    this.#listeners = [];
  }

  /** How many subscribers there are, and events `handled`, `failed` and `dropped`. */
  get stats(): { subscribers: number; handled: number; failed: number; dropped: number } {
    const sum = (key: keyof Listener["counts"]) => this.#listeners.reduce((all, { counts }) => all + counts[key], 0);
    const counts = { handled: sum("handled"), failed: sum("failed"), dropped: sum("dropped") };
    return { subscribers: this.#listeners.length, ...counts };
  }

  /** Hands on an event that the boundary brought for this glob. */
  tell(glob: string, event: Fields): void {
    const { task_uuid: taskUuid, step_uuid: stepUuid, step_name: stepName } = event;
    const { namespace, correlation_id: correlationId, name: eventName, event_id: eventId, payload } = event;
    const metadata = { taskUuid, stepUuid, stepName, namespace, correlationId, ...event.metadata };
    for (const each of this.#listeners) {
      each.tell(glob, { ...event, eventName, eventId, payload, metadata });
    }
  }
}

/** What {@link InProcessDomainEventPoller} was given; none of it has a meaning any more. */
export interface PollerOptions {
  pollIntervalMs?: number;
  maxEventsPerPoll?: number;
}

/** For code that was written against pollers: a subscriber to everything. Nothing polls; start it before the worker. */
export class InProcessDomainEventPoller {
  readonly #onEvent: ((event: DomainEvent) => unknown)[] = [];
  readonly #onError: ((error: unknown) => unknown)[] = [];
  #subscriber: BaseSubscriber | undefined;
  #heard = 0;

  // biome-ignore lint/complexity/noUselessConstructor: former programs say options
  constructor(_options: PollerOptions = {}) {}

  /** Calls this with each event. */
  onEvent(callback: (event: DomainEvent) => unknown): void {
    this.#onEvent.push(callback);
  }

  /** Calls this with what the callbacks for events throw. */
  onError(callback: (error: unknown) => unknown): void {
    this.#onError.push(callback);
  }

  /** Begins to hear. Throws where the worker was started without anybody who hears everything. */
  start(): void {
    if (this.#subscriber !== undefined) {
      throw new ConfigurationError("the poller is running already");
    }
    const handle = (event: DomainEvent) => this.#handle(event);
    class Everything extends BaseSubscriber {
      static override subscribesTo() {
        return ["*"];
      }

      async handle(event: DomainEvent) {
        await handle(event);
      }
    }
    this.#subscriber = SubscriberRegistry.instance().register(Everything);
  }

  /** Ends, once what waits is handled. */
  async stop(): Promise<void> {
    const subscriber = this.#subscriber;
    this.#subscriber = undefined;
    if (subscriber !== undefined) {
      await SubscriberRegistry.instance().unregister(subscriber);
    }
  }

  /** Whether it hears. */
  isRunning(): boolean {
    return this.#subscriber !== undefined;
  }

  /** How many events it heard. */
  get stats(): { eventsProcessed: number } {
    return { eventsProcessed: this.#heard };
  }

  async #handle(event: DomainEvent): Promise<void> {
    this.#heard += 1;
    for (const callback of this.#onEvent) {
      try {
        await callback(event);
      } catch (error) {
        for (const told of this.#onError) {
          told(error);
        }
      }
    }
  }
}
