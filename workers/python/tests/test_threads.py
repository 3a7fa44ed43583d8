"""How a worker's threads share work, on steps that are made up in memory."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import threading

from support import HERE, PATIENCE, eventually

from tasker_core import HandlerRegistry
from tasker_core._threads import Threads
from tasker_core.step_handler.functional import step_handler
from tasker_core.worker import Worker


def rehearsed(function, steps: int, concurrency: int) -> None:
    registry = HandlerRegistry()
    registry.register(step_handler("rehearsed")(function))
    worker = Worker(registry, {"TASKER__WORKER__CONCURRENCY": str(concurrency)}, rehearsal=steps)
    assert worker.wait(PATIENCE), "steps are left"


def test_an_outcome_is_not_held_back_by_the_step_that_its_thread_runs_next():
    total, begun, ahead = 400, itertools.count(1), threading.Condition()
    state = {"begun": 0, "held": 0}

    def every_second_one_waits_for_a_step_that_comes_when_another_ended():
        with ahead:
            number = state["begun"] = next(begun)
            ahead.notify_all()
            if number % 2 and not ahead.wait_for(lambda: state["begun"] >= min(number + 2, total), PATIENCE / 2):
                state["held"] += 1

    rehearsed(every_second_one_waits_for_a_step_that_comes_when_another_ended, total, concurrency=2)
    assert state == {"begun": total, "held": 0}


def test_as_many_handlers_wait_at_once_as_may_run():
    together = threading.Barrier(64)
    rehearsed(lambda: together.wait(PATIENCE / 2) and None, 64 * 5, concurrency=64)
    assert not together.broken


def test_coroutines_that_end_in_one_turn_of_the_loop_are_all_handed_in():
    gathered = []

    async def gather():
        gathered.append(1)
        await asyncio.sleep(0)

    rehearsed(gather, 1_000, concurrency=64)
    assert len(gathered) == 1_000


def test_where_all_threads_hang_no_more_work_is_taken_until_one_is_back():
    gate, ended, arrivals = threading.Event(), threading.Semaphore(0), []
    threads = Threads(2, lambda: arrivals.append(1))

    def work():
        gate.wait(PATIENCE)
        ended.release()

    assert [threads.run(work) for _ in range(3)] == [True, True, False]
    gate.set()
    assert ended.acquire(timeout=PATIENCE) and ended.acquire(timeout=PATIENCE)
    eventually("a thread is back", lambda: threads.run(ended.release))
    assert ended.acquire(timeout=PATIENCE) and arrivals


def test_quick_work_stays_with_one_thread_and_its_ends_are_told_together():
    names, arrivals, ended, gate = set(), [], threading.Semaphore(0), threading.Event()
    threads = Threads(64, lambda: arrivals.append(1))

    def work():
        names.add(threading.current_thread().name)
        ended.release()

    assert threads.run(lambda: gate.wait(PATIENCE) and None, tended=True)
    for _ in range(50):
        assert threads.run(work, tended=True)
    assert threads.has_work() and not names, "what may be quick waits for the thread that is busy"
    gate.set()
    for _ in range(50):
        assert ended.acquire(timeout=PATIENCE)
    assert names == {"tasker-handler-1"}
    assert len(arrivals) < 25, "each is told of by itself"


def test_work_that_waits_behind_a_thread_that_hangs_gets_threads_of_its_own_when_it_is_tended():
    gate, began = threading.Event(), threading.Semaphore(0)
    threads = Threads(9, lambda: None)

    def work():
        began.release()
        gate.wait(PATIENCE)

    for _ in range(9):
        assert threads.run(work, tended=True)
    assert began.acquire(timeout=PATIENCE)
    assert not began.acquire(timeout=0.05), "nobody tends it"
    threads.tend()
    for _ in range(8):
        assert began.acquire(timeout=PATIENCE)
    assert not threads.has_work()
    gate.set()


def test_a_rehearsal_tells_what_it_measured():
    told = subprocess.run(
        [sys.executable, str(HERE.parent / "bench/rehearse.py"), "10000"], capture_output=True, text=True, timeout=300
    )
    figures = json.loads(told.stdout)
    assert (figures["language"], figures["steps"]) == ("python", 10_000), told.stderr
    assert figures["steps_per_s"] > 0 and figures["threads_start"] > 0
    assert figures["mb_per_10000_steps"] < 8, "nothing is kept of a step"
