"""A server on a private PostgreSQL, workers, and a client for the tests."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Callable

import pg8000.native

HERE = Path(__file__).parent
PATIENCE = 60.0
TERMINAL = ("complete", "error", "cancelled", "blocked_by_failures")

# Short times, so that a killed worker is missed soon.
FAST = {
    "TASKER_ENV": "test",
    "TASKER__QUEUE__LEASE_MS": "2000",
    "TASKER__WORKER__HEARTBEAT_MS": "400",
    "TASKER__QUEUE__POLL_MAX_MS": "500",
}


def eventually(what: str, holds: Callable[[], Any]) -> Any:
    """Waits until it holds, and answers what it says."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        value = holds()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"it never came: {what}")


def environment(**more: str) -> dict[str, str]:
    """Ours without what would configure Tasker, and with what the tests want."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TASKER_") and not k.endswith("DATABASE_URL")}
    return {**kept, **FAST, **more}


TASKER = os.environ.get("TASKER_BIN") or str(HERE.parents[2] / "target/debug/tasker")


class Server:
    """`tasker dev`: a server and its PostgreSQL; or, with the address of a database, `tasker server` on that."""

    def __init__(self, folder: Path, *, templates: Path = HERE / "templates", database_url: str = "") -> None:
        dev = ["dev", "--data-dir", str(folder / "postgres"), "--templates", str(templates)]
        settings = environment(TASKER_WEB_BIND_ADDRESS="127.0.0.1:0")
        if database_url:
            dev, settings["DATABASE_URL"] = ["server"], database_url
        self.log = folder / f"{dev[0]}.log"
        with open(self.log, "w") as log:
            command = [TASKER, *dev]
            self.process = subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, stderr=log, text=True)
        said = ""
        for line in self.process.stdout:
            said += line
            if "Ctrl-C" in line or line.startswith("server at"):
                break
        url = re.search(r"http://[^/\s]+", said)
        assert url, f"the server did not start: {said}\n{self.log.read_text()}"
        self.url = url[0]
        self.database_url = database_url or re.search(r"DATABASE_URL=(\S+)", said)[1]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.loads(answer.read())

    def query(self, sql: str, **parameters: Any) -> list[Any]:
        """What the database answers."""
        at = urllib.parse.urlsplit(self.database_url)
        host, port = urllib.parse.unquote(at.hostname or "127.0.0.1"), at.port or 5432
        with contextlib.closing(
            pg8000.native.Connection(at.username, host=host, port=port, database=at.path[1:], password=at.password)
        ) as connection:
            return connection.run(sql, **parameters)

    def create(self, name: str, context: Any, namespace: str = "py") -> str:
        body = {"namespace": namespace, "name": name, "context": context}
        return self.call("POST", "/v1/tasks", body)["task_uuid"]

    def wait(self, task: str) -> dict[str, Any]:
        """The task once nothing of it can move any more."""

        def ended() -> Any:
            told = self.call("GET", f"/v1/tasks/{task}/wait?timeout_ms=5000")
            return told if told["status"] in TERMINAL else None

        return eventually(f"task {task} ends", ended)

    def run(self, name: str, context: Any, namespace: str = "py") -> dict[str, Any]:
        """Runs a task; answers its steps by name, with ``status`` beside them."""
        task = self.create(name, context, namespace)
        told = self.wait(task)
        return {"status": told["status"], "task": task, **self.steps(task)}

    def steps(self, task: str) -> dict[str, Any]:
        listed = self.call("GET", f"/v1/tasks/{task}/workflow_steps")
        listed = listed.get("steps", listed) if isinstance(listed, dict) else listed
        return {step["name"]: step for step in listed}

    def audit(self, step: dict[str, Any]) -> list[dict[str, Any]]:
        path = f"/v1/tasks/{step['task_uuid']}/workflow_steps/{step['step_uuid']}/audit"
        listed = self.call("GET", path)
        return listed.get("attempts", listed) if isinstance(listed, dict) else listed


class WorkerProcess:
    """`python -m tasker_core worker` with the handlers of the tests, or another command that runs a worker."""

    def __init__(self, server: Server, log: Path, *command: str, **more: str) -> None:
        command = command or (sys.executable, "-m", "tasker_core", "worker", "--handlers", str(HERE / "handlers"))
        settings = environment(DATABASE_URL=server.database_url, TASKER_ORCHESTRATION_URL=server.url, **more)
        self.log = log
        with open(log, "w") as sink:
            self.process = subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, stderr=sink, text=True)
        self.said = self.process.stdout.readline()
        assert self.said.startswith("worker "), log.read_text()
        # So that it never waits for somebody to read.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)
