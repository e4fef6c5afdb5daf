"""What a run has to do, and what it tells other runs on the same folder of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pruneboard.benchmark.executors._claims import Claims
from pruneboard.benchmark.executors._events import Event, Finished, Started
from pruneboard.benchmark.schema import Job
from pruneboard.benchmark.store import SEGMENTS, RunStore
from pruneboard.benchmark.workers import Place

Mark = tuple[int, int]
"""Tells one version of a file from another: inode and time of modification in ns."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Task:
    """A job that a run has to do; it is compared by identity, because a job holds its whole suite.

    Attributes:
        job: the job.
        key: its key.
        place: where it stands in line.
        before: the version of its file when the run began, None when there was none.
        repeats: whether rows that were there when the run began do not count.
    """

    job: Job
    key: str
    place: Place
    before: Mark | None
    repeats: bool = False


class Agenda:
    """The tasks of a run; each is done by it, or by another run on the same folder at the same time, but not by both.

    Args:
        store: where rows are kept.
        claims: tells other runs what this one is at.
        tasks: what is to be done, all of one suite.

    Attributes:
        store: where rows are kept.
        tasks: what is to be done.
    """

    def __init__(self, store: RunStore, claims: Claims, tasks: Iterable[Task]) -> None:
        self.store = store
        self.tasks = tuple(tasks)
        self._claims = claims
        self._by_cell = {task.job.cell: task for task in self.tasks}
        self._todo = dict.fromkeys(self.tasks)
        self._segment_folders = [
            store.folder / name / SEGMENTS for name in {task.job.suite.name for task in self.tasks}
        ]
        self._folded_by = self._segments()
        self._in_segments: dict[Task, str] = {}

    def task(self, job: Job) -> Task:
        """Return the task of a job."""
        return self._by_cell[job.cell]

    def admit(self, task: Task) -> Event | None:
        """Take a task for this run.

        Returns:
            That it started, or that it is finished because another run did it meanwhile, or None when another run is at
            it, so that it has to be asked for again.

        Raises:
            StoreError: the folder cannot be written.
        """
        if not self._claims.take(self._name(task)):
            return None
        if (status := self.saved(task)) is None:
            return Started(job=task.job)
        self.release(task)
        reason = "it failed in another run on the same folder, which has the log" if status == "failed" else ""
        return Finished(job=task.job, status=status, reason=reason, elsewhere=True)

    def release(self, task: Task) -> None:
        """Tell other runs that this one is no longer at a task."""
        self._claims.release(self._name(task))
        self._todo.pop(task, None)

    def saved(self, task: Task) -> str | None:
        """Return the status of rows of a task that were saved since the run began, by whichever run, else None."""
        mark = mark_of(self.store, task.job, task.key)
        if mark is not None and mark != task.before:
            return self.store.status_of_file(task.job, task.key)
        # Another run may have put the rows where there is no file of their own; what was there before lies there too.
        self._look_at_segments()
        status = self._in_segments.get(task)
        return status if status != "failed" and not task.repeats else None

    def _look_at_segments(self) -> None:
        """Ask for all tasks that are left whenever files were folded, and not for each one whenever it is begun."""
        if (segments := self._segments()) == self._folded_by:
            return
        self._folded_by = segments
        left = list(self._todo)
        statuses = self.store.statuses([(task.job, task.key) for task in left])
        self._in_segments = {task: status for task, status in zip(left, statuses, strict=True) if status is not None}

    def _segments(self) -> int:
        """Return when the folders of segments were last changed, in ns; 0 while there are none."""
        return sum(map(_changed, self._segment_folders))

    def log_of(self, task: Task) -> Path:
        """Return the file for what the task prints."""
        return self.store.folder / task.job.suite.name / "logs" / f"{self._name(task)}.log"

    def _name(self, task: Task) -> str:
        return self.store.path(task.job, task.key).name.removesuffix(".parquet")


def mark_of(store: RunStore, job: Job, key: str) -> Mark | None:
    """Return which version of a job's file is there."""
    try:
        stat = store.path(job, key).stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def _changed(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
