"""What a handler is given and what it gives back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Optional

from ._flag import Flag
from ._record import Record


@dataclass
class StepHandlerResult:
    """What a handler returns. Make one with :meth:`success`, :meth:`failure` or a mixin's methods."""

    is_success: bool
    result: Any = None
    error_message: Optional[str] = None
    error_type: Optional[str] = None
    error_code: Optional[str] = None
    retryable: bool = True
    metadata: dict[str, Any] = field(default_factory=dict)
    retry_after: Optional[float] = None
    """Seconds until the next attempt; the template's ``max_backoff_ms`` caps it."""
    checkpoint: Optional[dict[str, Any]] = None
    """Where this is no end but a stop on the way: ``cursor``, ``items_processed``, ``accumulated_results``."""

    @classmethod
    def success(cls, result: Any = None, metadata: Optional[dict[str, Any]] = None) -> StepHandlerResult:
        """The step is done; later steps read ``result``."""
        return cls(is_success=True, result={} if result is None else result, metadata=metadata or {})

    @classmethod
    def failure(
        cls,
        message: str,
        error_type: str = "handler_error",
        retryable: bool = True,
        metadata: Optional[dict[str, Any]] = None,
        error_code: Optional[str] = None,
        retry_after: Optional[float] = None,
    ) -> StepHandlerResult:
        """The attempt failed."""
        return cls(
            is_success=False,
            error_message=message,
            error_type=error_type,
            error_code=error_code,
            retryable=retryable,
            metadata=metadata or {},
            retry_after=retry_after,
        )

    @classmethod
    def checkpoint_yield(cls, cursor: Any, items_processed: int, accumulated_results: Any = None) -> StepHandlerResult:
        """Stores how far the step got and runs its handler again from there at once, in the same attempt. After a
        failure or a crash the next attempt begins there."""
        stored = {"cursor": cursor, "items_processed": items_processed, "accumulated_results": accumulated_results}
        return cls(is_success=True, checkpoint=stored)

    def is_success_result(self) -> bool:
        """Whether the step is done."""
        return self.is_success

    def is_failure_result(self) -> bool:
        """Whether the attempt failed."""
        return not self.is_success


@dataclass
class StepContext:
    """One attempt of a step, as its handler sees it."""

    task_uuid: str
    step_uuid: str
    correlation_id: str
    namespace: str
    step_name: str
    handler_name: str
    attempt: int = 1
    """From 1."""
    max_attempts: int = 1
    """The number of the last attempt that the step may have."""
    idempotency_key: str = ""
    """The same at every attempt: give it to other systems, so that they recognise a repeated request."""
    input_data: Any = field(default_factory=dict)
    """The task's context."""
    step_config: dict[str, Any] = field(default_factory=dict)
    """The handler's ``initialization`` in the template."""
    dependency_results: dict[str, Any] = field(default_factory=dict)
    """The results of all steps before this one, by name."""
    step_inputs: dict[str, Any] = field(default_factory=dict)
    """Of a batch worker ``cursor`` and ``is_no_op``; of another step nothing."""
    checkpoint: Optional[dict[str, Any]] = None
    """How far an earlier run got: ``cursor``, ``items_processed``, ``accumulated_results``."""
    batch_config: Optional[dict[str, Any]] = None
    """How the template wants a batchable step split."""
    batch_failures: dict[str, Any] = field(default_factory=dict)
    """The errors of batch workers before this step that failed although it runs, by step name."""
    deadline: float = float("inf")
    """When the attempt's time is over, by ``time.monotonic()``."""
    event: Record = field(default_factory=Record, repr=False)
    """The step as the boundary said it; its keys are attributes too."""
    _cancelled: Flag = field(default_factory=Flag, repr=False, compare=False)
    _pulse: Optional[Callable[[], bool]] = field(default=None, repr=False, compare=False)

    @classmethod
    def from_message(cls, step: dict[str, Any], pulse: Optional[Callable[[], bool]] = None) -> StepContext:
        """From a step of the boundary's messages (docs/boundary.md)."""
        batch = step.get("batch")
        inputs: dict[str, Any] = {}
        if batch is not None:
            cursor = {key: value for key, value in batch.items() if key != "is_no_op"}
            inputs = {"is_no_op": batch["is_no_op"], "cursor": cursor}
        context = cls(
            task_uuid=step["task_uuid"],
            step_uuid=step["step_uuid"],
            correlation_id=step["correlation_id"],
            namespace=step["namespace"],
            step_name=step["step_name"],
            handler_name=step["handler_name"],
            attempt=step["attempt"],
            max_attempts=step["max_attempts"],
            idempotency_key=step["idempotency_key"],
            input_data=step["input"],
            step_config=step["step_config"] or {},
            dependency_results=step["dependency_results"],
            step_inputs=inputs,
            checkpoint=step["checkpoint"],
            batch_config=step["batch_config"],
            batch_failures=step["batch_failures"],
            deadline=time.monotonic() + step["ms_left"] / 1000,
            event=Record(step),
            _pulse=pulse,
        )
        if step["cancelled"]:
            context._cancelled.set()
        return context

    @property
    def task_sequence_step(self) -> dict[str, Any]:
        """For handlers of Tasker 0.1.x: the task, the step and its definition as they were given there."""
        task = {"task_uuid": self.task_uuid, "context": self.input_data, "correlation_id": self.correlation_id}
        definition = {"callable": self.handler_name, "initialization": self.step_config}
        return {
            "task": {"task": task, "namespace_name": self.namespace, "task_name": self.event.get("template")},
            "workflow_step": {
                "workflow_step_uuid": self.step_uuid,
                "name": self.step_name,
                "attempts": self.retry_count,
                "max_attempts": self.max_attempts,
                "inputs": self.step_inputs,
            },
            "dependency_results": self.dependency_results,
            "step_definition": {"name": self.step_name, "handler": definition},
        }

    @property
    def retry_count(self) -> int:
        """Attempts before this one."""
        return self.attempt - 1

    @property
    def max_retries(self) -> int:
        """How many attempts the step may have; the same as ``max_attempts``."""
        return self.max_attempts

    def is_retry(self) -> bool:
        """Whether there was an attempt before this one."""
        return self.attempt > 1

    def is_last_retry(self) -> bool:
        """Whether no attempt will follow, whatever comes of this one."""
        return self.attempt >= self.max_attempts

    def get_input(self, key: str, default: Any = None) -> Any:
        """One key of the task's context."""
        return self.input_data.get(key, default) if isinstance(self.input_data, dict) else default

    def get_input_or(self, key: str, default: Any) -> Any:
        """One key of the task's context; ``default`` where it is absent or null."""
        value = self.get_input(key)
        return default if value is None else value

    def get_task_field(self, key: str, default: Any = None) -> Any:
        """The same as :meth:`get_input`."""
        return self.get_input(key, default)

    def get_config(self, key: str, default: Any = None) -> Any:
        """One key of the handler's settings."""
        return self.step_config.get(key, default)

    def get_dependency_result(self, step: str, default: Any = None) -> Any:
        """The result of a step before this one."""
        return self.dependency_results.get(step, default)

    def get_dependency_field(self, step: str, *path: Any) -> Any:
        """What lies at ``path`` in the result of a step before this one; None where there is nothing."""
        value: Any = self.dependency_results.get(step)
        for key in path:
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def get_dependency_result_keys(self) -> list[str]:
        """The names of the steps whose results are here."""
        return list(self.dependency_results)

    def get_all_dependency_results(self, prefix: str = "") -> list[Any]:
        """The results of the steps whose names begin with ``prefix``, in the order of the steps."""
        return [result for step, result in self.dependency_results.items() if step.startswith(prefix)]

    def has_checkpoint(self) -> bool:
        """Whether an earlier run stored how far it got."""
        return self.checkpoint is not None

    @property
    def checkpoint_cursor(self) -> Any:
        """Where to go on; None at the first run."""
        return self.checkpoint["cursor"] if self.checkpoint else None

    @property
    def checkpoint_items_processed(self) -> int:
        """How many items were processed so far."""
        return int(self.checkpoint["items_processed"]) if self.checkpoint else 0

    @property
    def accumulated_results(self) -> Any:
        """What was gathered so far; None at the first run."""
        return self.checkpoint["accumulated_results"] if self.checkpoint else None

    @property
    def cancelled(self) -> bool:
        """Whether the outcome counts no more: the task was cancelled, the lease lost, or time is over. Stop then."""
        return self._cancelled.is_set()

    def wait_cancelled(self, timeout: Optional[float] = None) -> bool:
        """Waits until :attr:`cancelled`, at most this many seconds; answers whether it is."""
        return self._cancelled.wait(timeout)

    def time_left(self) -> float:
        """Seconds until the attempt's time is over."""
        return max(0.0, self.deadline - time.monotonic())

    def heartbeat(self) -> bool:
        """Whether the outcome still counts. The lease needs no heartbeat: it lasts as long as the handler runs."""
        if self._pulse is not None and not self.cancelled and not self._pulse():
            self._cancelled.set()
        return not self.cancelled
