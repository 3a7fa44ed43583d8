"""The probe of the fault tests in Python; see crates/tasker/src/commands/process/probe.rs."""

from __future__ import annotations

import os
import time
import uuid

from tasker_core import RetryableError, StepHandlerResult
from tasker_core.step_handler.functional import step_handler

log = os.open(os.environ["TASKER_BODY_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def position(context):
    return (uuid.UUID(context.step_uuid).int & 0xFFFFF) - 1


def note(context, what):
    line = f"{context.task_uuid} {position(context)} {context.attempt} {what} {os.getpid()}\n"
    os.write(log, line.encode())


@step_handler("faults.Probe")
def probe(context):
    note(context, "resume" if context.has_checkpoint() else "start")
    time.sleep(context.get_input_or("sleep_ms", 0) / 1000)
    config = context.step_config
    if context.attempt <= (config.get("fail_attempts") or 0):
        note(context, "failed")
        raise RetryableError("the probe was told to fail")
    if "cursor" in context.step_inputs and not context.has_checkpoint():
        return StepHandlerResult.checkpoint_yield(1, 1, [])
    result = {"step": position(context), "attempt": context.attempt, "pid": os.getpid()}
    if config.get("choose"):
        result["decision_point_outcome"] = {"type": "create_steps", "step_names": config["choose"]}
    if config.get("batches"):
        cursors = [
            {"batch_id": f"{at + 1:03}", "start_cursor": at, "end_cursor": at + 1, "batch_size": 1}
            for at in range(config["batches"])
        ]
        result["batch_processing_outcome"] = {"type": "create_batches", "cursor_configs": cursors}
    note(context, "end")
    return result
