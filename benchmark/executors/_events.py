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
class Returned(Report):
    """A job was interrupted from outside and waits to be started again.

    Attributes:
        job: the job.
        reason: what happened to it.
    """

    job: Job
    reason: str
    again: bool = True


@dataclass(frozen=True, kw_only=True)
class Finished(Report):
    """A job has ended and its rows are on disk.

    Attributes:
        job: the job.
        status: `ok`, `unsupported` or `failed`.
        reason: why there is no result; empty when the status is `ok`.
        elsewhere: whether another run on the same folder did it.
        digest: of its rows as this run saved them; empty where this run did not see them.
    """

    job: Job
    status: str
    reason: str
    elsewhere: bool = False
    digest: str = ""


Event = Started | Returned | Finished
"""A job is `Started`, perhaps `Returned` and `Started` again, and then `Finished`.

One that another run did meanwhile is `Finished` only.
"""
