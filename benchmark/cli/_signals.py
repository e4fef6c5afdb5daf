"""What Ctrl-C and the signals of a batch system do to a run."""

import contextlib
import signal
import threading
import types
from collections.abc import Iterator
from dataclasses import dataclass, field

from pruneboard.benchmark.workers import Stop

_MOST_SECONDS = 30.0
"""How long a run that drops its jobs gets to end in good order."""


class Terminated(KeyboardInterrupt):
    """The run was told to end by SIGTERM or SIGHUP."""


@dataclass
class Interruption:
    """What was asked of a run by signals.

    Attributes:
        in_workers: whether jobs run in worker processes, so that those at work can be finished.
        stop: what the workers' pool is asked.
        terminated: whether it was SIGTERM or SIGHUP, which leave no time to finish anything.
    """

    in_workers: bool = False
    stop: Stop = field(default_factory=Stop)
    terminated: bool = False

    def hear(self, number: int, _frame: types.FrameType | None) -> None:
        """Handle a signal: the first Ctrl-C finishes the running jobs, all else drops them."""
        if self.stop.drops:
            # It is being done, and takes a moment.
            return
        if number == signal.SIGINT and self.in_workers and not self.stop.finishes:
            self.stop.finishes = True
            return
        self.stop.drops = True
        # By the system, which no code that swallows exceptions, and no pipe that nobody reads, keeps from it.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, _MOST_SECONDS)
        self.terminated = number != signal.SIGINT
        if not self.in_workers:
            raise Terminated if self.terminated else KeyboardInterrupt

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Listen to signals within the block; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # One that is ignored from the start, as `nohup` has it, stays so.
        numbers = [
            n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN
        ]
        before = {number: signal.signal(number, self.hear) for number in numbers}
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            for number, handler in before.items():
                signal.signal(number, handler)
