/** A step that publishes, a publisher, and who hears it. */

import { appendFileSync } from "node:fs";
import { setImmediate } from "node:timers/promises";
import {
  BasePublisher,
  BaseSubscriber,
  defineHandler,
  PermanentError,
  PublisherRegistry,
  RetryableError,
  SubscriberRegistry,
} from "@tasker-systems/tasker";

/** @typedef {import("@tasker-systems/tasker").StepEventContext} StepEventContext */
/** @typedef {import("@tasker-systems/tasker").DomainEvent} DomainEvent */

/** @param {unknown} told */
function note(told) {
  if (process.env.EVENTS_LOG !== undefined) {
    appendFileSync(process.env.EVENTS_LOG, `${JSON.stringify(told)}\n`);
  }
}

export const pay = defineHandler("shop.pay", { inputs: { wanted: "do" } }, ({ wanted = null, context }) => {
  if (wanted === "fail") {
    throw new PermanentError("no money", { errorType: "broke", errorCode: "E1" });
  }
  if (wanted === "later" && !context.isRetry()) {
    throw new RetryableError("not yet", 0);
  }
  return { amount: 5, card: "4711", wanted };
});

export class Receipt extends BasePublisher {
  publisherName = "receipt";

  /**
   * @override
   * @param {StepEventContext} event
   */
  shouldPublish({ result }) {
    return result?.wanted !== "skip";
  }

  /**
   * @override
   * @param {StepEventContext} event
   */
  async transformPayload({ error, result, attempt }) {
    await setImmediate();
    if (error !== null) {
      return { why: error.error_type, code: error.error_code ?? null, attempt };
    }
    if (result.wanted === "raise") {
      throw undefined;
    }
    return { amount: result.wanted === "unsayable" ? Number.NaN : result.amount, wanted: result.wanted };
  }

  /**
   * @override
   * @param {StepEventContext} event
   */
  additionalMetadata({ eventName }) {
    return { by: this.publisherName, event: eventName };
  }

  /**
   * @override
   * @param {string} eventName
   * @param {any} payload
   */
  beforePublish(eventName, payload) {
    return !(payload.wanted === "unwanted" && eventName === "order.paid");
  }

  /**
   * @override
   * @param {string} eventName
   * @param {any} payload
   */
  afterPublish(eventName, payload) {
    note({ published: eventName, payload });
  }

  /**
   * @override
   * @param {string} eventName
   * @param {unknown} error
   * @param {any} payload
   */
  onPublishError(eventName, error, payload) {
    super.onPublishError(eventName, error, payload);
    process.exit(5);
  }
}

/** Hears everything twice over, by two globs; fails at every second one. */
export class Ear extends BaseSubscriber {
  heard = 0;

  static subscribesTo() {
    return ["order.*", "*.tried"];
  }

  /** @param {DomainEvent} event */
  async handle({ eventName, payload, metadata, attempt }) {
    await setImmediate();
    this.heard += 1;
    note({ heard: eventName, payload, metadata, attempt });
    if (this.heard % 2 === 0) {
      process.exit(6);
    }
  }
}

PublisherRegistry.instance().register(new Receipt());
SubscriberRegistry.instance().register(Ear);
