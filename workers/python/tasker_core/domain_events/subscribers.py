"""Subscribers: who in this process hears fast and broadcast events."""

from __future__ import annotations

import asyncio
import inspect
import logging
import queue
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Optional, Union

from .._outcome import said
from .._record import Record
from ..errors import ConfigurationError

log = logging.getLogger("tasker_core")

_INBOX = 1024
"""Events that wait for one subscriber; what comes then is dropped."""
_LAST_WORDS = 2.0


class BaseSubscriber(ABC):
    """Hears fast and broadcast events of the steps that this process's worker runs, one after another on a thread of
    its own. Best effort: what comes while 1,024 wait is dropped. What must not be lost is durable."""

    @classmethod
    @abstractmethod
    def subscribes_to(cls) -> list[str]:
        """Globs for names of events: ``*`` stands for any number of characters, ``?`` for one."""

    @abstractmethod
    def handle(self, event: dict[str, Any]) -> Any:
        """One event: ``event_name``, ``event_id``, ``payload``, ``metadata`` and all that docs/domain-events.md lists.
        May be ``async``."""

    def before_handle(self, event: dict[str, Any]) -> bool:
        """False passes over the event."""
        return True

    def after_handle(self, event: dict[str, Any]) -> None:  # noqa: B027
        """The event was handled."""

    def on_handle_error(self, event: dict[str, Any], error: BaseException) -> None:
        """A method of this subscriber raised; the event is lost to it."""
        log.error("%s failed at %s: %s", type(self).__name__, event["event_name"], said(error), exc_info=error)

    def matches(self, event_name: str) -> bool:
        """Whether it hears events of this name."""
        return any(matches(glob, event_name) for glob in self.subscribes_to())

    def handle_event_safely(self, event: dict[str, Any]) -> bool:
        """Handles an event; answers whether nothing was raised."""
        try:
            if self.before_handle(event):
                handled = self.handle(event)
                if inspect.isawaitable(handled):
                    asyncio.run(_awaited(handled))
                self.after_handle(event)
            return True
        except BaseException as error:  # noqa: BLE001 - the next event is another one
            try:
                self.on_handle_error(event, error)
            except BaseException:
                log.exception("on_handle_error of %s", type(self).__name__)
            return False


async def _awaited(value: Any) -> Any:
    return await value


def matches(glob: str, name: str) -> bool:
    """Whether a whole name matches: ``*`` stands for any number of characters, ``?`` for one."""
    pattern = "".join({"*": ".*", "?": "."}.get(each, re.escape(each)) for each in glob)
    return re.fullmatch(pattern, name, re.DOTALL) is not None


class _Listener:
    """A subscriber with its thread."""

    def __init__(self, subscriber: BaseSubscriber) -> None:
        self.subscriber = subscriber
        self.globs = list(subscriber.subscribes_to())
        self.counts = {"handled": 0, "failed": 0, "dropped": 0}
        self._inbox: queue.Queue[Optional[dict[str, Any]]] = queue.Queue(_INBOX)
        self._thread: Optional[threading.Thread] = None

    def start(self) -> None:
        if self._thread is None:
            name = f"tasker-{type(self.subscriber).__name__}"
            self._thread = threading.Thread(target=self._listen, name=name, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        if self._thread is not None:
            self._inbox.put(None)
            self._thread.join(_LAST_WORDS)
            self._thread = None

    def tell(self, glob: str, event: Record) -> None:
        """Of the globs that match an event, the first one counts: each event is heard once."""
        if glob != next((each for each in self.globs if matches(each, event["event_name"])), None):
            return
        try:
            self._inbox.put_nowait(event)
        except queue.Full:
            self.counts["dropped"] += 1

    def _listen(self) -> None:
        while True:
            event = self._inbox.get()
            if event is None:
                return
            self.counts["handled" if self.subscriber.handle_event_safely(event) else "failed"] += 1


class SubscriberRegistry:
    """Who hears events in this process. The worker starts and stops them with itself."""

    _instance: Optional[SubscriberRegistry] = None

    def __init__(self) -> None:
        self._listeners: list[_Listener] = []
        self._declared: Optional[set[str]] = None

    @classmethod
    def instance(cls) -> SubscriberRegistry:
        """The one of this process."""
        if cls._instance is None:
            cls._instance = cls()
        return cls._instance

    def register(self, subscriber: Union[BaseSubscriber, type[BaseSubscriber]]) -> BaseSubscriber:
        """Registers a subscriber, or one of a class. Raises where the running worker would not bring it its events."""
        made = subscriber() if isinstance(subscriber, type) else subscriber
        listener = _Listener(made)
        if self._declared is not None and not self._declared.issuperset(listener.globs):
            raise ConfigurationError("subscribers are registered before the worker starts")
        self._listeners.append(listener)
        if self._declared is not None:
            listener.start()
        return made

    def unregister(self, subscriber: BaseSubscriber) -> None:
        """Forgets it, once it has handled what waits."""
        gone = [each for each in self._listeners if each.subscriber is subscriber]
        self._listeners = [each for each in self._listeners if each.subscriber is not subscriber]
        for each in gone:
            each.stop()

    def globs(self) -> list[str]:
        """What all of them subscribe to."""
        return sorted({glob for each in self._listeners for glob in each.globs})

    def start_all(self, poller: Any = None) -> None:
        """Begins to hear. The worker does so at its start; ``poller`` is for old code and is not needed."""
        self._declared = set(self.globs())
        for each in self._listeners:
            each.start()

    def stop_all(self) -> None:
        """Ends, once what waits is handled."""
        for each in self._listeners:
            each.stop()
        self._declared = None

    def clear(self) -> None:
        """Ends and forgets all."""
        self.stop_all()
        self._listeners = []

    @property
    def stats(self) -> dict[str, int]:
        """How many subscribers there are, and events ``handled``, ``failed`` and ``dropped``."""
        counts = {key: sum(each.counts[key] for each in self._listeners) for key in ("handled", "failed", "dropped")}
        return {"subscribers": len(self._listeners), **counts}

    def tell(self, glob: str, event: dict[str, Any]) -> None:
        """Hands on an event that the boundary brought for this glob."""
        told = Record(event, event_name=event["name"])
        ids = {key: event[key] for key in ("task_uuid", "step_uuid", "step_name", "namespace", "correlation_id")}
        told["metadata"] = Record(ids, **(event.get("metadata") or {}))
        for each in self._listeners:
            each.tell(glob, told)


class InProcessDomainEventPoller:
    """For code that was written against pollers: a subscriber to everything. Nothing polls; start it
    before the worker."""

    def __init__(self, polling_interval_ms: int = 10, max_events_per_poll: int = 100) -> None:
        """Neither number has a meaning any more."""
        self._events: list[Callable[[Record], Any]] = []
        self._errors: list[Callable[[BaseException], Any]] = []
        self._subscriber: Optional[BaseSubscriber] = None
        self._heard = 0

    def on_event(self, callback: Callable[[Record], Any]) -> None:
        """Calls this with each event; its keys are attributes too: ``event.event_name``."""
        self._events.append(callback)

    def on_error(self, callback: Callable[[BaseException], Any]) -> None:
        """Calls this with what the callbacks for events raise."""
        self._errors.append(callback)

    def start(self) -> None:
        """Begins to hear. Raises where the worker was started without anybody who hears everything."""
        if self._subscriber is not None:
            raise RuntimeError("the poller is running already")
        poller = self

        class Everything(BaseSubscriber):
            @classmethod
            def subscribes_to(cls) -> list[str]:
                return ["*"]

            def handle(self, event: Any) -> None:
                poller._call(poller._events, event)

        self._subscriber = SubscriberRegistry.instance().register(Everything)

    def stop(self, timeout: float = _LAST_WORDS) -> None:
        """Ends, once what waits is handled."""
        if self._subscriber is not None:
            SubscriberRegistry.instance().unregister(self._subscriber)
            self._subscriber = None

    @property
    def is_running(self) -> bool:
        """Whether it hears."""
        return self._subscriber is not None

    @property
    def stats(self) -> dict[str, int]:
        """``events_processed``."""
        return {"events_processed": self._heard}

    def _call(self, callbacks: list[Callable[[Any], Any]], event: Any) -> None:
        self._heard += 1
        for callback in callbacks:
            try:
                callback(event)
            except Exception as error:  # noqa: BLE001 - it goes to the callbacks for errors
                for told in self._errors:
                    told(error)
