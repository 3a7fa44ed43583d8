"""Measures what Python's side of the boundary bears: steps made up in memory, a handler that does nothing.

::

    python rehearse.py [STEPS]

prints one line of JSON. The extension should be a release build.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

from tasker_core import HandlerRegistry
from tasker_core.step_handler.functional import inputs, step_handler
from tasker_core.worker import Worker

WARM_UP = 10_000
SAMPLE_EVERY = 5_000


class Meter:
    """Looks at the process every so many steps, once it is warm. The first steps wait for each other, so that all the
    threads are there that a worker of so many handlers ever needs."""

    def __init__(self, concurrency: int) -> None:
        self.count = 0
        self._together = threading.Barrier(concurrency)
        self.samples: list[tuple[int, float, float, int]] = []
        self._lock = threading.Lock()

    def step(self) -> None:
        with self._lock:
            self.count += 1
            is_first = self.count <= self._together.parties
            steps = self.count - WARM_UP
            if steps >= 0 and steps % SAMPLE_EVERY == 0:
                self.samples.append((steps, time.monotonic(), rss_mb(), len(os.listdir("/proc/self/task"))))
        if is_first:
            self._together.wait()

    def told(self) -> dict[str, object]:
        first, last = self.samples[0], self.samples[-1]
        steps, seconds = last[0] - first[0], last[1] - first[1]
        return {
            "language": "python",
            "steps": steps,
            "seconds": round(seconds, 3),
            "steps_per_s": round(steps / seconds),
            "rss_mb_start": round(first[2], 2),
            "rss_mb_end": round(last[2], 2),
            "mb_per_10000_steps": round(slope([(each[0], each[2]) for each in self.samples]) * 10_000, 3),
            "threads_start": first[3],
            "threads_end": last[3],
        }


def rss_mb() -> float:
    """The memory that this process has, in megabytes."""
    with open("/proc/self/statm", encoding="ascii") as told:
        return int(told.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def slope(points: list[tuple[int, float]]) -> float:
    """Of the line that comes nearest to all points, by least squares."""
    count = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def rehearse(steps: int, concurrency: int = 64) -> dict[str, object]:
    """Runs so many steps after the warm-up."""
    meter = Meter(concurrency)

    @step_handler("rehearsal.next")
    @inputs("number")
    def following(number: int) -> dict[str, int]:
        meter.step()
        return {"number": number + 1}

    registry = HandlerRegistry()
    registry.register(following)
    variables = {"TASKER__WORKER__CONCURRENCY": str(concurrency)}
    Worker(registry, variables, rehearsal=WARM_UP + steps).wait()
    return meter.told()


if __name__ == "__main__":
    print(json.dumps(rehearse(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)))
