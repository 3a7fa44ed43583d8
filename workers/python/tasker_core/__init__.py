"""Tasker workers in Python.

Handlers are functions (:mod:`tasker_core.step_handler.functional`) or classes (:class:`StepHandler`). Run them with
``python -m tasker_core worker --handlers DIR``, try one alone with :mod:`tasker_core.testing`.
"""

from .client import TaskerClient
from .errors import (
    AuthenticationError,
    AuthorizationError,
    BusinessLogicError,
    ClientError,
    ConfigurationError,
    ErrorClassifier,
    NetworkError,
    NotFoundError,
    PermanentError,
    RateLimitError,
    ResourceContentionError,
    RetryableError,
    ServiceUnavailableError,
    TaskerError,
    TimeoutError,
    ValidationError,
    WorkerError,
)
from .registry import HandlerRegistry
from .step_handler import ApiHandler, APIMixin, ApiResponse, Batchable, DecisionHandler, DecisionMixin, StepHandler
from .step_handler.batchable import (
    BatchAggregationScenario,
    BatchAnalyzerOutcome,
    BatchWorkerContext,
    BatchWorkerOutcome,
    CursorConfig,
)
from .types import StepContext, StepHandlerResult
from .worker import Worker, bootstrap_worker, current_step, is_worker_running, stop_worker

__all__ = [
    "APIMixin",
    "ApiHandler",
    "ApiResponse",
    "AuthenticationError",
    "AuthorizationError",
    "BatchAggregationScenario",
    "BatchAnalyzerOutcome",
    "BatchWorkerContext",
    "BatchWorkerOutcome",
    "Batchable",
    "BusinessLogicError",
    "ClientError",
    "ConfigurationError",
    "CursorConfig",
    "DecisionHandler",
    "DecisionMixin",
    "ErrorClassifier",
    "HandlerRegistry",
    "NetworkError",
    "NotFoundError",
    "PermanentError",
    "RateLimitError",
    "ResourceContentionError",
    "RetryableError",
    "ServiceUnavailableError",
    "StepContext",
    "StepHandler",
    "StepHandlerResult",
    "TaskerClient",
    "TaskerError",
    "TimeoutError",
    "ValidationError",
    "Worker",
    "WorkerError",
    "bootstrap_worker",
    "current_step",
    "is_worker_running",
    "stop_worker",
]
