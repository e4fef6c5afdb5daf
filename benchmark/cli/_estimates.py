"""How long jobs will take, from how long others of their kind took."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from pruneboard.benchmark.errors import StoreError
from pruneboard.benchmark.schema import Job
from pruneboard.benchmark.store import ResultsStore, RunStore

Kind = tuple[str, str, str]
"""Network, granularity and criterion: jobs that differ in their seed only take about the same time."""


def kind_of(job: Job) -> Kind:
    """Return what a job's time depends on."""
    return job.model, job.granularity, job.criterion


def past_seconds(rows: pd.DataFrame) -> dict[Kind, float]:
    """Return the mean time of the finished jobs of each kind among rows, in s."""
    jobs = rows.loc[rows["job_seconds"].notna()].drop_duplicates("key")
    means = jobs.groupby(["model", "granularity", "criterion"], sort=False)["job_seconds"].mean()
    names = zip(*(means.index.get_level_values(level) for level in range(3)), strict=True)
    return dict(zip(names, map(float, means), strict=True))


def read_past_seconds(suite: str, stores: Sequence[RunStore | ResultsStore]) -> dict[Kind, float]:
    """Return the mean time of each kind of job, from the first of several folders that has any of it.

    Times are no results: what cannot be read counts as not there, and is reported where the rows themselves are needed.
    """
    known: dict[Kind, float] = {}
    for store in stores:
        try:
            rows = store.read(suite)
        except StoreError:
            continue
        known = past_seconds(rows) | known
    return known


@dataclass
class Forecast:
    """The time that is left, learned from earlier runs and from this one as it goes on.

    Attributes:
        past: mean time of a job of each kind in earlier runs, in s.
        n_workers: jobs that run at a time.
    """

    past: Mapping[Kind, float]
    n_workers: int
    _left: Counter[Kind] = field(default_factory=Counter)
    _done: dict[Kind, tuple[int, float]] = field(default_factory=dict)

    def add(self, jobs: Iterable[Job]) -> None:
        """Take jobs that are to be done into account."""
        self._left.update(map(kind_of, jobs))

    def finish(self, job: Job, seconds: float | None) -> None:
        """Take a job off, which took some time, or None when it says nothing about how long others will take."""
        kind = kind_of(job)
        self._left[kind] -= 1
        if seconds is not None:
            n, total = self._done.get(kind, (0, 0.0))
            self._done[kind] = n + 1, total + seconds

    @property
    def seconds_left(self) -> float | None:
        """Time until the last job ends when the workers share them evenly, in s; None while nothing is known."""
        means = {kind: total / n for kind, (n, total) in self._done.items()}
        # How much slower this run is than earlier ones, which may have been on another machine.
        both = [kind for kind in means if kind in self.past]
        before = sum(self._done[kind][0] * self.past[kind] for kind in both)
        slower = sum(self._done[kind][1] for kind in both) / before if before > 0 else 1.0
        known = {kind: slower * seconds for kind, seconds in self.past.items()} | means
        if not known and self._left.total() > 0:
            return None
        typical = sum(known.values()) / max(1, len(known))
        total = sum(n * known.get(kind, typical) for kind, n in self._left.items())
        return total / max(1, min(self.n_workers, self._left.total()))
