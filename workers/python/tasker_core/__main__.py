"""``python -m tasker_core worker --handlers DIR [--templates DIR]``."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Optional

from . import _native
from .errors import TaskerError
from .registry import HandlerRegistry
from .worker import bootstrap_worker, stop_worker


def main(arguments: Optional[list[str]] = None) -> int:
    """Runs the command; answers its exit status: 0 done, 1 failed, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m tasker_core", description="Tasker workers in Python.")
    parser.add_argument("--version", action="version", version=json.loads(_native.version())["package"])
    commands = parser.add_subparsers(dest="command", required=True)
    worker = commands.add_parser("worker", help="run the handlers of a folder or a package until told to stop")
    worker.add_argument("--handlers", metavar="DIR|PACKAGE", action="append", required=True, help="may be repeated")
    worker.add_argument("--templates", metavar="DIR", help="register the templates of this folder at the server first")
    worker.add_argument("--namespace", action="append", help="claim from this namespace only; may be repeated")
    worker.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    options = parser.parse_args(arguments)
    logging.basicConfig(level=options.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        return _worker(options)
    except TaskerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _worker(options: argparse.Namespace) -> int:
    registry = HandlerRegistry.instance()
    for place in options.handlers:
        found = registry.discover_folder(place) if os.path.isdir(place) else registry.discover_handlers(place)
        if found == 0:
            raise TaskerError(f"there is no handler in {place}")
    if options.templates:
        _register(Path(options.templates))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(130) if stop.is_set() else stop.set())
    variables = {"TASKER__WORKER__NAMESPACES": ",".join(options.namespace)} if options.namespace else {}
    worker = bootstrap_worker(registry, variables)
    print(f"worker {worker.worker_id} runs {', '.join(registry.list_handlers())}", flush=True)

    def tell_that_it_ended() -> None:
        worker.wait()
        stop.set()

    threading.Thread(target=tell_that_it_ended, daemon=True).start()
    stop.wait()
    if not worker.is_running():
        return 1
    # On a thread of its own, so that a second signal is heard meanwhile.
    stopping = threading.Thread(target=stop_worker)
    stopping.start()
    stopping.join()
    return 0


def _register(folder: Path) -> None:
    url = os.environ.get("TASKER_ORCHESTRATION_URL") or "http://127.0.0.1:8080"
    files = sorted(path for path in folder.glob("*") if path.suffix in (".yaml", ".yml"))
    if not files:
        raise TaskerError(f"there is no template in {folder}")
    for path in files:
        body = json.dumps({"yaml": path.read_text(encoding="utf-8")}).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"{url}/v1/templates", data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30):
                pass
        except urllib.error.HTTPError as error:
            raise TaskerError(f"{path} is refused: {error.read().decode('utf-8', 'replace')}") from None
        except OSError as error:
            remedy = "start a server, or name another in TASKER_ORCHESTRATION_URL"
            raise TaskerError(f"the server at {url} does not answer: {error}; {remedy}") from None


if __name__ == "__main__":
    sys.exit(main())
