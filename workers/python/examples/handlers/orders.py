"""Order fulfilment: validate → reserve → charge → ship, on an order file and the product catalogue.

The card network is simulated and times out twice, so that the retries of ``charge`` can be watched. Nothing is written
anywhere: the reservation and the charge exist in the steps' results only.
"""

from __future__ import annotations

import re
from typing import Any

import files
import products

from tasker_core import PermanentError, RetryableError, StepContext, ValidationError
from tasker_core.step_handler.functional import depends_on, inputs, step_handler

Order = dict[str, Any]

LINES_LIMIT = 200
QUANTITY_PER_LINE_LIMIT = 100
NEEDED = (
    ("order_id",),
    ("customer", "name"),
    ("shipping_address", "street"),
    ("shipping_address", "postal_code"),
    ("shipping_address", "city"),
    ("payment", "token"),
)


@step_handler("orders.Validate")
@inputs("order_file")
def validate(order_file: str) -> Order:
    order: Order = files.read_json(order_file)
    problems = problems_of(order)
    if problems:
        raise ValidationError(f"the order is not valid: {'; '.join(problems)}", error_code="ORDER_INVALID")
    return order


@step_handler("orders.Reserve")
@inputs("products_file")
@depends_on(order="validate")
def reserve(order: Order, products_file: str) -> dict[str, Any]:
    return reservation(order, {product.sku: product for product in products.read(products_file)})


@step_handler("orders.Charge")
@depends_on(reserved="reserve")
def charge(reserved: dict[str, Any], context: StepContext) -> dict[str, Any]:
    if context.attempt <= context.get_config("simulated_timeouts"):
        raise RetryableError("card network timeout", error_code="CARD_NETWORK_TIMEOUT")
    subtotal = reserved["subtotal_cents"]
    tax = percent(subtotal, context.get_config("vat_percent"))
    return {
        # The same on every attempt: a real provider recognises a repeated request by it.
        "charge_id": f"charge:{context.idempotency_key}",
        "currency": context.get_config("currency"),
        "tax_cents": tax,
        "amount_cents": subtotal + tax,
        "attempts": context.attempt,
    }


@step_handler("orders.Ship")
@depends_on(order="validate", reserved="reserve", charged="charge")
def ship(order: Order, reserved: dict[str, Any], charged: dict[str, Any], context: StepContext) -> dict[str, Any]:
    limit = max(context.get_config("parcel_limit_grams"), 1)
    parcels = -(-max(reserved["weight_grams"], 1) // limit)
    is_domestic = order["shipping_address"]["country"] == context.get_config("home_country")
    return {
        "order_id": order["order_id"],
        "status": "shipped",
        "carrier": "domestic post" if is_domestic else "international courier",
        "tracking_numbers": [f"{order['order_id']}-{number}" for number in range(1, parcels + 1)],
        "weight_grams": reserved["weight_grams"],
        "charged_cents": charged["amount_cents"],
        "currency": charged["currency"],
        "charge_attempts": charged["attempts"],
    }


def problems_of(order: Order) -> list[str]:
    """Everything that is wrong with an order, so that one correction is enough."""

    def text(*path: str) -> str:
        value: Any = order
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value.strip() if isinstance(value, str) else ""

    problems = [f"{'.'.join(path)} is empty" for path in NEEDED if not text(*path)]
    # Whether a mail could be sent there is for the mail server to say; this finds swapped fields.
    if not re.fullmatch(r"[^@\s]+@[^@\s]*\.[^@\s]*", text("customer", "email")):
        problems.append("customer.email is no e-mail address")
    if not re.fullmatch(r"[A-Z]{2}", text("shipping_address", "country")):
        problems.append("shipping_address.country is no ISO 3166 code of two letters")
    if text("payment", "method") != "card":
        problems.append("payment.method must be `card`")
    return problems + problems_of_lines(order.get("lines"))


def problems_of_lines(lines: Any) -> list[str]:
    if not isinstance(lines, list) or not 1 <= len(lines) <= LINES_LIMIT:
        return [f"lines must hold 1 to {LINES_LIMIT} entries"]
    problems, seen = [], set()
    for index, line in enumerate(lines):
        if not 1 <= line["quantity"] <= QUANTITY_PER_LINE_LIMIT:
            problems.append(f"lines[{index}].quantity must be 1 to {QUANTITY_PER_LINE_LIMIT}")
        if line["sku"] in seen:
            problems.append(f"lines[{index}].sku comes twice")
        seen.add(line["sku"])
    return problems


def reservation(order: Order, catalogue: dict[str, products.Product]) -> dict[str, Any]:
    unknown = [line["sku"] for line in order["lines"] if line["sku"] not in catalogue]
    if unknown:
        raise ValidationError(f"the catalogue has no product {', '.join(unknown)}", error_code="PRODUCT_UNKNOWN")
    wanted = [(catalogue[line["sku"]], line["quantity"]) for line in order["lines"]]
    short = [f"{each.sku}: {count} ordered, {each.stock} there" for each, count in wanted if each.stock < count]
    if short:
        raise PermanentError(f"not enough in stock: {'; '.join(short)}", error_code="OUT_OF_STOCK")
    return {
        "reservation_id": f"reservation:{order['order_id']}",
        "lines": [
            {
                "sku": product.sku,
                "name": product.name,
                "quantity": count,
                "unit_price_cents": product.price_cents,
                "total_cents": product.price_cents * count,
            }
            for product, count in wanted
        ],
        "subtotal_cents": sum(product.price_cents * count for product, count in wanted),
        "weight_grams": sum(product.weight_grams * count for product, count in wanted),
    }


def percent(amount_cents: int, share: int) -> int:
    """A share of an amount that is not negative, half a cent rounded up."""
    return (amount_cents * share + 50) // 100
