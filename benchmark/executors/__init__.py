"""Where jobs run: in this process, in worker processes of their own, or on a Ray cluster."""

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
from pruneboard.benchmark.executors._ray import RayOptions, check_ray_options, run_on_ray

__all__ = [
    "MOST_ATTEMPTS",
    "Agenda",
    "Claims",
    "Event",
    "Finished",
    "LocalWorkers",
    "RayOptions",
    "Returned",
    "Started",
    "Task",
    "affinity_of",
    "check_ray_options",
    "devices_for",
    "local_devices",
    "mark_of",
    "new_run_id",
    "run_in_process",
    "run_in_workers",
    "run_on_ray",
    "threads_for",
]
