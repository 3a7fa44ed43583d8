"""Handlers as classes; ``functional`` has them as functions."""

from .api import ApiHandler, APIMixin, ApiResponse
from .base import StepHandler
from .batchable import Batchable
from .decision import DecisionHandler, DecisionMixin

__all__ = ["APIMixin", "ApiHandler", "ApiResponse", "Batchable", "DecisionHandler", "DecisionMixin", "StepHandler"]
