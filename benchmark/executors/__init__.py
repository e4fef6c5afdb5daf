"""Where jobs run: in this process, in worker processes of their own, or on a Ray cluster."""

from pruneboard.benchmark.executors._events import Event, Finished, Started
from pruneboard.benchmark.executors._local import run_in_process, run_in_workers
from pruneboard.benchmark.executors._ray import RayOptions, check_ray_options, run_on_ray

__all__ = [
    "Event",
    "Finished",
    "RayOptions",
    "Started",
    "check_ray_options",
    "run_in_process",
    "run_in_workers",
    "run_on_ray",
]
