"""What a run shows while it goes on: on the terminal, as lines, and in its status file."""

import contextlib
import threading
import time
import types
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pruneboard.benchmark.cli._estimates import Forecast
from pruneboard.benchmark.cli._quantities import format_seconds
from pruneboard.benchmark.cli._status import RunningJob, State, Status, StatusFile, utc_now
from pruneboard.benchmark.errors import StoreError
from pruneboard.benchmark.executors import Event, Finished, Started
from pruneboard.benchmark.schema import Job
from pruneboard.benchmark.workers import Stop

_TICK_SECONDS = 1.0
_SHOWN_SECONDS = 10.0
"""How often a status file is written when nothing happens."""


@dataclass
class RunSummary:
    """How a run went.

    Attributes:
        counts: jobs by status.
        failures: failed jobs with their reasons.
        n_elsewhere: jobs that another run on the same folder did; they are among the counts.
        interrupted: whether a signal ended it.
        terminated: whether that was SIGTERM or SIGHUP.
    """

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[Job, str]] = field(default_factory=list)
    n_elsewhere: int = 0
    interrupted: bool = False
    terminated: bool = False

    @property
    def n_failed(self) -> int:
        """Number of failed jobs."""
        return len(self.failures)


@dataclass(frozen=True, kw_only=True)
class Scope:
    """How much a run has to do.

    Attributes:
        n_jobs: jobs of the command.
        n_todo: those that are not done yet.
    """

    n_jobs: int
    n_todo: int


class Watch:
    """Follows the events of a run.

    Args:
        scope: how much there is to do.
        forecast: tells the time that is left.
        log_of: gives the log of a job.
        status_file: where the status is kept.
        console: where progress is shown.
        stop: says whether the run was asked to finish.

    Attributes:
        summary: how the run went so far.
    """

    def __init__(
        self,
        scope: Scope,
        forecast: Forecast,
        *,
        log_of: Callable[[Job], Path],
        status_file: StatusFile,
        console: Console,
        stop: Stop,
    ) -> None:
        self.summary = RunSummary()
        self._scope, self._forecast, self._stop = scope, forecast, stop
        self._log_of, self._status_file, self._console = log_of, status_file, console
        self._lock = threading.Lock()
        self._running: dict[str, tuple[float, RunningJob]] = {}
        self._attempts: Counter[str] = Counter()
        self._began = time.monotonic()
        self._seconds_left: float | None = forecast.seconds_left
        self._is_announced = False
        self._error: StoreError | None = None
        self._closed = threading.Event()
        self._ticking = threading.Thread(target=self._tick_on, daemon=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("jobs"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[pace]}"),
            TextColumn("{task.fields[running]}", style="dim"),
        )
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._bar = self._progress.add_task("running", total=scope.n_todo, running="", pace="")

    def __enter__(self) -> Self:
        self._status_file.write(self._status("running"))
        self._progress.start()
        self._ticking.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self._closed.set()
        self._ticking.join()
        self._progress.stop()
        is_interrupt = kind is not None and issubclass(kind, KeyboardInterrupt)
        if error is not None and not is_interrupt:
            # The disk may be what failed, and that is told already.
            with contextlib.suppress(StoreError):
                self._status_file.write(self._status("failed"))
            return
        interrupted = is_interrupt or self._stop.finishes or self._stop.drops
        self._status_file.write(self._status("interrupted" if interrupted else "done"))

    def see(self, event: Event) -> None:
        """Take an event into account, and show it.

        Raises:
            StoreError: the status file cannot be written.
        """
        if self._error is not None:
            raise self._error
        cell = event.job.cell
        if isinstance(event, Started):
            self._attempts[cell] += 1
            running = RunningJob(
                job=cell,
                attempt=self._attempts[cell],
                started_utc=utc_now(),
                log=str(self._log_of(event.job)),
            )
            with self._lock:
                self._running[cell] = time.monotonic(), running
        elif isinstance(event, Finished):
            del self._attempts[cell]
            self._finish(event)
        else:
            with self._lock:
                self._running.pop(cell, None)
            self._progress.console.print(f"again: {event.job}: {event.reason}", soft_wrap=True)

    def _finish(self, event: Finished) -> None:
        with self._lock:
            started = self._running.pop(event.job.cell, None)
            seconds = None if started is None else time.monotonic() - started[0]
            self._forecast.finish(event.job, seconds if event.status == "ok" else None)
            self.summary.counts[event.status] += 1
            self.summary.n_elsewhere += event.elsewhere
        self._progress.advance(self._bar)
        where = " in another run" if event.elsewhere else ""
        if event.status == "failed":
            self.summary.failures.append((event.job, event.reason))
            log = self._log_of(event.job)
            at = f" (log: {log})" if log.exists() else ""
            self._progress.console.print(f"failed{where}: {event.job}: {event.reason}{at}", soft_wrap=True)
        elif not self._console.is_terminal:
            done = self.summary.counts.total()
            left = f", {format_seconds(self._seconds_left)} left" if self._seconds_left is not None else ""
            if done == self._scope.n_todo:
                left = f"; all done in {format_seconds(time.monotonic() - self._began)}"
            self._console.print(
                f"[{done}/{self._scope.n_todo}] {event.job}: {event.status}{where}{left}", soft_wrap=True
            )

    def _tick_on(self) -> None:
        """Look at what has become of the run, once in a while."""
        written, seen = time.monotonic(), None
        while not self._closed.wait(_TICK_SECONDS):
            status = self._status("finishing" if self._stop.finishes else "running")
            self._seconds_left = status.seconds_left
            if self._stop.finishes and not self._is_announced:
                self._is_announced = True
                self._progress.console.print(f"Finishing {len(status.running)} running jobs; Ctrl-C again drops them.")
            left = "" if status.seconds_left is None else f", {format_seconds(status.seconds_left)} left"
            names = "; ".join(running.job for running in status.running)
            self._progress.update(self._bar, running=names, pace=f"{status.jobs_per_hour:.0f} jobs/h{left}")
            now, says = time.monotonic(), (status.state, status.counts, status.running)
            if says != seen or now - written >= _SHOWN_SECONDS:
                written, seen = now, says
                try:
                    self._status_file.write(status)
                except StoreError as error:
                    self._error = error
                    return

    def _status(self, state: State) -> Status:
        with self._lock:
            n_own = self.summary.counts.total() - self.summary.n_elsewhere
            return Status(
                state=state,
                n_jobs=self._scope.n_jobs,
                n_before=self._scope.n_jobs - self._scope.n_todo,
                n_elsewhere=self.summary.n_elsewhere,
                counts=dict(self.summary.counts),
                running=[running for _, running in self._running.values()],
                jobs_per_hour=round(3600 * n_own / max(1.0, time.monotonic() - self._began), 1),
                seconds_left=self._forecast.seconds_left,
            )
