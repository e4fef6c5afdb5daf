"""Measures what a run of many jobs costs its parent: `python tests/support/load.py N_JOBS [FOLDER]`.

Everything in the parent is real: keys, places, claims, events, progress and status file. The workers do nothing; with a
folder they store rows in it, whose accuracies are made up, and the parent folds their files as it always does.
"""

import itertools
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from commands import write_suite
from pruneboard.benchmark.cli import running
from pruneboard.benchmark.cli._estimates import Forecast
from pruneboard.benchmark.cli._progress import Scope, Watch
from pruneboard.benchmark.cli._status import StatusFile
from pruneboard.benchmark.executors import Agenda, Claims, Event, Finished, LocalWorkers, Task, new_run_id
from pruneboard.benchmark.executors import _local as local
from pruneboard.benchmark.runner import Workbench, make_row
from pruneboard.benchmark.schema import Job
from pruneboard.benchmark.store import RunStore
from pruneboard.benchmark.suites import expand, load_suite
from pruneboard.benchmark.workers import Stop

MODELS = {"digits_vgg": ["filters"], "digits_resnet": ["filters"], "digits_vit": ["neurons", "heads"]}
CRITERIA = ("random", "magnitude", "taylor", "activation", "gradient")
N_WORKERS = 2


@dataclass(frozen=True)
class Idle:
    """Reports jobs as finished without doing them."""

    def begin(self, slot: int) -> Callable[[Task], Iterator[Event]]:
        return lambda task: iter((Finished(job=task.job, status="ok", reason=""),))


@dataclass(frozen=True)
class Storing:
    """Stores rows of jobs whose numbers are made up, and all else true."""

    store: RunStore

    def begin(self, slot: int) -> Callable[[Task], Iterator[Event]]:
        bench = Workbench(torch.device("cpu"))
        return lambda task: iter((self._finish(task.job, bench),))

    def _finish(self, job: Job, bench: Workbench) -> Finished:
        row = replace(
            make_row(job, bench, status="ok", reason="", seconds=0.0),
            **{"n_units": 240, "params_total": 1000, "macs_total": 5000, "score_seconds": 0.0},
        )
        self.store.save(job, [replace(row, **point) for point in made_up_points(job)])
        return Finished(job=job, status="ok", reason="")


def made_up_points(job: Job) -> Iterator[dict[str, Any]]:
    """Give the curves of a job, which fall from 0.9 the later the better the criterion's place in the list."""
    best_until = (1 + CRITERIA.index(job.criterion)) / len(CRITERIA)
    for shots, rate in itertools.product(job.suite.shots, job.suite.rates):
        top1 = 0.9 if rate < best_until else 0.1
        yield {
            **{"shots": shots, "rate": rate, "n_units_removed": int(240 * rate), "top1": top1, "top5": top1},
            **{"cross_entropy": 1 - top1, "n_images": 599, "params_left": 1000, "macs_left": 5000},
        }


@dataclass(frozen=True)
class Cost:
    """What a run cost its parent: CPU seconds of planning and of running, wall seconds, and memory in byte."""

    n_jobs: int
    plan_seconds: float
    run_seconds: float
    wall_seconds: float
    n_bytes: int


def measure(n_jobs: int, folder: Path, *, storing: bool = False) -> Cost:
    """Run `n_jobs` jobs, a multiple of 20, of the suite that is written into a folder; `storing` saves rows as well."""
    torch.set_num_threads(1)
    path = write_suite(folder, models=MODELS, criteria=CRITERIA, seeds=range(n_jobs // 20))
    before = time.process_time()
    jobs = expand(load_suite(path))
    store, bench = RunStore(folder / "runs"), Workbench(torch.device("cpu"))
    tasks = running.plan(jobs, store, bench, {}, fresh=False)
    planned = time.process_time()
    began = time.perf_counter()
    workers = LocalWorkers(devices=("cpu",) * N_WORKERS, n_threads=1)
    forecast, run = Forecast({}, N_WORKERS), new_run_id()
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
        body = Storing(store) if storing else Idle()
        local._Jobs.__init__, initialise = _with_body(body, local._Jobs.__init__), local._Jobs.__init__
        try:
            with watch:
                events = local.run_in_workers(agenda, bench, workers)
                for event in running._folding(events, store, "small") if storing else events:
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


def _with_body(body: Idle | Storing, initialise: Callable[..., None]) -> Callable[..., None]:
    def initialise_with_body(self, *arguments):
        initialise(self, *arguments)
        self.body = body

    return initialise_with_body


if __name__ == "__main__":
    if len(sys.argv) > 2:
        cost = measure(int(sys.argv[1]), Path(sys.argv[2]), storing=True)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            cost = measure(int(sys.argv[1]), Path(temporary))
    print(json.dumps(cost.__dict__))
