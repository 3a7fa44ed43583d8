"""Domain events: published by publishers in Python, heard by subscribers in Python."""

from __future__ import annotations

import json

import pytest
from support import eventually

from tasker_core import ConfigurationError
from tasker_core.domain_events import (
    BasePublisher,
    BaseSubscriber,
    DefaultPublisher,
    InProcessDomainEventPoller,
    PublisherRegistry,
    StepEventContext,
    SubscriberRegistry,
)
from tasker_core.domain_events.subscribers import matches


def durable(server, task):
    """The durable events of a task: name, payload and metadata of each."""
    query = """SELECT message FROM pgmq.q_py_domain_events WHERE message ->> 'task_uuid' = :task ORDER BY msg_id"""
    events = [row[0] for row in server.query(query, task=task)]
    return {(each["name"], each["attempt"]): (each["payload"], each.get("metadata")) for each in events}


def test_a_publisher_says_what_is_published_and_subscribers_hear_it_once(server, worker, tmp_path):
    log = str(tmp_path / "log")
    steps = server.run("shop", {"log": log})
    assert steps["status"] == "complete"
    lines = eventually("all is heard", lambda: len(read(log)) == 4 and read(log))
    assert sorted(line for line in lines if line.startswith("published")) == [
        "published order.paid",
        "published order.seen",
    ]
    heard = {each["name"]: each for each in map(json.loads, (line for line in lines if line.startswith("{")))}
    assert heard["order.seen"] == {"name": "order.seen", "payload": {"amount": 5, "log": log}, "by": "receipt"}
    assert heard["order.tried"]["payload"]["card"] == "4711", "it has no publisher"
    events = durable(server, steps["task"])
    assert events.keys() == {("order.paid", 1), ("order.tried", 1)}
    assert events["order.paid", 1] == ({"amount": 5, "log": log}, {"by": "receipt", "event": "order.paid"})


def read(log):
    try:
        with open(log, encoding="utf-8") as lines:
            return lines.read().splitlines()
    except FileNotFoundError:
        return []


def test_each_condition_is_asked_after_the_attempts_that_it_names(server, worker, tmp_path):
    failed = server.run("shop", {"do": "fail"})
    events = durable(server, failed["task"])
    assert events.keys() == {("order.tried", 1), ("order.failed", 1), ("order.given_up", 1)}
    assert events["order.failed", 1][0] == {"why": "broke", "code": "E1", "attempt": 1}
    later = server.run("shop", {"do": "later", "log": str(tmp_path / "unwanted")})
    assert later["status"] == "complete"
    events = durable(server, later["task"])
    assert events.keys() == {("order.tried", 1), ("order.failed", 1), ("order.tried", 2)}


@pytest.mark.parametrize("what", ["raise", "unsayable", "skip"])
def test_a_publisher_that_raises_or_declines_publishes_nothing_and_the_step_is_complete(server, worker, what):
    steps = server.run("shop", {"do": what})
    assert steps["status"] == "complete"
    assert steps["pay"]["results"]["amount"] == 5
    assert len(server.audit(steps["pay"])) == 1
    assert durable(server, steps["task"]).keys() == {("order.tried", 1)}
    if what != "skip":
        log = worker.log.read_text()
        assert "the publisher receipt of order.paid failed" in log and "an event is not published" in log


class Quiet(BasePublisher):
    publisher_name = "quiet"

    def should_publish(self, ctx):
        return ctx.result == {"loud": True}


def test_publishers_are_tried_alone():
    ctx = StepEventContext("t", "s", "step", "n", "c", result={"loud": False})
    assert not Quiet().publish(ctx)
    ctx.result["loud"] = True
    assert Quiet().publish(ctx, "order.paid")
    assert DefaultPublisher().transform_payload(ctx) == {"loud": True}


def test_a_registry_of_publishers_takes_each_name_once_and_none_when_frozen():
    registry = PublisherRegistry()
    registry.register(Quiet())
    registry.register(Quiet())
    assert registry.names() == ["quiet"] and isinstance(registry.get_or_default("nobody"), DefaultPublisher)
    other = type("Other", (BasePublisher,), {"publisher_name": "quiet"})
    with pytest.raises(ConfigurationError):
        registry.register(other())
    registry.validate_required(["quiet"])
    with pytest.raises(ConfigurationError, match="`nobody`"):
        registry.validate_required(["quiet", "nobody"])
    registry.freeze()
    with pytest.raises(ConfigurationError):
        registry.register(DefaultPublisher())


def event(name):
    ids = ("task_uuid", "step_uuid", "step_name", "namespace", "correlation_id")
    return {"name": name, "payload": 1, **{key: "x" for key in ids}}


def test_subscribers_hear_in_order_count_what_they_raise_and_end_with_what_waits():
    heard = []

    class Ear(BaseSubscriber):
        @classmethod
        def subscribes_to(cls):
            return ["a*", "ab", "*"]

        def handle(self, event):
            heard.append(event["event_name"])
            assert event["event_name"] != "ab"

    registry = SubscriberRegistry()
    ear = registry.register(Ear)
    assert ear.matches("anything")
    registry.start_all()
    for name in ("ab", "b", "ab", "a"):
        for glob in registry.globs():
            if matches(glob, name):
                registry.tell(glob, event(name))
    registry.stop_all()
    assert heard == ["ab", "b", "ab", "a"], "once each, although up to three globs match"
    assert registry.stats == {"subscribers": 1, "handled": 2, "failed": 2, "dropped": 0}


def test_a_subscriber_that_the_running_worker_knows_nothing_of_is_refused():
    registry = SubscriberRegistry()
    registry.start_all()
    ear = type("Ear", (BaseSubscriber,), {"subscribes_to": classmethod(lambda _: ["*"]), "handle": lambda *_: None})
    with pytest.raises(ConfigurationError):
        registry.register(ear)
    registry.stop_all()
    registry.register(ear)


def test_a_poller_is_a_subscriber_to_everything(monkeypatch):
    monkeypatch.setattr(SubscriberRegistry, "_instance", SubscriberRegistry())
    heard, failed = [], []
    poller = InProcessDomainEventPoller()
    poller.on_event(lambda event: heard.append((event.event_name, event.metadata.step_uuid)))
    poller.on_event(lambda event: 1 / event.payload["x"])
    poller.on_error(failed.append)
    poller.start()
    registry = SubscriberRegistry.instance()
    registry.start_all()
    registry.tell("*", event("order.paid"))
    poller.stop()
    assert heard == [("order.paid", "x")] and isinstance(failed[0], TypeError)
    assert (poller.is_running, poller.stats, registry.globs()) == (False, {"events_processed": 1}, [])


@pytest.mark.parametrize(
    ("glob", "name", "holds"),
    [("order.*", "order.a.b", True), ("order.?", "order.", False), ("[ab]", "a", False), ("*", "", True)],
)
def test_globs_match_whole_names_as_the_worker_s_do(glob, name, holds):
    assert matches(glob, name) is holds
