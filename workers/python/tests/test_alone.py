"""Handlers alone, without a server."""

from __future__ import annotations

import dataclasses
import http.server
import json
import sys
import threading

import pytest

from tasker_core import (
    APIMixin,
    Batchable,
    BatchAggregationScenario,
    ConfigurationError,
    CursorConfig,
    DecisionMixin,
    HandlerRegistry,
    PermanentError,
    RateLimitError,
    RetryableError,
    StepHandler,
    StepHandlerResult,
)
from tasker_core.step_handler.functional import (
    BatchConfig,
    Decision,
    api_handler,
    batch_analyzer,
    batch_worker,
    decision_handler,
    depends_on,
    inputs,
    step_handler,
)
from tasker_core.testing import make_context, run


@dataclasses.dataclass
class Cart:
    total: float
    currency: str = "EUR"


@step_handler("charge", version="2.0.0")
@depends_on(cart=("validate", Cart), note="remark")
@inputs("tip", "missing")
def charge(cart, note, missing, tip=1, context=None):
    return {"charged": cart.total + tip, "note": note, "missing": missing, "attempt": context.attempt}


def test_a_function_is_given_what_its_decorators_say():
    context = make_context({"tip": 2}, dependencies={"validate": {"total": 5, "more": 1}}, attempt=2)
    assert run(charge, context).result == {"charged": 7, "note": None, "missing": None, "attempt": 2}
    without_tip = make_context(dependencies={"validate": {"total": 5}})
    assert run(charge, without_tip).result["charged"] == 6, "the function's default"
    assert charge(Cart(1), "n", None, 1, make_context())["charged"] == 2, "it stays a function"
    wrong = run(charge, make_context(dependencies={"validate": {"sum": 5}}))
    assert (wrong.error_type, wrong.retryable) == ("validation_error", False)


def test_a_decorator_that_gives_what_the_function_does_not_take_is_a_permanent_failure():
    @step_handler("x")
    @inputs("a")
    def wrong(b=1):
        return b

    failed = run(wrong)
    assert (failed.error_type, failed.retryable) == ("configuration_error", False)
    assert "no parameter `a`" in failed.error_message


def test_errors_say_what_becomes_of_the_attempt():
    def failing(error):
        @step_handler("x")
        def raises():
            raise error

        result = run(raises)
        return result.error_type, result.retryable, result.retry_after, result.error_message

    assert failing(RetryableError("later", 7)) == ("retryable_error", True, 7, "later")
    assert failing(RateLimitError("slow down", retry_after=0.5)) == ("rate_limit", True, 0.5, "slow down")
    assert failing(PermanentError("no", error_type="card")) == ("card", False, None, "no")
    assert failing(ValueError("odd")) == ("handler_error", True, None, "ValueError: odd")
    assert failing(KeyboardInterrupt()) == ("handler_error", True, None, "KeyboardInterrupt")


def test_the_stack_of_an_exception_that_nobody_meant_is_in_the_log(caplog):
    def raising(error):
        def raises():
            raise error

        return step_handler("x")(raises)

    run(raising(KeyError("lost")))
    run(raising(RetryableError("later")))
    unmeant, meant = caplog.records
    assert unmeant.exc_info[0] is KeyError and "KeyError: 'lost'" in unmeant.message
    assert not meant.exc_info and "failed at attempt 1: later" in meant.message


def test_plain_values_and_models_are_results():
    def result_of(value):
        return run(step_handler("x")(lambda: value)).result

    assert result_of(None) == {}
    assert result_of([1, (2, "x"), {"a": None}]) == [1, [2, "x"], {"a": None}]
    assert result_of(Cart(1.5)) == {"total": 1.5, "currency": "EUR"}
    shared = [1]
    assert result_of({"a": shared, "b": shared}) == {"a": [1], "b": [1]}, "twice is not circular"


@pytest.mark.parametrize(
    ("value", "place"),
    [({"a/b": [1, {"c": float("nan")}]}, "/a~1b/1/c"), ([b""], "/0"), ({"a": {1: 2}}, "/a"), ({"a": 2**60}, "/a")],
)
def test_what_json_can_not_carry_is_refused_with_its_place(value, place):
    failed = run(step_handler("x")(lambda: value))
    assert (failed.error_type, failed.retryable) == ("result_not_serializable", False)
    assert f"the result at {place} " in failed.error_message
    meta = run(step_handler("x")(lambda: StepHandlerResult.success({}, {"m": value})))
    assert meta.error_type == "result_not_serializable"


def test_decisions_name_steps_or_none():
    routed = run(decision_handler("d")(lambda: Decision.route(["a", "b"], tier="gold")))
    assert routed.result["decision_point_outcome"] == {"type": "create_steps", "step_names": ["a", "b"]}
    assert routed.result["routing_context"] == {"tier": "gold"}
    skipped = run(decision_handler("d")(lambda: Decision.skip("nothing")))
    assert skipped.result == {"decision_point_outcome": {"type": "no_branches"}, "reason": "nothing"}
    assert run(decision_handler("d")(lambda: ["a"])).error_type == "configuration_error"

    class ByClass(DecisionMixin, StepHandler):
        def call(self, context):
            return self.decision_success("a") if context.get_input("go") else self.decision_failure("unclear")

    assert run(ByClass, make_context({"go": True})).result["decision_point_outcome"]["step_names"] == ["a"]
    assert run(ByClass).retryable is False


def test_splits_cover_everything_once():
    split = run(batch_analyzer("s", worker_template="w")(lambda: BatchConfig(250, 100, {"by": "id"})))
    outcome = split.result["batch_processing_outcome"]
    assert (outcome["type"], outcome["worker_template_name"], outcome["total_items"]) == ("create_batches", "w", 250)
    edges = [(each["batch_id"], each["start_cursor"], each["end_cursor"]) for each in outcome["cursor_configs"]]
    assert edges == [("001", 0, 100), ("002", 100, 200), ("003", 200, 250)]
    assert (
        run(batch_analyzer("s")(lambda: BatchConfig(0, 100))).result["batch_processing_outcome"]["type"] == "no_batches"
    )
    by_date = run(batch_analyzer("s")(lambda: [CursorConfig("2024-01", "2024-02"), {"start_cursor": "2024-02"}]))
    cursors = by_date.result["batch_processing_outcome"]["cursor_configs"]
    assert cursors == [
        {"batch_id": "001", "start_cursor": "2024-01", "end_cursor": "2024-02"},
        {"batch_id": "002", "start_cursor": "2024-02"},
    ]
    make = Batchable().create_cursor_ranges
    for total, size, most in [(10_000, 100, 10), (7, 3, None), (1, 1, 1), (101, 10, 4)]:
        ranges = make(total, size, max_batches=most)
        covered = [item for each in ranges for item in range(each.start_cursor, each.end_cursor)]
        assert covered == list(range(total)) and (most is None or len(ranges) <= most)
    assert len(Batchable().create_cursor_configs(10, 3)) == 3


def test_a_batch_worker_sees_its_batch_and_its_checkpoint():
    @batch_worker("w")
    def work(batch_context, context):
        at, gathered = batch_context.checkpoint_cursor, batch_context.accumulated_results
        if at < batch_context.end_cursor:
            return StepHandlerResult.checkpoint_yield(at + 5, 5, [*(gathered or []), at])
        return {"gathered": gathered}

    batch = {"start_cursor": 10, "end_cursor": 20}
    first = run(work, make_context(batch=batch))
    assert first.checkpoint == {"cursor": 15, "items_processed": 5, "accumulated_results": [10]}
    last = run(work, make_context(batch=batch, checkpoint={"cursor": 20, "accumulated_results": [10, 15]}))
    assert last.result == {"gathered": [10, 15]}
    assert run(work, make_context(batch={})).result == {"no_op": True, "items_processed": 0}


def test_results_of_batches_are_brought_together():
    results = {
        "split": {"batch_processing_outcome": {"type": "create_batches"}},
        "work_001": {"items_processed": 3, "items_succeeded": 2, "items_failed": 1, "errors": ["x"]},
        "work_002": {"items_processed": 4, "items_succeeded": 4},
    }
    scenario = Batchable.detect_aggregation_scenario(make_context(dependencies=results), "split", "work_")
    merged = Batchable().aggregate_batch_worker_results(scenario).result
    assert (merged["total_processed"], merged["total_failed"], merged["errors"]) == (7, 1, ["x"])
    for broken in ({}, {"split": {}}):
        with pytest.raises(ValueError):
            BatchAggregationScenario.detect(broken, "split", "work_")


def test_a_registry_takes_each_name_once():
    registry = HandlerRegistry()
    registry.register(charge)
    registry.register(charge)

    class Other(StepHandler):
        def call(self, context):
            return 1

    registry.register(Other)
    registry.register("alias", Other)
    assert registry.list_handlers() == ["Other", "alias", "charge"]
    assert registry.resolve("charge").version == "2.0.0"
    assert registry.resolve("nobody") is None
    boastful = type("Boastful", (Other,), {"handler_methods": ("call", "refund")})
    for refused in [("charge", Other), (StepHandler,), (7,), (boastful,)]:
        with pytest.raises(ConfigurationError):
            registry.register(*refused)
    assert registry.unregister("alias") and not registry.unregister("alias")


def test_handlers_are_found_in_folders_and_packages(tmp_path, monkeypatch):
    package = tmp_path / "found_package" / "inner"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("from tasker_core import StepHandler\n")
    (package / "__init__.py").write_text("")
    source = "from found_package import StepHandler\nclass A(StepHandler):\n    def call(self, context): return 1\n"
    source += "class B(A): handler_name = 'named.b'\nclass _Base(A): pass\n"
    (package / "deep.py").write_text(source)
    monkeypatch.setattr(sys, "path", [*sys.path])
    registry = HandlerRegistry()
    assert registry.discover_folder(tmp_path) == 2
    assert registry.list_handlers() == ["A", "named.b"]
    (tmp_path / "json.py").write_text("")
    with pytest.raises(ConfigurationError, match="hidden by"):
        HandlerRegistry().discover_folder(tmp_path)


class Answers(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        status = body["status"]
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "7")
        answer = json.dumps({"key": self.headers["x-key"], "path": self.path}).encode()
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def test_requests_are_classified_by_their_status():
    pytest.importorskip("httpx")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    class Client(APIMixin, StepHandler):
        base_url = f"http://127.0.0.1:{server.server_port}"
        default_headers = {"x-key": "secret"}

        def call(self, context):
            answer = self.post("/pay", json={"status": context.get_input("status")})
            return self.api_success(answer) if answer.ok else self.api_failure(answer)

    told = {status: run(Client, make_context({"status": status})) for status in (200, 404, 422, 429, 500, 501, 503)}

    @api_handler("pay", base_url=Client.base_url, headers={"x-key": "other"})
    @inputs("status")
    def pay(api, status):
        return api.post("/pay", json={"status": status})

    by_function = run(pay, make_context({"status": 429}))
    assert (by_function.retry_after, by_function.retryable) == (7.0, True)
    assert run(pay, make_context({"status": 200})).result == {"key": "other", "path": "/pay"}
    server.shutdown()
    server.server_close()
    assert told[200].result == {"key": "secret", "path": "/pay"}
    assert [status for status, result in told.items() if not result.is_success and result.retryable] == [429, 500, 503]
    assert (told[429].retry_after, told[429].error_code) == (7.0, "HTTP_429")
    refused = run(Client, make_context({"status": 200}))
    assert (refused.error_type, refused.retryable) == ("handler_error", True), "the server is gone"
