/** An order whose placing and payment other programs are told of (template `domain_events`). */

import {
  BasePublisher,
  BaseSubscriber,
  type DomainEvent,
  defineHandler,
  PublisherRegistry,
  type StepEventContext,
  SubscriberRegistry,
} from "@tasker-systems/tasker";

const inputs = { order_id: "order_id", amount: "amount_cents" } as const;

export const place = defineHandler("events.Place", { inputs }, ({ order_id }) => ({ order_id, status: "placed" }));

export const pay = defineHandler("events.Pay", { inputs }, ({ order_id, amount }) => ({
  order_id,
  paid_cents: amount,
}));

/** What others see of a payment: an amount as people write it, and nothing else. */
class Receipt extends BasePublisher {
  readonly publisherName = "events.Receipt";

  override transformPayload({ result: { order_id, paid_cents } }: StepEventContext) {
    return { order_id, amount: (paid_cents / 100).toFixed(2) };
  }
}

/** Hears of payments in this process. The durable events are in the queue `shop_domain_events` for everybody else. */
class Teller extends BaseSubscriber {
  static override subscribesTo() {
    return ["order.paid"];
  }

  handle({ payload }: DomainEvent) {
    console.log(`order ${payload.order_id} is paid: ${payload.amount}`);
  }
}

PublisherRegistry.instance().register(new Receipt());
SubscriberRegistry.instance().register(Teller);
