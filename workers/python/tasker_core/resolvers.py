"""Finding handlers that nobody registered: by what their names say.

A resolver is asked for a callable and a method that templates name, once for each, and answers a handler class that has
the method, or None. Register one with :meth:`HandlerRegistry.register_resolver`::

    registry.register_resolver("sql", lambda callable, method: SqlFile if callable.startswith("sql:") else None)
"""

from __future__ import annotations

import importlib
import inspect
import sys
from typing import Any, Callable, Optional

from .errors import ConfigurationError
from .step_handler.base import StepHandler

HandlerClass = type[StepHandler]
Resolver = Callable[[str, str], Optional[Any]]
"""From callable and method to a handler class or a decorated function."""


class ClassLookup:
    """Finds ``package.module.Class`` by that path, and imports what it takes, under the packages of the handlers only:
    a template must not make a worker import anything else."""

    name = "class_lookup"

    def __init__(self) -> None:
        self.roots: set[str] = set()

    def __call__(self, callable: str, method: str) -> Optional[Any]:
        parts = callable.split(".")
        roots = [at for at in range(1, len(parts)) if ".".join(parts[:at]) in self.roots]
        if not roots or any(part.startswith("_") or not part.isidentifier() for part in parts):
            return None
        found: Any = importlib.import_module(".".join(parts[: roots[0]]))
        for part in parts[roots[0] :]:
            found = self._within(found, part)
        found = getattr(found, "_handler_class", found)
        return found if inspect.isclass(found) and self._is_ours(found.__module__) else None

    def _within(self, outer: Any, part: str) -> Any:
        """A module of a package, or what a module or a class defines."""
        if not inspect.ismodule(outer) or hasattr(outer, part):
            return getattr(outer, part, None)
        name = f"{outer.__name__}.{part}"
        if not self._is_ours(name):
            return None
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in (name, outer.__name__):
                raise
            return sys.modules.get(name)

    def _is_ours(self, module: str) -> bool:
        return any(module == root or module.startswith(f"{root}.") for root in self.roots)


def handler_class(found: Any, method: str) -> Optional[HandlerClass]:
    """The handler class that this is, as far as it has the method."""
    handler = getattr(found, "_handler_class", found)
    if handler is None:
        return None
    if not (inspect.isclass(handler) and issubclass(handler, StepHandler)):
        raise ConfigurationError(f"{found!r} is no handler: neither a StepHandler class nor a decorated function")
    return None if inspect.isabstract(handler) or method not in handler.handler_methods else handler
