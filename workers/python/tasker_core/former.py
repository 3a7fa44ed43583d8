"""Names that programs written for the Python package of Tasker 0.1.x start and watch a worker with.

There a program started pollers, bridges and subscribers itself; here the worker does that work, so most of these only
watch. docs/migration.md has them all. New programs need none of them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Optional, Union

from . import worker as workers
from ._record import Record
from .domain_events import SubscriberRegistry
from .errors import WorkerError
from .registry import HandlerRegistry
from .worker import Worker, running_worker, stop_worker

log = logging.getLogger("tasker_core")

Callback = Callable[..., Any]
_TRACE = 5


@dataclass
class BootstrapConfig:
    """What a worker is started with. What is absent is as the configuration says."""

    worker_id: Optional[str] = None
    namespace: Optional[str] = None
    """The only one that it claims from."""
    config_path: Optional[str] = None
    """A file that holds the whole configuration."""
    log_level: Optional[str] = None
    """Of the native part: ``trace``, ``debug``, ``info``, ``warn``, ``error``."""

    def variables(self) -> dict[str, str]:
        """The variables of the configuration that say this."""
        said = {
            "TASKER_WORKER_ID": self.worker_id,
            "TASKER__WORKER__NAMESPACES": self.namespace,
            "TASKER_CONFIG_PATH": self.config_path,
            "RUST_LOG": self.log_level,
        }
        return {name: value for name, value in said.items() if value is not None}


def bootstrap_worker(
    config: Union[BootstrapConfig, HandlerRegistry, None] = None, variables: Optional[Mapping[str, str]] = None
) -> Worker:
    """Starts the worker of this process, for the handlers of a registry (:meth:`HandlerRegistry.instance` without one).
    ``variables`` are those of the configuration, and win over the environment's."""
    if isinstance(config, BootstrapConfig):
        return workers.bootstrap_worker(None, {**config.variables(), **(variables or {})})
    return workers.bootstrap_worker(config, variables)


def transition_to_graceful_shutdown() -> str:
    """Begins to stop: nothing more is claimed, handlers may end. :func:`stop_worker` waits until it is done."""
    if running_worker() is None:
        raise WorkerError("stopped", "no worker runs in this process")
    threading.Thread(target=stop_worker, name="tasker-stop", daemon=True).start()
    return "the worker is stopping"


def _how() -> Optional[dict[str, Any]]:
    worker = running_worker()
    try:
        return worker.status() if worker is not None else None
    except WorkerError:  # it has stopped meanwhile
        return None


def get_worker_status() -> Record:
    """``running``; of a running worker ``worker_id``, ``environment``, ``concurrency`` and how it is too."""
    how = _how()
    if how is None:
        return Record(running=False, worker_core_status="stopped")
    core, running = "stopping" if how["stopping"] else "running", how.pop("running")
    return Record(get_worker_config(), running=True, worker_core_status=core, steps_running=running, **how)


def get_worker_config() -> Record:
    """``worker_id``, ``environment``, ``concurrency`` and ``orchestration_url`` of the running worker."""
    worker = running_worker()
    return Record(worker.about if worker is not None else {})


def get_health_check() -> Record:
    """``status``: ``healthy``; ``degraded`` while the worker stops or its database does not answer; ``unhealthy``
    where none runs."""
    status = get_worker_status()
    if not status.running:
        return Record(status="unhealthy", is_running=False, database_answers=False)
    well = status.database_answers and not status.stopping
    word = "healthy" if well else "degraded"
    return Record(status=word, is_running=True, database_answers=status.database_answers)


def get_metrics() -> Record:
    """``steps_running``; of subscribers ``events_handled``, ``events_failed``, ``events_dropped``."""
    running = (_how() or {"running": 0})["running"]
    events = SubscriberRegistry.instance().stats
    counts = {f"events_{key}": events[key] for key in ("handled", "failed", "dropped")}
    return Record(steps_running=running, **counts)


class EventBridge:
    """Tells who subscribes what happens to steps in this process: ``step.execution.received`` with the step as the
    boundary says it, ``step.execution.completed`` and ``step.execution.failed`` with the outcome. Other names are the
    program's own. Callbacks run on the worker's threads and must be quick; what they raise is logged."""

    _instance: Optional[EventBridge] = None

    def __init__(self) -> None:
        self._callbacks: dict[str, list[Callback]] = {}

    @classmethod
    def instance(cls) -> EventBridge:
        """The one of this process."""
        if cls._instance is None:
            cls._instance = cls()
        return cls._instance

    @property
    def is_active(self) -> bool:
        """Whether it was started."""
        return self._observe in workers.observers

    def start(self) -> None:
        """Begins to tell of steps."""
        if not self.is_active:
            workers.observers.append(self._observe)

    def stop(self) -> None:
        """Ends, and forgets who subscribed."""
        if self.is_active:
            workers.observers.remove(self._observe)
        self._callbacks.clear()

    def subscribe(self, event: str, callback: Callback) -> None:
        """Calls it each time."""
        self._callbacks.setdefault(event, []).append(callback)

    def subscribe_once(self, event: str, callback: Callback) -> None:
        """Calls it the next time."""

        def once(*said: Any) -> None:
            self.unsubscribe(event, once)
            callback(*said)

        self.subscribe(event, once)

    def unsubscribe(self, event: str, callback: Callback) -> None:
        """Calls it no more."""
        if callback in self._callbacks.get(event, []):
            self._callbacks[event].remove(callback)

    def publish(self, event: str, *said: Any) -> None:
        """Calls whoever subscribed."""
        for callback in list(self._callbacks.get(event, [])):
            try:
                callback(*said)
            except Exception:
                log.exception("a callback for %s", event)

    def _observe(self, event: str, said: dict[str, Any]) -> None:
        # Where a poller runs, its callback publishes what it receives, as it was used to.
        if event != EventPoller.RECEIVED or not EventPoller.running:
            self.publish(event, Record(said))


class EventPoller:
    """Calls back with each step that the worker received. It polls nothing, and handlers run without it."""

    RECEIVED = "step.execution.received"
    running: list[EventPoller] = []
    """Those that were started."""

    def __init__(
        self, polling_interval_ms: int = 10, starvation_check_interval: int = 100, cleanup_interval: int = 1000
    ) -> None:
        """None of the numbers has a meaning any more."""
        self._callbacks: dict[str, list[Callback]] = {"step": [], "metrics": [], "error": []}
        self._received = 0

    def on_step_event(self, callback: Callback) -> None:
        """Calls it with each step, as the boundary says it."""
        self._callbacks["step"].append(callback)

    def on_metrics(self, callback: Callback) -> None:
        """Calls it with :meth:`get_metrics` after each step."""
        self._callbacks["metrics"].append(callback)

    def on_error(self, callback: Callback) -> None:
        """Calls it with what the other callbacks raise."""
        self._callbacks["error"].append(callback)

    @property
    def is_running(self) -> bool:
        """Whether it was started."""
        return self in EventPoller.running

    def start(self) -> None:
        """Begins to call back."""
        if self.is_running:
            raise RuntimeError("the poller is running already")
        EventPoller.running.append(self)
        workers.observers.append(self._observe)

    def stop(self, timeout: float = 5.0) -> None:
        """Ends at once."""
        if self.is_running:
            EventPoller.running.remove(self)
            workers.observers.remove(self._observe)

    def get_metrics(self) -> Record:
        """:func:`get_metrics`, and how many steps were ``received`` since the start."""
        return Record(get_metrics(), received=self._received)

    def _observe(self, event: str, said: dict[str, Any]) -> None:
        if event != self.RECEIVED:
            return
        self._received += 1
        try:
            for callback in self._callbacks["step"]:
                callback(Record(said))
            for callback in self._callbacks["metrics"]:
                callback(self.get_metrics())
        except Exception as error:  # noqa: BLE001 - it goes to the callbacks for errors
            for callback in self._callbacks["error"]:
                callback(error)


class StepExecutionSubscriber:
    """Is only there: the worker runs handlers itself, those of the registry that it was started with."""

    def __init__(self, event_bridge: Any = None, handler_registry: Any = None, worker_id: str = "") -> None:
        """None of them is used."""
        self.worker_id = worker_id
        self.is_active = False

    def start(self) -> None:
        """Says that it is active."""
        self.is_active = True

    def stop(self) -> None:
        """Says that it is not."""
        self.is_active = False


def _log(level: int, message: str, fields: Optional[Mapping[str, Any]]) -> None:
    told = " ".join(f"{key}={value}" for key, value in (fields or {}).items())
    log.log(level, "%s", f"{message} {told}" if told else message, extra={"fields": dict(fields or {})})


def log_error(message: str, fields: Optional[Mapping[str, Any]] = None) -> None:
    """Logs to ``tasker_core``, as the standard library does; ``fields`` follow as ``key=value``."""
    _log(logging.ERROR, message, fields)


def log_warn(message: str, fields: Optional[Mapping[str, Any]] = None) -> None:
    """As :func:`log_error`, a warning."""
    _log(logging.WARNING, message, fields)


def log_info(message: str, fields: Optional[Mapping[str, Any]] = None) -> None:
    """As :func:`log_error`, an information."""
    _log(logging.INFO, message, fields)


def log_debug(message: str, fields: Optional[Mapping[str, Any]] = None) -> None:
    """As :func:`log_error`, for debugging."""
    _log(logging.DEBUG, message, fields)


def log_trace(message: str, fields: Optional[Mapping[str, Any]] = None) -> None:
    """As :func:`log_error`, below debugging."""
    _log(_TRACE, message, fields)
