"""The registration of a user at several services."""

from __future__ import annotations

from typing import Any

from tasker_core import PermanentError, ServiceUnavailableError, StepContext, ValidationError
from tasker_core.step_handler.functional import depends_on, inputs, step_handler

Told = dict[str, Any]


@step_handler("accounts.Create")
@inputs("email")
def create(email: str) -> Told:
    email = email.strip().lower()
    name, _, host = email.partition("@")
    if not name or "." not in host:
        raise ValidationError(f"{email} is no address")
    return {"user_id": f"user:{email}", "email": email}


@step_handler("billing.SetUp")
@inputs("plan")
@depends_on(account="create_account")
def set_up_billing(account: Told, plan: str, context: StepContext) -> Told:
    price = context.get_config("price_cents").get(plan)
    if price is None:
        raise PermanentError(f"the plan {plan} has no price")
    return {"account": f"billing:{account['user_id']}" if price > 0 else None, "price_cents": price}


@step_handler("preferences.SetDefaults")
@inputs("plan")
def set_preferences(plan: str) -> Told:
    return {"newsletter": False, "theme": "light", "reports": plan == "pro"}


@step_handler("mail.SendWelcome")
@depends_on(account="create_account", preferences="set_preferences")
async def send_welcome(account: Told, preferences: Told, context: StepContext) -> Told:
    if not context.is_retry():
        raise ServiceUnavailableError("the mail server is busy")
    return {"to": account["email"], "template": "welcome_pro" if preferences["reports"] else "welcome"}


@step_handler("accounts.Activate")
@depends_on(account="create_account", billing="set_up_billing", welcome="send_welcome")
def activate(account: Told, billing: Told, welcome: Told) -> Told:
    return {
        "user_id": account["user_id"],
        "status": "active",
        "welcomed": welcome["to"],
        "price_cents": billing["price_cents"],
    }
