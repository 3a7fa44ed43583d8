"""Requests to other systems over HTTP, with httpx (``pip install tasker-core[http]``)."""

from __future__ import annotations

import email.utils
import time
from dataclasses import dataclass, field
from typing import Any, Optional

from ..errors import ConfigurationError
from ..types import StepContext, StepHandlerResult
from .base import StepHandler

_RETRYABLE = frozenset({408, 429, 500, 502, 503, 504})


@dataclass
class ApiResponse:
    """An answer."""

    status_code: int
    headers: dict[str, str] = field(default_factory=dict)
    """By lower-case name."""
    body: Any = None
    """What the JSON says, or the text."""

    @property
    def ok(self) -> bool:
        """Whether it is a 2xx."""
        return 200 <= self.status_code < 300

    @property
    def is_client_error(self) -> bool:
        """Whether it is a 4xx."""
        return 400 <= self.status_code < 500

    @property
    def is_server_error(self) -> bool:
        """Whether it is a 5xx."""
        return self.status_code >= 500

    @property
    def is_retryable(self) -> bool:
        """Whether trying again may help: 408, 429, 500, 502, 503, 504."""
        return self.status_code in _RETRYABLE

    @property
    def retry_after(self) -> Optional[float]:
        """Seconds, where ``Retry-After`` says so: a number or a date."""
        said = self.headers.get("retry-after", "").strip()
        if said.isdigit():
            return float(said)
        try:
            return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time()) if said else None
        except (TypeError, ValueError):
            return None


class APIMixin:
    """Requests for handlers. Redirects are not followed. An error of the connection raises what httpx raises, which is
    retried; :meth:`connection_error` and :meth:`timeout_error` turn it into a result with a class of its own."""

    base_url: str = ""
    default_timeout: float = 30.0
    default_headers: dict[str, str] = {}

    def get(self, path: str, params: Any = None, headers: Optional[dict[str, str]] = None) -> ApiResponse:
        """GET."""
        return self.request("GET", path, params=params, headers=headers)

    def post(
        self, path: str, json: Any = None, data: Any = None, headers: Optional[dict[str, str]] = None
    ) -> ApiResponse:
        """POST."""
        return self.request("POST", path, json=json, data=data, headers=headers)

    def put(
        self, path: str, json: Any = None, data: Any = None, headers: Optional[dict[str, str]] = None
    ) -> ApiResponse:
        """PUT."""
        return self.request("PUT", path, json=json, data=data, headers=headers)

    def patch(
        self, path: str, json: Any = None, data: Any = None, headers: Optional[dict[str, str]] = None
    ) -> ApiResponse:
        """PATCH."""
        return self.request("PATCH", path, json=json, data=data, headers=headers)

    def delete(self, path: str, headers: Optional[dict[str, str]] = None) -> ApiResponse:
        """DELETE."""
        return self.request("DELETE", path, headers=headers)

    def request(self, method: str, path: str, headers: Optional[dict[str, str]] = None, **more: Any) -> ApiResponse:
        """One request; ``more`` goes to httpx."""
        try:
            import httpx
        except ImportError as error:
            raise ConfigurationError("APIMixin needs httpx: pip install 'tasker-core[http]'") from error
        settings: dict[str, Any] = {"base_url": self.base_url, "timeout": self.default_timeout}
        with httpx.Client(headers=self.default_headers, **settings) as client:
            said = {name: value for name, value in more.items() if value is not None}
            answer = client.request(method, path, headers=headers, **said)
        try:
            body = answer.json() if answer.content else None
        except ValueError:
            body = answer.text
        return ApiResponse(answer.status_code, {k.lower(): v for k, v in answer.headers.items()}, body)

    def api_success(
        self, response: ApiResponse, result: Any = None, include_response: bool = False
    ) -> StepHandlerResult:
        """The request succeeded: its body, or ``result``."""
        metadata: dict[str, Any] = {"status_code": response.status_code}
        if include_response:
            metadata["headers"] = response.headers
        return StepHandlerResult.success(response.body if result is None else result, metadata)

    def api_failure(self, response: ApiResponse, message: Optional[str] = None) -> StepHandlerResult:
        """The request failed: retryable by its status, after its ``Retry-After``."""
        return StepHandlerResult.failure(
            message or f"HTTP {response.status_code}",
            error_type="retryable_error" if response.is_retryable else "permanent_error",
            retryable=response.is_retryable,
            metadata={"status_code": response.status_code},
            error_code=f"HTTP_{response.status_code}",
            retry_after=response.retry_after,
        )

    def connection_error(self, error: BaseException, context: str = "") -> StepHandlerResult:
        """The other system could not be reached."""
        return StepHandlerResult.failure(f"{context or 'request'}: {error}", "network_error", True)

    def timeout_error(self, error: BaseException, context: str = "") -> StepHandlerResult:
        """The other system did not answer in time."""
        return StepHandlerResult.failure(f"{context or 'request'}: {error}", "timeout", True)


class ApiHandler(APIMixin, StepHandler):
    """A handler that makes requests."""

    def call(self, context: StepContext) -> Any:
        """Makes one attempt."""
        raise NotImplementedError

    @property
    def capabilities(self) -> list[str]:
        """For people."""
        return ["process", "http", "api"]
