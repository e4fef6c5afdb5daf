"""Where jobs run: in this process, or in worker processes of their own."""

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
from pruneboard.benchmark.runner import Workbench, failed_row, run_job
from pruneboard.benchmark.schema import Job
from pruneboard.benchmark.store import RunStore


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
    """

    job: Job
    status: str
    reason: str


Event = Started | Finished


def run_in_process(jobs: Sequence[Job], store: RunStore, bench: Workbench) -> Iterator[Event]:
    """Run jobs one after the other in this process.

    Raises:
        PruneboardError: the run cannot go on, such as a full disk; jobs finished before are kept.
    """
    for job in jobs:
        yield Started(job)
        yield _run_and_save(job, store, bench)


def _run_and_save(job: Job, store: RunStore, bench: Workbench) -> Finished:
    rows = run_job(job, bench)
    store.save(rows)
    return Finished(job, rows[0].status, rows[0].reason)


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
            busy = {worker.connection: worker for worker in workers if worker.job}
            for ready in multiprocessing.connection.wait(list(busy)):
                worker = busy[ready]  # type: ignore[index] # only connections were waited for
                event = worker.receive()
                if event is None:
                    event = _record_death(worker, store, bench)
                    workers[workers.index(worker)] = _Worker(context, store, str(bench.device), n_threads)
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
    row = failed_row(job, bench, f"the worker process died with {how} while this job ran")
    store.save([row])
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
        self.process = context.Process(target=_work, args=(theirs, store, device, n_threads), daemon=True)
        self.process.start()
        theirs.close()

    def start(self, job: Job) -> None:
        """Give it a job; a worker that is already dead is noticed when its report is waited for."""
        self.job = job
        try:
            self.connection.send(job)
        except BrokenPipeError:
            return

    def receive(self) -> Finished | None:
        """Take its report, or None when it died.

        Raises:
            PruneboardError: it met something that ends the whole run.
        """
        try:
            report = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return None
        if isinstance(report, PruneboardError):
            raise report
        self.job = None
        return report if isinstance(report, Finished) else None

    def end(self) -> None:
        """End the process at once."""
        self.connection.close()
        self.process.kill()
        self.process.join()


def _work(connection: Any, store: RunStore, device: str, n_threads: int) -> None:
    """Body of a worker process."""
    # Ctrl-C reaches the whole process group; the parent decides what becomes of the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(n_threads)
    bench = Workbench(torch.device(device))
    while True:
        try:
            job = connection.recv()
        except (EOFError, ConnectionResetError):
            os._exit(0)
        try:
            connection.send(_run_and_save(job, store, bench))
        except PruneboardError as error:
            connection.send(error)


def _end_with_parent() -> None:
    """End a worker whose parent was killed, even in the middle of a job that nobody waits for."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
