"""Handlers alone, without PostgreSQL or a worker.

::

    def test_charge():
        result = run(charge, make_context(dependencies={"validate_cart": {"total": 5}}))
        assert result.result == {"charged": 5}
"""

from __future__ import annotations

import asyncio
import inspect
import json
import uuid
from collections.abc import Mapping
from typing import Any, Optional

from . import _outcome
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


async def _awaited(value: Any) -> Any:
    return await value


def _checkpoint(said: Mapping[str, Any]) -> dict[str, Any]:
    return {"cursor": None, "items_processed": 0, "accumulated_results": None, **said}
