"""Whole workflows in memory: the tests' templates with the tests' handlers, and what only a test would do."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from handlers import flows, shop

from tasker_core import ConfigurationError, PermanentError, RetryableError, StepHandlerResult, WorkerError
from tasker_core.domain_events import PublisherRegistry
from tasker_core.step_handler.functional import depends_on, inputs, step_handler

TEMPLATES = Path(__file__).parent / "templates"
FLOWS = [flows.first, flows.second, flows.Third, flows.choose, flows.echo, flows.names, flows.split, flows.Work]
FLOWS += [flows.Merge, flows.single, flows.single_async]

RETRIES = """
name: retries
namespace_name: test
version: 1.0.0
input_schema: {type: object, required: [times]}
steps:
  - name: fetch
    handler: fetch
    retry: {max_attempts: 5, backoff: exponential, backoff_base_ms: 3600000, max_backoff_ms: 86400000}
  - {name: store, handler: store, dependencies: [fetch]}
environments:
  test: {steps: [{name: fetch, retry: {max_attempts: 2}}]}
"""


@step_handler("fetch")
@inputs("times", "status")
def fetch(times, status, context):
    if status is not None:
        raise PermanentError("gone", error_code=status)
    if context.attempt <= times:
        raise RetryableError("busy")
    return {"fetched": context.attempt}


@step_handler("store")
@depends_on(fetched="fetch")
async def store(fetched):
    return {"stored": fetched["fetched"]}


def test_hours_of_backoff_pass_in_no_time(tasker_workflow):
    began = time.monotonic()
    workflow = tasker_workflow(RETRIES, {"times": 3}, handlers=[fetch, store])
    assert time.monotonic() - began < 30
    assert (workflow.status, workflow.results["store"]) == ("complete", {"stored": 4})
    hours = [round(each.at_ms / 3_600_000) for each in workflow.attempts_of("fetch")]
    assert hours[:2] == [0, 1] and hours[2] in (3, 4) and 6 <= hours[3] <= 9, hours
    assert workflow.elapsed * 1000 == workflow.attempts[-1].at_ms
    assert [each.error.message for each in workflow.attempts_of("fetch")[:3]] == ["busy"] * 3


def test_a_step_that_fails_blocks_what_depends_on_it(tasker_workflow):
    workflow = tasker_workflow(RETRIES, {"times": 0, "status": "E410"}, handlers={"fetch": fetch, "store": store})
    assert (workflow.status, workflow.elapsed) == ("blocked_by_failures", 0)
    assert {name: step.state for name, step in workflow.steps.items()} == {"fetch": "error", "store": "pending"}
    (attempt,) = workflow.attempts
    assert (attempt.error.error_code, attempt.error.retryable) == ("E410", False)
    fewer = tasker_workflow(RETRIES, {"times": 3}, handlers=[fetch, store], environment="test")
    assert (fewer.status, fewer.steps["fetch"].attempts) == ("blocked_by_failures", 2)


@pytest.mark.parametrize(
    ("template", "given"),
    [
        ("linear", {"number": 4}),
        ("decision", {"amount": 500}),
        ("decision", {"amount": 0}),
        ("batch", {"items": 70}),
        ("batch", {"items": 0}),
        ("single", {"do": "nan"}),
        ("single", {"raise": "permanent"}),
    ],
)
def test_a_workflow_ends_in_memory_as_it_ends_on_a_server(server, worker, tasker_workflow, tmp_path, template, given):
    given["log"] = str(tmp_path / "log")
    steps = server.run(template, given)
    workflow = tasker_workflow(TEMPLATES / f"{template}.yaml", given, handlers=FLOWS)
    real = {name: step for name, step in steps.items() if name not in ("status", "task")}
    assert workflow.status == steps["status"]
    told = ("current_state", "attempts", "results")
    assert {name: (step.state, step.attempts, step.result) for name, step in workflow.steps.items()} == {
        name: tuple(step[key] for key in told) for name, step in real.items()
    }
    for name, step in real.items():
        mine = [(each.attempt, each.outcome, each.error) for each in workflow.attempts_of(name)]
        assert mine == [(each["attempt"], each["outcome"], each.get("error")) for each in server.audit(step)]


def test_a_linear_template_runs_with_all_that_its_handlers_use(tasker_workflow):
    workflow = tasker_workflow(TEMPLATES / "linear.yaml", {"number": 4}, handlers=FLOWS)
    assert workflow.status == "complete"
    assert workflow.results["third"] == {"numbers": [5, 10], "attempt": 1}
    assert workflow.results["undo"] == {"undone": [5, 10]}


@pytest.mark.parametrize(("amount", "branch"), [(5, "small"), (500, "large"), (0, None)])
def test_a_decision_creates_what_it_names(tasker_workflow, amount, branch):
    workflow = tasker_workflow(str(TEMPLATES / "decision.yaml"), {"amount": amount}, handlers=FLOWS)
    assert workflow.status == "complete"
    assert {"small", "large"} & set(workflow.steps) == ({branch} if branch else set())


def test_batches_with_checkpoints_are_brought_together(tasker_workflow, tmp_path):
    workflow = tasker_workflow(TEMPLATES / "batch.yaml", {"items": 70, "log": str(tmp_path / "log")}, handlers=FLOWS)
    assert workflow.results["merge"] == {"total": sum(range(70)), "worker_count": 3, "scenario": "with_batches"}
    assert set(workflow.steps) == {"split", "merge", "work_001", "work_002", "work_003"}
    empty = tasker_workflow(TEMPLATES / "batch.yaml", {"items": 0}, handlers=FLOWS)
    assert empty.results["work_000"] == {"no_op": True, "items_processed": 0}


def test_events_are_what_would_be_published(tasker_workflow, tmp_path):
    publishers = PublisherRegistry()
    publishers.register(shop.Receipt())
    log = str(tmp_path / "log")
    workflow = tasker_workflow(TEMPLATES / "shop.yaml", {"log": log}, handlers=[shop.pay], publishers=publishers)
    assert [each.name for each in workflow.events] == ["order.paid", "order.tried", "order.seen"]
    assert workflow.events[0].payload == {"amount": 5, "log": log}
    assert (workflow.events[0].metadata.by, workflow.events[0].delivery_mode) == ("receipt", "durable")
    raising = tasker_workflow(TEMPLATES / "shop.yaml", {"do": "raise"}, handlers=[shop.pay], publishers=publishers)
    assert (raising.status, [each.name for each in raising.events]) == ("complete", ["order.tried"])


def test_what_json_can_not_carry_fails_as_in_a_worker(tasker_workflow):
    workflow = tasker_workflow(TEMPLATES / "single.yaml", {"do": "nan"}, handlers=FLOWS)
    (attempt,) = workflow.attempts
    assert (attempt.error.error_type, workflow.status) == ("result_not_serializable", "blocked_by_failures")


def test_what_a_server_refuses_and_handlers_that_are_missing_are_told(tasker_workflow):
    with pytest.raises(WorkerError) as caught:
        tasker_workflow(RETRIES, {}, handlers=[fetch, store])
    assert caught.value.code == "bad_input"
    with pytest.raises(WorkerError) as caught:
        tasker_workflow("name: x\n", {}, handlers=[fetch])
    assert caught.value.code == "bad_template"
    with pytest.raises(ConfigurationError, match="`store`"):
        tasker_workflow(RETRIES, {"times": 0}, handlers=[fetch])
    with pytest.raises(ConfigurationError, match="resolver `sql`"):
        asked = RETRIES.replace("handler: store", "handler: {callable: store, resolver: sql}")
        tasker_workflow(asked, {"times": 0}, handlers=[fetch, store])


def test_a_workflow_without_end_is_given_up(tasker_workflow):
    forever = step_handler("flows.single")(lambda context: StepHandlerResult.checkpoint_yield(1, 1))
    with pytest.raises(AssertionError, match="20 runs"):
        tasker_workflow(TEMPLATES / "single.yaml", {}, handlers=[forever], most_runs=20)
