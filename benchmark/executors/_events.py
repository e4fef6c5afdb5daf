"""What executors say of jobs while they run."""

from dataclasses import dataclass

from pruneboard.benchmark.schema import Job
from pruneboard.benchmark.workers import Report


@dataclass(frozen=True, kw_only=True)
class Started(Report):
    """A job has begun."""

    job: Job
    ends: bool = False


@dataclass(frozen=True, kw_only=True)
class Finished(Report):
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
