"""Threads for handlers that block."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress


class Threads:
    """As many threads as work needs at once. They do not keep the process alive: a handler that hangs must not.

    One thread is on its way at a time, however much work there is, and sends for the next one before it begins. So one
    does all where handlers are quick, and where they wait there are soon as many as there are handlers.
    """

    def __init__(self, most: int, arrived: Callable[[], None]) -> None:
        """``arrived`` is called by a thread that was sent for, before it looks for work."""
        self._most = most
        self._arrived = arrived
        self._work: deque[Callable[[], None]] = deque()
        self._ready = threading.Condition(threading.Lock())
        self._is_coming = False
        self._busy = 0
        self._idle = 0
        self._count = 0

    def run(self, work: Callable[[], None]) -> bool:
        """Runs it on a thread; False where all that there may be are busy. Raises where none can be started."""
        with self._ready:
            if self._busy + len(self._work) >= self._most:
                return False
            self._work.append(work)
            try:
                self._send_for_one()
            except BaseException:
                self._work.pop()
                raise
        return True

    def are_coming(self) -> bool:
        """Whether a thread is on its way, to work that waits. It calls ``arrived`` later than this."""
        return self._is_coming and bool(self._work)

    def _send_for_one(self) -> None:
        """With the lock."""
        if self._is_coming or not self._work or self._busy >= self._most:
            return
        if self._idle > 0:
            self._ready.notify()
        else:
            name = f"tasker-handler-{self._count + 1}"
            threading.Thread(target=self._loop, name=name, daemon=True).start()
            self._count += 1
        self._is_coming = True

    def _loop(self) -> None:
        was_busy, is_new = False, True
        while True:
            with self._ready:
                self._busy -= was_busy
                if is_new:
                    self._is_coming = False
                work = self._work.popleft() if self._work else None
                if work is not None:
                    self._busy += 1
                    # Where no thread can be started, those that there are do it, one after another.
                    with suppress(RuntimeError):
                        self._send_for_one()
                elif not is_new:
                    self._idle += 1
                    self._ready.wait()
                    self._idle -= 1
            was_busy = work is not None
            if is_new:
                self._arrived()
            is_new = work is None and not is_new
            if work is not None:
                work()
