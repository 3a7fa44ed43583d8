"""Handlers that are found by resolvers."""

from __future__ import annotations

import sys
import textwrap

import pytest
from support import eventually

from tasker_core import ConfigurationError, HandlerRegistry, StepHandler, TaskerClient


def test_classes_are_found_by_their_path_and_by_resolvers_of_the_user_s(server, worker):
    steps = server.run("by_path", {}, namespace="py_by_path")
    assert steps["status"] == "complete"
    results = {name: step["results"] for name, step in steps.items() if name not in ("status", "task")}
    assert results == {
        "outer": {"found": "Outer", "as": "by_path.inner.module.Outer"},
        "undo": {"found": "Outer.undo"},
        "inner": {"found": "Inner"},
        "function": {"found": "function"},
        "shout": {"said": "HELLO"},
        "whisper": {"said": "AGAIN"},
    }


def test_the_server_lists_what_resolvers_found(server, worker):
    def listed():
        handlers = server.call("GET", "/v1/handlers/py_by_path")["handlers"]
        return {each["name"] for each in handlers}

    wanted = {
        "@class_lookup",
        "@shout",
        "by_path.inner.module.Outer",
        "by_path.inner.module.Outer#undo",
        "by_path.inner.module.Outer.Inner@class_lookup",
        "shout:again",
        "shout:hello@shout",
    }
    eventually("all are listed", lambda: wanted <= listed())
    assert not any("nobody" in name for name in listed())


def test_a_template_that_comes_later_is_found_too_and_what_is_not_there_waits(server, worker):
    client = TaskerClient(server.url)
    for name, handler in [("late", "by_path.inner.module.Outer"), ("never", "by_path.inner.module.Nobody")]:
        yaml = (
            f"name: {name}\nnamespace_name: py_{name}\nversion: 1.0.0\nsteps:\n  - {{name: only, handler: {handler}}}\n"
        )
        server.call("POST", "/v1/templates", {"yaml": yaml})
    task = client.create_task("never", namespace="py_never").task_uuid
    late = client.create_task("late", namespace="py_late").task_uuid
    assert client.wait_task(late, timeout=60).status == "complete"
    assert client.explain(task).steps[0].code == "no_live_worker"
    client.cancel_task(task)


@pytest.fixture
def found(tmp_path, monkeypatch):
    (tmp_path / "lookup_package").mkdir()
    for name, text in {
        "__init__": "import os",
        "lazy": "from tasker_core import StepHandler\nclass Lazy(StepHandler):\n    def call(self, c): return 1\n",
        "broken": "import lookup_package.nothing_there",
        "hidden": "from tasker_core import StepHandler\nclass _Hidden(StepHandler):\n    def call(self, c): return 1\n",
    }.items():
        (tmp_path / "lookup_package" / f"{name}.py").write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = HandlerRegistry()
    registry._class_lookup.roots.add("lookup_package")
    yield lambda path, method="call": registry.find(path, method, "class_lookup")
    for name in [name for name in sys.modules if name.startswith("lookup_package")]:
        del sys.modules[name]


def test_a_path_is_imported_when_it_is_asked_for_and_not_before(found):
    assert "lookup_package.lazy" not in sys.modules
    assert found("lookup_package.lazy.Lazy").__name__ == "Lazy"
    assert found("lookup_package.lazy.Lazy", "undo") is None, "it has no such method"


@pytest.mark.parametrize(
    "path",
    [
        "lookup_package",
        "lookup_package.lazy",
        "lookup_package.lazy.Nobody",
        "lookup_package.lazy.StepHandler",
        "lookup_package.os.PathLike",
        "lookup_package.hidden._Hidden",
        "lookup_package.broken.Broken",
        "lookup_package..lazy.Lazy",
        "lookup_packages.lazy.Lazy",
        "this.is.Elsewhere",
        "",
    ],
)
def test_what_is_no_handler_or_not_under_the_packages_of_the_handlers_is_not_found(found, path):
    assert found(path) is None
    assert "this" not in sys.modules


def test_a_resolver_that_raises_or_answers_nonsense_knows_nothing():
    registry = HandlerRegistry()
    registry.register_resolver("raises", lambda *_: {}["x"])
    registry.register_resolver("nonsense", lambda *_: 7)
    registry.register_resolver("abstract", lambda *_: StepHandler)
    assert registry.resolver_names() == ["raises", "nonsense", "abstract"]
    assert [registry.find("a", "call", name) for name in registry.resolver_names()] == [None] * 3
    for taken in ("raises", "class_lookup"):
        with pytest.raises(ConfigurationError):
            registry.register_resolver(taken, lambda *_: None)
