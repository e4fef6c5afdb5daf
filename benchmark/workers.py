"""A pool of worker processes that outlives the death of any of them."""

import contextlib
import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.context import SpawnContext
from typing import Any, Generic, Protocol, TypeVar

import torch

from pruneboard.benchmark.errors import PruneboardError

_POLL_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a worker says of its task.

    Attributes:
        ends: whether the worker is done with the task.
        again: whether the task then has to be given to a worker once more.
        tainted: whether a plugin changed the process, so that nothing further must run in it.
    """

    ends: bool = True
    again: bool = False
    tainted: bool = False


Affinity = tuple[Hashable, ...]
"""What a task leaves in its worker that others can use, from the coarsest to the finest."""

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
R = TypeVar("R", bound=Report)


class Work(Protocol[T_contra, R]):
    """What workers do with their tasks; it is sent to each worker process."""

    def begin(self) -> Callable[[T_contra], Iterator[R]]:
        """Prepare a worker process, and return what runs one task and reports; its last report `ends`."""

    def affinity(self, task: T_contra) -> Affinity:
        """Return what the task shares with others; it decides their order and nothing else; in the calling process."""

    def start_of(self, task: T_contra) -> R:
        """Return the report that a task is given to a worker; in the calling process."""

    def death_of(self, task: T_contra, last: R | None, how: str) -> R:
        """Record that a worker died, and return a report that `ends` its task; in the calling process.

        Args:
            task: what it worked on.
            last: what it reported last of this task.
            how: how it ended, such as `signal SIGKILL`.

        Raises:
            PruneboardError: there is nothing to go on with.
        """


def run_in_pool(tasks: Sequence[T], work: Work[T, R], *, n_workers: int, n_threads: int) -> Iterator[R]:
    """Run tasks in `n_workers` processes of `n_threads` CPU threads each, and yield what they report.

    A worker goes on with what shares most with its previous task, else with what shares least with the other workers,
    else in the order of `tasks`; none waits for the sake of this order. A worker that dies takes only what it was at
    with it, and another takes over. When the caller stops iterating, or is interrupted, the workers are ended at once.

    Raises:
        PruneboardError: a worker met something that no other task could mend, such as a full disk.
    """
    waiting = [(task, work.affinity(task)) for task in tasks]
    context = multiprocessing.get_context("spawn")
    workers: list[_Worker[T, R]] = []
    try:
        for _ in range(min(n_workers, len(tasks))):
            workers.append(_Worker(context, work, n_threads))
        while waiting or any(worker.task is not None for worker in workers):
            for worker in workers:
                if worker.task is None and waiting:
                    others = [other.affinity for other in workers if other is not worker]
                    position = best_position([affinity for _, affinity in waiting], worker.affinity, others)
                    given, affinity = waiting.pop(position)
                    worker.start(given, affinity)
                    yield work.start_of(given)
            busy = [worker for worker in workers if worker.task is not None]
            multiprocessing.connection.wait([worker.connection for worker in busy], timeout=_POLL_SECONDS)
            for worker in busy:
                task, report = worker.task, worker.receive()
                # A child that a plugin forked holds the pipe open, so the death of its parent is asked for as well.
                if report is None and task is not None and not worker.process.is_alive():
                    worker.end()
                    report = work.death_of(task, worker.last, worker.how_it_ended)
                if report is None or task is None:
                    continue
                if report.ends and (report.tainted or not worker.process.is_alive()):
                    worker.end()
                    workers[workers.index(worker)] = _Worker(context, work, n_threads)
                if report.ends and report.again:
                    waiting.insert(0, (task, work.affinity(task)))
                yield report
    finally:
        for worker in workers:
            worker.end()


def best_position(waiting: Sequence[Affinity], own: Affinity, others: Sequence[Affinity]) -> int:
    """Return the position of the task that a worker had best take next; of equally good ones, the first."""
    first: dict[Affinity, int] = {}
    for position, affinity in enumerate(waiting):
        first.setdefault(affinity, position)

    def cost(affinity: Affinity) -> tuple[int, int, int]:
        with_others = max((_n_shared(affinity, other) for other in others), default=0)
        return -_n_shared(affinity, own), with_others, first[affinity]

    return first[min(first, key=cost)]


def _n_shared(first: Affinity, second: Affinity) -> int:
    """Count what two tasks share; what is finer only counts where all that is coarser is shared."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


class _Worker(Generic[T, R]):
    """A process that does one task at a time.

    Attributes:
        task: what it does, or None when it waits for something to do.
        affinity: that of its present or else previous task; empty before the first.
        last: what it reported last of this task.
        connection: end of the pipe that becomes readable when it reports or dies.
        process: the process.
    """

    def __init__(self, context: SpawnContext, work: Work[T, R], n_threads: int) -> None:
        self.task: T | None = None
        self.affinity: Affinity = ()
        self.last: R | None = None
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, work, n_threads))
        # Ctrl-C reaches the whole process group, also while a worker is still importing; the parent decides what
        # becomes of the workers, so they are born deaf to it.
        heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self.process.start()
        finally:
            signal.signal(signal.SIGINT, heard)
        theirs.close()
        if self.process.pid is None:
            raise PruneboardError("a started worker must have a process id, but the system gave none; run again.")
        self._group = self.process.pid

    @property
    def how_it_ended(self) -> str:
        """How a process that is dead ended."""
        code = self.process.exitcode
        return f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"

    def start(self, task: T, affinity: Affinity) -> None:
        """Give it a task; a worker that is already dead is noticed when its report is waited for."""
        self.task, self.affinity, self.last = task, affinity, None
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(task)

    def receive(self) -> R | None:
        """Take a report, or None when there is none yet or it died.

        Raises:
            PruneboardError: it met something that ends everything.
        """
        try:
            if not self.connection.poll():
                return None
            report = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return None
        if isinstance(report, PruneboardError):
            raise report
        self.last = report
        if report.ends:
            self.task = None
        return self.last

    def end(self) -> None:
        """End the process at once, with every child that a plugin forked."""
        self.connection.close()
        # Before it leads a group of its own there is none, and it has no children.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._group, signal.SIGKILL)
        self.process.kill()
        self.process.join()


def _work(connection: Any, work: Work[T, R], n_threads: int) -> None:
    """Body of a worker process."""
    os.setpgrp()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(n_threads)
    run = work.begin()
    while True:
        try:
            task = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            for report in run(task):
                connection.send(report)
        except PruneboardError as error:
            connection.send(error)


def _end_with_parent() -> None:
    """End a worker whose parent was killed, even in the middle of a task that nobody waits for."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os.killpg(os.getpgrp(), signal.SIGKILL)
