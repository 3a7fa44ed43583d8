"""One server and one worker for all tests; those that kill workers start their own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Server, WorkerProcess


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="tasker-python-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="session")
def server(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def worker(server: Server, folder: Path) -> Iterator[WorkerProcess]:
    worker = WorkerProcess(server, folder / "worker.log")
    yield worker
    assert worker.terminate() == 0, worker.log.read_text()
