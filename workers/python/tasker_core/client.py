"""Tasks from Python.

::

    client = TaskerClient()
    task = client.create_task("order", namespace="shop", context={"amount": 12.5})
    print(client.wait_task(task.task_uuid).status)
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any, Optional

from . import _native
from ._record import Record
from .errors import ClientError, WorkerError

_SLICE_S = 1.0
"""A call is not interrupted, so a long wait is many short ones: Ctrl-C is heard in between."""


class TaskerClient:
    """A client of one server, for any number of threads. Coroutines call it by ``asyncio.to_thread``.

    Records are those of the HTTP API (docs/http-api.md). Each method raises :class:`ClientError` where the server
    refuses or none answers.
    """

    def __init__(
        self,
        url: Optional[str] = None,
        *,
        initiator: str = "tasker-core-python",
        source_system: str = "tasker-core",
    ) -> None:
        """Of the server at ``url``; without it, the one of this process's worker or of the configuration
        (``TASKER_ORCHESTRATION_URL``). ``initiator`` and ``source_system`` are said of every task that is created."""
        from .worker import running_worker

        worker = running_worker()
        if url is None and worker is not None:
            url = worker.orchestration_url
        try:
            self._native = _native.Client(url)
        except _native.NativeError as error:
            raise WorkerError(*error.args) from None
        self.initiator = initiator
        self.source_system = source_system

    def create_task(
        self,
        name: str,
        *,
        namespace: str = "default",
        context: Optional[Mapping[str, Any]] = None,
        version: Optional[str] = "1.0.0",
        reason: str = "Task requested",
        **more: Any,
    ) -> Record:
        """Creates a task. ``version=None`` is the template's newest. ``more`` are other keys of the request:
        ``priority``, ``tags``, ``idempotency_key``, ``correlation_id``, … A lost connection is tried again where there
        is an ``idempotency_key``."""
        request = self.task_request(name, namespace=namespace, context=context, version=version, reason=reason, **more)
        return self._one("create_task", request)

    def create_tasks(self, requests: Iterable[Mapping[str, Any]]) -> list[Record]:
        """Creates up to 1,000 tasks, each made by :meth:`task_request`. Each answer has ``status`` and ``task`` or
        ``error``."""
        return self._many("create_tasks", {"tasks": [dict(each) for each in requests]})

    def task_request(
        self,
        name: str,
        *,
        namespace: str = "default",
        context: Optional[Mapping[str, Any]] = None,
        version: Optional[str] = "1.0.0",
        reason: str = "Task requested",
        **more: Any,
    ) -> dict[str, Any]:
        """What :meth:`create_task` would send, for :meth:`create_tasks`."""
        said = {"initiator": self.initiator, "source_system": self.source_system, "reason": reason, **more}
        request = {"name": name, "namespace": namespace, "version": version, "context": dict(context or {}), **said}
        return {key: value for key, value in request.items() if value is not None}

    def get_task(self, task_uuid: str) -> Record:
        """The task with its steps."""
        return self._one("get_task", {"task_uuid": task_uuid})

    def list_tasks(self, *, limit: int = 50, cursor: Optional[str] = None, **filters: Any) -> Record:
        """One page of tasks, newest first: ``tasks`` and ``pagination``, whose ``next_cursor`` is the next page's
        ``cursor``. Filters are ``namespace``, ``name``, ``status``, ``initiator``, ``source_system``, ``tag``,
        ``correlation_id``, ``created_after``, ``created_before``."""
        return self._one("list_tasks", {"limit": limit, "cursor": cursor, **filters})

    def cancel_task(self, task_uuid: str) -> Record:
        """Cancels the task; no step of it is begun after this."""
        return self._one("cancel_task", {"task_uuid": task_uuid})

    def wait_task(self, task_uuid: str, timeout: Optional[float] = None) -> Record:
        """Waits until the task has ended or is blocked by failures, at most this many seconds; answers the task as it
        is then."""
        until = float("inf") if timeout is None else time.monotonic() + timeout
        while True:
            left = max(0.0, min(_SLICE_S, until - time.monotonic()))
            seen = self._one("wait_task", {"task_uuid": task_uuid, "timeout_ms": int(left * 1000)})
            if seen.settled or time.monotonic() >= until:
                task: Record = seen.task
                return task

    def list_task_steps(self, task_uuid: str) -> list[Record]:
        """The steps of the task."""
        return self._many("list_task_steps", {"task_uuid": task_uuid})

    def get_step(self, task_uuid: str, step_uuid: str) -> Record:
        """One step of the task."""
        return self._one("get_step", {"task_uuid": task_uuid, "step_uuid": step_uuid})

    def get_step_audit_history(self, task_uuid: str, step_uuid: str) -> list[Record]:
        """Every attempt of the step that ended, with its result or error."""
        arguments = {"task_uuid": task_uuid, "step_uuid": step_uuid}
        return self._many("get_step_audit_history", arguments)

    def get_task_history(self, task_uuid: str) -> list[Record]:
        """Every transition of the task so far."""
        return self._many("get_task_history", {"task_uuid": task_uuid})

    def explain(self, task_uuid: str) -> Record:
        """For each step that has not ended well, why."""
        return self._one("explain", {"task_uuid": task_uuid})

    def list_templates(self, *, namespace: Optional[str] = None, **query: Any) -> Record:
        """One page of registered templates: ``templates`` and ``pagination``."""
        return self._one("list_templates", {"namespace": namespace, **query})

    def health_check(self) -> Record:
        """How the server is: ``status`` is ``healthy``, ``degraded`` or ``unhealthy``."""
        return self._one("health_check", {})

    def _one(self, operation: str, arguments: dict[str, Any]) -> Record:
        answer: Record = self._call(operation, arguments)
        return answer

    def _many(self, operation: str, arguments: dict[str, Any]) -> list[Record]:
        answers: list[Record] = self._call(operation, arguments)
        return answers

    def _call(self, operation: str, arguments: dict[str, Any]) -> Any:
        told = {key: value for key, value in arguments.items() if value is not None}
        message = json.dumps({"operation": operation, "arguments": told}, default=str)
        said = json.loads(self._native.call(message), object_hook=Record)
        if "error" in said:
            error = said.error
            raise ClientError(error.code, error.message, error.status, error.retry_after, dict(error.details))
        return said.answer
