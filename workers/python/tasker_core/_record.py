"""Objects that came as JSON."""

from __future__ import annotations

from typing import Any


class Record(dict[str, Any]):
    """An object whose keys are attributes too: ``task.status`` is ``task["status"]``."""

    def __getattr__(self, key: str) -> Any:
        try:
            return self[key]
        except KeyError:
            raise AttributeError(f"there is no `{key}` in it") from None
