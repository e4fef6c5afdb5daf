"""Running jobs on this machine: in this process, or in worker processes of their own."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from pruneboard.benchmark import plugins
from pruneboard.benchmark.errors import PruneboardError
from pruneboard.benchmark.executors._events import Event, Finished, Started
from pruneboard.benchmark.runner import Workbench, make_row, run_job
from pruneboard.benchmark.schema import Job
from pruneboard.benchmark.store import RunStore
from pruneboard.benchmark.workers import Affinity, run_in_pool


def run_in_process(jobs: Sequence[Job], store: RunStore, bench: Workbench) -> Iterator[Event]:
    """Run jobs one after the other in this process.

    Raises:
        PruneboardError: the run cannot go on, such as a full disk; jobs finished before are kept.
    """
    for job in jobs:
        yield Started(job=job)
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
    return Finished(job=job, status=rows[0].status, reason=rows[0].reason, tainted=bench.tainted)


def run_in_workers(
    jobs: Sequence[Job], store: RunStore, bench: Workbench, *, n_workers: int, n_threads: int
) -> Iterator[Event]:
    """Run jobs in `n_workers` processes of `n_threads` CPU threads each.

    A worker that dies takes only its job with it: the job becomes a failed row and another worker takes over. When the
    caller stops iterating, or is interrupted, the workers are ended at once; files are written whole or not at all.

    Raises:
        PruneboardError: a worker met something that no other job could mend, such as a full disk.
    """
    return run_in_pool(jobs, _Jobs(store, str(bench.device)), n_workers=n_workers, n_threads=n_threads)


@dataclass(frozen=True)
class _Jobs:
    """What a worker does with jobs."""

    store: RunStore
    device: str

    def begin(self) -> Callable[[Job], Iterator[Event]]:
        bench = Workbench(torch.device(self.device))
        return lambda job: iter((_run_and_save(job, self.store, bench),))

    def affinity(self, task: Job) -> Affinity:
        criterion = plugins.criterion_of(task)
        if criterion.needs == "nothing" and criterion.deterministic:
            # Its other seeds have the same ranking but for ties, and the worker has measured that.
            return task.model, (task.granularity, task.criterion)
        return (task.model,)

    def start_of(self, task: Job) -> Event:
        return Started(job=task)

    def death_of(self, task: Job, last: Event | None, how: str) -> Event:
        bench = Workbench(torch.device(self.device))
        # It may have died after saving its rows and before reporting them.
        status = self.store.status(task, bench.key(task))
        if status in ("ok", "unsupported"):
            return Finished(job=task, status=status, reason="")
        reason = f"the worker process died with {how} while this job ran"
        row = make_row(task, bench, status="failed", reason=reason, seconds=None)
        self.store.save(task, [row])
        return Finished(job=task, status=row.status, reason=row.reason)
