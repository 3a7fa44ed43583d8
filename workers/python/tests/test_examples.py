"""The examples give what the Rust handlers of the same templates give."""

from __future__ import annotations

import json
import sys
import urllib.parse
from pathlib import Path

import pytest
from support import HERE, TASKER, Server, WorkerProcess

from tasker_core import HandlerRegistry
from tasker_core.step_handler.functional import step_handler

EXAMPLES = HERE.parent / "examples/handlers"
RUST = HERE.parents[1] / "rust"
PRODUCTS = str(RUST / "data/products.csv")

TASKS = [
    ("examples", "linear", {"number": 6}),
    ("examples", "diamond", {"number": -3}),
    ("examples", "tree8", {"number": 6}),
    ("examples", "dag7", {"number": 6}),
    ("shop", "order_fulfillment", {"order_file": str(RUST / "data/order.json"), "products_file": PRODUCTS}),
    ("finance", "expense_approval", {"amount_cents": 612_000, "purpose": "Travel to the trade fair"}),
    ("finance", "expense_approval", {"amount_cents": 15_000, "purpose": "Flowers"}),
    ("finance", "expense_approval", {"amount_cents": 15_000, "purpose": "Equipment"}),
    ("shop", "catalogue_import", {"products_file": PRODUCTS}),
    (
        "analytics",
        "analytics_pipeline",
        {
            "sales_file": str(RUST / "data/sales.csv"),
            "customers_file": str(RUST / "data/customers.json"),
            "stock_file": str(RUST / "data/stock.csv"),
            "period_days": 181,
        },
    ),
    ("shop", "checkpoint_resume", {"products_file": PRODUCTS, "fail_at": 400}),
    ("shop", "domain_events", {"order_id": "O-1001", "amount_cents": 4_990}),
    ("accounts", "user_registration", {"email": " Ada@Example.org", "plan": "pro"}),
    ("accounts", "user_registration", {"email": "bob@example.org", "plan": "free"}),
    ("accounts", "user_registration", {"email": "nobody", "plan": "free"}),
    *(("examples", "error_scenarios", {"scenario": each}) for each in ("flaky", "rate_limited", "invalid", "broken")),
    ("shop", "order_fulfillment", {"order_file": PRODUCTS, "products_file": PRODUCTS}),
    ("shop", "checkpoint_resume", {"products_file": PRODUCTS + ".none"}),
]
# A split and a decision say in each language's own form what they say beside their outcome.
OWN_FORM = {"split": "batch_processing_outcome", "route": "decision_point_outcome"}


@pytest.fixture(scope="module")
def alone(server, folder):
    """A server that has no handlers, with the examples' templates."""
    server.query("CREATE DATABASE examples")
    at = urllib.parse.urlsplit(server.database_url)
    alone = Server(folder, database_url=at._replace(path="/examples").geturl())
    for template in sorted(RUST.glob("templates/*.yaml")):
        alone.call("POST", "/v1/templates", {"yaml": template.read_text()})
    yield alone
    alone.stop()


def ran_by(server: Server, log: Path, *worker: str):
    """What becomes of all tasks with this worker."""
    process = WorkerProcess(server, log, *worker)
    tasks = [server.create(template, context, namespace) for namespace, template, context in TASKS]
    told = [told_of(server, task) for task in tasks]
    assert process.terminate() == 0, log.read_text()
    return told


def told_of(server: Server, task: str):
    status, steps = server.wait(task)["status"], server.steps(task)
    attempts = {name: [attempt_of(each) for each in server.audit(step)] for name, step in steps.items()}
    for name, key in OWN_FORM.items():
        if name in steps:
            outcome = steps[name]["results"][key]
            steps[name]["results"] = {each: outcome[each] for each in ("type", "step_names") if each in outcome}
    results = {name: step.get("results") for name, step in steps.items()}
    query = "SELECT message FROM pgmq.q_shop_domain_events WHERE message ->> 'task_uuid' = :task ORDER BY msg_id"
    events = [(event["name"], event["payload"]) for (event,) in server.query(query, task=task)]
    return json.loads(json.dumps([status, attempts, results, events]).replace(task, "TASK"))


def attempt_of(attempt):
    error = attempt.get("error") or {}
    return [attempt["outcome"], error.get("retryable"), error.get("error_type"), error.get("error_code")]


def test_every_example_ends_as_it_does_in_rust(alone, folder):
    python = ran_by(
        alone, folder / "examples.log", sys.executable, "-m", "tasker_core", "worker", "--handlers", str(EXAMPLES)
    )
    rust = ran_by(alone, folder / "rust.log", TASKER, "worker")
    for task, mine, theirs in zip(TASKS, python, rust):
        assert mine == theirs, task
    events = [told[3] for (_, template, _), told in zip(TASKS, python) if template == "domain_events"]
    assert events == [
        [
            ["order.placed", {"order_id": "O-1001", "status": "placed"}],
            ["order.paid", {"order_id": "O-1001", "amount": "49.90"}],
        ]
    ]


def test_python_does_its_part_of_a_task_of_four_languages(tasker_workflow, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    registry = HandlerRegistry()
    assert registry.discover_handlers("polyglot") == 2
    others = {
        "polyglot.CountLetters": {"language": "rust", "letters": 15},
        "polyglot.FindLongest": {"language": "ruby", "longest": "every"},
        "polyglot.Capitalise": {"language": "typescript", "capitals": "Not Every Owl"},
    }
    handlers = {name: step_handler(name)(lambda told=told: told) for name, told in others.items()}
    handlers.update({name: registry.get_handler_class(name) for name in registry.list_handlers()})
    workflow = tasker_workflow(RUST / "templates/polyglot.yaml", {"text": "not every  owl"}, handlers=handlers)
    assert workflow.results["words"] == {"language": "python", "words": 3}
    assert workflow.results["summary"] == {
        "language": "python",
        "languages": ["rust", "python", "ruby", "typescript", "python"],
        "text": "15 letters in 3 words, the longest is every: Not Every Owl",
    }
