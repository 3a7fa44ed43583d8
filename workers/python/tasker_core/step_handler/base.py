"""The class of a handler."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable
from typing import Any, Optional, Union

from ..types import StepContext, StepHandlerResult


class StepHandler(ABC):
    """User code that runs one step. It may run more than once for the same step: see
    :attr:`StepContext.idempotency_key`.

    ``call`` may be ``async``. Each attempt has an instance of its own, made without arguments. A plain ``call`` runs
    on a thread, an ``async`` one on the worker's event loop, which it must not block.
    """

    handler_name: str = ""
    """What templates call it; the class's name where this is empty."""
    handler_version: str = "1.0.0"
    handler_methods: tuple[str, ...] = ("call",)
    """What templates may name as ``method``; each takes a context, as ``call`` does."""

    @abstractmethod
    def call(self, context: StepContext) -> Union[StepHandlerResult, Any, Awaitable[Any]]:
        """Makes one attempt. A value that is no :class:`StepHandlerResult` is the result of a success."""

    @property
    def name(self) -> str:
        """What templates call it."""
        return self.handler_name or type(self).__name__

    @property
    def version(self) -> str:
        """The handler's own version."""
        return self.handler_version

    @property
    def capabilities(self) -> list[str]:
        """For people."""
        return ["process"]

    def config_schema(self) -> Optional[dict[str, Any]]:
        """A JSON Schema of the handler's settings, for people."""
        return None

    def success(self, result: Any = None, metadata: Optional[dict[str, Any]] = None) -> StepHandlerResult:
        """The step is done."""
        return StepHandlerResult.success(result, metadata)

    def failure(
        self,
        message: str,
        error_type: str = "handler_error",
        retryable: bool = True,
        metadata: Optional[dict[str, Any]] = None,
        error_code: Optional[str] = None,
    ) -> StepHandlerResult:
        """The attempt failed."""
        return StepHandlerResult.failure(message, error_type, retryable, metadata, error_code)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.version}>"
