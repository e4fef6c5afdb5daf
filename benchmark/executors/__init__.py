"""Where jobs run: in this process, or in worker processes of their own."""

from pruneboard.benchmark.executors._events import Event, Finished, Started
from pruneboard.benchmark.executors._local import run_in_process, run_in_workers

__all__ = ["Event", "Finished", "Started", "run_in_process", "run_in_workers"]
