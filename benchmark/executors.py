"""Where jobs run: in this process, or in worker processes of their own."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.context import SpawnContext
from typing import Any

import torch

from pruneboard.benchmark.errors import PruneboardError
from pruneboard.benchmark.runner import Workbench, make_row, run_job
from pruneboard.benchmark.schema import Job
from pruneboard.benchmark.store import RunStore

_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Started:
    """A job has begun."""

    job: Job


@dataclass(frozen=True)
class Finished:
    """A job has ended and its rows are on disk.

    Attributes:
        job: the job.
        status: `ok`, `unsupported` or `failed`.
        reason: why there is no result; empty when the status is `ok`.
        tainted: whether the job's plugin changed the process, so that no further job must run in it.
    """

    job: Job
    status: str
    reason: str
    tainted: bool = False


Event = Started | Finished


def run_in_process(jobs: Sequence[Job], store: RunStore, bench: Workbench) -> Iterator[Event]:
    """Run jobs one after the other in this process.

    Raises:
        PruneboardError: the run cannot go on, such as a full disk; jobs finished before are kept.
    """
    for job in jobs:
        yield Started(job)
        finished = _run_and_save(job, store, bench)
        yield finished
        if finished.tainted:
            raise PruneboardError(
                f"a criterion must leave the process as it was, but `{job.criterion}` patched torch or timm; run again "
                "with `--workers 1` or more, which replaces the process, to continue."
            )


def _run_and_save(job: Job, store: RunStore, bench: Workbench) -> Finished:
    rows = run_job(job, bench)
    store.save(job, rows)
    return Finished(job, rows[0].status, rows[0].reason, bench.tainted)


def run_in_workers(
    jobs: Sequence[Job], store: RunStore, bench: Workbench, *, n_workers: int, n_threads: int
) -> Iterator[Event]:
    """Run jobs in `n_workers` processes of `n_threads` CPU threads each.

    A worker that dies takes only its job with it: the job becomes a failed row and another worker takes over. When the
    caller stops iterating, or is interrupted, the workers are ended at once; files are written whole or not at all.

    Raises:
        PruneboardError: a worker met something that no other job could mend, such as a full disk.
    """
    waiting = deque(jobs)
    context = multiprocessing.get_context("spawn")
    workers: list[_Worker] = []
    try:
        for _ in range(min(n_workers, len(jobs))):
            workers.append(_Worker(context, store, str(bench.device), n_threads))
        while waiting or any(worker.job for worker in workers):
            for worker in workers:
                if worker.job is None and waiting:
                    job = waiting.popleft()
                    worker.start(job)
                    yield Started(job)
            busy = [worker for worker in workers if worker.job]
            multiprocessing.connection.wait([worker.connection for worker in busy], timeout=_POLL_SECONDS)
            for worker in busy:
                event = worker.receive()
                # A child that a plugin forked holds the pipe open, so the death of its parent is asked for as well.
                if event is None and not worker.process.is_alive():
                    event = _record_death(worker, store, bench)
                if event is not None and (event.tainted or not worker.process.is_alive()):
                    worker.end()
                    workers[workers.index(worker)] = _Worker(context, store, str(bench.device), n_threads)
                if event is not None:
                    yield event
    finally:
        for worker in workers:
            worker.end()


def _record_death(worker: "_Worker", store: RunStore, bench: Workbench) -> Finished:
    worker.end()
    code = worker.process.exitcode
    how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
    job = worker.job
    if job is None:
        raise PruneboardError(f"a worker must not end between jobs, but one did with {how}; run again to continue.")
    # It may have died after saving its rows and before reporting them.
    status = store.status(job, bench.key(job))
    if status in ("ok", "unsupported"):
        return Finished(job, status, "")
    reason = f"the worker process died with {how} while this job ran"
    row = make_row(job, bench, status="failed", reason=reason, seconds=None)
    store.save(job, [row])
    return Finished(job, row.status, row.reason)


class _Worker:
    """A process that runs one job at a time.

    Attributes:
        job: the job it runs, or None when it waits for one.
        connection: end of the pipe that becomes readable when it reports or dies.
        process: the process.
    """

    def __init__(self, context: SpawnContext, store: RunStore, device: str, n_threads: int) -> None:
        self.job: Job | None = None
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, store, device, n_threads))
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

    def start(self, job: Job) -> None:
        """Give it a job; a worker that is already dead is noticed when its report is waited for."""
        self.job = job
        try:
            self.connection.send(job)
        except BrokenPipeError:
            return

    def receive(self) -> Finished | None:
        """Take its report, or None when there is none yet or it died.

        Raises:
            PruneboardError: it met something that ends the whole run.
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
        self.job = None
        return report if isinstance(report, Finished) else None

    def end(self) -> None:
        """End the process at once, with every child that a plugin forked."""
        self.connection.close()
        # Before it leads a group of its own there is none, and it has no children.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._group, signal.SIGKILL)
        self.process.kill()
        self.process.join()


def _work(connection: Any, store: RunStore, device: str, n_threads: int) -> None:
    """Body of a worker process."""
    os.setpgrp()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(n_threads)
    bench = Workbench(torch.device(device))
    while True:
        try:
            job = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            connection.send(_run_and_save(job, store, bench))
        except PruneboardError as error:
            connection.send(error)


def _end_with_parent() -> None:
    """End a worker whose parent was killed, even in the middle of a job that nobody waits for."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os.killpg(os.getpgrp(), signal.SIGKILL)
