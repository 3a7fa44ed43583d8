"""Decisions: a result that names the steps to create."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, Union

from ..types import StepContext, StepHandlerResult
from .base import StepHandler


@dataclass(frozen=True)
class DecisionPointOutcome:
    """A decision as a value."""

    step_names: tuple[str, ...] = ()
    """None creates no step."""
    routing_context: dict[str, Any] = field(default_factory=dict)
    reason: str = ""

    @classmethod
    def create_steps(
        cls, step_names: Sequence[str], routing_context: Optional[dict[str, Any]] = None
    ) -> DecisionPointOutcome:
        """Creates these steps."""
        return cls(tuple(step_names), dict(routing_context or {}))

    @classmethod
    def no_branches(cls, reason: str = "", routing_context: Optional[dict[str, Any]] = None) -> DecisionPointOutcome:
        """Creates none."""
        return cls((), dict(routing_context or {}), reason)


class DecisionMixin:
    """For handlers of steps of type ``decision``."""

    def decision_success(
        self,
        steps: Union[str, Sequence[str]],
        routing_context: Optional[dict[str, Any]] = None,
        metadata: Optional[dict[str, Any]] = None,
    ) -> StepHandlerResult:
        """Creates these steps, with what follows from them."""
        names = [steps] if isinstance(steps, str) else list(steps)
        if not names:
            return self.decision_no_branches("no steps were named", metadata=metadata, routing_context=routing_context)
        result: dict[str, Any] = {"decision_point_outcome": {"type": "create_steps", "step_names": names}}
        if routing_context:
            result["routing_context"] = routing_context
        return StepHandlerResult.success(result, self._decided(metadata))

    def decision_success_with_outcome(
        self, outcome: DecisionPointOutcome, metadata: Optional[dict[str, Any]] = None
    ) -> StepHandlerResult:
        """Decides as the outcome says."""
        if outcome.step_names:
            return self.decision_success(outcome.step_names, outcome.routing_context, metadata)
        return self.decision_no_branches(outcome, metadata)

    def route_to_steps(
        self,
        step_names: Union[str, Sequence[str]],
        routing_context: Optional[dict[str, Any]] = None,
        metadata: Optional[dict[str, Any]] = None,
    ) -> StepHandlerResult:
        """The same as :meth:`decision_success`."""
        return self.decision_success(step_names, routing_context, metadata)

    def decision_no_branches(
        self,
        reason: Union[str, DecisionPointOutcome] = "",
        metadata: Optional[dict[str, Any]] = None,
        routing_context: Optional[dict[str, Any]] = None,
    ) -> StepHandlerResult:
        """Creates no step."""
        if isinstance(reason, DecisionPointOutcome):
            routing_context, reason = reason.routing_context, reason.reason
        result: dict[str, Any] = {"decision_point_outcome": {"type": "no_branches"}, "reason": reason}
        if routing_context:
            result["routing_context"] = routing_context
        return StepHandlerResult.success(result, self._decided(metadata))

    def skip_branches(
        self,
        reason: str = "",
        routing_context: Optional[dict[str, Any]] = None,
        metadata: Optional[dict[str, Any]] = None,
    ) -> StepHandlerResult:
        """The same as :meth:`decision_no_branches`."""
        return self.decision_no_branches(reason, metadata, routing_context)

    def decision_failure(
        self,
        message: str,
        error_type: str = "decision_error",
        retryable: bool = False,
        metadata: Optional[dict[str, Any]] = None,
    ) -> StepHandlerResult:
        """No decision could be made."""
        return StepHandlerResult.failure(message, error_type, retryable, self._decided(metadata))

    def _decided(self, metadata: Optional[dict[str, Any]]) -> dict[str, Any]:
        name, version = getattr(self, "name", type(self).__name__), getattr(self, "version", "1.0.0")
        return {**(metadata or {}), "decision_handler": name, "decision_version": version}


class DecisionHandler(DecisionMixin, StepHandler):
    """A handler of decisions."""

    def call(self, context: StepContext) -> Any:
        """Decides."""
        raise NotImplementedError

    @property
    def capabilities(self) -> list[str]:
        """For people."""
        return ["process", "decision"]
