"""Giving tasks to worker processes, and going on whatever becomes of these."""

import math
import multiprocessing
import multiprocessing.connection
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from pruneboard.benchmark.errors import PruneboardError
from pruneboard.benchmark.workers._log import TaskLog
from pruneboard.benchmark.workers._process import Worker, WorkerSetup
from pruneboard.benchmark.workers._queue import TaskQueue
from pruneboard.benchmark.workers._tree import Adoption, memory_of_trees
from pruneboard.benchmark.workers._work import Cause, Death, Limits, Report, Work

T = TypeVar("T")
R = TypeVar("R", bound=Report)

_POLL_SECONDS = 0.5
"""How often deaths, memory and requests to stop are looked for when no worker says anything."""

POSTPONED_SECONDS = 2.0
"""How often tasks that could not be given are asked for again when nothing else is left."""

_START_SECONDS = 600.0
"""How long a worker may take to start; a cold disk needs minutes."""

_MOST_STILLBORN = 10
"""Workers in a row, for each of the pool, that are ended from outside before they are ready."""

_MOST_SKIPPED = 100
"""Tasks in a row that turn out to need no worker before the other workers are looked after."""


@dataclass
class Stop:
    """How a pool is asked to stop; a signal handler may set it.

    Attributes:
        finishes: no further task is given out, and those that run are finished.
        drops: those that run are dropped at once.
    """

    finishes: bool = False
    drops: bool = False


@dataclass(frozen=True, kw_only=True)
class PoolOptions:
    """How a pool runs its tasks.

    Attributes:
        n_workers: worker processes, at least 1.
        limits: what one may use.
        stop: how to stop it before the end.
        log_of: gives the file for what a task prints; None lets workers print where this process does.
    """

    n_workers: int
    limits: Limits = field(default_factory=Limits)
    stop: Stop = field(default_factory=Stop)
    log_of: Callable[[Any], Path] | None = None


def run_in_pool(tasks: Sequence[T], work: Work[T, R], options: PoolOptions) -> Iterator[R]:
    """Run tasks in worker processes, and yield what is said of them.

    Which task a worker takes next is decided by `TaskQueue`; none waits for the sake of this order. A worker that dies,
    or has to be ended because of a limit, takes only what it was at with it, and another takes over. When the caller
    stops iterating, or is interrupted, the workers are ended at once, with every process that they forked.

    Raises:
        PruneboardError: a worker met something that no other task could mend, such as a full disk.
        KeyboardInterrupt: `options.stop.drops` was set.
    """
    with Adoption() as adoption:
        pool = _Pool(tasks, work, options, adoption)
        try:
            yield from pool.run()
        finally:
            pool.end()


class _Pool(Generic[T, R]):
    """The state of a pool."""

    def __init__(self, tasks: Sequence[T], work: Work[T, R], options: PoolOptions, adoption: Adoption) -> None:
        self._work, self._options, self._adoption = work, options, adoption
        self._context = multiprocessing.get_context("spawn")
        # A worker is started when there is something to give to it.
        self._workers: list[Worker[T, R] | None] = [None] * min(options.n_workers, len(tasks))
        self._queue: TaskQueue[T] = TaskQueue()
        for task in tasks:
            self._enqueue(task)
        self._postponed: list[T] = []
        self._asked = time.monotonic()
        self._measured = time.monotonic()
        self._deaths: Counter[int] = Counter()
        self._n_stillborn = 0

    def run(self) -> Iterator[R]:
        """Run all tasks."""
        while True:
            if self._options.stop.drops:
                raise KeyboardInterrupt
            if not self._options.stop.finishes:
                self._ask_again()
                yield from self._hand_out()
            busy = [worker for worker in self._workers if worker is not None and worker.task is not None]
            left = not self._options.stop.finishes and (self._queue or self._postponed)
            if not busy and not left:
                return
            self._wait(busy)
            sizes = self._memory(busy)
            for slot, worker in enumerate(self._workers):
                if worker is not None and worker.task is not None:
                    yield from self._attend(slot, worker, sizes.get(worker.pid, 0))

    def end(self) -> None:
        """End all workers at once."""
        for worker in self._workers:
            if worker is not None:
                worker.end()
        if any(self._workers):
            self._adoption.end_orphans(())

    def _enqueue(self, task: T, *, first: bool = False) -> None:
        self._queue.add(task, self._work.affinity(task), self._work.place(task), first=first)

    def _ask_again(self) -> None:
        now = time.monotonic()
        if self._postponed and not self._queue and now - self._asked >= POSTPONED_SECONDS:
            self._asked = now
            for task in self._postponed:
                self._enqueue(task)
            self._postponed.clear()

    def _hand_out(self) -> Iterator[R]:
        for slot in range(len(self._workers)):
            worker = self._workers[slot]
            if worker is not None and worker.task is not None:
                continue
            for _ in range(_MOST_SKIPPED):
                if not self._queue or self._options.stop.finishes or self._options.stop.drops:
                    return
                task = self._queue.take(slot)
                report = self._work.start_of(task)
                if report is None:
                    self._postponed.append(task)
                    continue
                if not report.ends:
                    self._give(slot, task)
                yield report
                if not report.ends:
                    break

    def _give(self, slot: int, task: T) -> None:
        worker = self._workers[slot]
        if worker is not None and not worker.process.is_alive():
            self._replace(slot)
            worker = None
        if worker is None:
            setup = WorkerSetup(slot=slot, captures=self._options.log_of is not None)
            worker = self._workers[slot] = Worker(self._context, self._work.body, setup)
        log = None if self._options.log_of is None else TaskLog(self._options.log_of(task))
        worker.start(task, log)

    def _replace(self, slot: int) -> None:
        """End a worker; another is started in its place when there is something to give to it."""
        worker, self._workers[slot] = self._workers[slot], None
        if worker is not None:
            worker.end()
        self._queue.leave(slot)
        self._adoption.end_orphans([worker.pid for worker in self._workers if worker is not None])

    def _wait(self, busy: Sequence[Worker[T, R]]) -> None:
        """Wait until a worker says something, or something has to be looked at."""
        timeout = _POLL_SECONDS
        if self._queue and len(busy) < len(self._workers) and not self._options.stop.finishes:
            timeout = 0.0
        timeout = max(0.0, min([timeout, *map(self._seconds_left, busy)]))
        ready: list[Any] = [worker.channel for worker in busy]
        ready += [worker.output for worker in busy if worker.output is not None]
        multiprocessing.connection.wait(ready, timeout=timeout)

    def _seconds_left(self, worker: Worker[T, R]) -> float:
        """Return how long a worker may still take to start, or for its task."""
        limit = self._options.limits.seconds if worker.is_ready else _START_SECONDS
        return math.inf if limit is None else worker.since + limit - time.monotonic()

    def _memory(self, busy: Sequence[Worker[T, R]]) -> dict[int, int]:
        """Return the memory of busy workers by process id, when it is time to look at it."""
        limit, now = self._options.limits.n_bytes, time.monotonic()
        if limit is None or now - self._measured < _POLL_SECONDS:
            return {}
        self._measured = now
        return memory_of_trees({worker.pid for worker in busy}, limit)

    def _attend(self, slot: int, worker: Worker[T, R], n_bytes: int) -> Iterator[R]:
        """Take what a busy worker reports, or see what has become of it."""
        task, report = worker.task, worker.receive()
        if task is None:
            return
        if worker.is_ready:
            self._n_stillborn = 0
        limit = self._options.limits.n_bytes
        if report is None or not report.ends:
            if report is not None:
                yield report
            # A child that a plugin forked holds the pipe open, so the death of its parent is asked for as well.
            if not worker.process.is_alive():
                # It may have reported since it was asked.
                if (report := worker.receive()) is None:
                    report = self._bury(slot, worker, task, worker.cause_of_death)
            elif worker.fault:
                report = self._bury(slot, worker, task, "itself")
            elif self._seconds_left(worker) < 0:
                if not worker.is_ready:
                    worker.fault = f"was not ready within {_START_SECONDS:g} s"
                report = self._bury(slot, worker, task, "time" if worker.is_ready else "itself")
            elif limit and n_bytes > limit:
                report = self._bury(slot, worker, task, "memory", n_bytes)
            else:
                return
        elif not worker.process.is_alive():
            self._replace(slot)
        if report.ends:
            if report.again:
                self._enqueue(task, first=True)
            else:
                self._deaths.pop(id(task), None)
        yield report

    def _bury(self, slot: int, worker: Worker[T, R], task: T, cause: Cause, n_bytes: int = 0) -> R:
        """Put an end to a worker that died in its task or has to, and return what is said of the task."""
        if cause in ("time", "memory"):
            worker.print_stack()
        last, is_ready = worker.last, worker.is_ready
        self._replace(slot)
        how = worker.how_it_ended
        if not is_ready:
            self._n_stillborn += 1
            if cause == "itself" or self._n_stillborn > _MOST_STILLBORN * len(self._workers):
                raise PruneboardError(
                    f"a worker process must be able to start, but {self._n_stillborn} in a row ended with {how} before "
                    "they were ready; see what they printed, and run again with `--workers 0` to find out why."
                )
        if cause == "outside":
            # One that ended before it was ready did not do so because of the task.
            self._deaths[id(task)] += is_ready
        death = Death(how=how, cause=cause, n_outside=self._deaths[id(task)], n_bytes=n_bytes)
        return self._work.death_of(task, last, death)
