"""Where jobs run: in this process, or in worker processes of their own."""

from pruneboard.benchmark.executors._agenda import Agenda, Task, mark_of
from pruneboard.benchmark.executors._claims import Claims, new_run_id
from pruneboard.benchmark.executors._devices import devices_for, local_devices, threads_for
from pruneboard.benchmark.executors._events import Event, Finished, Returned, Started
from pruneboard.benchmark.executors._local import (
    MOST_ATTEMPTS,
    LocalWorkers,
    affinity_of,
    run_in_process,
    run_in_workers,
)

__all__ = [
    "MOST_ATTEMPTS",
    "Agenda",
    "Claims",
    "Event",
    "Finished",
    "LocalWorkers",
    "Returned",
    "Started",
    "Task",
    "affinity_of",
    "devices_for",
    "local_devices",
    "mark_of",
    "new_run_id",
    "run_in_process",
    "run_in_workers",
    "threads_for",
]
