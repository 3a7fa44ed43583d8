"""Threads for handlers that block."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable


class Threads:
    """As many threads as work needs at once. They do not keep the process alive: a handler that hangs must not."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._work: deque[Callable[[], None]] = deque()
        self._ready = threading.Condition()
        self._idle = 0
        self._count = 0

    def run(self, work: Callable[[], None]) -> bool:
        """Runs it on a thread; False where all that there may be are busy."""
        with self._ready:
            if self._idle > len(self._work):
                self._work.append(work)
                self._ready.notify()
                return True
            if self._count >= self._most:
                return False
            self._count += 1
            name = f"tasker-handler-{self._count}"
        threading.Thread(target=self._loop, args=(work,), name=name, daemon=True).start()
        return True

    def _loop(self, work: Callable[[], None]) -> None:
        while True:
            work()
            with self._ready:
                self._idle += 1
                while not self._work:
                    self._ready.wait()
                self._idle -= 1
                work = self._work.popleft()
