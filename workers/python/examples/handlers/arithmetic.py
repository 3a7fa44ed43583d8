"""Arithmetic on one number: templates that show the shapes of graphs, not what handlers can do.

Every operation names its operands in its configuration, because a step sees the results of all its ancestors, not of
its parents alone.
"""

from __future__ import annotations

import math

from tasker_core import StepContext
from tasker_core.step_handler.functional import inputs, step_handler

Number = dict[str, int]


@step_handler("arithmetic.Read")
@inputs("number")
def read(number: int) -> Number:
    return {"value": number}


@step_handler("arithmetic.Add")
def add(context: StepContext) -> Number:
    return {"value": operand(context) + context.get_config("amount")}


@step_handler("arithmetic.Multiply")
def multiply(context: StepContext) -> Number:
    return {"value": operand(context) * context.get_config("factor")}


@step_handler("arithmetic.Square")
def square(context: StepContext) -> Number:
    return {"value": operand(context) ** 2}


@step_handler("arithmetic.Sum")
def add_up(context: StepContext) -> Number:
    return {"value": sum(operands(context))}


@step_handler("arithmetic.Product")
def multiply_all(context: StepContext) -> Number:
    return {"value": math.prod(operands(context))}


def operand(context: StepContext) -> int:
    """The number that the step named by ``of`` has made."""
    return int(context.get_dependency_field(context.get_config("of"), "value"))


def operands(context: StepContext) -> list[int]:
    """The same, where ``of`` names several steps."""
    return [int(context.get_dependency_field(step, "value")) for step in context.get_config("of")]
