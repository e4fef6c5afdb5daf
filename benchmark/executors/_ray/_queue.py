"""The jobs of a run that wait for a worker."""

from collections.abc import Iterable, Sequence

from pruneboard.benchmark.executors._local import _Jobs
from pruneboard.benchmark.schema import Job
from pruneboard.benchmark.store import RunStore
from pruneboard.benchmark.workers import Affinity, best_position


class JobQueue:
    """Jobs in the order in which workers had best take them.

    Args:
        jobs: the jobs, in the order of the suite.
        store: where their rows go.
    """

    def __init__(self, jobs: Iterable[Job], store: RunStore) -> None:
        self._affinity = _Jobs(store, "cpu").affinity
        self._waiting = [(job, self._affinity(job)) for job in jobs]

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, own: Affinity, others: Sequence[Affinity]) -> tuple[Job, Affinity]:
        """Take the next job of a worker, and what it shares with others.

        Args:
            own: what the worker's previous job shared; empty before its first.
            others: the same of the other workers.
        """
        return self._waiting.pop(best_position([affinity for _, affinity in self._waiting], own, others))

    def put_back(self, job: Job) -> None:
        """Have a job taken again, before the others."""
        self._waiting.insert(0, (job, self._affinity(job)))
