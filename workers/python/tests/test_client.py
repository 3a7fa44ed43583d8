"""The client against a real server."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
from support import environment

from tasker_core import ClientError, TaskerClient, WorkerError


@pytest.fixture
def client(server):
    return TaskerClient(server.url, initiator="the tests")


def test_a_task_is_created_waited_for_and_looked_into(client, worker):
    made = client.create_task("linear", namespace="py", context={"number": 4}, tags=["a"], priority=7)
    assert (made.version, made.initiator, made.source_system) == ("1.0.0", "the tests", "tasker-core")
    assert (made.tags, made.priority, made["reason"]) == (["a"], 7, "Task requested")
    ended = client.wait_task(made.task_uuid)
    assert (ended.status, ended.completed_steps, ended.context) == ("complete", 4, {"number": 4})
    assert client.get_task(made.task_uuid).completion_percentage == 100
    steps = {step.name: step for step in client.list_task_steps(made.task_uuid)}
    assert client.get_step(made.task_uuid, steps["third"].step_uuid).results == {"numbers": [5, 10], "attempt": 1}
    (attempt,) = client.get_step_audit_history(made.task_uuid, steps["third"].step_uuid)
    assert (attempt.outcome, attempt.metadata) == ("success", {"by": "a class"})
    assert client.get_task_history(made.task_uuid)[0].cause == "started"
    assert client.explain(made.task_uuid).steps == []


def test_many_are_created_at_once_each_on_its_own_and_listed_page_by_page(client, worker):
    requests = [client.task_request("linear", namespace="py", context={"number": n}, tags=["bulk"]) for n in range(3)]
    made = client.create_tasks([*requests, client.task_request("nothing", namespace="py")])
    assert [each.status for each in made] == [201, 201, 201, 404]
    assert made[3].error.code == "TEMPLATE_NOT_FOUND"
    seen, cursor = [], None
    while True:
        page = client.list_tasks(namespace="py", tag="bulk", limit=2, cursor=cursor)
        seen += [task.task_uuid for task in page.tasks]
        cursor = page.pagination.next_cursor
        if not page.pagination.has_next:
            break
    assert sorted(seen) == sorted(each.task.task_uuid for each in made[:3])


def test_the_same_idempotency_key_is_the_same_task(client):
    def create():
        return client.create_task("single", namespace="py", idempotency_key="once").task_uuid

    assert create() == create()


def test_a_wait_ends_with_its_time_and_a_cancelled_task_is_cancelled_again(client):
    task = client.create_task("orphan", namespace="nobody").task_uuid
    assert client.wait_task(task, timeout=0.1).status not in ("complete", "cancelled")
    assert client.explain(task).steps[0].code == "no_live_worker"
    assert {client.cancel_task(task).status, client.cancel_task(task).status} == {"cancelled"}
    assert client.wait_task(task).status == "cancelled"


def test_templates_are_listed_and_the_server_says_how_it_is(client):
    listed = client.list_templates(namespace="py").templates
    assert {"linear", "single"} <= {each.name for each in listed}
    assert client.health_check().status == "healthy"


def test_refusals_are_exceptions_with_the_server_s_code(client):
    def refused(call):
        with pytest.raises(ClientError) as caught:
            call()
        return caught.value.code, caught.value.status

    assert refused(lambda: client.create_task("nothing", namespace="py")) == ("TEMPLATE_NOT_FOUND", 404)
    assert refused(lambda: client.create_task("linear")) == ("TEMPLATE_NOT_FOUND", 404), "the namespace is `default`"
    assert refused(lambda: client.create_task("linear", namespace="py", version="9.9.9")) == ("TEMPLATE_NOT_FOUND", 404)
    assert refused(lambda: client.create_task("linear", namespace="py", prority=1)) == ("USAGE", None)
    assert refused(lambda: client.get_task("no uuid")) == ("USAGE", None)
    assert refused(TaskerClient("http://127.0.0.1:1").health_check) == ("UNREACHABLE", None)
    assert refused(TaskerClient("ftp://x").health_check) == ("USAGE", None)
    with pytest.raises(ClientError) as caught:
        client.create_task("strict", namespace="nobody", context={"number": "x"})
    assert caught.value.status == 422 and "number" in str(caught.value.details)


def test_one_client_serves_many_threads(client):
    said = []
    threads = [threading.Thread(target=lambda: said.append(client.health_check().status)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert said == ["healthy"] * 16


def test_the_address_is_the_configuration_s_and_a_fork_may_go_on(server):
    say = "os.write(1, client.health_check().status.encode() + b' ')\n"
    program = "import os, tasker_core\nclient = tasker_core.TaskerClient()\n"
    program += f"{say}child = os.fork()\n{say}child and os.waitpid(child, 0)\n"
    more = environment(TASKER_ORCHESTRATION_URL=server.url)
    ran = subprocess.run([sys.executable, "-c", program], env=more, capture_output=True, text=True, timeout=60)
    assert ran.stdout.split() == ["healthy"] * 3, ran.stderr


def test_a_wrong_configuration_is_told(monkeypatch):
    for name in [name for name in os.environ if name.startswith("TASKER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TASKER_ORCHESTRATION_URL", "ftp://x")
    with pytest.raises(WorkerError) as caught:
        TaskerClient()
    assert caught.value.code == "bad_config"
