"""Programs that were written for Tasker 0.1.x start and watch a worker."""

from __future__ import annotations

import logging
import subprocess
import sys

from support import environment

from tasker_core import DecisionMixin, DecisionPointOutcome, EventBridge, HandlerRegistry, log_error, log_trace
from tasker_core import worker as workers
from tasker_core.testing import make_context

PROGRAM = """
import os, threading
from tasker_core import *

registry = HandlerRegistry.instance()

class Single(StepHandler):
    handler_name = "flows.single"
    def call(self, context):
        if context.get_input("fail"):
            return self.failure("no", retryable=False)
        return self.success({"task": context.task_sequence_step["task"]["task"]["context"]})

registry.register("flows.single", Single)
assert registry.bootstrap_handlers() == 1
assert registry.template_discovery_info()["handlers"] == ["flows.single"]
assert (get_worker_status().running, get_health_check().status, dict(get_worker_config())) == (False, "unhealthy", {})

result = bootstrap_worker(BootstrapConfig(worker_id="former", namespace="py", log_level="warn"))
assert result.success and result.worker_id == "former" and is_worker_running()
status = get_worker_status()
assert (status.worker_core_status, status.environment, status.steps_running) == ("running", "test", 0), status
assert get_health_check().status == "healthy" and get_worker_config().worker_id == "former"

bridge = EventBridge.instance()
bridge.start()
subscriber = StepExecutionSubscriber(event_bridge=bridge, handler_registry=registry, worker_id=result.worker_id)
subscriber.start()
poller = EventPoller(polling_interval_ms=10)
received, ended, once, all_there = [], [], [], threading.Event()

def end(outcome):
    ended.append(outcome.type)
    if len(ended) == 2:
        all_there.set()

bridge.subscribe("step.execution.received", lambda step: received.append(step.step_name))
bridge.subscribe_once("step.execution.received", lambda step: once.append(step.task_uuid))
bridge.subscribe("step.execution.completed", end)
bridge.subscribe("step.execution.failed", end)
poller.on_step_event(lambda step: bridge.publish("step.execution.received", step))
poller.on_metrics(lambda metrics: 1 / 0)
errors = []
poller.on_error(errors.append)
poller.start()

client = TaskerClient()
first = client.create_task("single", namespace="py", context={"a": 1})
assert client.wait_task(first.task_uuid, 60).steps[0].results == {"task": {"a": 1}}
second = client.create_task("single", namespace="py", context={"fail": True})
assert client.wait_task(second.task_uuid, 60).status == "blocked_by_failures"
assert all_there.wait(60)
assert received == ["only", "only"], "once each, although both would tell"
assert once == [first.task_uuid] and ended == ["success", "failure"]
assert poller.get_metrics().received == 2 and isinstance(errors[0], ZeroDivisionError)
assert poller.is_running and subscriber.is_active and bridge.is_active

transition_to_graceful_shutdown()
stop_worker()
assert not is_worker_running()
poller.stop(); subscriber.stop(); bridge.stop()
print("well")
"""


def test_a_program_with_pollers_bridges_and_subscribers_runs_as_it_did(server, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    more = environment(DATABASE_URL=server.database_url, TASKER_ORCHESTRATION_URL=server.url)
    ran = subprocess.run([sys.executable, str(program)], env=more, capture_output=True, text=True, timeout=120)
    assert ran.stdout == "well\n", ran.stderr


def test_the_bridge_carries_names_of_the_program_s_own_and_survives_callbacks_that_raise(caplog):
    bridge, heard = EventBridge(), []
    bridge.subscribe("mine", lambda value: heard.append(1 / value))
    bridge.subscribe("mine", heard.append)
    bridge.publish("mine", 0)
    bridge.unsubscribe("mine", heard.append)
    bridge.publish("mine", 2)
    assert heard == [0, 0.5] and "a callback for mine" in caplog.text
    bridge.start()
    bridge.start()
    assert workers.observers.count(bridge._observe) == 1
    bridge.stop()
    assert not bridge.is_active


def test_log_functions_write_to_the_standard_library_s_log(caplog):
    with caplog.at_level(1, "tasker_core"):
        log_error("lost", {"step": "charge"})
        log_trace("seen")
    assert [(each.levelno, each.getMessage()) for each in caplog.records] == [
        (logging.ERROR, "lost step=charge"),
        (5, "seen"),
    ]
    assert caplog.records[0].fields == {"step": "charge"}


def test_templates_are_told_of(tmp_path, monkeypatch):
    (tmp_path / "a.yaml").write_text("name: a")
    monkeypatch.setenv("TASKER_TEMPLATE_PATH", str(tmp_path))
    told = HandlerRegistry().template_discovery_info()
    assert told == {"template_path": str(tmp_path), "template_files": [str(tmp_path / "a.yaml")], "handlers": []}


def test_a_decision_may_be_a_value():
    made = DecisionMixin().decision_success_with_outcome(DecisionPointOutcome.create_steps(["a"], {"why": 1}))
    assert made.result["decision_point_outcome"] == {"type": "create_steps", "step_names": ["a"]}
    none = DecisionMixin().decision_no_branches(DecisionPointOutcome.no_branches("quiet"))
    assert none.result == {"decision_point_outcome": {"type": "no_branches"}, "reason": "quiet"}
    assert DecisionMixin().decision_success_with_outcome(DecisionPointOutcome()).result["reason"] == ""


def test_a_context_has_the_shape_that_handlers_knew():
    context = make_context({"a": 1}, dependencies={"before": 2}, config={"x": 3}, attempt=2)
    assert context.event.step_uuid == context.event["step_uuid"] == context.step_uuid
    told = context.task_sequence_step
    assert told["task"]["task"]["context"] == {"a": 1} and told["dependency_results"] == {"before": 2}
    assert told["step_definition"]["handler"] == {"callable": "test", "initialization": {"x": 3}}
    assert told["workflow_step"]["attempts"] == 1
