"""Handlers alone, and whole workflows, without PostgreSQL or a worker.

::

    def test_charge():
        result = run(charge, make_context(dependencies={"validate_cart": {"total": 5}}))
        assert result.result == {"charged": 5}

    def test_order(tasker_workflow):
        order = tasker_workflow("templates/order.yaml", {"items": 3}, handlers=[validate_cart, charge])
        assert order.status == "complete"
        assert order.results["charge"] == {"charged": 5}
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

from . import _native, _outcome
from ._record import Record
from .domain_events import PublisherRegistry
from .errors import ConfigurationError, WorkerError
from .registry import HandlerRegistry
from .step_handler.base import StepHandler
from .types import StepContext, StepHandlerResult


def make_context(
    inputs: Any = None,
    *,
    dependencies: Optional[Mapping[str, Any]] = None,
    config: Optional[Mapping[str, Any]] = None,
    attempt: int = 1,
    max_attempts: int = 3,
    batch: Optional[Mapping[str, Any]] = None,
    checkpoint: Optional[Mapping[str, Any]] = None,
    step_name: str = "step",
    namespace: str = "test",
    timeout: float = 30.0,
    cancelled: bool = False,
) -> StepContext:
    """The context of an attempt. ``batch`` is a cursor (``start_cursor``, ``end_cursor``, …); an empty one is a batch
    worker that has nothing to do."""
    task = str(uuid.uuid4())
    told_batch = None if batch is None else {"is_no_op": not batch, **({"batch_id": "001", **batch} if batch else {})}
    step = {
        "id": "0.0",
        "task_uuid": task,
        "step_uuid": str(uuid.uuid4()),
        "correlation_id": task,
        "namespace": namespace,
        "template": "test",
        "template_version": "1.0.0",
        "step_name": step_name,
        "handler_name": "test",
        "method": "call",
        "attempt": attempt,
        "max_attempts": max_attempts,
        "idempotency_key": f"{task}:{step_name}",
        "ms_left": timeout * 1000,
        "cancelled": cancelled,
        "input": {} if inputs is None else inputs,
        "step_config": dict(config or {}),
        "dependency_results": dict(dependencies or {}),
        "checkpoint": None if checkpoint is None else _checkpoint(checkpoint),
        "batch_config": None,
        "batch": told_batch,
        "batch_workers": {},
        "batch_failures": {},
    }
    return StepContext.from_message(step)


def run(handler: Any, context: Optional[StepContext] = None, method: str = "call") -> StepHandlerResult:
    """Calls a handler (a class, an instance or a decorated function) as a worker would: exceptions become failures, and
    what can't be encoded ``result_not_serializable``. A result is answered as later steps would read it."""
    handler = getattr(handler, "_handler_class", handler)
    try:
        instance: StepHandler = handler() if inspect.isclass(handler) else handler
        value: Any = getattr(instance, method)(context if context is not None else make_context())
        if inspect.isawaitable(value):
            value = asyncio.run(_awaited(value))
        result = _outcome.of_return(value)
    except BaseException as error:  # noqa: BLE001 - as a worker
        result = _outcome.of_exception(error)
    said = json.loads(_outcome.message(_outcome.encoded("0.0", result)))
    if said["type"] == "success":
        return StepHandlerResult.success(said["result"], said.get("metadata"))
    if said["type"] == "failure" and said["error_type"] != result.error_type:
        return StepHandlerResult.failure(said["message"], said["error_type"], said["retryable"])
    return result


@dataclass
class Workflow:
    """A task that was run in memory, to its end."""

    status: str
    """``complete``, ``blocked_by_failures``, …"""
    elapsed: float
    """Seconds that retries were waited for, in the task's own time."""
    steps: dict[str, Record]
    """By name: ``state``, ``attempts``, ``result``."""
    attempts: list[Record]
    """In their order: ``step``, ``attempt``, ``at_ms``, ``outcome``, ``result`` or ``error``."""
    events: list[Record]
    """The domain events that were published: what docs/domain-events.md shows, and ``delivery_mode``."""

    @property
    def results(self) -> dict[str, Any]:
        """The results of the steps that are complete, by name."""
        return {name: step.result for name, step in self.steps.items() if step.state == "complete"}

    def attempts_of(self, step: str) -> list[Record]:
        """The attempts of one step."""
        return [each for each in self.attempts if each.step == step]


def run_workflow(
    template: Union[str, os.PathLike[str]],
    inputs: Any = None,
    *,
    handlers: Union[Iterable[Any], Mapping[str, Any], None] = None,
    environment: Optional[str] = None,
    publishers: Optional[PublisherRegistry] = None,
    most_runs: int = 10_000,
) -> Workflow:
    """Runs all steps of a template (a path, or its YAML) in this process: decisions, batches, checkpoints, retries and
    events as a server and a worker have them, with the lifecycle in memory. Backoffs pass in no time: the task has a
    time of its own, which goes on to the next retry when there is nothing else to do.

    ``handlers`` are classes and decorated functions, or a mapping from names to them; without them those of
    :meth:`HandlerRegistry.instance` run. ``environment`` is whose overrides of the template count. Not simulated:
    timeouts, cancels, limits of resources. Raises ConfigurationError where a handler is missing, and what a server
    would refuse as WorkerError.
    """
    registry, publishing = _registry(handlers), publishers or PublisherRegistry.instance()
    start = {"template": _text(template), "input": inputs, "environment": environment, "publishers": publishing.names()}
    try:
        simulation = _native.Simulation(json.dumps({key: value for key, value in start.items() if value is not None}))
    except _native.NativeError as error:
        raise WorkerError(*error.args) from None
    runs = 0
    while True:
        steps = json.loads(simulation.next())["steps"]
        if not steps:
            return _workflow(json.loads(simulation.state(), object_hook=Record))
        for step in steps:
            runs += 1
            if runs > most_runs:
                raise AssertionError(f"after {most_runs} runs of handlers the workflow has not ended")
            context = StepContext.from_message(step)
            parts = _outcome.encoded(step["id"], _attempt(_handler(registry, step), context, step["method"]))
            events = publishing.mappings(context, parts)
            if events:
                parts["events"] = "[" + ",".join(event.encoded() for event in events) + "]"
            simulation.complete('{"outcomes":[' + _outcome.message(parts) + "]}")


def _text(template: Union[str, os.PathLike[str]]) -> str:
    is_path = not isinstance(template, str) or "\n" not in template
    return Path(template).read_text(encoding="utf-8") if is_path else str(template)


def _registry(handlers: Union[Iterable[Any], Mapping[str, Any], None]) -> HandlerRegistry:
    if handlers is None:
        return HandlerRegistry.instance()
    registry = HandlerRegistry()
    for each in handlers.items() if isinstance(handlers, Mapping) else ((None, each) for each in handlers):
        name, handler = each
        registry.register(name or handler, handler if name else None)
    return registry


def _handler(registry: HandlerRegistry, step: Mapping[str, Any]) -> Any:
    name, method, named = step["handler_name"], step["method"], step["resolver"]
    if named and named not in registry.resolver_names():
        raise ConfigurationError(f"no resolver `{named}` for the step `{step['step_name']}`")
    others = [each for each in registry.resolver_names() if each != named]
    for resolver in [named, None, *others] if named else [None, *others]:
        handler = registry.find(name, method, resolver)
        if handler is not None and method in handler.handler_methods:
            return handler
    raise ConfigurationError(f"no handler `{name}` with the method `{method}` for the step `{step['step_name']}`")


def _attempt(handler: Any, context: StepContext, method: str) -> StepHandlerResult:
    try:
        value: Any = getattr(handler(), method)(context)
        return _outcome.of_return(asyncio.run(_awaited(value)) if inspect.isawaitable(value) else value)
    except Exception as error:  # noqa: BLE001 - as a worker
        return _outcome.failed(context, error)


def _workflow(state: Record) -> Workflow:
    steps = {each["name"]: each for each in state["steps"]}
    events = [Record(each["event"], delivery_mode=each["delivery_mode"]) for each in state["events"]]
    return Workflow(state["status"], state["now_ms"] / 1000, steps, state["attempts"], events)


async def _awaited(value: Any) -> Any:
    return await value


def _checkpoint(said: Mapping[str, Any]) -> dict[str, Any]:
    return {"cursor": None, "items_processed": 0, "accumulated_results": None, **said}
