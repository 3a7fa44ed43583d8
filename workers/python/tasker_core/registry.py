"""Handlers by the name that templates call."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import os
import pkgutil
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any, Optional, Union

from .errors import ConfigurationError
from .resolvers import ClassLookup, HandlerClass, Resolver, handler_class
from .step_handler.base import StepHandler

log = logging.getLogger("tasker_core")


class HandlerRegistry:
    """The handlers that a worker runs. Most programs have one: :meth:`instance`."""

    _instance: Optional[HandlerRegistry] = None

    def __init__(self) -> None:
        self._handlers: dict[str, HandlerClass] = {}
        self._class_lookup = ClassLookup()
        self._resolvers: dict[str, Resolver] = {}
        self._resolved: dict[tuple[str, str, str], Optional[HandlerClass]] = {}
        self._lock = threading.Lock()

    @classmethod
    def instance(cls) -> HandlerRegistry:
        """The one of this process."""
        if cls._instance is None:
            cls._instance = cls()
        return cls._instance

    def register(self, name: Union[str, HandlerClass, Any], handler: Any = None) -> None:
        """Registers a handler class, or a function that a decorator made one, under ``name`` or, without it, its own
        name. Raises where another one has the name: one of the two would never run."""
        if handler is None:
            name, handler = "", name
        handler = getattr(handler, "_handler_class", handler)
        if not (inspect.isclass(handler) and issubclass(handler, StepHandler)):
            raise ConfigurationError(f"{handler!r} is no handler: neither a StepHandler class nor a decorated function")
        if inspect.isabstract(handler):
            raise ConfigurationError(f"{handler.__name__} has no call()")
        for method in handler.handler_methods:
            if not callable(getattr(handler, method, None)):
                raise ConfigurationError(
                    f"{handler.__name__} has no method `{method}`, which its handler_methods names"
                )
        known_as: str = str(name or handler.handler_name or handler.__name__)
        with self._lock:
            known = self._handlers.setdefault(known_as, handler)
        if known is not handler:
            raise ConfigurationError(
                f"a handler named `{known_as}` is registered already: {known.__module__}.{known.__name__}"
            )

    def unregister(self, name: str) -> bool:
        """Forgets a handler; answers whether there was one."""
        with self._lock:
            return self._handlers.pop(name, None) is not None

    def resolve(self, name: str) -> Optional[StepHandler]:
        """A new instance of the handler of this name."""
        handler = self.get_handler_class(name)
        return handler() if handler is not None else None

    def get_handler_class(self, name: str) -> Optional[HandlerClass]:
        """The class of the handler of this name."""
        return self._handlers.get(name)

    def register_resolver(self, name: str, resolver: Resolver) -> None:
        """Registers what finds handlers by other means than their names; templates may name it
        (``handler.resolver``). It is asked once about each callable and method, on a thread of its own."""
        if name == ClassLookup.name or self._resolvers.setdefault(name, resolver) is not resolver:
            raise ConfigurationError(f"a resolver named `{name}` is registered already")

    def resolver_names(self) -> list[str]:
        """Every resolver, in the order in which they are asked. The last is ``class_lookup``, where handlers were
        discovered: it finds ``package.module.Class`` by its path, under what was discovered."""
        return [*self._resolvers, *([ClassLookup.name] if self._class_lookup.roots else [])]

    def find(self, name: str, method: str = "call", resolver: Optional[str] = None) -> Optional[HandlerClass]:
        """The class that is registered under a name, or that a resolver finds. A resolver that raises knows nothing."""
        if resolver is None:
            return self._handlers.get(name)
        asked = (resolver, name, method)
        if asked not in self._resolved:
            ask = self._class_lookup if resolver == ClassLookup.name else self._resolvers.get(resolver, lambda *_: None)
            try:
                self._resolved[asked] = handler_class(ask(name, method), method)
            except BaseException:
                log.exception("the resolver %s was asked for %s; it counts as knowing nothing", resolver, name)
                self._resolved[asked] = None
        return self._resolved[asked]

    def is_registered(self, name: str) -> bool:
        """Whether there is a handler of this name."""
        return name in self._handlers

    def list_handlers(self) -> list[str]:
        """Every name, sorted."""
        return sorted(self._handlers)

    def handler_count(self) -> int:
        """How many there are."""
        return len(self._handlers)

    def clear(self) -> None:
        """Forgets all."""
        with self._lock:
            self._handlers.clear()
            self._resolved.clear()

    def discover_handlers(self, package: Union[str, ModuleType], base_class: HandlerClass = StepHandler) -> int:
        """Registers what the modules of a package define; answers how many. What they only import is left out."""
        module = importlib.import_module(package) if isinstance(package, str) else package
        modules = [module]
        self._class_lookup.roots.add(module.__name__)
        for found in pkgutil.walk_packages(getattr(module, "__path__", []), module.__name__ + "."):
            modules.append(importlib.import_module(found.name))
        return sum(self._register_module(each, base_class) for each in modules)

    def discover_folder(self, folder: Union[str, Path]) -> int:
        """Registers what the modules and packages in a folder define; answers how many. Python then
        finds the folder's modules."""
        path = Path(folder).resolve()
        if not path.is_dir():
            raise ConfigurationError(f"{path} is no folder")
        if str(path) not in sys.path:
            sys.path.insert(0, str(path))
        importlib.invalidate_caches()
        count = 0
        for found in pkgutil.iter_modules([str(path)]):
            module = importlib.import_module(found.name)
            origin = Path(getattr(module, "__file__", None) or path).resolve()
            if path not in origin.parents:
                raise ConfigurationError(f"the module `{found.name}` of {path} is hidden by {origin}; rename it")
            count += self.discover_handlers(module)
        return count

    def bootstrap_handlers(self, package: Union[str, ModuleType, None] = None) -> int:
        """For code of Tasker 0.1.x: discovers a package's handlers, where one is named; answers how many there are."""
        if package is not None:
            self.discover_handlers(package)
        return self.handler_count()

    def template_discovery_info(self) -> dict[str, Any]:
        """For code of Tasker 0.1.x: the folder of ``TASKER_TEMPLATE_PATH``, its files, and the handlers there are."""
        folder = os.environ.get("TASKER_TEMPLATE_PATH")
        files = [str(path) for path in Path(folder).rglob("*") if path.suffix in (".yaml", ".yml")] if folder else []
        return {"template_path": folder, "template_files": sorted(files), "handlers": self.list_handlers()}

    def _register_module(self, module: ModuleType, base_class: HandlerClass) -> int:
        count = 0
        for value in list(vars(module).values()):
            handler = getattr(value, "_handler_class", value)
            if not (inspect.isclass(handler) and issubclass(handler, base_class)) or inspect.isabstract(handler):
                continue
            if handler.__module__ == module.__name__ and not handler.__name__.startswith("_"):
                self.register(handler)
                count += 1
        return count
