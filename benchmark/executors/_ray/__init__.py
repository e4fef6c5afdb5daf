"""Running jobs on a Ray cluster; Ray itself is imported when a run begins, as it is an extra."""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pruneboard.benchmark.errors import PruneboardError
from pruneboard.benchmark.executors._agenda import Agenda
from pruneboard.benchmark.executors._events import Event
from pruneboard.benchmark.runner import Workbench
from pruneboard.benchmark.workers import Limits, Stop


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """How to run jobs on a Ray cluster.

    Attributes:
        address: `auto` for the cluster that this machine is a node of, `HOST:PORT` of its head, or `ray://HOST:PORT` of
            its Ray Client server.
        device: `cpu`, `cuda`, or `auto`: one GPU for each job where the cluster has any, else the CPU.
        n_workers: jobs at the same time; None for as many as the cluster has CPUs or GPUs, whenever nodes come or go.
        n_threads: CPU threads of each.
        limits: the time that a job may take; Ray itself watches over memory.
        stop: how to stop the run before its end.
        tell: is given what happens to nodes, as lines for people.
    """

    address: str = "auto"
    device: str = "auto"
    n_workers: int | None = None
    n_threads: int = 1
    limits: Limits = field(default_factory=Limits)
    stop: Stop = field(default_factory=Stop)
    tell: Callable[[str], object] = lambda line: None


def check_ray_options(options: RayOptions) -> None:
    """Raise unless a run with these options can be begun, as far as it can be known without the cluster.

    Raises:
        PruneboardError: Ray is not installed, or the options name a device or a number of workers that it cannot give.
    """
    if importlib.util.find_spec("ray") is None:
        raise PruneboardError(
            "`--executor ray` must have Ray, but it is not installed; install it with `pip install 'pruneboard[ray]'`."
        )
    if options.device not in ("auto", "cpu", "cuda"):
        raise PruneboardError(
            f"`--device` must be auto, cpu or cuda on a Ray cluster, which itself says what each job gets, got "
            f"`{options.device}`."
        )
    if options.limits.n_bytes is not None:
        raise PruneboardError(
            "`--memory-limit` must be used with `--executor local`, since Ray watches over the memory of its nodes; "
            "leave it out, and set `RAY_memory_usage_threshold` where nodes are started."
        )
    if options.n_workers == 0:
        raise PruneboardError("`--workers` must be at least 1 on a Ray cluster, got 0; leave it out to use all of it.")


def run_on_ray(agenda: Agenda, bench: Workbench, options: RayOptions) -> Iterator[Event]:
    """Run jobs in processes of a Ray cluster, and store their rows here.

    The data sets and weights of this machine, which `bench` found, are what the jobs run on. A job whose process or
    node is lost is given out again, at most twice. When the caller stops iterating, or is interrupted, the processes
    are ended; those of a caller that dies are ended by Ray.

    Raises:
        PruneboardError: the cluster cannot be used or reached any more, or the run cannot go on; jobs that are finished
            are kept.
        KeyboardInterrupt: `options.stop.drops` was set.
    """
    check_ray_options(options)
    driver = importlib.import_module("pruneboard.benchmark.executors._ray._driver")
    yield from driver.run(agenda, bench, options)
