"""The handlers that the tests' workflows call."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from tasker_core import Batchable, RetryableError, StepContext, StepHandler, ValidationError
from tasker_core.step_handler.functional import (
    BatchConfig,
    Decision,
    batch_analyzer,
    decision_handler,
    depends_on,
    inputs,
    step_handler,
)


def note(context: StepContext, text: str) -> None:
    """Appends a line to the log that the test reads, in one write."""
    with open(context.get_input("log"), "a", encoding="utf-8") as log:
        log.write(f"{text}\n")


@step_handler("flows.first")
@inputs("number")
def first(number, context):
    return {"number": number + context.get_config("add")}


@step_handler("flows.second")
@depends_on(before="first")
async def second(before):
    await asyncio.sleep(0)
    return {"number": before["number"] * 2}


class Third(StepHandler):
    handler_name = "flows.Third"
    handler_methods = ("call", "undo")

    def call(self, context):
        numbers = [context.get_dependency_field(step, "number") for step in ("first", "second")]
        return self.success({"numbers": numbers, "attempt": context.attempt}, {"by": "a class"})

    async def undo(self, context):
        return {"undone": context.get_dependency_field("third", "numbers")}


@decision_handler("flows.choose")
@inputs("amount")
def choose(amount):
    return (
        Decision.skip("nothing") if amount == 0 else Decision.route("large" if amount > 100 else "small", amount=amount)
    )


@step_handler("flows.echo")
def echo(context):
    return context.input_data


@step_handler("flows.names")
def names(context):
    return sorted(context.get_dependency_result_keys())


@batch_analyzer("flows.split", worker_template="work")
def split(context):
    return BatchConfig(context.get_input("items"), context.get_input("batch_size", 30))


class Work(StepHandler, Batchable):
    handler_name = "flows.Work"

    def call(self, context):
        no_op = self.handle_no_op_worker(context)
        if no_op is not None:
            return no_op
        batch = self.get_batch_context(context)
        cursor, total = batch.checkpoint_cursor, batch.accumulated_results or 0
        note(context, f"{batch.batch_id} {context.attempt} {cursor}")
        if context.get_input("hang_at") == cursor and context.attempt == 1:
            context.wait_cancelled(60)
        end = min(cursor + 10, batch.end_cursor)
        total += sum(range(cursor, end))
        if end < batch.end_cursor:
            return self.checkpoint_yield(end, end - batch.start_cursor, total)
        done = end - batch.start_cursor
        return self.batch_worker_success(items_processed=done, items_succeeded=done, results=[total])


class Merge(StepHandler, Batchable):
    handler_name = "flows.Merge"

    def call(self, context):
        scenario = self.detect_aggregation_scenario(context, "split", "work_")
        return self.aggregate_batch_worker_results(
            scenario, {"total": 0}, lambda results: {"total": sum(each["results"][0] for each in results.values())}
        )


class Unspeakable(Exception):
    def __str__(self):
        raise SystemExit("even this")


def circular():
    value = {"a": []}
    value["a"].append(value)
    return value


def deep(levels):
    value = 1
    for _ in range(levels):
        value = [value]
    return value


UNSAYABLE = {
    "nan": lambda: {"x": [float("nan")]},
    "infinity": lambda: {"x": [float("-inf")]},
    "bytes": lambda: {"x": [b"raw"]},
    "set": lambda: {"x": [{1, 2}]},
    "circular": circular,
    "huge": lambda: {"x": [2**53 + 1]},
    "object": lambda: {"x": [object()]},
    "key": lambda: {"x": {1: 2}},
    "nul": lambda: {"x": ["a\0b"]},
    "surrogate": lambda: {"x": ["\ud800"]},
    "deep": lambda: {"x": deep(100)},
    "bottomless": lambda: {"x": deep(5_000)},
    "large": lambda: "x" * (1 << 20),
}

RAISED = {
    "exit": lambda: SystemExit(3),
    "interrupt": KeyboardInterrupt,
    "generator": GeneratorExit,
    "stop": StopIteration,
    "cancelled": asyncio.CancelledError,
    "unspeakable": Unspeakable,
    "surrogates": lambda: ValueError("half \ud800 pair and \0"),
    "memory": MemoryError,
    "permanent": lambda: ValidationError("never", error_code="E7", metadata={"field": "amount"}),
    "group": lambda: BaseException("at the root"),
}


def raise_what_is_asked_for(context):
    raised = context.get_input("raise")
    if raised is not None and context.attempt == 1:
        raise RAISED[raised]()


@step_handler("flows.single")
def single(context):
    raise_what_is_asked_for(context)
    wanted = context.get_input("do")
    if wanted in UNSAYABLE:
        return UNSAYABLE[wanted]()
    if wanted == "later" and not context.is_retry():
        raise RetryableError("not yet", retry_after=1.5)
    if wanted == "slow" and not context.is_retry():
        note(context, "begun")
        time.sleep(2)
        note(context, "ended")
    if wanted == "wait for cancel":
        note(context, "begun")
        seen = context.wait_cancelled(30)
        note(context, f"cancelled {seen} {context.heartbeat()}")
    if wanted == "sleep":
        note(context, "begun")
        while not Path(context.get_input("gate")).exists():
            time.sleep(0.01)
    return {"pid": os.getpid(), "attempt": context.attempt}


@step_handler("flows.single_async")
async def single_async(context):
    raise_what_is_asked_for(context)
    if context.get_input("do") == "slow" and not context.is_retry():
        note(context, "begun")
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            note(context, "coroutine cancelled")
            raise
    if context.get_input("do") == "meet":
        # Ends only once as many run at the same time as were asked for.
        folder = Path(context.get_input("folder"))
        (folder / context.task_uuid).touch()
        while len(list(folder.iterdir())) < context.get_input("count"):
            await asyncio.sleep(0.01)
    return {"pid": os.getpid(), "attempt": context.attempt}
