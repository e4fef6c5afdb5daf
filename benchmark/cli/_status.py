"""The status file of a run, for whoever watches it by machine."""

import datetime
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pruneboard.benchmark.store import atomic_file

State = Literal["running", "finishing", "done", "interrupted", "failed"]

STATUS_FORMAT = 1
"""Version of the fields below; rises when one is removed or changes its meaning."""


def utc_now() -> str:
    """Return the present time, UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class RunningJob:
    """A job that is being run.

    Attributes:
        job: model, granularity, criterion and seed, joined by dots.
        attempt: 1, or more when its worker was ended from outside before.
        started_utc: when this attempt began.
        log: file that holds what it prints, if it prints anything.
    """

    job: str
    attempt: int
    started_utc: str
    log: str


@dataclass(frozen=True, kw_only=True)
class Status:
    """How a run stands.

    Attributes:
        state: `running`; `finishing`, when it was interrupted and finishes the jobs that run; then `done`,
            `interrupted`, or `failed`, when it could not go on. A run that was killed says what it said last.
        n_jobs: jobs of the command.
        n_before: those that were done before it began.
        n_elsewhere: those that another run on the same folder did meanwhile; they are among the counts.
        counts: jobs that ended since, by status: `ok`, `unsupported` or `failed`.
        running: jobs that run now.
        jobs_per_hour: jobs that this run finished, divided by the time since it began.
        seconds_left: expected time until the last job ends, in s; null while nothing is known.
    """

    state: State
    n_jobs: int
    n_before: int
    n_elsewhere: int
    counts: Mapping[str, int]
    running: Sequence[RunningJob]
    jobs_per_hour: float
    seconds_left: float | None


class StatusFile:
    """A file that always holds one whole status.

    Args:
        path: the file.
        run: id of the run.
        suite: name of its suite.
        options: how it was started.
    """

    def __init__(self, path: Path, *, run: str, suite: str, options: Mapping[str, Any]) -> None:
        self.path = path
        self._fixed = {
            "format": STATUS_FORMAT,
            "run": run,
            "suite": suite,
            "host": platform.node(),
            "pid": os.getpid(),
            "options": dict(options),
            "started_utc": utc_now(),
        }

    def write(self, status: Status) -> None:
        """Replace the file.

        Raises:
            StoreError: it cannot be written.
        """
        content = {**self._fixed, "updated_utc": utc_now(), **asdict(status)}
        with atomic_file(self.path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
