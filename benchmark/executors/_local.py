"""Running jobs on this machine: in this process, or in worker processes of their own."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from pruneboard.benchmark import plugins
from pruneboard.benchmark.discovery import Source
from pruneboard.benchmark.executors._agenda import Agenda, Task
from pruneboard.benchmark.executors._events import Event, Finished, Returned
from pruneboard.benchmark.foreign import Description, fork_server
from pruneboard.benchmark.runner import Workbench, make_row, run_job
from pruneboard.benchmark.schema import Job, Precision, Row
from pruneboard.benchmark.store import RunStore, digest_of, table_of
from pruneboard.benchmark.workers import (
    POSTPONED_SECONDS,
    Affinity,
    Death,
    Limits,
    Place,
    PoolOptions,
    Stop,
    TaskLog,
    TaskQueue,
    run_in_pool,
)

MOST_ATTEMPTS = 3
"""How often a job is begun whose worker dies from outside each time."""

_LOGGER = logging.getLogger("pruneboard")


@dataclass(frozen=True, kw_only=True)
class LocalWorkers:
    """The worker processes of a run.

    Attributes:
        devices: the device of each, by name.
        n_threads: CPU threads of each.
        limits: what one may use.
        stop: how to stop them before the end.
    """

    devices: tuple[str, ...]
    n_threads: int
    limits: Limits = field(default_factory=Limits)
    stop: Stop = field(default_factory=Stop)


def run_in_process(agenda: Agenda, bench: Workbench) -> Iterator[Event]:
    """Run jobs one after the other in this process.

    Raises:
        PruneboardError: the run cannot go on, such as a full disk; jobs finished before are kept.
    """
    queue: TaskQueue[Task] = TaskQueue()
    postponed = list(agenda.tasks)
    while postponed:
        for task in postponed:
            queue.add(task, affinity_of(task), task.place)
        postponed.clear()
        while queue:
            task = queue.take("this process")
            if (event := agenda.admit(task)) is None:
                postponed.append(task)
                continue
            yield event
            if not event.ends:
                yield from _run_here(task, agenda, bench)
        if postponed:
            # Other runs are at these, and may be ended before they have finished them.
            time.sleep(POSTPONED_SECONDS)


def _run_here(task: Task, agenda: Agenda, bench: Workbench) -> Iterator[Event]:
    try:
        with TaskLog(agenda.log_of(task)) as log, _tracebacks_in(log):
            finished = _run_and_save(task.job, agenda.store, bench)
    finally:
        agenda.release(task)
    yield finished


@contextlib.contextmanager
def _tracebacks_in(log: TaskLog) -> Iterator[None]:
    """Write the tracebacks of failures to a log; what is printed goes where this process prints."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            log.write(f"{self.format(record)}\n".encode("utf-8", "backslashreplace"))

    handler = Handler()
    _LOGGER.addHandler(handler)
    try:
        yield
    finally:
        _LOGGER.removeHandler(handler)


def _run_and_save(job: Job, store: RunStore, bench: Workbench) -> Finished:
    rows = run_job(job, bench)
    store.save(job, rows)
    bench.checkpoints(job).forget(job.suite.shots)
    return finished(job, rows)


def finished(job: Job, rows: Sequence[Row]) -> Finished:
    """Say that a job has ended, with the digest of the rows that were saved of it."""
    return Finished(job=job, status=rows[0].status, reason=rows[0].reason, digest=digest_of(table_of(rows)))


def run_in_workers(agenda: Agenda, bench: Workbench, workers: LocalWorkers) -> Iterator[Event]:
    """Run jobs in worker processes.

    A worker that dies takes only its job with it, and another takes over. The job becomes a failed row when that was
    its own doing or a limit's, and is given out again when it was ended from outside. When the caller stops iterating,
    or is interrupted, the workers are ended at once; files are written whole or not at all.

    Raises:
        PruneboardError: a worker met something that no other job could mend, such as a full disk.
        KeyboardInterrupt: `workers.stop.drops` was set.
    """
    options = PoolOptions(
        n_workers=len(workers.devices),
        limits=workers.limits,
        stop=workers.stop,
        log_of=agenda.log_of,
    )
    for event in run_in_pool(agenda.tasks, _Jobs(agenda, bench, workers), options):
        if isinstance(event, Finished):
            agenda.release(agenda.task(event.job))
        yield event


def affinity_of(task: Task) -> Affinity:
    """Return what a task shares with others: its network, and the measured masks of data-free criteria."""
    job = task.job
    criterion = plugins.criterion_of(job)
    if criterion.needs == "nothing" and criterion.deterministic:
        # Its other seeds have the same ranking but for ties, and the worker has measured that.
        return job.model, (job.granularity, job.criterion)
    return (job.model,)


@dataclass(frozen=True)
class _JobBody:
    """What a worker process does with tasks."""

    store: RunStore
    precision: Precision
    devices: tuple[str, ...]
    n_threads: int
    known: Mapping[Source, Description]

    def begin(self, slot: int) -> Callable[[Task], Iterator[Event]]:
        plugins.know(self.known)
        if any(found.criteria for found in self.known.values()):
            # Starting it is no part of a job, whose time may be limited.
            fork_server().await_ready()
        torch.set_num_threads(self.n_threads)
        # What it prints goes to the log of its task.
        _LOGGER.addHandler(logging.StreamHandler())
        bench = Workbench(torch.device(self.devices[slot]), self.precision, self.store.folder)
        return lambda task: iter((_run_and_save(task.job, self.store, bench),))


class _Jobs:
    """What the pool asks of tasks."""

    def __init__(self, agenda: Agenda, bench: Workbench, workers: LocalWorkers) -> None:
        self._agenda, self._bench, self._limits = agenda, bench, workers.limits
        self.body = _JobBody(agenda.store, bench.precision, workers.devices, workers.n_threads, plugins.descriptions())

    def affinity(self, task: Task) -> Affinity:
        return affinity_of(task)

    def place(self, task: Task) -> Place:
        return task.place

    def start_of(self, task: Task) -> Event | None:
        return self._agenda.admit(task)

    def death_of(self, task: Task, last: Event | None, death: Death) -> Event:
        # It may have died after saving its rows and before reporting them.
        if (status := self._agenda.saved(task)) is not None:
            return Finished(
                job=task.job, status=status, reason="" if status != "failed" else _reason(death, self._limits)
            )
        reason = _reason(death, self._limits)
        if death.cause == "outside" and death.n_outside < MOST_ATTEMPTS:
            return Returned(job=task.job, reason=reason)
        row = make_row(task.job, self._bench, status="failed", reason=reason, seconds=None)
        self._agenda.store.save(task.job, [row])
        return finished(task.job, [row])


def too_long(seconds: float) -> str:
    """Return why a job has failed that took longer than it may."""
    return (
        f"a job must end within the time limit of {seconds:g} s, but this one had not; raise `--time-limit` if it only "
        "needs longer."
    )


def _reason(death: Death, limits: Limits) -> str:
    """Return why a job ended with its worker: the rule, what was found, and the remedy."""
    if death.cause == "time":
        return too_long(limits.seconds or 0.0)
    if death.cause == "memory":
        return (
            f"a worker must hold less than the memory limit of {(limits.n_bytes or 0) / 1e9:g} GB, but in this job it "
            f"held {death.n_bytes / 1e9:.3g} GB with what it started; raise `--memory-limit` if it only needs more."
        )
    died = f"the worker process died with {death.how} while this job ran"
    if death.cause == "outside" and death.n_outside >= MOST_ATTEMPTS:
        return (
            f"{died}, in each of {death.n_outside} attempts; see whether the machine runs out of memory, and run again "
            "with fewer workers."
        )
    return died
