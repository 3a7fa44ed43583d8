"""Real workflows with handlers in Python."""

from __future__ import annotations

import pytest
from handlers.flows import RAISED, UNSAYABLE
from support import eventually

ODD = {
    "emoji": '\U0001f600 é ü \u202e \\ " \n',
    "integers": [0, -(2**53), 2**53],
    "floats": [1.5, 1e308, 5e-324, -0.5],
    "deep": None,
    "": [None, True, False, [], {}],
}


def nested(levels):
    value = "bottom"
    for _ in range(levels):
        value = [value]
    return value


def test_results_are_handed_on_from_step_to_step(server, worker):
    steps = server.run("linear", {"number": 4})
    assert steps["status"] == "complete"
    assert [steps[name]["results"] for name in ("first", "second")] == [{"number": 5}, {"number": 10}]
    assert steps["third"]["results"] == {"numbers": [5, 10], "attempt": 1}
    assert steps["undo"]["results"] == {"undone": [5, 10]}, "another method of the same handler"
    (attempt,) = server.audit(steps["third"])
    assert attempt["metadata"] == {"by": "a class"}


@pytest.mark.parametrize(("amount", "branch"), [(5, "small"), (500, "large"), (0, None)])
def test_a_decision_creates_what_it_names_and_no_more(server, worker, amount, branch):
    steps = server.run("decision", {"amount": amount})
    assert steps["status"] == "complete"
    made = {name for name in ("small", "large") if name in steps}
    assert made == ({branch} if branch else set())
    assert branch is None or branch in steps["end"]["results"]


def test_batches_are_made_worked_on_in_runs_and_brought_together(server, worker, tmp_path):
    log = tmp_path / "log"
    steps = server.run("batch", {"items": 70, "log": str(log)})
    assert steps["status"] == "complete"
    assert steps["merge"]["results"] == {"total": sum(range(70)), "worker_count": 3, "scenario": "with_batches"}
    assert sorted(log.read_text().splitlines()) == [
        *(f"001 1 {at}" for at in (0, 10, 20)),
        *(f"002 1 {at}" for at in (30, 40, 50)),
        "003 1 60",
    ]


def test_an_empty_split_runs_one_worker_that_has_nothing_to_do(server, worker):
    steps = server.run("batch", {"items": 0})
    assert steps["status"] == "complete"
    assert steps["work_000"]["results"] == {"no_op": True, "items_processed": 0}
    assert steps["merge"]["results"] == {"total": 0, "worker_count": 0, "scenario": "no_batches"}


def test_a_retry_comes_after_the_time_that_the_error_asks_for(server, worker):
    steps = server.run("single", {"do": "later"})
    assert steps["only"]["results"]["attempt"] == 2
    first, second = server.audit(steps["only"])
    assert (first["error"]["error_type"], first["error"]["retryable"]) == ("retryable_error", True)
    waited = seconds(second["started_at"]) - seconds(first["finished_at"])
    assert waited >= 1.5 * 0.8, "jitter may take a part of it"


def seconds(moment):
    from datetime import datetime

    return datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp()


def test_a_handler_that_takes_too_long_is_tried_again_and_a_coroutine_is_cancelled(server, worker, tmp_path):
    log = tmp_path / "log"
    steps = server.run("hasty", {"do": "slow", "log": str(log)})
    assert steps["status"] == "complete"
    for name in ("blocking", "awaiting"):
        first, second = server.audit(steps[name])
        assert (first["error"]["error_type"], second["outcome"]) == ("timeout", "success"), name
    eventually("the thread comes back", lambda: "ended" in log.read_text())
    assert "coroutine cancelled" in log.read_text()


def test_a_handler_sees_that_its_task_was_cancelled(server, worker, tmp_path):
    log = tmp_path / "log"
    task = server.create("single", {"do": "wait for cancel", "log": str(log)})
    eventually("the handler runs", lambda: log.exists() and "begun" in log.read_text())
    server.call("DELETE", f"/v1/tasks/{task}")
    eventually("the handler hears of it", lambda: "cancelled True False" in log.read_text())
    assert server.wait(task)["status"] == "cancelled"


def test_odd_payloads_come_back_as_they_went(server, worker):
    sent = {**ODD, "deep": nested(60)}
    steps = server.run("decision", {**sent, "amount": 1})
    assert steps["small"]["results"] == {**sent, "amount": 1}


@pytest.mark.parametrize("what", sorted(UNSAYABLE))
def test_what_json_can_not_carry_fails_for_good_with_its_place(server, worker, what):
    steps = server.run("single", {"do": what})
    (attempt,) = server.audit(steps["only"])
    assert (attempt["error"]["error_type"], attempt["error"]["retryable"]) == ("result_not_serializable", False)
    if what not in ("circular", "large", "bottomless"):
        assert "/x" in attempt["error"]["message"], attempt["error"]["message"]


@pytest.mark.parametrize("template", ["single", "single_async"])
@pytest.mark.parametrize("what", sorted(RAISED))
def test_whatever_is_raised_is_a_failed_attempt_and_the_worker_lives_on(server, worker, what, template):
    steps = server.run(template, {"raise": what})
    first = server.audit(steps["only"])[0]
    assert first["outcome"] == "failure"
    if what == "permanent":
        assert (first["error"]["error_type"], first["error"]["error_code"]) == ("validation_error", "E7")
        assert first["metadata"]["field"] == "amount"
        assert steps["status"] == "blocked_by_failures"
    else:
        assert first["error"]["error_type"] == "handler_error"
        assert steps["only"]["results"] == {"pid": worker.process.pid, "attempt": 2}


def test_many_coroutines_run_at_once(server, worker, tmp_path):
    context = {"do": "meet", "folder": str(tmp_path), "count": 40}
    tasks = [server.create("single_async", context) for _ in range(40)]
    assert {server.wait(task)["status"] for task in tasks} == {"complete"}
