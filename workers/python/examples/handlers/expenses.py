"""Approval of expenses: a decision creates the approvals that an amount needs, and a payment waits for those."""

from __future__ import annotations

from typing import Any

from tasker_core import PermanentError, StepContext
from tasker_core.step_handler.functional import Decision, decision_handler, depends_on, inputs, step_handler


@step_handler("expenses.Classify")
@inputs("purpose")
def classify(purpose: str, context: StepContext) -> dict[str, Any]:
    limits = context.get_config("limits_cents")
    kind = next((each for each in sorted(limits) if each in purpose.lower()), "other")
    if kind not in limits:
        raise PermanentError("there is no limit for other expenses")
    return {"kind": kind, "limit_cents": limits[kind]}


@decision_handler("expenses.Route")
@inputs("amount_cents")
@depends_on(found="classify")
def route(amount_cents: int, found: dict[str, Any], context: StepContext) -> Decision:
    return Decision.route(approvals(amount_cents, found["limit_cents"], context.get_config("finance_factor")), **found)


@step_handler("expenses.ApproveAutomatically")
def approve_automatically() -> dict[str, str]:
    return {"by": "the limit"}


@step_handler("expenses.Ask")
def ask(context: StepContext) -> dict[str, str]:
    """In earnest this would send a message and be completed by hand; here everybody says yes."""
    return {"by": context.get_config("who")}


@step_handler("expenses.Pay")
@inputs("amount_cents")
def pay(amount_cents: int, context: StepContext) -> dict[str, Any]:
    given = context.get_all_dependency_results("ask_") + context.get_all_dependency_results("approve_automatically")
    if not given:
        raise PermanentError("nobody approved this expense")
    return {"paid_cents": amount_cents, "approved_by": sorted(approval["by"] for approval in given)}


def approvals(amount: int, limit: int, finance_factor: int) -> list[str]:
    """The steps that approve an amount: below the limit nobody is asked, far above it finance too."""
    if amount <= limit:
        return ["approve_automatically"]
    return ["ask_manager"] if amount <= limit * finance_factor else ["ask_manager", "ask_finance"]
