"""What becomes of the work of processes that end, wanted or not."""

from __future__ import annotations

import os
import subprocess
import sys

from support import HERE, WorkerProcess, environment, eventually


def test_after_kill_9_the_next_attempt_goes_on_from_the_checkpoint(server, folder, tmp_path):
    log = tmp_path / "log"
    first = WorkerProcess(server, folder / "first.log")
    task = server.create("batch", {"items": 30, "hang_at": 20, "log": str(log)})
    eventually("the handler is at the second checkpoint", lambda: log.exists() and "001 1 20" in log.read_text())
    first.kill()
    second = WorkerProcess(server, folder / "second.log")
    assert server.wait(task)["status"] == "complete"
    assert log.read_text().splitlines() == ["001 1 0", "001 1 10", "001 1 20", "001 2 20"]
    assert server.steps(task)["merge"]["results"]["total"] == sum(range(30))
    assert second.terminate() == 0


def test_at_the_end_of_the_grace_what_still_runs_is_cancelled_and_tried_elsewhere(server, folder, tmp_path):
    log, other_log, gate = tmp_path / "log", tmp_path / "other_log", tmp_path / "gate"
    worker = WorkerProcess(server, folder / "impatient.log", TASKER__WORKER__STOP_GRACE_MS="300")
    task = server.create("single_async", {"do": "slow", "log": str(log)})
    blocking = server.create("single", {"do": "sleep", "log": str(other_log), "gate": str(gate)})
    eventually("the coroutine and the thread run", lambda: log.exists() and other_log.exists())
    assert worker.terminate() == 0, worker.log.read_text()
    assert log.read_text().splitlines() == ["begun", "coroutine cancelled"]
    gate.touch()
    second = WorkerProcess(server, folder / "patient.log")
    for each in (task, blocking):
        assert server.wait(each)["status"] == "complete"
        assert server.steps(each)["only"]["results"]["attempt"] == 2
    assert second.terminate() == 0


def test_sigterm_lets_running_handlers_end_and_claims_no_more(server, folder, tmp_path):
    log, gate = tmp_path / "log", tmp_path / "gate"
    worker = WorkerProcess(server, folder / "drained.log")
    task = server.create("single", {"do": "sleep", "log": str(log), "gate": str(gate)})
    eventually("the handler runs", log.exists)
    worker.process.terminate()
    gate.touch()
    assert worker.process.wait(60) == 0, worker.log.read_text()
    assert server.wait(task)["status"] == "complete"
    assert server.steps(task)["only"]["results"] == {"pid": worker.process.pid, "attempt": 1}


def test_a_worker_that_can_not_start_says_why(server, tmp_path):
    def started(*arguments, **more):
        command = [sys.executable, "-m", "tasker_core", "worker", *arguments]
        return subprocess.run(command, env=environment(**more), capture_output=True, text=True, timeout=60)

    handlers = str(HERE / "handlers")
    refused = started("--handlers", handlers)
    assert (refused.returncode, "set DATABASE_URL" in refused.stderr) == (1, True), refused.stderr
    url = server.database_url
    wrong = started("--handlers", handlers, DATABASE_URL=url, TASKER__WORKER__CONCURENCY="1")
    assert (wrong.returncode, "did you mean" in wrong.stderr) == (1, True), wrong.stderr
    empty = started("--handlers", str(tmp_path), DATABASE_URL=url)
    assert (empty.returncode, "no handler in" in empty.stderr) == (1, True), empty.stderr
    (tmp_path / "broken.yaml").write_text("name: 1")
    told = ("--handlers", handlers, "--templates", str(tmp_path))
    broken = started(*told, DATABASE_URL=url, TASKER_ORCHESTRATION_URL=server.url)
    assert (broken.returncode, "broken.yaml is refused" in broken.stderr) == (1, True), broken.stderr


def test_templates_are_registered_by_the_worker(server, folder):
    command = [sys.executable, "-m", "tasker_core", "worker", "--handlers", str(HERE / "handlers")]
    command += ["--templates", str(HERE / "templates"), "--namespace", "py"]
    more = {"DATABASE_URL": server.database_url, "TASKER_ORCHESTRATION_URL": server.url}
    worker = subprocess.Popen(command, env=environment(**more), stdout=subprocess.PIPE, text=True)
    assert "flows.first" in worker.stdout.readline()
    assert server.run("linear", {"number": 0})["status"] == "complete"
    worker.terminate()
    assert worker.wait(60) == 0


def test_the_worker_in_a_process_refuses_what_makes_no_sense(server, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    more = {"DATABASE_URL": server.database_url, "SERVER": server.url, "HERE": str(HERE)}
    ran = subprocess.run(
        [sys.executable, str(program)], env=environment(**more), capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["already_running", "forked", "stop_in_handler", "stopped", "stopped"], ran.stdout
    assert os.path.exists(program)


def test_a_fork_while_a_line_is_logged_leaves_the_child_able_to_work(server, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(FORKED_WHILE_LOGGING)
    more = {"DATABASE_URL": server.database_url}
    ran = subprocess.run([sys.executable, str(program)], env=environment(**more), stdout=subprocess.PIPE, timeout=120)
    assert (ran.returncode, ran.stdout.split()) == (0, [b"0"])


# Its standard error is a full pipe, so that the worker's first line stays where it is being written.
FORKED_WHILE_LOGGING = """
import os, pathlib, signal, threading, time
from tasker_core import HandlerRegistry, bootstrap_worker, stop_worker
from tasker_core.step_handler.functional import step_handler

@step_handler("flows.single")
def single(context):
    pass

def is_stuck():
    calls = pathlib.Path("/proc/self/task").glob("*/wchan")
    return any("pipe" in call.read_text() for call in calls)

registry = HandlerRegistry()
registry.register(single)
reader, writer = os.pipe()
os.set_blocking(writer, False)
for size in (4096, 1):
    try:
        while True:
            os.write(writer, b"x" * size)
    except BlockingIOError:
        pass
os.set_blocking(writer, True)
os.dup2(writer, 2)
bootstrap_worker(registry)
# Where the kernel does not tell, it is by then.
for _ in range(100):
    if is_stuck():
        break
    time.sleep(0.1)
child = os.fork()
if child == 0:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    signal.alarm(40)
    bootstrap_worker(registry)
    time.sleep(0.5)
    stop_worker()
    os._exit(0)
print(os.waitpid(child, 0)[1], flush=True)
threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(reader, 4096), b"")], daemon=True).start()
stop_worker()
"""

PROGRAM = """
import json, os, sys, threading
import tasker_core
from tasker_core import HandlerRegistry, WorkerError, bootstrap_worker, stop_worker
from tasker_core.step_handler.functional import step_handler

sys.path.insert(0, os.environ["HERE"])
from support import Server

codes, called = [], threading.Event()

def refused(call, *arguments):
    try:
        call(*arguments)
        print("not_refused", flush=True)
    except (WorkerError, tasker_core._native.NativeError) as error:
        print(error.code if isinstance(error, WorkerError) else error.args[0], flush=True)

@step_handler("flows.single")
def single(context):
    refused(stop_worker)
    called.set()

registry = HandlerRegistry()
registry.register(single)
worker = bootstrap_worker(registry)
refused(bootstrap_worker, registry)
child = os.fork()
if child == 0:
    refused(worker._native.poll, 0)
    # One of its own.
    bootstrap_worker(registry)
    stop_worker()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
server = Server.__new__(Server)
server.url = os.environ["SERVER"]
task = server.create("single", {})
assert called.wait(60)
assert server.wait(task)["status"] == "complete"
stop_worker()
refused(worker._native.poll, 0)
refused(worker.stop)
for _ in range(10):
    bootstrap_worker(registry)
    stop_worker()
"""
