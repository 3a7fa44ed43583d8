"""An order whose placing and payment other programs are told of."""

from __future__ import annotations

from typing import Any

from tasker_core.domain_events import BasePublisher, PublisherRegistry, StepEventContext
from tasker_core.step_handler.functional import inputs, step_handler


@step_handler("events.Place")
@inputs("order_id")
def place(order_id: str) -> dict[str, Any]:
    return {"order_id": order_id, "status": "placed"}


@step_handler("events.Pay")
@inputs("order_id", "amount_cents")
def pay(order_id: str, amount_cents: int) -> dict[str, Any]:
    return {"order_id": order_id, "paid_cents": amount_cents}


class Receipt(BasePublisher):
    """What others see of a payment: an amount as people write it, and nothing else."""

    publisher_name = "events.Receipt"

    def transform_payload(self, ctx: StepEventContext) -> dict[str, Any]:
        whole, cents = divmod(ctx.result["paid_cents"], 100)
        return {"order_id": ctx.result["order_id"], "amount": f"{whole}.{cents:02d}"}


PublisherRegistry.instance().register(Receipt())
