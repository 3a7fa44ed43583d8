"""Domain events in Python: what is published of an outcome, and who in this process hears it
(docs/domain-events.md).

::

    class Receipt(BasePublisher):
        publisher_name = "receipt"

        def transform_payload(self, ctx):
            return {"amount": ctx.result["amount"]}

    class Mailer(BaseSubscriber):
        @classmethod
        def subscribes_to(cls):
            return ["order.*"]

        def handle(self, event):
            send(event["payload"])

    PublisherRegistry.instance().register(Receipt())
    SubscriberRegistry.instance().register(Mailer)

Register both before the worker starts, in a module of the handlers for example: a worker says at its start what it has.
"""

from .publishers import BasePublisher, DefaultPublisher, PublisherRegistry, StepEventContext
from .subscribers import BaseSubscriber, InProcessDomainEventPoller, SubscriberRegistry

__all__ = [
    "BasePublisher",
    "BaseSubscriber",
    "DefaultPublisher",
    "InProcessDomainEventPoller",
    "PublisherRegistry",
    "StepEventContext",
    "SubscriberRegistry",
]
