"""Publishers: what is published of a step's outcome."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Optional

from .. import _outcome
from .._portable import encode
from ..errors import ConfigurationError
from ..types import StepContext

log = logging.getLogger("tasker_core")


@dataclass
class StepEventContext:
    """What a publisher is given: one outcome of a step."""

    task_uuid: str
    step_uuid: str
    step_name: str
    namespace: str
    correlation_id: str
    result: Any = None
    """The step's result, after a success."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """The outcome's."""
    error: Optional[dict[str, Any]] = None
    """After a failure ``message``, ``error_type`` and, where there is one, ``error_code``."""
    attempt: int = 1
    event_name: str = ""

    @classmethod
    def from_step_context(
        cls, step_context: StepContext, result: Any = None, metadata: Optional[dict[str, Any]] = None
    ) -> StepEventContext:
        """Of a success."""
        step = step_context
        ids = (step.task_uuid, step.step_uuid, step.step_name, step.namespace, step.correlation_id)
        return cls(*ids, result=result, metadata=dict(metadata or {}), attempt=step.attempt)

    @property
    def payload(self) -> Any:
        """What is published without a publisher: the result, or the error."""
        return self.result if self.error is None else self.error


class BasePublisher(ABC):
    """Makes the payload of the events whose templates name it (``publishes_events[].publisher``). It runs before the
    outcome is handed in, so it should be quick and ask nobody.

    What it raises costs the event and nothing else: the step's outcome stays as it is, the event is not published, and
    the worker logs and counts it.
    """

    @property
    @abstractmethod
    def publisher_name(self) -> str:
        """What templates call it."""

    def should_publish(self, ctx: StepEventContext) -> bool:
        """False publishes nothing. The template's condition holds already."""
        return True

    def transform_payload(self, ctx: StepEventContext) -> Any:
        """The payload that is published."""
        return ctx.payload

    def additional_metadata(self, ctx: StepEventContext) -> dict[str, Any]:
        """The event's ``metadata``; none where this is empty."""
        return {}

    def before_publish(self, event_name: str, payload: Any, metadata: dict[str, Any]) -> bool:
        """The last word: False publishes nothing."""
        return True

    def after_publish(self, event_name: str, payload: Any, metadata: dict[str, Any]) -> None:  # noqa: B027
        """The outcome was handed in with the event. Whether the attempt counts, and the event with it, is seen
        later."""

    def on_publish_error(self, event_name: str, error: BaseException, payload: Any) -> None:
        """A method of this publisher raised, or the payload can't be said in JSON."""
        log.error("the publisher %s of %s failed: %s", self.publisher_name, event_name, _outcome.said(error))

    def publish(self, ctx: StepEventContext, event_name: Optional[str] = None) -> bool:
        """Runs all methods as a worker does, without a worker: for tests. Answers whether there would be an event."""
        mapping = Mapping(self, event_name or ctx.event_name or ctx.step_name, ctx)
        mapping.handed_in()
        return mapping.is_published


class DefaultPublisher(BasePublisher):
    """Publishes what would be published without it."""

    publisher_name = "default"


class Mapping:
    """What a publisher makes of one outcome."""

    def __init__(self, publisher: BasePublisher, event_name: str, ctx: StepEventContext) -> None:
        self._publisher = publisher
        self._name = event_name
        self._payload: Any = None
        self._metadata: dict[str, Any] = {}
        self.is_published = False
        try:
            self._answer = self._asked(ctx)
        except BaseException as error:  # noqa: BLE001 - it must not change the step's outcome
            self.is_published = False
            self._answer = {"error": encode("the error", f"{type(error).__name__}: {_outcome.said(error)}")}
            self._failed(error)

    def _asked(self, ctx: StepEventContext) -> dict[str, str]:
        publisher = self._publisher
        if not publisher.should_publish(ctx):
            return {"skip": "true"}
        self._payload = publisher.transform_payload(ctx)
        self._metadata = dict(publisher.additional_metadata(ctx))
        if not publisher.before_publish(self._name, self._payload, self._metadata):
            return {"skip": "true"}
        answer = {"payload": encode("the payload", self._payload)}
        if self._metadata:
            answer["metadata"] = encode("the metadata", self._metadata)
        self.is_published = True
        return answer

    def encoded(self) -> str:
        """For the boundary's outcome."""
        names = {"name": self._name, "publisher": self._publisher.publisher_name}
        return _outcome.message({**{key: encode(key, value) for key, value in names.items()}, **self._answer})

    def handed_in(self) -> None:
        """The outcome was taken."""
        if not self.is_published:
            return
        try:
            self._publisher.after_publish(self._name, self._payload, self._metadata)
        except BaseException as error:  # noqa: BLE001 - the event is on its way
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        try:
            self._publisher.on_publish_error(self._name, error, self._payload)
        except BaseException:
            log.exception("on_publish_error of %s", type(self._publisher).__name__)


class PublisherRegistry:
    """The publishers of a worker, by name. Most programs have one: :meth:`instance`."""

    _instance: Optional[PublisherRegistry] = None

    def __init__(self) -> None:
        self._publishers: dict[str, BasePublisher] = {}
        self._frozen = False

    @classmethod
    def instance(cls) -> PublisherRegistry:
        """The one of this process."""
        if cls._instance is None:
            cls._instance = cls()
        return cls._instance

    def register(self, publisher: BasePublisher) -> None:
        """Registers a publisher under its name. Raises where the name is taken by another class, or it is too late."""
        if self._frozen:
            raise ConfigurationError("publishers are registered before the worker starts")
        known = self._publishers.setdefault(publisher.publisher_name, publisher)
        if type(known) is not type(publisher):
            raise ConfigurationError(f"a publisher named `{publisher.publisher_name}` is registered already")

    def get(self, name: str) -> Optional[BasePublisher]:
        """The publisher of this name."""
        return self._publishers.get(name)

    def get_or_default(self, name: Optional[str] = None) -> BasePublisher:
        """The publisher of this name, else a :class:`DefaultPublisher`."""
        return self._publishers.get(name or "") or DefaultPublisher()

    def names(self) -> list[str]:
        """Every name, sorted."""
        return sorted(self._publishers)

    def validate_required(self, names: Iterable[str]) -> None:
        """Raises where one of these is missing."""
        missing = sorted(set(names) - set(self._publishers))
        if missing:
            raise ConfigurationError(f"no publisher is registered as {', '.join(f'`{name}`' for name in missing)}")

    def freeze(self) -> None:
        """No more are taken from now on."""
        self._frozen = True

    @property
    def frozen(self) -> bool:
        """Whether :meth:`freeze` was called."""
        return self._frozen

    def clear(self) -> None:
        """Forgets all, and takes more."""
        self._publishers.clear()
        self._frozen = False

    def mappings(self, context: StepContext, outcome: dict[str, str]) -> list[Mapping]:
        """What the publishers make of an outcome (each key with its JSON), of the events that the step may publish."""
        asked = context.event.get("publishes", [])
        if not asked or outcome["type"] == '"checkpoint_yield"':
            return []
        plain = _outcome.plain(outcome)
        kind = "success" if plain["type"] == "success" else "retryable" if plain["retryable"] else "permanent"
        made = []
        for declared in asked:
            publisher = self.get(declared["publisher"])
            if kind not in declared["on"] or publisher is None:
                continue
            ctx = StepEventContext.from_step_context(context, plain.get("result"), plain.get("metadata"))
            ctx.event_name = declared["name"]
            if kind != "success":
                said = {key: plain[key] for key in ("message", "error_type", "error_code")}
                ctx.error = {key: value for key, value in said.items() if value is not None}
            made.append(Mapping(publisher, declared["name"], ctx))
        return made
