"""From what a handler returned or raised to the boundary's outcome."""

from __future__ import annotations

import json
import logging
import math
from typing import Any, Optional

from . import _portable
from .errors import PermanentError, RetryableError, TaskerError
from .types import StepContext, StepHandlerResult

log = logging.getLogger("tasker_core")

_MESSAGE_CHARS = 8 * 1024
_LONGEST_S = 365 * 24 * 3600.0


def of_return(value: Any) -> StepHandlerResult:
    """A plain value is a success."""
    return value if isinstance(value, StepHandlerResult) else StepHandlerResult.success(value)


def failed(context: StepContext, error: BaseException) -> StepHandlerResult:
    """The failed attempt, told in the log: with its stack where the exception is nobody's intention."""
    result = of_exception(error)
    if not context.cancelled:
        log.log(
            logging.WARNING if result.retryable else logging.ERROR,
            "%s of task %s failed at attempt %d: %s",
            context.step_name,
            context.task_uuid,
            context.attempt,
            result.error_message,
            exc_info=error if result.error_type == "handler_error" and _can_be_printed(error) else None,
        )
    return result


def _can_be_printed(error: BaseException) -> bool:
    try:
        str(error)
    except BaseException:  # noqa: BLE001 - that is the answer
        return False
    return True


def of_exception(error: BaseException) -> StepHandlerResult:
    """An exception is a failed attempt, whatever it is; one that can't say what it is, too."""
    try:
        if isinstance(error, (PermanentError, RetryableError)):
            return StepHandlerResult.failure(
                said(error) or type(error).__name__,
                error_type=error.error_type,
                retryable=isinstance(error, RetryableError),
                metadata={"exception": type(error).__name__, **error.metadata},
                error_code=error.error_code,
                retry_after=getattr(error, "retry_after", None),
            )
    except BaseException:  # noqa: BLE001 - a property of the user's raised
        return StepHandlerResult.failure(f"{type(error).__name__}: it can't say why")
    name, message = type(error).__name__, said(error)
    return StepHandlerResult.failure(f"{name}: {message}" if message else name, metadata={"exception": name})


def said(error: BaseException) -> str:
    """The text of an exception, even where asking for it raises."""
    try:
        text = error.message if isinstance(error, TaskerError) and hasattr(error, "message") else str(error)
        return _text(text) if isinstance(text, str) else repr(text)
    except BaseException as second:  # noqa: BLE001 - the user's __str__ raised
        return f"its message can't be said: {type(second).__name__}"


def encoded(attempt: str, result: StepHandlerResult) -> dict[str, str]:
    """The boundary's outcome, each key with its JSON. What can't be encoded becomes a permanent failure that says
    where."""
    try:
        return _encoded(attempt, result)
    except _portable.NotPortable as error:
        why = StepHandlerResult.failure(str(error), error_type="result_not_serializable", retryable=False)
    except BaseException as error:  # noqa: BLE001 - a value whose own methods raise
        text = f"the result can't be encoded: {type(error).__name__}: {said(error)}"
        why = StepHandlerResult.failure(text, error_type="result_not_serializable", retryable=False)
    return _encoded(attempt, why)


def _encoded(attempt: str, result: StepHandlerResult) -> dict[str, str]:
    encode = _portable.encode
    # Ids are two numbers with a dot between them.
    parts = {"id": f'"{attempt}"'}
    if result.checkpoint is not None and result.is_success:
        parts["type"] = '"checkpoint_yield"'
        for key in ("cursor", "items_processed", "accumulated_results"):
            parts[key] = encode(f"the checkpoint's {key}", result.checkpoint[key])
    elif result.is_success:
        parts["type"] = '"success"'
        parts["result"] = encode("the result", result.result)
    else:
        parts["type"] = '"failure"'
        parts["message"] = encode("the message", _text(str(result.error_message or "no message")))
        parts["retryable"] = "true" if result.retryable else "false"
        parts["error_type"] = encode("the error_type", _name(result.error_type))
        parts["error_code"] = encode("the error_code", _name(result.error_code))
        parts["retry_after_ms"] = encode("retry_after", _milliseconds(result.retry_after))
    if result.metadata and "checkpoint_yield" not in parts["type"]:
        parts["metadata"] = encode("the metadata", result.metadata)
    return parts


def plain(parts: dict[str, str]) -> dict[str, Any]:
    """The values of JSON texts."""
    return {key: json.loads(value) for key, value in parts.items()}


def message(parts: dict[str, str]) -> str:
    """An object of JSON texts."""
    return "{" + ",".join(f'"{key}":{value}' for key, value in parts.items()) + "}"


def _text(text: str) -> str:
    """Half surrogate pairs are no text, and an endless message helps nobody."""
    return text[:_MESSAGE_CHARS].encode("utf-8", "replace").decode("utf-8")


def _name(name: Any) -> Optional[str]:
    return None if name is None else _text(str(name))


def _milliseconds(seconds: Optional[float]) -> Optional[int]:
    if seconds is None or math.isnan(seconds):
        return None
    return int(min(max(seconds, 0.0), _LONGEST_S) * 1000)
