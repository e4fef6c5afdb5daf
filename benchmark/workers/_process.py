"""One worker: a process that does one task at a time, seen from both sides."""

import contextlib
import ctypes
import enum
import faulthandler
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.context import SpawnContext
from typing import Any, Generic, TypeVar, cast

from pruneboard.benchmark.errors import PruneboardError
from pruneboard.benchmark.workers._channel import Channel, ChannelError
from pruneboard.benchmark.workers._log import TaskLog
from pruneboard.benchmark.workers._tree import adopt_orphans, descendants, kill_descendants, kill_tree
from pruneboard.benchmark.workers._work import Body, Cause, Report

T = TypeVar("T")
R = TypeVar("R", bound=Report)

_READ_BYTES = 2**16
"""What a pipe holds at most."""

_MOST_READS = 16
_STACK_SECONDS = 0.3
"""How long a worker that has to be ended gets to print where it is."""

_ENDING_SECONDS = 5.0
"""How long a process gets to end that has closed its pipe, or was killed."""

_PARENT_SECONDS = 0.5
"""How often a worker looks whether its parent is still there."""

_FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGHUP}
"""Signals that come from the system or its users: memory runs out, a machine goes down, somebody tidies up."""


class _State(enum.Enum):
    READY = "ready"


@dataclass(frozen=True, kw_only=True)
class WorkerSetup:
    """What a worker is given besides its work.

    Attributes:
        slot: number of the worker among those of the pool.
        captures: whether what it prints is kept in logs instead of being shown.
    """

    slot: int
    captures: bool


class Worker(Generic[T, R]):
    """A process that does one task at a time.

    Attributes:
        task: what it does, or None when it waits for something to do.
        last: what it reported last of this task.
        since: when the process began with the task or, until it is ready, to start, by `time.monotonic`.
        is_ready: whether the process has started.
        fault: why it has to be ended, though it lives: it does not keep to the protocol; empty while it does.
        channel: becomes readable when it reports or dies.
        output: end of the pipe that becomes readable when it prints; None without logs, or when it is closed.
        process: the process.
    """

    def __init__(self, context: SpawnContext, body: Body[T, R], setup: WorkerSetup) -> None:
        self.task: T | None = None
        self.last: R | None = None
        self.since = time.monotonic()
        self.is_ready = False
        self.fault = ""
        self._log: TaskLog | None = None
        self.channel = Channel(context)
        self.output: Any = None
        printed = None
        if setup.captures:
            self.output, printed = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(self.channel.theirs, printed, body, setup))
        # Ctrl-C reaches the whole process group, also while a worker is still importing; the parent decides what
        # becomes of the workers, so they are born deaf to it.
        heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self.process.start()
        finally:
            signal.signal(signal.SIGINT, heard)
        self.channel.theirs.close()
        if printed is not None:
            printed.close()
            os.set_blocking(self.output.fileno(), False)
        if self.process.pid is None:
            raise PruneboardError("a started worker must have a process id, but the system gave none; run again.")
        self.pid = self.process.pid

    @property
    def how_it_ended(self) -> str:
        """How a process that is dead ended."""
        code = self.process.exitcode
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        return f"{how}, because it {self.fault}," if self.fault else how

    @property
    def cause_of_death(self) -> Cause:
        """Who ended a process that the pool did not end."""
        code = self.process.exitcode
        return "outside" if code is not None and -code in _FROM_OUTSIDE else "itself"

    def start(self, task: T, log: TaskLog | None) -> None:
        """Give it a task; a worker that is already dead is noticed when its report is waited for."""
        self._read_output()
        self.task, self.last, self._log = task, None, log
        if self.is_ready:
            self.since = time.monotonic()
        try:
            self.channel.send(task)
        except ChannelError as error:
            self.fault = str(error)

    def receive(self) -> R | None:
        """Take a report, or None when there is none yet or it died.

        Raises:
            PruneboardError: it met something that ends everything.
        """
        self._read_output()
        if self.fault:
            return None
        try:
            report = self.channel.receive()
        except ChannelError as error:
            # One that ends closes its pipe before it is dead.
            self.fault = "" if self._has_ended() else str(error)
            return None
        if report is _State.READY and not self.is_ready:
            self.is_ready, self.since = True, time.monotonic()
        if isinstance(report, PruneboardError):
            raise report
        if not isinstance(report, Report):
            if report is not None and report is not _State.READY:
                self.fault = "sent what is no report"
            return None
        self.last = cast("R", report)
        if report.ends:
            # What the task printed was in the pipe before its report was.
            self._read_output()
            self._close_log()
            self.task = None
        return self.last

    def print_stack(self) -> None:
        """Have a worker that is about to be ended print where it is, into its log."""
        if self._log is None or not self.is_ready:
            return
        # A criterion from elsewhere runs below it.
        for pid in (self.pid, *(process.pid for process in descendants(self.pid))):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)
        end = time.monotonic() + _STACK_SECONDS
        while (left := end - time.monotonic()) > 0 and self.output is not None:
            multiprocessing.connection.wait([self.output], timeout=left)
            self._read_output()

    def end(self) -> None:
        """End the process at once, with every process that a plugin forked."""
        if self.process.is_alive():
            kill_tree(self.pid)
            self._has_ended()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._read_output()
        self._close_log()
        self.channel.close()
        self._close_output()

    def _has_ended(self) -> bool:
        """Wait a while for the process to end, and return whether it has."""
        end = time.monotonic() + _ENDING_SECONDS
        # Joining would wait for ever for a process that closed all its descriptors, the sentinel among them.
        while self.process.is_alive() and time.monotonic() < end:
            time.sleep(0.01)
        return not self.process.is_alive()

    def _read_output(self) -> None:
        """Move what the worker printed into the log of its task; what it prints between tasks is dropped."""
        # One that prints without end must not keep this process from everything else.
        for _ in range(_MOST_READS):
            if self.output is None:
                return
            try:
                text = os.read(self.output.fileno(), _READ_BYTES)
            except BlockingIOError:
                return
            if not text:
                self._close_output()
            elif self._log is not None:
                self._log.write(text)
            if len(text) < _READ_BYTES:
                return

    def _close_output(self) -> None:
        if self.output is not None:
            self.output.close()
            self.output = None

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None


def _work(connection: Any, printed: Any, body: Body[T, R], setup: WorkerSetup) -> None:
    """Body of a worker process."""
    os.setpgrp()
    adopt_orphans()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if printed is not None:
        for descriptor in (1, 2):
            os.dup2(printed.fileno(), descriptor)
        printed.close()
        faulthandler.enable()
        faulthandler.register(signal.SIGUSR1)
    run = None
    try:
        run = body.begin(setup.slot)
        connection.send(_State.READY)
    except PruneboardError as error:
        connection.send(error)
    while run is not None:
        try:
            task = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            for report in _flushed(run(task)):
                connection.send(report)
        except PruneboardError as error:
            connection.send(error)


def _flushed(reports: Iterator[R]) -> Iterator[R]:
    """Pass reports on, each when all that was printed before has left the process."""
    for report in reports:
        for stream in (sys.stdout, sys.stderr):
            # A plugin may have closed them, or put something else in their place.
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.flush()
        ctypes.CDLL(None).fflush(None)
        yield report


def _end_with_parent() -> None:
    """End a worker whose parent was killed, even in the middle of a task that nobody waits for."""
    parent = multiprocessing.parent_process()
    # No descriptor tells it, because a plugin may have closed all of them.
    while parent is not None and os.getppid() == parent.pid:
        time.sleep(_PARENT_SECONDS)
    kill_descendants(os.getpid())
    os.killpg(os.getpgrp(), signal.SIGKILL)
