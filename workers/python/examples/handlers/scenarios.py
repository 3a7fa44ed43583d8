"""What can go wrong with a call, and what a handler says of it."""

from __future__ import annotations

from typing import Any

from tasker_core import NetworkError, RateLimitError, StepContext, ValidationError
from tasker_core.step_handler.functional import depends_on, inputs, step_handler


@step_handler("scenarios.Call")
@inputs("scenario")
def call(scenario: str, context: StepContext) -> dict[str, Any]:
    if scenario == "flaky" and context.attempt <= 2:
        raise NetworkError("the other side is away")
    if scenario == "rate_limited" and context.attempt == 1:
        raise RateLimitError("too many calls", retry_after=0.2)
    if scenario == "invalid":
        raise ValidationError("the amount is negative", error_code="NEGATIVE")
    if scenario == "broken":
        # As any error that a handler passes on: nobody said that trying again is useless, so it is tried.
        raise KeyError("nobody thought of this")
    return {"scenario": scenario, "attempts": context.attempt}


@step_handler("scenarios.Tell")
@depends_on(called="call")
def tell(called: dict[str, Any]) -> dict[str, str]:
    return {"told": f"{called['scenario']}: came through at attempt {called['attempts']}"}
