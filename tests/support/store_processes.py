"""What several processes do to one run folder at once, for tests of the store."""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pruneboard.benchmark.schema import Row
from pruneboard.benchmark.store import RunStore
from rows import job_of, job_rows, save

SUITE = "digits"


def key_of(number: int, version: int = 0) -> str:
    return hashlib.sha256(f"{number} {version}".encode()).hexdigest()


def rows_of(number: int, version: int = 0) -> list[Row]:
    """Make the rows of a job: always the same for a number and a version of the criterion."""
    changes = {"job_seconds": number / 7, "criterion_version": 1 + version}
    status = "failed" if number % 17 == 3 else "ok"
    return job_rows(key=key_of(number, version), seed=number, status=status, reason=status.strip("ok"), **changes)


def begin(begun: Any, function: Callable[..., None], *arguments: Any) -> None:
    """Say that the process has begun, and call a function."""
    begun.release()
    function(*arguments)


def save_all(folder: Path, numbers: Sequence[int], version: int = 0) -> None:
    """Save jobs, whatever is there."""
    store = RunStore(folder)
    for number in numbers:
        save(store, rows_of(number, version))


def save_missing(folder: Path, n_jobs: int) -> None:
    """Save the jobs that are not there, as a run does."""
    store = RunStore(folder)
    asked = [(job_of(rows_of(number)), key_of(number)) for number in range(n_jobs)]
    for number, status in enumerate(store.statuses(asked)):
        if status is None:
            save(store, rows_of(number))


def fold_until(folder: Path, stop: Path) -> None:
    """Fold as often as can be, and compact sometimes, until a file appears."""
    store = RunStore(folder)
    for turn in itertools.count():
        if stop.exists():
            return
        store.fold(SUITE, at_least=2)
        if turn % 5 == 4:
            store.compact(SUITE)


def read_until(folder: Path, stop: Path) -> None:
    """Read as often as can be until a file appears; what was seen once has to stay, and each cell to be there once."""
    store, seen = RunStore(folder), set()
    while not stop.exists():
        jobs = store.read(SUITE).drop_duplicates("key")
        if jobs.duplicated(["model", "granularity", "criterion", "seed"]).any():
            raise RuntimeError("a cell was read twice")
        if lost := seen - set(jobs["seed"]):
            raise RuntimeError(f"jobs {sorted(lost)} are no longer there")
        seen |= set(jobs["seed"])
