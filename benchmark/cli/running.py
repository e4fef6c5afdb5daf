"""The commands that compute: running a suite and training a model, with their progress."""

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pruneboard.benchmark import plugins
from pruneboard.benchmark.api import Model
from pruneboard.benchmark.cli._console import make_console
from pruneboard.benchmark.data import draw_reference
from pruneboard.benchmark.errors import SuiteError
from pruneboard.benchmark.executors import (
    Event,
    RayOptions,
    Started,
    check_ray_options,
    run_in_process,
    run_in_workers,
    run_on_ray,
)
from pruneboard.benchmark.provenance import resolve_device
from pruneboard.benchmark.runner import Workbench
from pruneboard.benchmark.schema import Job
from pruneboard.benchmark.store import RunStore
from pruneboard.benchmark.training import TrainingStep, train


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Choices of `pruneboard run`, as its options name them.

    Attributes:
        device: name of the device, or `auto`.
        n_workers: worker processes, 0 for this process, None for one per core or per GPU.
        out: run folder.
        fresh: repeat finished jobs.
        cluster: the Ray cluster that jobs run on; None runs them on this machine.
    """

    device: str
    n_workers: int | None
    out: Path
    fresh: bool
    cluster: RayOptions | None = None


@dataclass
class RunSummary:
    """How a run went.

    Attributes:
        counts: jobs by status.
        failures: failed jobs with their reasons.
        interrupted: whether Ctrl-C ended it.
    """

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[Job, str]] = field(default_factory=list)
    interrupted: bool = False

    @property
    def n_failed(self) -> int:
        """Number of failed jobs."""
        return len(self.failures)


def ray_options(address: str, device: str, n_workers: int | None) -> RayOptions:
    """Return how to run on a Ray cluster, with what happens to its nodes printed."""
    return RayOptions(address=address, device=device, n_workers=n_workers, tell=make_console().print)


def run_jobs(name: str, jobs: Sequence[Job], options: RunOptions) -> RunSummary:
    """Run the jobs of one suite that are not done yet.

    Args:
        name: how the user named the suite, for messages.
        jobs: jobs of that suite, at least one.
        options: how to run them.

    Raises:
        PruneboardError: bad input, found before any job starts, or a run that cannot go on.
    """
    console = make_console()
    suite = jobs[0].suite
    if options.cluster is not None:
        check_ray_options(options.cluster)
    # On a cluster, this machine only looks things up.
    device = resolve_device("cpu" if options.cluster else options.device)
    bench, store = Workbench(device), RunStore(options.out)
    store.prepare()
    summary = RunSummary()
    try:
        _make_ready(jobs, bench, console)
    except KeyboardInterrupt:
        summary.interrupted = True
        console.print("Stopped before the first job; the same command continues.")
        return summary
    todo = [job for job in jobs if options.fresh or store.status(job, bench.key(job)) in (None, "failed")]
    datasets = ", ".join(dict.fromkeys(bench.dataset(job).name for job in jobs))
    console.print(
        f"{suite.title}: {len(jobs)} jobs on {datasets}, {len(jobs) - len(todo)} done before, {len(todo)} to run."
    )
    with _execute(todo, store, bench, options) as events:
        try:
            _follow(events, len(todo), summary, console)
        except KeyboardInterrupt:
            summary.interrupted = True
    _print_summary(summary, name, options, console)
    return summary


def _make_ready(jobs: Sequence[Job], bench: Workbench, console: Console) -> None:
    """Load everything once before the first job, so that what is missing is said at once and not job by job."""
    make_plugins_ready(jobs, console)
    for job in {job.model: job for job in jobs}.values():
        dataset = bench.dataset(job)
        dataset.split(job.suite.evaluation_split)
        draw_reference(dataset.split(job.suite.reference_split).labels, max(job.suite.shots), job.seed)


def make_plugins_ready(jobs: Sequence[Job], console: Console) -> None:
    """Load the criteria and networks of jobs.

    Weights that are made on this machine are trained here when they are missing, before any worker needs them.

    Raises:
        PruneboardError: there is no such criterion or network, or it cannot be loaded, or not be pruned like that.
    """
    for job in {(job.criterion, job.tuned): job for job in jobs}.values():
        plugins.criterion_of(job)
    for job in {(job.model, job.granularity): job for job in jobs}.values():
        if job.granularity not in (known := plugins.models().get(job.model).granularities):
            raise SuiteError(
                f"model `{job.model}` must be pruned by some of {known}, got {job.granularity!r} in suite "
                f"`{job.suite.name}`; correct the suite file."
            )
    for model in map(plugins.models().get, {job.model: None for job in jobs}):
        if model.made_file is not None and not model.made_file.exists():
            console.print(f"{model.name} has no weights on this machine yet; they are trained once and kept.")
            # On the CPU wherever the jobs run, so that the same kind of machine gives the same weights.
            _train(model, model.made_file, torch.device("cpu"), console)
        model.load()


@contextlib.contextmanager
def _execute(jobs: Sequence[Job], store: RunStore, bench: Workbench, options: RunOptions) -> Iterator[Iterator[Event]]:
    """Start the jobs, and end their workers however the block is left."""
    n_workers, n_threads = workers_and_threads(options.n_workers, bench.device)
    if jobs and options.cluster is not None:
        events = run_on_ray(jobs, store, bench, options.cluster)
    elif n_workers == 0 or not jobs:
        events = run_in_process(jobs, store, bench)
    else:
        events = run_in_workers(jobs, store, bench, n_workers=n_workers, n_threads=n_threads)
    with contextlib.closing(events):  # type: ignore[type-var] # both are generators
        yield events


def workers_and_threads(n_workers: int | None, device: torch.device) -> tuple[int, int]:
    """Return how many worker processes to start, one per core or per GPU by default, and CPU threads for each."""
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if n_workers is None:
        n_workers = 1 if device.type == "cuda" else n_cores
    return n_workers, max(1, n_cores // max(1, n_workers))


def _follow(events: Iterator[Event], n_jobs: int, summary: RunSummary, console: Console) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("jobs"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[running]}", style="dim"),
    )
    running: list[Job] = []
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("running", total=n_jobs, running="")
        for event in events:
            if isinstance(event, Started):
                running.append(event.job)
            else:
                running.remove(event.job)
                summary.counts[event.status] += 1
                progress.advance(task)
                if event.status == "failed":
                    summary.failures.append((event.job, event.reason))
                    progress.console.print(f"failed: {event.job}: {event.reason}")
                elif not console.is_terminal:
                    done = summary.counts.total()
                    console.print(f"[{done}/{n_jobs}] {event.job}: {event.status}")
            progress.update(task, running="; ".join(f"{job.model} {job.criterion} {job.seed}" for job in running))


def _print_summary(summary: RunSummary, suite: str, options: RunOptions, console: Console) -> None:
    counts = ", ".join(f"{summary.counts[status]} {status}" for status in sorted(summary.counts))
    counts = counts or ("no job finished" if summary.interrupted else "nothing to do")
    verb = "Stopped" if summary.interrupted else "Ended"
    console.print(f"{verb}: {counts}. Rows are in {options.out}.")
    if summary.interrupted:
        console.print("Finished jobs are kept; the same command continues.")
    elif summary.failures:
        console.print("Failed jobs are rows with their reason; the same command tries them again.")
    else:
        runs = "" if options.out == Path("runs") else f" --runs {options.out}"
        console.print(f"Next: pruneboard table {suite}{runs}")


def train_model(name: str, out: Path | None, *, device: str, overwrite: bool) -> bool:
    """Train a model by its recipe, and return whether Ctrl-C stopped it.

    Args:
        name: registered name.
        out: file to write; None takes the place where `load` looks for weights that are made on this machine, or the
            present folder for a model whose weights are shipped.
        device: name of the device, or `auto`.
        overwrite: whether an existing file may be replaced.

    Raises:
        PruneboardError: the model has no recipe, or the file cannot be written.
    """
    console = make_console()
    model = plugins.models().get(name)
    target = out or model.made_file or Path(f"{name}.safetensors")
    try:
        _train(model, target, resolve_device(device), console, overwrite=overwrite)
    except KeyboardInterrupt:
        console.print("Stopped; nothing was written.")
        return True
    return False


def _train(model: Model, out: Path, device: torch.device, console: Console, *, overwrite: bool = False) -> None:
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"training {model.name}", total=None)

        def update(step: TrainingStep) -> None:
            description = f"training {model.name}, loss {step.loss:.3f}"
            progress.update(task, completed=step.epoch, total=step.n_epochs, description=description)

        result = train(model, device=device, out=out, progress=update, overwrite=overwrite)
    console.print(f"{out}: test accuracy {result.top1:.4f}, {result.seconds:.0f} s, sha256 {result.sha256}")
