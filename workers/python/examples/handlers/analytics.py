"""An analytics pipeline: three extracts → three transforms → aggregate → insights.

The extracts read files (CSV and JSON) into checked rows, the transforms reduce each source on its own, the aggregate
joins the three, and the insights say what a person would look for.
"""

from __future__ import annotations

import datetime
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import files

from tasker_core import StepContext, ValidationError
from tasker_core.step_handler.functional import depends_on, inputs, step_handler

Row = dict[str, Any]
Told = dict[str, Any]

SALES = ("date", "order_id", "customer_id", "sku", "quantity", "unit_price")
STOCK = ("sku", "category", "warehouse", "on_hand")


@step_handler("analytics.ExtractSales")
@inputs("sales_file")
def extract_sales(sales_file: str) -> Told:
    return {"rows": [checked(sales_file, sale, row) for row in files.read_csv(sales_file, SALES)]}


@step_handler("analytics.ExtractCustomers")
@inputs("customers_file")
def extract_customers(customers_file: str) -> Told:
    columns = ("customer_id", "name", "country", "tier")
    customers = files.read_json(customers_file)
    return {"rows": [checked(customers_file, lambda row: {key: row[key] for key in columns}, row) for row in customers]}


@step_handler("analytics.ExtractStock")
@inputs("stock_file")
def extract_stock(stock_file: str) -> Told:
    return {"rows": [checked(stock_file, stock, row) for row in files.read_csv(stock_file, STOCK)]}


@step_handler("analytics.TransformSales")
@depends_on(extract="extract_sales")
def transform_sales(extract: Told) -> Told:
    by_month: Counter[str] = Counter()
    by_customer: Counter[str] = Counter()
    by_sku: dict[str, Row] = defaultdict(lambda: {"units": 0, "revenue_cents": 0})
    sold = returned = 0
    for row in extract["rows"]:
        amount = row["unit_price_cents"] * row["quantity"]
        # A negative quantity is a return.
        sold, returned = sold + max(amount, 0), returned + min(amount, 0)
        by_month[row["month"]] += amount
        by_customer[row["customer_id"]] += amount
        by_sku[row["sku"]]["units"] += row["quantity"]
        by_sku[row["sku"]]["revenue_cents"] += amount
    totals = {"sold_cents": sold, "returned_cents": returned}
    return {**totals, "by_month": by_month, "by_customer": by_customer, "by_sku": by_sku}


@step_handler("analytics.TransformCustomers")
@depends_on(extract="extract_customers")
def transform_customers(extract: Told) -> Told:
    rows = extract["rows"]
    return {
        "tier_of": {row["customer_id"]: row["tier"] for row in rows},
        "by_tier": Counter(row["tier"] for row in rows),
        "by_country": Counter(row["country"] for row in rows),
    }


@step_handler("analytics.TransformStock")
@depends_on(extract="extract_stock")
def transform_stock(extract: Told) -> Told:
    """One entry per product: what its warehouses hold together."""
    by_sku: dict[str, Row] = {}
    for row in extract["rows"]:
        product = by_sku.setdefault(row["sku"], {"category": row["category"], "on_hand": 0})
        product["on_hand"] += row["on_hand"]
    return {"by_sku": by_sku, "units": sum(product["on_hand"] for product in by_sku.values())}


@step_handler("analytics.Aggregate")
@inputs("period_days")
@depends_on(sales="transform_sales", customers="transform_customers", inventory="transform_stock")
def aggregate(sales: Told, customers: Told, inventory: Told, period_days: int) -> Told:
    by_tier: Counter[str] = Counter()
    for customer, revenue in sorted(sales["by_customer"].items()):
        if customer not in customers["tier_of"]:
            raise do_not_fit(f"sales name customer {customer}, whom the customer file does not have")
        by_tier[customers["tier_of"][customer]] += revenue
    by_category: Counter[str] = Counter()
    cover_days = {}
    for sku, sold in sorted(sales["by_sku"].items()):
        if sku not in inventory["by_sku"]:
            raise do_not_fit(f"sales name product {sku}, which the stock file does not have")
        product = inventory["by_sku"][sku]
        by_category[product["category"]] += sold["revenue_cents"]
        # What was only returned, or never sold, lasts for ever: it has no number of days.
        if sold["units"] > 0:
            cover_days[sku] = product["on_hand"] * period_days // sold["units"]
    members = customers["by_tier"]
    return {
        "net_revenue_cents": sales["sold_cents"] + sales["returned_cents"],
        "revenue_by_month": sales["by_month"],
        "revenue_by_category": by_category,
        "revenue_by_tier": by_tier,
        "revenue_per_customer_by_tier": {tier: int(by_tier[tier] / members[tier]) for tier in members},
        "cover_days_by_sku": cover_days,
    }


@step_handler("analytics.Insights")
@depends_on(joined="aggregate")
def insights(joined: Told, context: StepContext) -> Told:
    below = context.get_config("cover_days_below")
    month = largest(joined["revenue_by_month"])
    category = largest(joined["revenue_by_category"])
    tier = largest(joined["revenue_per_customer_by_tier"])
    running_out = sorted(sku for sku, days in joined["cover_days_by_sku"].items() if days < below)
    headlines = [
        month and f"{month} was the best month",
        category and f"{category} is the top category",
        tier and f"{tier} customers spend the most each",
        running_out and f"{len(running_out)} products last less than {below} days",
    ]
    return {
        "net_revenue_cents": joined["net_revenue_cents"],
        "best_month": month,
        "top_category": category,
        "most_valuable_tier": tier,
        "running_out": running_out,
        "headlines": [headline for headline in headlines if headline],
    }


def sale(row: Row) -> Row:
    """A line of the sales file. Only the month of its date is used."""
    count = int(row["quantity"])
    if count == 0 or abs(count) > files.QUANTITY_LIMIT:
        raise ValueError(f"the quantity {count} is none")
    return {
        "month": datetime.date.fromisoformat(row["date"]).isoformat()[:7],
        "customer_id": row["customer_id"],
        "sku": row["sku"],
        "quantity": count,
        "unit_price_cents": files.cents(row["unit_price"]),
    }


def stock(row: Row) -> Row:
    return {"sku": row["sku"], "category": row["category"], "on_hand": files.quantity(row["on_hand"])}


def checked(path: str, read: Any, row: Row) -> Row:
    """The row as ``read`` makes it; a row that it can't be made of is the file's fault."""
    try:
        made: Row = read(row)
        return made
    except (ValueError, KeyError, TypeError) as error:
        raise files.malformed(path, f"{error!r} in {row}") from None


def do_not_fit(why: str) -> ValidationError:
    return ValidationError(why, error_code="SOURCES_DO_NOT_FIT")


def largest(amounts: Mapping[str, int]) -> Any:
    """The name of the largest amount, the first by name where several are equal; None where there is none."""
    return min(amounts, key=lambda name: (-amounts[name], name), default=None)
