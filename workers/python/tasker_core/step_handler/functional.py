"""Handlers as functions.

::

    @step_handler("payments.charge")
    @depends_on(cart="validate_cart")
    @inputs("currency")
    def charge(cart, currency, context):
        return {"charged": cart["total"], "currency": currency}

The function is given what the decorators say and, where it has a parameter of that name, ``context``. It stays a
function: call it in a test with plain values. It may be ``async``.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Optional, TypeVar, Union

from .._outcome import failed, of_return
from ..errors import ConfigurationError, ValidationError
from ..types import StepContext, StepHandlerResult
from .api import APIMixin, ApiResponse
from .base import StepHandler
from .batchable import Batchable, BatchAnalyzerOutcome, CursorConfig, batch_context
from .decision import DecisionMixin

F = TypeVar("F", bound=Callable[..., Any])
Given = Callable[[StepContext], Any]
Finish = Callable[[StepHandler, Any], StepHandlerResult]


@dataclasses.dataclass(frozen=True)
class Decision:
    """What a function of :func:`decision_handler` returns."""

    step_names: tuple[str, ...]
    routing_context: dict[str, Any] = dataclasses.field(default_factory=dict)
    reason: str = ""

    @classmethod
    def route(cls, steps: Union[str, Sequence[str]], **routing_context: Any) -> Decision:
        """Creates these steps."""
        return cls((steps,) if isinstance(steps, str) else tuple(steps), routing_context)

    @classmethod
    def skip(cls, reason: str = "", **routing_context: Any) -> Decision:
        """Creates none."""
        return cls((), routing_context, reason)


@dataclasses.dataclass(frozen=True)
class BatchConfig:
    """What a function of :func:`batch_analyzer` returns: ``0..total_items`` in batches of ``batch_size``."""

    total_items: int
    batch_size: int
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)


def inputs(*keys: Any) -> Callable[[F], F]:
    """Gives the function keys of the task's context, each under its own name; None where one is absent and the function
    has no default. Or, with a class, the whole context as one, under the name ``inputs``."""

    def given(key: Any) -> Given:
        if isinstance(key, str):
            return lambda context: context.get_input(key)
        return lambda context: _typed(key, context.input_data, "the input")

    def declare(function: F) -> F:
        for key in keys:
            _declare(function, key if isinstance(key, str) else "inputs", given(key))
        return function

    return declare


def depends_on(**steps: Any) -> Callable[[F], F]:
    """Gives the function results of earlier steps: ``argument="step"``, or ``argument=("step", Model)``."""

    def given(said: Any) -> Given:
        step, model = said if isinstance(said, tuple) else (said, None)
        return lambda context: _dependency(context, step, model)

    def declare(function: F) -> F:
        for argument, said in steps.items():
            _declare(function, argument, given(said))
        return function

    return declare


def step_handler(name: str, *, version: str = "1.0.0") -> Callable[[F], F]:
    """Makes the function the handler of this name."""
    return lambda function: _made(function, name, version, (StepHandler,), lambda _, value: of_return(value))


def api_handler(
    name: str,
    *,
    base_url: str = "",
    timeout: float = 30.0,
    headers: Optional[dict[str, str]] = None,
    version: str = "1.0.0",
) -> Callable[[F], F]:
    """For steps that make requests: the function is given an :class:`APIMixin` with these settings as ``api``. An
    :class:`ApiResponse` that it returns is a success or a failure by its status."""

    class Api(APIMixin):
        pass

    Api.base_url, Api.default_timeout, Api.default_headers = base_url, timeout, dict(headers or {})

    def finish(_: StepHandler, value: Any) -> StepHandlerResult:
        if not isinstance(value, ApiResponse):
            return of_return(value)
        return Api().api_success(value) if value.ok else Api().api_failure(value)

    def declare(function: F) -> F:
        _declare(function, "api", lambda _: Api())
        return _made(function, name, version, (Api, StepHandler), finish)

    return declare


def decision_handler(name: str, *, version: str = "1.0.0") -> Callable[[F], F]:
    """For steps of type ``decision``: the function returns a :class:`Decision`."""

    def finish(handler: Any, value: Any) -> StepHandlerResult:
        if isinstance(value, StepHandlerResult):
            return value
        if not isinstance(value, Decision):
            raise ConfigurationError(f"a decision handler returns a Decision, not {type(value).__name__}")
        if value.step_names:
            routed: StepHandlerResult = handler.decision_success(value.step_names, value.routing_context)
            return routed
        skipped: StepHandlerResult = handler.skip_branches(value.reason, value.routing_context)
        return skipped

    return lambda function: _made(function, name, version, (DecisionMixin, StepHandler), finish)


def batch_analyzer(name: str, *, worker_template: Optional[str] = None, version: str = "1.0.0") -> Callable[[F], F]:
    """For steps of type ``batchable``: the function returns a :class:`BatchConfig`, a list of batches, or a
    :class:`BatchAnalyzerOutcome`."""

    def finish(handler: Any, value: Any) -> StepHandlerResult:
        if isinstance(value, StepHandlerResult):
            return value
        if isinstance(value, BatchConfig):
            value = handler.create_batch_outcome(value.total_items, value.batch_size, batch_metadata=value.metadata)
        elif isinstance(value, (list, tuple)):
            value = BatchAnalyzerOutcome(list(value))
        if not isinstance(value, BatchAnalyzerOutcome):
            raise ConfigurationError(f"a batch analyzer returns a BatchConfig, not {type(value).__name__}")
        split: StepHandlerResult = handler.batch_analyzer_success(value, worker_template_name=worker_template)
        return split

    return lambda function: _made(function, name, version, (Batchable, StepHandler), finish)


def batch_worker(name: str, *, version: str = "1.0.0") -> Callable[[F], F]:
    """For steps of type ``batch_worker``: the function is given its batch as ``batch_context``. It is not called where
    there is nothing to do."""

    def declare(function: F) -> F:
        if "batch_context" in inspect.signature(function).parameters:
            _declare(function, "batch_context", batch_context)
        finish: Finish = lambda _, value: of_return(value)  # noqa: E731
        return _made(function, name, version, (Batchable, StepHandler), finish, is_worker=True)

    return declare


def _made(function: F, name: str, version: str, bases: tuple[type, ...], finish: Finish, is_worker: bool = False) -> F:
    parameters = inspect.signature(function).parameters

    def begin(handler: Any, context: StepContext) -> Optional[StepHandlerResult]:
        no_op: Optional[StepHandlerResult] = handler.handle_no_op_worker(context) if is_worker else None
        return no_op

    def call(self: StepHandler, context: StepContext) -> StepHandlerResult:
        try:
            done = begin(self, context)
            return done if done is not None else finish(self, function(**_arguments(function, parameters, context)))
        except Exception as error:  # noqa: BLE001 - a failed attempt
            return failed(context, error)

    async def call_async(self: StepHandler, context: StepContext) -> StepHandlerResult:
        try:
            done = begin(self, context)
            return (
                done if done is not None else finish(self, await function(**_arguments(function, parameters, context)))
            )
        except Exception as error:  # noqa: BLE001 - a failed attempt
            return failed(context, error)

    made = call_async if inspect.iscoroutinefunction(function) else call
    body = {"handler_name": name, "handler_version": version, "call": made, "__doc__": function.__doc__}
    body["__module__"] = function.__module__
    function._handler_class = type(function.__name__, bases, body)  # type: ignore[attr-defined]
    return function


def _declare(function: Any, argument: str, given: Given) -> None:
    if not hasattr(function, "_tasker_arguments"):
        function._tasker_arguments = {}
    function._tasker_arguments[argument] = given


def _arguments(function: Any, parameters: Mapping[str, inspect.Parameter], context: StepContext) -> dict[str, Any]:
    declared: dict[str, Given] = getattr(function, "_tasker_arguments", {})
    arguments = {}
    for argument, given in declared.items():
        parameter = parameters.get(argument)
        if parameter is None and not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
            raise ConfigurationError(f"{function.__name__} has no parameter `{argument}`, which its decorators give it")
        value = given(context)
        if value is not None or parameter is None or parameter.default is parameter.empty:
            arguments[argument] = value
    if "context" in parameters:
        arguments["context"] = context
    return arguments


def _dependency(context: StepContext, step: str, model: Any) -> Any:
    value = context.get_dependency_result(step)
    return value if model is None or value is None else _typed(model, value, f"the result of `{step}`")


def _typed(model: Any, value: Any, what: str) -> Any:
    try:
        if hasattr(model, "model_validate"):
            return model.model_validate(value)
        if dataclasses.is_dataclass(model) and isinstance(value, dict):
            known = {each.name for each in dataclasses.fields(model)}
            return model(**{key: item for key, item in value.items() if key in known})  # type: ignore[operator]
        return model(value)
    except Exception as error:
        raise ValidationError(f"{what} is no {getattr(model, '__name__', model)}: {error}") from error


__all__ = [
    "BatchConfig",
    "CursorConfig",
    "Decision",
    "api_handler",
    "batch_analyzer",
    "batch_worker",
    "decision_handler",
    "depends_on",
    "inputs",
    "step_handler",
]
