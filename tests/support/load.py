"""Measures what a run of many jobs costs its parent: `python tests/support/load.py N_JOBS [N_WORKERS]`.

Everything in the parent is real: keys, places, claims, events, progress and status file. The workers do nothing.
"""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from commands import write_suite
from pruneboard.benchmark.cli import running
from pruneboard.benchmark.cli._estimates import Forecast
from pruneboard.benchmark.cli._progress import Scope, Watch
from pruneboard.benchmark.cli._status import StatusFile
from pruneboard.benchmark.executors import Agenda, Claims, Event, Finished, LocalWorkers, Task, new_run_id
from pruneboard.benchmark.executors import _local as local
from pruneboard.benchmark.runner import Workbench
from pruneboard.benchmark.store import RunStore
from pruneboard.benchmark.suites import expand, load_suite
from pruneboard.benchmark.workers import Stop

MODELS = {"digits_vgg": ["filters"], "digits_resnet": ["filters"], "digits_vit": ["neurons", "heads"]}
CRITERIA = ("random", "magnitude", "taylor", "activation", "gradient")


@dataclass(frozen=True)
class Idle:
    """Reports jobs as finished without doing them."""

    def begin(self, slot: int) -> Callable[[Task], Iterator[Event]]:
        return lambda task: iter((Finished(job=task.job, status="ok", reason=""),))


@dataclass(frozen=True)
class Cost:
    """What a run cost its parent: CPU seconds of planning and of running, wall seconds, and memory in byte."""

    n_jobs: int
    plan_seconds: float
    run_seconds: float
    wall_seconds: float
    n_bytes: int


def measure(n_jobs: int, folder: Path, n_workers: int = 2) -> Cost:
    """Run `n_jobs` idle jobs, a multiple of 20."""
    torch.set_num_threads(1)
    path = write_suite(folder, models=MODELS, criteria=CRITERIA, seeds=range(n_jobs // 20))
    before = time.process_time()
    jobs = expand(load_suite(path))
    store, bench = RunStore(folder / "runs"), Workbench(torch.device("cpu"))
    tasks = running.plan(jobs, store, bench, {}, fresh=False)
    planned = time.process_time()
    began = time.perf_counter()
    workers = LocalWorkers(devices=("cpu",) * n_workers, n_threads=1)
    forecast, run = Forecast({}, n_workers), new_run_id()
    forecast.add(jobs)
    with Claims(store.folder / "small" / "claims", run) as claims, (folder / "printed").open("w") as printed:
        agenda = Agenda(store, claims, tasks)
        watch = Watch(
            Scope(n_jobs=len(jobs), n_todo=len(tasks)),
            forecast,
            log_of=lambda job: agenda.log_of(agenda.task(job)),
            status_file=StatusFile(
                store.folder / "small" / "status" / f"{run}.json", run=run, suite="small", options={}
            ),
            console=Console(file=printed, markup=False, highlight=False, emoji=False),
            stop=Stop(),
        )
        local._Jobs.__init__, initialise = _with_idle_body(local._Jobs.__init__), local._Jobs.__init__
        try:
            with watch:
                for event in local.run_in_workers(agenda, bench, workers):
                    watch.see(event)
        finally:
            local._Jobs.__init__ = initialise
    if watch.summary.counts != {"ok": n_jobs}:
        raise RuntimeError(f"all jobs must be done, but the counts are {watch.summary.counts}")
    return Cost(
        n_jobs=n_jobs,
        plan_seconds=planned - before,
        run_seconds=time.process_time() - planned,
        wall_seconds=time.perf_counter() - began,
        n_bytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    )


def _with_idle_body(initialise: Callable[..., None]) -> Callable[..., None]:
    def idle(self, *arguments):
        initialise(self, *arguments)
        self.body = Idle()

    return idle


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        cost = measure(int(sys.argv[1]), Path(temporary), *map(int, sys.argv[2:]))
    print(json.dumps(cost.__dict__))
