"""Errors that say what is to become of a step: raise one in a handler.

A permanent error ends the step. A retryable one is tried again as the template says, or after ``retry_after`` seconds.
Any other exception is retryable, because nobody said that it is not.
"""

from __future__ import annotations

from typing import Any, Optional


class TaskerError(Exception):
    """The root of all errors of this package."""


class _StepFailure(TaskerError):
    error_type = "handler_error"
    retryable = True

    def __init__(
        self,
        message: str = "",
        *,
        error_type: Optional[str] = None,
        error_code: Optional[str] = None,
        metadata: Optional[dict[str, Any]] = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.error_type = error_type or type(self).error_type
        self.error_code = error_code
        self.metadata = metadata or {}


class RetryableError(_StepFailure):
    """Trying again may help; after ``retry_after`` seconds, where that is given."""

    error_type = "retryable_error"

    def __init__(
        self,
        message: str = "",
        retry_after: Optional[float] = None,
        *,
        error_type: Optional[str] = None,
        error_code: Optional[str] = None,
        metadata: Optional[dict[str, Any]] = None,
    ) -> None:
        super().__init__(message, error_type=error_type, error_code=error_code, metadata=metadata)
        self.retry_after = retry_after


class TimeoutError(RetryableError):  # noqa: A001 - the name that handlers know
    """Something took too long."""

    error_type = "timeout"


class NetworkError(RetryableError):
    """Another system could not be reached."""

    error_type = "network_error"


class RateLimitError(RetryableError):
    """Another system wants fewer requests."""

    error_type = "rate_limit"


class ServiceUnavailableError(RetryableError):
    """Another system can't answer now."""

    error_type = "service_unavailable"


class ResourceContentionError(RetryableError):
    """Somebody else holds what is needed."""

    error_type = "resource_contention"


class PermanentError(_StepFailure):
    """Trying again can't help."""

    error_type = "permanent_error"
    retryable = False


class ValidationError(PermanentError):
    """The input is wrong."""

    error_type = "validation_error"


class NotFoundError(PermanentError):
    """What the step is about does not exist."""

    error_type = "not_found"


class AuthenticationError(PermanentError):
    """Another system does not know who we are."""

    error_type = "authentication_error"


class AuthorizationError(PermanentError):
    """Another system does not let us."""

    error_type = "authorization_error"


class ConfigurationError(PermanentError):
    """The handler is set up wrongly."""

    error_type = "configuration_error"


class BusinessLogicError(PermanentError):
    """A rule of the business forbids it."""

    error_type = "business_logic_error"


class WorkerError(TaskerError):
    """The worker refuses. ``code`` is one of docs/boundary.md's, or ``stop_in_handler``."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ClientError(TaskerError):
    """The server refused a request, or none answered. ``code`` is one of docs/http-api.md's, or ``UNREACHABLE``,
    ``TIMEOUT``, ``DECODE``, ``USAGE``; ``status`` the HTTP status, where there was an answer; ``retry_after`` the
    seconds after which the server wants to be asked again, where it says so."""

    def __init__(
        self, code: str, message: str, status: Optional[int], retry_after: Optional[int], details: dict[str, Any]
    ) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.status = status
        self.retry_after = retry_after
        self.details = details


class ErrorClassifier:
    """Whether trying again may help, by what was raised."""

    @staticmethod
    def is_retryable(error: BaseException) -> bool:
        """False for permanent errors only."""
        return not isinstance(error, PermanentError)

    @staticmethod
    def is_permanent(error: BaseException) -> bool:
        """True for permanent errors only."""
        return isinstance(error, PermanentError)
