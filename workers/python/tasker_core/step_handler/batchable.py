"""Batches: a step that splits work, its workers, and the step that brings their results together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, Union

from ..errors import ValidationError
from ..types import StepContext, StepHandlerResult


@dataclass
class CursorConfig:
    """One batch: from ``start_cursor`` up to and without ``end_cursor``."""

    start_cursor: Any
    end_cursor: Any
    step_size: int = 1
    metadata: dict[str, Any] = field(default_factory=dict)
    batch_id: str = ""
    """Numbered 001, 002, … where it is empty."""
    batch_size: Optional[int] = None


@dataclass
class BatchAnalyzerOutcome:
    """A split."""

    cursor_configs: list[CursorConfig]
    total_items: Optional[int] = None
    batch_metadata: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_ranges(
        cls,
        ranges: Sequence[tuple[Any, Any]],
        step_size: int = 1,
        total_items: Optional[int] = None,
        batch_metadata: Optional[dict[str, Any]] = None,
    ) -> BatchAnalyzerOutcome:
        """A split into these ranges."""
        cursors = [CursorConfig(start, end, step_size) for start, end in ranges]
        return cls(cursors, total_items, batch_metadata or {})


@dataclass
class BatchWorkerContext:
    """The batch that a batch worker is to work on, and how far it got."""

    batch_id: str
    cursor_config: CursorConfig
    is_no_op: bool = False
    batch_metadata: dict[str, Any] = field(default_factory=dict)
    checkpoint: Optional[dict[str, Any]] = None

    @property
    def start_cursor(self) -> Any:
        """Where the batch begins."""
        return self.cursor_config.start_cursor

    @property
    def end_cursor(self) -> Any:
        """Where the batch ends, exclusive."""
        return self.cursor_config.end_cursor

    @property
    def step_size(self) -> int:
        """What the analyzer said of it."""
        return self.cursor_config.step_size

    def has_checkpoint(self) -> bool:
        """Whether an earlier run stored how far it got."""
        return self.checkpoint is not None

    @property
    def checkpoint_cursor(self) -> Any:
        """Where to go on: the stored cursor, or the batch's beginning."""
        return self.checkpoint["cursor"] if self.checkpoint else self.start_cursor

    @property
    def checkpoint_items_processed(self) -> int:
        """How many items were processed so far."""
        return int(self.checkpoint["items_processed"]) if self.checkpoint else 0

    @property
    def accumulated_results(self) -> Any:
        """What was gathered so far; None at the first run."""
        return self.checkpoint["accumulated_results"] if self.checkpoint else None


@dataclass
class BatchWorkerOutcome:
    """What became of a batch."""

    items_processed: int
    items_succeeded: int = 0
    items_failed: int = 0
    items_skipped: int = 0
    results: list[Any] = field(default_factory=list)
    errors: list[Any] = field(default_factory=list)
    last_cursor: Any = None
    batch_metadata: dict[str, Any] = field(default_factory=dict)


@dataclass
class BatchAggregationScenario:
    """What the step that brings batches together finds."""

    is_no_batches: bool
    batchable_result: Any
    batch_results: dict[str, Any]

    @property
    def worker_count(self) -> int:
        """How many batch workers have results here."""
        return len(self.batch_results)

    def no_batches(self) -> bool:
        """Whether there was nothing to split."""
        return self.is_no_batches

    @classmethod
    def detect(
        cls, dependency_results: Mapping[str, Any], batchable_step_name: str, worker_prefix: str
    ) -> BatchAggregationScenario:
        """Looks at the results of the steps before; raises ValueError where they are not those of batches."""
        if batchable_step_name not in dependency_results:
            raise ValueError(f"Missing batchable step dependency: {batchable_step_name}")
        split = dependency_results[batchable_step_name]
        outcome = split.get("batch_processing_outcome") if isinstance(split, dict) else None
        if isinstance(outcome, dict) and outcome.get("type") == "no_batches":
            return cls(True, split, {})
        results = {name: result for name, result in dependency_results.items() if name.startswith(worker_prefix)}
        if not results:
            raise ValueError(f"No batch workers found with the prefix {worker_prefix}")
        return cls(False, split, results)


class Batchable:
    """For handlers of steps of type ``batchable`` and ``batch_worker``, and of those that bring batches together."""

    def create_cursor_config(
        self, start: Any, end: Any, step_size: int = 1, metadata: Optional[dict[str, Any]] = None
    ) -> CursorConfig:
        """One batch."""
        return CursorConfig(start, end, step_size, metadata or {})

    def create_cursor_ranges(
        self, total_items: int, batch_size: int, step_size: int = 1, max_batches: Optional[int] = None
    ) -> list[CursorConfig]:
        """Splits ``0..total_items`` into batches of ``batch_size``, larger ones where there would be more than
        ``max_batches``. The last one may be smaller."""
        if batch_size < 1:
            raise ValueError("batch_size must be at least 1")
        if max_batches is not None:
            batch_size = max(batch_size, -(-total_items // max(max_batches, 1)))
        starts = range(0, max(total_items, 0), batch_size)
        return [CursorConfig(start, min(start + batch_size, total_items), step_size) for start in starts]

    def create_cursor_configs(self, total_items: int, worker_count: int) -> list[CursorConfig]:
        """Splits ``0..total_items`` into at most ``worker_count`` batches of about the same size."""
        if total_items <= 0:
            return []
        return self.create_cursor_ranges(total_items, -(-total_items // max(worker_count, 1)))

    def create_batch_outcome(
        self,
        total_items: int,
        batch_size: int,
        step_size: int = 1,
        batch_metadata: Optional[dict[str, Any]] = None,
        max_batches: Optional[int] = None,
    ) -> BatchAnalyzerOutcome:
        """A split of ``0..total_items``."""
        cursors = self.create_cursor_ranges(total_items, batch_size, step_size, max_batches)
        return BatchAnalyzerOutcome(cursors, total_items, batch_metadata or {})

    def batch_analyzer_success(
        self,
        outcome: BatchAnalyzerOutcome,
        metadata: Optional[dict[str, Any]] = None,
        worker_template_name: Optional[str] = None,
    ) -> StepHandlerResult:
        """Makes a batch worker for each batch: of ``worker_template_name``, else of the template's only one."""
        if not outcome.cursor_configs:
            return self.no_batches_outcome("nothing to split", metadata)
        cursors = [_cursor(at, config) for at, config in enumerate(outcome.cursor_configs, 1)]
        said: dict[str, Any] = {"type": "create_batches", "worker_count": len(cursors), "cursor_configs": cursors}
        if worker_template_name is not None:
            said["worker_template_name"] = worker_template_name
        if outcome.total_items is not None:
            said["total_items"] = outcome.total_items
        result: dict[str, Any] = {
            "batch_processing_outcome": said,
            "worker_count": len(cursors),
            "total_items": outcome.total_items,
        }
        if outcome.batch_metadata:
            result["batch_metadata"] = outcome.batch_metadata
        return StepHandlerResult.success(result, {**(metadata or {}), "batch_analyzer": True})

    def no_batches_outcome(self, reason: str = "", metadata: Optional[dict[str, Any]] = None) -> StepHandlerResult:
        """Nothing to do: one batch worker runs that has nothing to do, so that what follows does."""
        result = {"batch_processing_outcome": {"type": "no_batches"}, "reason": reason}
        return StepHandlerResult.success(result, {**(metadata or {}), "batch_analyzer": True})

    def get_batch_context(self, context: StepContext) -> Optional[BatchWorkerContext]:
        """The batch that this step is to work on; None where it is no batch worker."""
        return batch_context(context)

    def get_batch_worker_inputs(self, context: StepContext) -> dict[str, Any]:
        """The same as ``context.step_inputs``."""
        return context.step_inputs

    def handle_no_op_worker(self, context: StepContext) -> Optional[StepHandlerResult]:
        """The result of a batch worker that has nothing to do; None for one that has. Return it first of all."""
        return no_op_result() if context.step_inputs.get("is_no_op") else None

    def create_worker_outcome(
        self,
        items_processed: int,
        items_succeeded: int = 0,
        items_failed: int = 0,
        items_skipped: int = 0,
        results: Optional[list[Any]] = None,
        errors: Optional[list[Any]] = None,
        last_cursor: Any = None,
        batch_metadata: Optional[dict[str, Any]] = None,
    ) -> BatchWorkerOutcome:
        """What became of a batch."""
        return BatchWorkerOutcome(
            items_processed,
            items_succeeded,
            items_failed,
            items_skipped,
            results or [],
            errors or [],
            last_cursor,
            batch_metadata or {},
        )

    def batch_worker_success(
        self,
        outcome: Optional[BatchWorkerOutcome] = None,
        metadata: Optional[dict[str, Any]] = None,
        **counts: Any,
    ) -> StepHandlerResult:
        """The batch is done; an outcome, or what :meth:`create_worker_outcome` takes."""
        done = outcome if outcome is not None else self.create_worker_outcome(**counts)
        result = {name: getattr(done, name) for name in BatchWorkerOutcome.__dataclass_fields__}
        return StepHandlerResult.success(result, {**(metadata or {}), "batch_worker": True})

    def batch_worker_partial_failure(
        self, outcome: BatchWorkerOutcome, metadata: Optional[dict[str, Any]] = None
    ) -> StepHandlerResult:
        """The batch is done, and some of its items failed; ``errors`` says which."""
        return self.batch_worker_success(outcome, {**(metadata or {}), "partial_failure": True})

    def checkpoint_yield(self, cursor: Any, items_processed: int, accumulated_results: Any = None) -> StepHandlerResult:
        """Stores how far the step got and runs it again from there at once, in the same attempt."""
        return StepHandlerResult.checkpoint_yield(cursor, items_processed, accumulated_results)

    @staticmethod
    def detect_aggregation_scenario(
        dependency_results: Union[StepContext, Mapping[str, Any]], batchable_step_name: str, worker_prefix: str
    ) -> BatchAggregationScenario:
        """What there is to bring together."""
        of_context = isinstance(dependency_results, StepContext)
        results = dependency_results.dependency_results if of_context else dependency_results  # type: ignore[union-attr]
        return BatchAggregationScenario.detect(results, batchable_step_name, worker_prefix)  # type: ignore[arg-type]

    def no_batches_aggregation_result(self, zero_metrics: Optional[dict[str, Any]] = None) -> StepHandlerResult:
        """The result where there was nothing to split."""
        return StepHandlerResult.success({**(zero_metrics or {}), "worker_count": 0, "scenario": "no_batches"})

    def aggregate_batch_worker_results(
        self,
        scenario: BatchAggregationScenario,
        zero_metrics: Optional[dict[str, Any]] = None,
        aggregation_fn: Optional[Callable[[dict[str, Any]], dict[str, Any]]] = None,
    ) -> StepHandlerResult:
        """Brings the results of batch workers together: with ``aggregation_fn``, which is given them by step name, else
        as :meth:`aggregate_worker_results`."""
        if scenario.is_no_batches:
            return self.no_batches_aggregation_result(zero_metrics)
        results = scenario.batch_results
        merged = aggregation_fn(results) if aggregation_fn else self.aggregate_worker_results(list(results.values()))
        return StepHandlerResult.success({**merged, "worker_count": len(results), "scenario": "with_batches"})

    @staticmethod
    def aggregate_worker_results(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The sums of what :meth:`batch_worker_success` counted, and all errors."""

        def total(key: str) -> int:
            return sum(result.get(key) or 0 for result in results)

        return {
            "total_processed": total("items_processed"),
            "total_succeeded": total("items_succeeded"),
            "total_failed": total("items_failed"),
            "total_skipped": total("items_skipped"),
            "batch_count": len(results),
            "errors": [error for result in results for error in result.get("errors") or []],
        }


def batch_context(context: StepContext) -> Optional[BatchWorkerContext]:
    """The batch that a step is to work on; None where it is no batch worker."""
    inputs = context.step_inputs
    if "cursor" not in inputs:
        return None
    cursor, is_no_op = inputs["cursor"], bool(inputs.get("is_no_op"))
    batch_id = cursor.get("batch_id", "000")
    config = CursorConfig(
        cursor.get("start_cursor"), cursor.get("end_cursor"), batch_id=batch_id, batch_size=cursor.get("batch_size")
    )
    return BatchWorkerContext(batch_id, config, is_no_op, checkpoint=context.checkpoint)


def no_op_result() -> StepHandlerResult:
    """What a batch worker that has nothing to do returns."""
    return StepHandlerResult.success({"no_op": True, "items_processed": 0}, {"batch_worker": True})


def _cursor(number: int, config: Any) -> dict[str, Any]:
    if isinstance(config, dict):
        return {"batch_id": f"{number:03d}", **config}
    if not isinstance(config, CursorConfig):
        raise ValidationError(f"a batch is a CursorConfig or a dict, not {type(config).__name__}")
    size = config.batch_size
    if size is None and isinstance(config.start_cursor, int) and isinstance(config.end_cursor, int):
        size = config.end_cursor - config.start_cursor
    cursor: dict[str, Any] = {
        "batch_id": config.batch_id or f"{number:03d}",
        "start_cursor": config.start_cursor,
        "end_cursor": config.end_cursor,
    }
    if size is not None and size >= 0:
        cursor["batch_size"] = size
    return cursor
