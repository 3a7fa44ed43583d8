"""The handlers of conformance/README.md in Python."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
from pathlib import Path

from tasker_core import (
    Batchable,
    NetworkError,
    NotFoundError,
    PermanentError,
    RateLimitError,
    RetryableError,
    StepHandler,
    ValidationError,
)
from tasker_core.step_handler.functional import (
    BatchConfig,
    Decision,
    batch_analyzer,
    decision_handler,
    inputs,
    step_handler,
)

STRIDE = 10
ERRORS = {
    "permanent": PermanentError,
    "retryable": RetryableError,
    "validation": ValidationError,
    "not_found": NotFoundError,
    "network": NetworkError,
    "rate_limit": RateLimitError,
}


@step_handler("conformance.echo")
def echo(context):
    return {"input": context.input_data, "config": context.step_config, "dependencies": context.dependency_results}


@step_handler("conformance.context")
async def context_of(context):
    return {
        "namespace": context.namespace,
        "step_name": context.step_name,
        "handler_name": context.handler_name,
        "attempt": context.attempt,
        "max_retries": context.max_retries,
        "retry_count": context.retry_count,
        "is_retry": context.is_retry(),
        "is_last_retry": context.is_last_retry(),
        "alive": context.heartbeat(),
    }


@step_handler("conformance.fail")
def fail(context):
    config = context.step_config
    if context.attempt >= config.get("until", sys.maxsize):
        return {"attempt": context.attempt}
    more = {key: config[key] for key in ("error_code", "retry_after") if key in config}
    raise ERRORS[config["error"]](config["message"], **more)


class Refuse(StepHandler):
    handler_name = "conformance.refuse"

    def call(self, context):
        return self.failure(**context.step_config)


class Unspeakable(Exception):
    def __str__(self):
        raise ValueError("not even this")


@step_handler("conformance.raise")
def raise_(context):
    kind = context.get_config("kind")
    if kind == "exit":
        sys.exit(3)
    raise {
        "plain": lambda: RuntimeError(context.get_config("message")),
        "empty": RuntimeError,
        "unspeakable": Unspeakable,
        "long": lambda: RuntimeError("long " * 20_000),
        "control": lambda: RuntimeError("a\0b\ud800"),
    }[kind]()


@step_handler("conformance.hang")
def hang(context):
    context.wait_cancelled(60)
    return {}


@step_handler("conformance.watch_cancel")
@inputs("file")
def watch_cancel(file, context):
    Path(file).write_text("started")
    context.wait_cancelled(60)
    Path(file).write_text("seen")
    return {}


@decision_handler("conformance.route")
@inputs("route")
def route(route):
    return Decision.route(route) if route else Decision.skip("nothing")


@batch_analyzer("conformance.split")
@inputs("items", "batch_size")
def split(items, batch_size):
    return BatchConfig(items, batch_size)


class Work(StepHandler, Batchable):
    handler_name = "conformance.work"

    def call(self, context):
        no_op = self.handle_no_op_worker(context)
        if no_op is not None:
            return no_op
        batch = self.get_batch_context(context)
        start = batch.checkpoint_cursor
        end = min(start + STRIDE, batch.end_cursor)
        total = (batch.accumulated_results or 0) + sum(range(start, end))
        done = end - batch.start_cursor
        if end < batch.end_cursor:
            return self.checkpoint_yield(end, done, total)
        return self.batch_worker_success(items_processed=done, items_succeeded=done, results=[total])


class Merge(StepHandler, Batchable):
    handler_name = "conformance.merge"

    def call(self, context):
        scenario = self.detect_aggregation_scenario(context, "split", "work_")
        return self.aggregate_batch_worker_results(
            scenario, {"total": 0}, lambda results: {"total": sum(each["results"][0] for each in results.values())}
        )


class Resume(StepHandler, Batchable):
    handler_name = "conformance.resume"

    def call(self, context):
        start = context.checkpoint_cursor or 0
        counted = context.accumulated_results or {"sum": 0, "resumed_at": 0, "attempt": 0}
        if counted["attempt"] != context.attempt:
            counted.update(attempt=context.attempt, resumed_at=start)
        if context.attempt == 1 and start == context.get_input("fail_at"):
            raise RetryableError("not beyond this")
        end = min(start + STRIDE, context.get_input("items"))
        counted["sum"] += sum(range(start, end))
        return counted if end == context.get_input("items") else self.checkpoint_yield(end, end, counted)


def circular():
    value = []
    value.append(value)
    return value


def lists(levels):
    value = 1
    for _ in range(levels):
        value = [value]
    return value


@step_handler("conformance.odd")
def odd(context):
    value = {
        "nan": float("nan"),
        "infinity": float("inf"),
        "nul": "x\0",
        "surrogate": "\ud800",
        "big": 2**53 + 1,
        "not_json": object(),
        "circular": circular(),
    }[context.get_config("kind")]
    return {"a": [value]}


@step_handler("conformance.deep")
def deep(context):
    return lists(context.get_config("levels"))


@step_handler("conformance.large")
def large(context):
    return {"text": "é" * context.get_config("n")}


@step_handler("conformance.die")
def die(context):
    if context.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"attempt": context.attempt}


@step_handler("conformance.block")
def block(context):
    # PyDLL keeps the lock of the interpreter while it is in C.
    ctypes.PyDLL(None).usleep(context.get_config("ms") * 1000)
    return {"attempt": context.attempt}


@step_handler("conformance.churn")
def churn(context):
    made = 0
    for at in range(context.get_config("objects")):
        circular()
        made += 1
        if at % 5_000 == 0:
            gc.collect()
    return {"objects": made}


@step_handler("conformance.whoami")
def whoami():
    return {"language": "python"}
