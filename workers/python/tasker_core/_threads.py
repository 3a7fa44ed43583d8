"""Threads for handlers that block."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Optional

Work = Callable[[], None]


class Threads:
    """As many threads as work needs at once. They do not keep the process alive: a handler that hangs must not.

    One thread is sent for at a time, however much work there is, and sends for the next one before it begins. So one
    does all where work is quick, and where it waits there are soon as many as there is work.
    """

    def __init__(self, most: int, between: Work) -> None:
        """``between`` is called by threads that have ended some work or were sent for. It must not wait for
        anything."""
        self._most = most
        self._between = between
        self._work: deque[Work] = deque()
        self._lock = threading.Lock()
        self._is_coming = False
        self._count = 0
        self._busy = 0
        self._idle: list[threading.Lock] = []
        """What each idle thread waits for. The last one is sent for first, so that few are in use where few will do."""

    def run(self, work: Work) -> bool:
        """Runs it on a thread; False where all that there may be are busy. Raises where none can be started."""
        with self._lock:
            if self._busy + len(self._work) >= self._most:
                return False
            self._work.append(work)
            try:
                self._send_for_one()
            except BaseException:
                self._work.pop()
                raise
        return True

    def _send_for_one(self) -> None:
        """With the lock. Who is neither busy nor idle looks for work without being sent for."""
        if self._is_coming or not self._work or self._count > self._busy + len(self._idle):
            return
        if self._idle:
            self._idle.pop().release()
        else:
            threading.Thread(target=self._loop, name=f"tasker-handler-{self._count + 1}", daemon=True).start()
            self._count += 1
        self._is_coming = True

    def _loop(self) -> None:
        bell, was_sent_for = threading.Lock(), True
        bell.acquire()
        while True:
            with self._lock:
                if was_sent_for:
                    self._is_coming = False
                work = self._next()
                is_idle = work is None and not was_sent_for
                if is_idle:
                    self._idle.append(bell)
            if is_idle:
                was_sent_for = bell.acquire()
                continue
            # Before the work, which may take its time: others have left what they had to whoever comes.
            if was_sent_for:
                self._between()
                was_sent_for = False
            if work is not None:
                work()
                with self._lock:
                    self._busy -= 1
                    is_left_to_others = self._is_coming and bool(self._work)
                if not is_left_to_others:
                    self._between()

    def _next(self) -> Optional[Work]:
        """With the lock: what this thread is to do."""
        if not self._work:
            return None
        self._busy += 1
        work = self._work.popleft()
        # Where no thread can be started, those that there are do it, one after another.
        with suppress(RuntimeError):
            self._send_for_one()
        return work
