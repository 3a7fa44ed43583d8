"""A flag that can be waited for."""

from __future__ import annotations

import threading
from typing import Optional

_making = threading.Lock()


class Flag:
    """As ``threading.Event``, whose lock and condition are made only where somebody waits: every step has a flag, and
    few are waited for."""

    __slots__ = ("_event", "_is_set")

    def __init__(self) -> None:
        self._is_set = False
        self._event: Optional[threading.Event] = None

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Sets it for ever, and wakes who waits."""
        self._is_set = True
        if self._event is not None:
            self._event.set()

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Waits until it is set, at most this many seconds; answers whether it is."""
        with _making:
            self._event = self._event or threading.Event()
        # Looked at after the event was made: whoever sets the flag from now on sees the event.
        return self._is_set or self._event.wait(timeout)
