"""The mixins in one place."""

from .api import APIMixin
from .batchable import Batchable
from .decision import DecisionMixin

__all__ = ["APIMixin", "Batchable", "DecisionMixin"]
