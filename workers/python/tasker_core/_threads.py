"""Threads for handlers that block."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Optional

Work = Callable[[], None]

_QUICK = 0.001
"""Seconds that quick work takes at most."""

_LONG = 0.002
"""Seconds after which work that is still waiting is not left to the threads that are busy."""

_MANY = 4
"""So much work in a row that was not quick makes it likely that the next is not either."""


class Threads:
    """As many threads as work needs at once. They do not keep the process alive: a handler that hangs must not.

    Threads that stand beside each other pass the interpreter's lock around, which takes longer than quick work. So one
    thread does all for as long as work is quick. Where some of it takes its time, a thread is sent for, which sends for
    the next one before it begins: soon there are as many as there is work. :meth:`tend` notices that, so it is to be
    called every now and then while :meth:`has_work`.
    """

    def __init__(self, most: int, between: Work) -> None:
        """``between`` is called by threads that have ended some work, once for much that was quick, or were sent for.
        It must not wait for anything."""
        self._most = most
        self._between = between
        self._work: deque[Work] = deque()
        self._lock = threading.Lock()
        self._is_coming = False
        self._slow = 0
        """How much work took its time, since some was quick."""
        self._begun = 0.0
        """When some work was begun last."""
        self._count = 0
        self._busy = 0
        self._idle: list[threading.Lock] = []
        """What each idle thread waits for. The last one is sent for first, so that few are in use where few will do."""

    def run(self, work: Work, tended: bool = False) -> bool:
        """Runs it on a thread; False where all that there may be are busy. Raises where none can be started. With
        ``tended``, who calls will :meth:`tend`, and quick work may be left to who is at it."""
        with self._lock:
            if self._busy + len(self._work) >= self._most:
                return False
            self._work.append(work)
            try:
                if not tended or self._busy == 0 or self._slow >= _MANY:
                    self._send_for_one()
            except BaseException:
                self._work.pop()
                raise
        return True

    def has_work(self) -> bool:
        """Whether some work was not begun yet. Where there is none, whatever ends from now on is followed by
        ``between``."""
        return bool(self._work)

    def tend(self) -> None:
        """Sends for a thread where work waits, nobody is on the way, and none was begun for a while."""
        with self._lock, suppress(RuntimeError):
            if self._work and not self._is_coming and monotonic() - self._begun > _LONG:
                self._slow = _MANY
                self._send_for_one()

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
                began = monotonic()
                work()
                took = monotonic() - began
                with self._lock:
                    self._busy -= 1
                    self._slow = 0 if took < _QUICK else self._slow + 1
                    is_over = self._slow > 0 or not self._work
                if is_over:
                    self._between()

    def _next(self) -> Optional[Work]:
        """With the lock: what this thread is to do."""
        if not self._work:
            return None
        self._busy += 1
        self._begun = monotonic()
        work = self._work.popleft()
        if self._slow >= _MANY:
            # Where no thread can be started, those that there are do it, one after another.
            with suppress(RuntimeError):
                self._send_for_one()
        return work
