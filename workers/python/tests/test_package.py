"""The package as it is installed, with what its README says: every block of it is run as it stands there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import HERE, TASKER, Server, WorkerProcess, environment

README = (HERE.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.compile(r"(?:`(hello/[^`]+)`\n\n)?```(\w+)\n(.*?)```", re.DOTALL)
FILES = {path: code for path, _, code in BLOCKS.findall(README) if path}
SNIPPETS = [code for path, language, code in BLOCKS.findall(README) if language == "python" and not path]


@pytest.fixture(scope="module")
def project(folder) -> Path:
    """An empty folder with nothing in it but an environment that has the wheel, and the README's files."""
    (wheel,) = (HERE.parents[2] / "target/python/wheels").glob("*.whl")
    project = folder / "project"
    subprocess.run([sys.executable, "-m", "venv", str(project / "venv")], check=True)
    install = [str(project / "venv/bin/python"), "-m", "pip", "install", "--quiet", "--no-index", str(wheel)]
    subprocess.run(install, check=True)
    for path, code in FILES.items():
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text(code, encoding="utf-8")
    return project


@pytest.fixture(scope="module")
def hello(project):
    """The README's server."""
    assert "tasker dev --templates hello/templates\n" in README
    server = Server(project, templates=project / "hello/templates")
    yield server
    server.stop()


def command(begin: str) -> str:
    """The first line of the README that begins like this."""
    return next(line for line in README.splitlines() if line.startswith(begin))


def of_project(project: Path, **more: str) -> dict[str, str]:
    settings = environment(**more)
    settings.pop("PYTHONPATH", None)
    settings["PATH"] = os.pathsep.join([str(project / "venv/bin"), str(Path(TASKER).parent), settings["PATH"]])
    return settings


def test_what_the_readme_says_runs_in_an_empty_project(project, hello):
    worker = command("DATABASE_URL=postgres://… python -m").replace("DATABASE_URL=postgres://… ", "")
    path = of_project(project)["PATH"]
    worker = WorkerProcess(
        hello, project / "worker.log", "sh", "-c", f"cd {project} && exec {worker}", PATH=path, PYTHONPATH=""
    )

    def ran(program: str, *arguments: str) -> str:
        settings = of_project(project, DATABASE_URL=hello.database_url, TASKER_ORCHESTRATION_URL=hello.url)
        program = [program, *arguments]
        ran = subprocess.run(program, cwd=project, env=settings, capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, (program, ran.stdout, ran.stderr, worker.log.read_text())
        return ran.stdout

    created = json.loads(ran("sh", "-c", command("tasker task create") + " --json"))
    task = created["task_uuid"]
    results = {name: step["results"] for name, step in hello.steps(task).items()}
    promised = json.loads(re.search(r"the result of\s+`deliver`\s+is\s+`(\{.*?\})`", README)[1])
    assert (created["status"], results["deliver"]) == ("complete", promised)
    audit = ran("sh", "-c", command("tasker task step-audit").replace("TASK", task, 1))
    assert "nobody was at home" in audit and "success" in audit, audit

    names = re.findall(r"^(?:async )?def (\w+)", FILES["hello/handlers/greeting.py"], re.MULTILINE)
    program = [
        "import sys, tasker_core",
        "assert tasker_core.__file__.startswith(sys.prefix), tasker_core.__file__",
        "sys.path.insert(0, 'hello/handlers')",
        f"from greeting import {', '.join(names)}",
        "from tasker_core.testing import run_workflow",
        *SNIPPETS,
        *(f"{test}(run_workflow)" for test in re.findall(r"^def (test_\w+)", "\n".join(SNIPPETS), re.MULTILINE)),
    ]
    (project / "snippets.py").write_text("\n".join(program), encoding="utf-8")
    assert ran("python", "snippets.py").split() == ["complete"], "what its client prints"
    assert worker.terminate() == 0, worker.log.read_text()


def test_the_package_has_its_types_and_its_command_and_leaves_the_tests_out(project):
    settings = of_project(project)
    (installed,) = project.glob("venv/lib/python*/site-packages/tasker_core")
    assert (installed / "py.typed").exists() and (installed / "_native.pyi").exists()
    assert not any((installed.parent / name).exists() for name in ("tests", "bench", "examples"))
    told = subprocess.run(["tasker-python", "--version"], env=settings, capture_output=True, text=True, timeout=60)
    assert told.returncode == 0 and re.fullmatch(r"\d+\.\d+\.\d+", told.stdout.strip()), told
