"""A worker: fetches steps, runs handlers, hands in outcomes. Everything else is done in Rust (docs/boundary.md)."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from functools import lru_cache, partial
from typing import Any, Optional

from . import _native, _outcome
from ._threads import Threads
from .domain_events import PublisherRegistry, SubscriberRegistry
from .domain_events.publishers import Mapping as EventMapping
from .errors import WorkerError
from .registry import HandlerRegistry
from .step_handler.base import StepHandler
from .types import StepContext, StepHandlerResult

log = logging.getLogger("tasker_core")

BOUNDARY_VERSION = 1
_POLL_MS = 60_000
_TEND_MS = 2
"""How often it is looked whether work waits for a thread that is busy."""

_HAND_IN = 64
"""The most outcomes of one call: what they carry is in memory twice while they are handed in."""

_SPARE_THREADS = 256
"""Handlers that hang keep their threads when their time is over; so many of them are made up for."""

_LAST_WORDS = 2.0
"""Seconds that coroutines have to end once nobody waits for them any more."""

_EVENTS = {'"success"': "step.execution.completed", '"failure"': "step.execution.failed"}

observers: list[Callable[[str, dict[str, Any]], None]] = []
"""Who is told what happens to steps: the event's name, and the step or the outcome."""

_current: ContextVar[Optional[StepContext]] = ContextVar("tasker_step", default=None)


def current_step() -> Optional[StepContext]:
    """The step whose handler is running here; None elsewhere."""
    return _current.get()


class _Run:
    """One run of a handler."""

    __slots__ = ("id", "method", "context", "task", "parts", "events")

    def __init__(self, attempt: str, method: str, context: StepContext) -> None:
        self.id = attempt
        self.method = method
        self.context = context
        self.task: Optional[asyncio.Task[None]] = None
        self.parts: dict[str, str] = {}
        """What came of it, as the boundary wants it."""
        self.events: list[EventMapping] = []


class Worker:
    """A running worker. :func:`bootstrap_worker` makes the one of the process."""

    def __init__(
        self,
        registry: Optional[HandlerRegistry] = None,
        variables: Optional[Mapping[str, str]] = None,
        rehearsal: Optional[int] = None,
    ) -> None:
        """Starts. ``variables`` are those of the configuration, and win over the environment's. With ``rehearsal``, it
        runs so many steps made up in memory and ends, to be measured."""
        self.registry = registry or HandlerRegistry.instance()
        self.publishers = PublisherRegistry.instance()
        self.subscribers = SubscriberRegistry.instance()
        spoken = json.loads(_native.version())["boundary"]
        if spoken != BOUNDARY_VERSION:
            message = f"the extension module speaks version {spoken} of the boundary, this package {BOUNDARY_VERSION}"
            raise WorkerError("version_mismatch", message)
        classes = {name: self.registry.get_handler_class(name) for name in self.registry.list_handlers()}
        handlers = {name: list(each.handler_methods) for name, each in classes.items() if each is not None}
        start = {
            "version": BOUNDARY_VERSION,
            "handlers": handlers,
            "resolvers": self.registry.resolver_names(),
            "publishers": self.publishers.names(),
            "subscriptions": self.subscribers.globs(),
            "variables": dict(variables or {}),
        }
        if rehearsal is not None:
            start["rehearsal"] = {"steps": rehearsal}
        self._native = _refusals(_native.start, json.dumps(start))
        about = self.about = json.loads(self._native.about())
        self.worker_id: str = about["worker_id"]
        self.concurrency: int = about["concurrency"]
        self.orchestration_url: str = about["orchestration_url"]
        self._threads = Threads(self.concurrency + _SPARE_THREADS, self._hand_in)
        self._runs: dict[str, _Run] = {}
        self._ended_runs: deque[_Run] = deque()
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_loop_error)
        self._loop_hands_in = False
        self._ended = threading.Event()
        self._process = os.getpid()
        self.subscribers.start_all()
        threading.Thread(target=self._loop.run_forever, name="tasker-loop", daemon=True).start()
        threading.Thread(target=self._poll, name="tasker-poll", daemon=True).start()

    def stop(self, grace: Optional[float] = None) -> None:
        """Claims nothing more, lets handlers end for ``grace`` seconds (the configuration's without it), and leaves."""
        if _current.get() is not None:
            raise WorkerError("stop_in_handler", "a handler can't stop its worker: it would wait for itself")
        _refusals(self._native.stop, None if grace is None else int(grace * 1000))
        self._ended.wait(_LAST_WORDS)
        self.subscribers.stop_all()
        asyncio.run_coroutine_threadsafe(self._abandon(), self._loop)

    def status(self) -> dict[str, Any]:
        """How it is: ``running`` steps, ``database_answers``, ``stopping``."""
        how: dict[str, Any] = json.loads(_refusals(self._native.heartbeat, '{"ids":[]}'))["worker"]
        return how

    @property
    def success(self) -> bool:
        """Whether it was started. Where it can't be, :func:`bootstrap_worker` raises."""
        return True

    def is_running(self) -> bool:
        """Whether it fetches steps; never in a process that was forked from its own, which has none of its threads."""
        return not self._ended.is_set() and self._process == os.getpid()

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Waits until it has stopped; answers whether it has."""
        return self._ended.wait(timeout)

    async def _abandon(self) -> None:
        """Tells those that still run that nobody waits for them, and ends the loop."""
        runs = list(self._runs.values())
        tasks = [run.task for run in runs if run.task is not None]
        for run in runs:
            run.context._cancelled.set()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_LAST_WORDS)
        self._loop.stop()

    def _poll(self) -> None:
        try:
            is_left = False
            while True:
                batch = json.loads(self._native.poll(_TEND_MS if is_left else _POLL_MS))
                for notice in batch["notices"]:
                    self._notice(notice["id"], notice["notice"])
                to_loop: list[tuple[_Run, type[StepHandler]]] = []
                for step in batch["steps"]:
                    self._begin(step, to_loop)
                if to_loop:
                    self._loop.call_soon_threadsafe(self._begin_async, to_loop)
                self._threads.tend()
                # Asked first: what ends from here on, with nothing left, is handed in by its thread.
                is_left = self._threads.has_work()
                self._hand_in()
                if batch["questions"]:
                    threading.Thread(target=self._resolve, args=(batch["questions"],), daemon=True).start()
                for told in batch["events"]:
                    self.subscribers.tell(told["subscription"], told["event"])
        except _native.NativeError as error:
            if error.args[0] != "stopped":
                log.error("the worker ended: %s", error.args[1])
        except BaseException:
            log.exception("the worker ended")
        finally:
            self._ended.set()

    def _notice(self, attempt: str, notice: str) -> None:
        run = self._runs.get(attempt)
        if run is None:
            return
        run.context._cancelled.set()
        if notice != "cancelled":
            # The loop makes the task before it comes to this.
            self._loop.call_soon_threadsafe(lambda: run.task.cancel() if run.task is not None else None)

    def _begin(self, step: dict[str, Any], to_loop: list[tuple[_Run, type[StepHandler]]]) -> None:
        attempt = step["id"]
        if observers:
            _observed("step.execution.received", step)
        run = _Run(attempt, step["method"], StepContext.from_message(step, lambda: self._pulse(attempt)))
        self._runs[attempt] = run
        try:
            handler = self.registry.find(step["handler_name"], run.method, step["resolver"])
            if handler is None:
                self._end(run, StepHandlerResult.failure(f"the handler `{step['handler_name']}` was unregistered"))
            elif _is_async(handler, run.method):
                to_loop.append((run, handler))
            elif not self._threads.run(lambda: copy_context().run(self._run_sync, run, handler), tended=True):
                why = "too many handlers hang on after their time"
                self._end(run, StepHandlerResult.failure(why, "worker_exhausted"))
        except BaseException as error:  # noqa: BLE001 - no thread can be started, no memory is left
            self._end(run, _outcome.failed(run.context, error))

    def _run_sync(self, run: _Run, handler: type[StepHandler]) -> None:
        _current.set(run.context)
        try:
            value: Any = getattr(handler(), run.method)(run.context)
            if inspect.iscoroutine(value):
                value = asyncio.run_coroutine_threadsafe(value, self._loop).result()
            result = _outcome.of_return(value)
        except BaseException as error:  # noqa: BLE001 - SystemExit and its like are failed attempts too
            result = _outcome.failed(run.context, error)
        self._end(run, result)

    def _begin_async(self, runs: list[tuple[_Run, type[StepHandler]]]) -> None:
        for run, handler in runs:
            run.task = self._loop.create_task(self._run_async(run, handler))
            # One that was cancelled before it began runs no line of ours.
            run.task.add_done_callback(partial(self._forget, run.id))

    def _forget(self, attempt: str, _: object) -> None:
        self._runs.pop(attempt, None)

    async def _run_async(self, run: _Run, handler: type[StepHandler]) -> None:
        _current.set(run.context)
        try:
            result = _outcome.of_return(await getattr(handler(), run.method)(run.context))
        except BaseException as error:  # noqa: BLE001 - SystemExit would end the loop
            result = _outcome.failed(run.context, error)
        self._end(run, result)
        # What else ends in this turn of the loop goes with it.
        if not self._loop_hands_in:
            self._loop_hands_in = True
            self._loop.call_soon(self._hand_in_of_loop, context=Context())

    def _hand_in_of_loop(self) -> None:
        self._loop_hands_in = False
        self._hand_in()

    def _end(self, run: _Run, result: StepHandlerResult) -> None:
        """Makes the outcome, for :meth:`_hand_in` to take."""
        self._runs.pop(run.id, None)
        try:
            run.parts = _outcome.encoded(run.id, result)
            run.events = self.publishers.mappings(run.context, run.parts)
            if run.events:
                run.parts["events"] = "[" + ",".join(event.encoded() for event in run.events) + "]"
            self._ended_runs.append(run)
        except BaseException:
            log.exception("an outcome of %s could not be said", run.context.step_name)

    def _hand_in(self) -> None:
        """Hands in all outcomes that there are."""
        while self._ended_runs:
            runs: list[_Run] = []
            with suppress(IndexError):
                while len(runs) < _HAND_IN:
                    runs.append(self._ended_runs.popleft())
            if not self._handed_in(runs) and len(runs) > 1:
                # One of them is to blame. Those that were taken before it are over now.
                for run in runs:
                    self._handed_in([run])

    def _handed_in(self, runs: list[_Run]) -> bool:
        """Whether these outcomes were taken, or nobody is there any more to take them."""
        steps = ", ".join(run.context.step_name for run in runs)
        try:
            outcomes = ",".join(_outcome.message(run.parts) for run in runs)
            verdicts = json.loads(self._native.complete('{"outcomes":[' + outcomes + "]}"))["verdicts"]
        except _native.NativeError as error:
            if error.args[0] == "stopped":
                return True
            log.error("outcomes of %s were refused: %s", steps, error.args[1])
            return False
        except BaseException:
            log.exception("outcomes of %s could not be handed in", steps)
            return False
        for run, verdict in zip(runs, verdicts):
            if observers or run.events:
                self._tell(run, verdict == "accepted")
        return True

    def _tell(self, run: _Run, is_accepted: bool) -> None:
        """Tells publishers and observers on a thread of theirs: who hands in must not wait for them."""

        def tell() -> None:
            ended = _EVENTS.get(run.parts["type"])
            if ended is not None:
                _observed(ended, _outcome.plain(run.parts))
            for event in run.events if is_accepted else ():
                event.handed_in()

        try:
            if not self._threads.run(tell):
                log.error("publishers of %s are told nothing: too many handlers hang", run.context.step_name)
        except RuntimeError:
            log.exception("publishers of %s are told nothing", run.context.step_name)

    def _resolve(self, questions: list[dict[str, Any]]) -> None:
        """Asks resolvers, which may import: the steps that wait need not wait for that."""
        for each in questions:
            each["found"] = self.registry.find(each["callable"], each["method"], each["resolver"]) is not None
        with suppress(_native.NativeError):
            self._native.complete(json.dumps({"outcomes": [], "answers": questions}))

    def _pulse(self, attempt: str) -> bool:
        try:
            answer = json.loads(self._native.heartbeat(json.dumps({"ids": [attempt]})))
        except _native.NativeError:
            return False
        return bool(answer["attempts"][0]["state"] == "running")


@lru_cache(maxsize=1024)
def _is_async(handler: type[StepHandler], method: str) -> bool:
    return inspect.iscoroutinefunction(getattr(handler, method, None))


def _observed(event: str, said: dict[str, Any]) -> None:
    for observer in list(observers):
        try:
            observer(event, said)
        except Exception:
            log.exception("an observer of %s", event)


def _loop_error(_: asyncio.AbstractEventLoop, said: dict[str, Any]) -> None:
    log.error("on the event loop: %s", said.get("message"), exc_info=said.get("exception"))


def _refusals(call: Any, *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except _native.NativeError as error:
        raise WorkerError(*error.args) from None


_lock = threading.Lock()
_worker: Optional[Worker] = None


def bootstrap_worker(
    registry: Optional[HandlerRegistry] = None, variables: Optional[Mapping[str, str]] = None
) -> Worker:
    """Starts the worker of this process."""
    global _worker
    with _lock:
        if _worker is not None and _worker.is_running():
            raise WorkerError("already_running", "the worker of this process is running")
        _worker = Worker(registry, variables)
        return _worker


def stop_worker(grace: Optional[float] = None) -> None:
    """Stops the worker of this process, where there is one."""
    global _worker
    with _lock:
        if _worker is not None:
            _worker.stop(grace)
            _worker = None


def running_worker() -> Optional[Worker]:
    """The worker of this process, while it runs."""
    return _worker if is_worker_running() else None


def is_worker_running() -> bool:
    """Whether the worker of this process runs."""
    return _worker is not None and _worker.is_running()
