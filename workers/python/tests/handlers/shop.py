"""A step that publishes, a publisher, and who hears it."""

from __future__ import annotations

import json

from tasker_core import PermanentError, RetryableError
from tasker_core.domain_events import BasePublisher, BaseSubscriber, PublisherRegistry, SubscriberRegistry
from tasker_core.step_handler.functional import step_handler


@step_handler("shop.pay")
def pay(context):
    wanted = context.get_input("do")
    if wanted == "fail":
        raise PermanentError("no money", error_type="broke", error_code="E1")
    if wanted == "later" and not context.is_retry():
        raise RetryableError("not yet", retry_after=0)
    return {"amount": 5, "card": "4711", "log": context.get_input("log"), "publisher": wanted}


class Receipt(BasePublisher):
    publisher_name = "receipt"

    def should_publish(self, ctx):
        return not (ctx.result and ctx.result["publisher"] == "skip")

    def transform_payload(self, ctx):
        if ctx.error is not None:
            return {"why": ctx.error["error_type"], "code": ctx.error.get("error_code"), "attempt": ctx.attempt}
        wanted = ctx.result["publisher"]
        if wanted == "raise":
            raise KeyError("a receipt")
        if wanted == "unsayable":
            return {"amount": float("nan")}
        return {"amount": ctx.result["amount"], "log": ctx.result["log"]}

    def additional_metadata(self, ctx):
        return {"by": self.publisher_name, "event": ctx.event_name}

    def before_publish(self, event_name, payload, metadata):
        return not str(payload.get("log")).endswith("unwanted")

    def after_publish(self, event_name, payload, metadata):
        if "log" in payload:
            write(payload["log"], f"published {event_name}")

    def on_publish_error(self, event_name, error, payload):
        super().on_publish_error(event_name, error, payload)
        raise SystemExit("a publisher may do this too")


class Ear(BaseSubscriber):
    """Hears everything twice over, by two globs; raises at every second one."""

    heard = 0

    @classmethod
    def subscribes_to(cls):
        return ["order.*", "*.tried"]

    def before_handle(self, event):
        return event["payload"].get("log") is not None

    async def handle(self, event):
        self.heard += 1
        known = {"name": event["event_name"], "payload": event["payload"], "by": event["metadata"].get("by")}
        write(event["payload"]["log"], json.dumps(known))
        if self.heard % 2 == 0:
            raise SystemExit("a subscriber may do this")


def write(log, line):
    with open(log, "a", encoding="utf-8") as out:
        out.write(f"{line}\n")


PublisherRegistry.instance().register(Receipt())
SubscriberRegistry.instance().register(Ear)
