"""The commands that compute: running a suite and training a model, with their progress."""

import contextlib
import dataclasses
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from pruneboard.benchmark import plugins, provenance
from pruneboard.benchmark.api import Model
from pruneboard.benchmark.assets import look_for_weights
from pruneboard.benchmark.cli._console import make_console
from pruneboard.benchmark.cli._dry_run import print_dry_run
from pruneboard.benchmark.cli._estimates import Forecast, Kind, kind_of, read_past_seconds
from pruneboard.benchmark.cli._progress import RunSummary, Scope, Watch
from pruneboard.benchmark.cli._signals import Interruption, Terminated
from pruneboard.benchmark.cli._status import StatusFile
from pruneboard.benchmark.cli.training import train_with_progress
from pruneboard.benchmark.data import look_for_dataset
from pruneboard.benchmark.errors import AssetError, PruneboardError, SuiteError
from pruneboard.benchmark.executors import (
    Agenda,
    Claims,
    Event,
    Finished,
    LocalWorkers,
    RayOptions,
    Task,
    check_ray_options,
    local_devices,
    mark_of,
    new_run_id,
    run_in_process,
    run_in_workers,
    run_on_ray,
    threads_for,
)
from pruneboard.benchmark.networks import check_network
from pruneboard.benchmark.provenance import resolve_device
from pruneboard.benchmark.runner import Workbench
from pruneboard.benchmark.schema import Job, Precision
from pruneboard.benchmark.store import FOLD_AT, ResultsStore, RunStore
from pruneboard.benchmark.workers import Limits

_RESULTS = Path("results")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Choices of `pruneboard run`, as its options name them.

    Attributes:
        device: name of the device, or `auto`.
        n_workers: worker processes, 0 for this process, None for one per core or per GPU.
        out: run folder.
        fresh: repeat finished jobs.
        n_threads: CPU threads of each worker, None for an equal share of the cores.
        limits: what a job and its worker may use.
        precision: what evaluation computes in.
        address: the Ray cluster that jobs run on; None runs them on this machine.
    """

    device: str
    n_workers: int | None
    out: Path
    fresh: bool
    n_threads: int | None = None
    limits: Limits = dataclasses.field(default_factory=Limits)
    precision: Precision = "float32"
    address: str | None = None


def _workbench(options: RunOptions) -> Workbench:
    # For a cluster, this machine only looks things up.
    device = resolve_device("cpu" if options.address else options.device)
    if options.precision == "tf32" and device.type != "cuda" and not options.address:
        raise PruneboardError(
            f"`--precision tf32` must be used on a GPU that has it, but the device is {device.type}; choose float32 or "
            "bf16."
        )
    return Workbench(device, options.precision, options.out)


def _ray_options(options: RunOptions, address: str) -> RayOptions:
    """Return how to run on a Ray cluster, with what happens to its nodes printed."""
    return RayOptions(
        address=address,
        device=options.device,
        n_workers=options.n_workers,
        n_threads=options.n_threads or 1,
        limits=options.limits,
        tell=make_console().print,
    )


def _n_at_a_time(bench: Workbench, options: RunOptions) -> int:
    """Return how many jobs run at a time; a cluster tells only when it is there, so that one is supposed then."""
    if options.address is not None:
        return options.n_workers or 1
    return max(1, len(local_devices(bench.device, options.n_workers, options.n_threads)))


def run_jobs(name: str, jobs: Sequence[Job], options: RunOptions, *, announce: bool = True) -> RunSummary:
    """Run the jobs of one suite that are not done yet.

    Args:
        name: how the user named the suite, for messages.
        jobs: jobs of that suite, at least one.
        options: how to run them.
        announce: whether to say at the end where the rows are and what to do with them.

    Raises:
        PruneboardError: bad input, found before any job starts, or a run that cannot go on.
    """
    if options.n_workers == 0 and options.limits != Limits():
        raise PruneboardError(
            "`--time-limit` and `--memory-limit` must be given with worker processes, which can be ended, but "
            "`--workers 0` has none; choose 1 or more."
        )
    console, suite = make_console(), jobs[0].suite
    if options.address is not None:
        check_ray_options(_ray_options(options, options.address))
    bench, store = _workbench(options), RunStore(options.out)
    store.prepare()
    interruption = Interruption()
    try:
        with interruption.heard():
            _make_ready(jobs, bench, console)
            past = read_past_seconds(suite.name, [store, ResultsStore(_RESULTS)])
            tasks = plan(jobs, store, bench, past, fresh=options.fresh)
            datasets = ", ".join(dict.fromkeys(bench.dataset(job).name for job in jobs))
            console.print(
                f"{suite.title}: {len(jobs)} jobs on {datasets}, {len(jobs) - len(tasks)} done before, {len(tasks)} to "
                "run."
            )
            if not options.fresh and (n_again := sum(task.repeats for task in tasks)):
                console.print(f"{n_again} of them again: they were measured with code that differs from its commit.")
            summary = _run(tasks, len(jobs), _Surroundings(store, bench, past, options, interruption), console)
    except KeyboardInterrupt as end:
        console.print("Stopped before the first job; the same command continues.")
        return RunSummary(interrupted=True, terminated=isinstance(end, Terminated))
    if announce:
        _print_summary(summary, name, options, console)
    return summary


def _folding(events: Iterator[Event], store: RunStore, suite: str) -> Iterator[Event]:
    """Pass events on, and fold the files of finished jobs while and after they come, wherever there are many."""
    n_finished = 0
    for event in events:
        yield event
        n_finished += event.ends
        if event.ends and n_finished % FOLD_AT == 0:
            store.fold(suite)
    store.fold(suite)


def plan(jobs: Sequence[Job], store: RunStore, bench: Workbench, past: dict[Kind, float], *, fresh: bool) -> list[Task]:
    """Return what is to be done of a suite, with its place in line: what is missing most first, then what is short.

    The round of a job is the number of seeds of its cell that are done, or stand in line before it.

    Args:
        jobs: jobs of one suite.
        store: tells what is done.
        bench: gives the keys of jobs.
        past: mean time of a job of each kind, in s, where it is known; the others come first, to show how long they
            take.
        fresh: repeat finished jobs.
    """
    todo = []
    n_done: Counter[Kind] = Counter()
    asked = [(job, bench.key(job)) for job in jobs]
    statuses = store.statuses(asked)
    unclean = _unclean(jobs, store)
    for (job, key), status in zip(asked, statuses, strict=True):
        if status in (None, "failed") or fresh or key in unclean:
            todo.append((job, key))
        else:
            n_done[kind_of(job)] += 1
    tasks = []
    for job, key in todo:
        repeats = fresh or key in unclean
        if repeats:
            bench.checkpoints(job).forget(job.suite.shots)
        kind = kind_of(job)
        place = n_done[kind], past.get(kind, 0.0)
        n_done[kind] += 1
        tasks.append(Task(job=job, key=key, place=place, before=mark_of(store, job, key), repeats=repeats))
    return tasks


def _unclean(jobs: Sequence[Job], store: RunStore) -> Collection[str]:
    """Return the keys of jobs that no submission takes, and that this code would measure so that one does."""
    return store.unclean(jobs[0].suite.name) if provenance.commit()[1] else ()


@dataclass(frozen=True)
class _Surroundings:
    """What the tasks of a run are done with."""

    store: RunStore
    bench: Workbench
    past: dict[Kind, float]
    options: RunOptions
    interruption: Interruption


def _run(tasks: Sequence[Task], n_jobs: int, given: _Surroundings, console: Console) -> RunSummary:
    """Run tasks to their end, or as far as signals let."""
    if not tasks:
        return RunSummary()
    options, stop = given.options, given.interruption.stop
    forecast = Forecast(given.past, _n_at_a_time(given.bench, options))
    forecast.add(task.job for task in tasks)
    run, suite = new_run_id(), tasks[0].job.suite.name
    folder = given.store.folder / suite
    shown = {**dataclasses.asdict(options), "out": str(options.out)}
    saved: dict[str, Finished] = {}
    with Claims(folder / "claims", run) as claims:
        agenda = Agenda(given.store, claims, tasks)
        watch = Watch(
            Scope(n_jobs=n_jobs, n_todo=len(tasks)),
            forecast,
            log_of=lambda job: agenda.log_of(agenda.task(job)),
            status_file=StatusFile(folder / "status" / f"{run}.json", run=run, suite=suite, options=shown),
            console=console,
            stop=stop,
        )
        try:
            with watch, _execute(agenda, given.bench, options, given.interruption) as events:
                for event in _folding(events, given.store, suite):
                    watch.see(event)
                    if isinstance(event, Finished) and event.digest:
                        saved[agenda.task(event.job).key] = event
        except KeyboardInterrupt:
            watch.summary.interrupted = True
        watch.summary.interrupted |= stop.finishes
        watch.summary.terminated = given.interruption.terminated
    _check_kept(saved, given.store, suite)
    return watch.summary


def _check_kept(saved: Mapping[str, Finished], store: RunStore, suite: str) -> None:
    """Check that rows are as they were saved: what a criterion's process writes to the folder nobody prevents.

    Raises:
        PruneboardError: not so.
    """
    found = store.digests(suite, saved)
    lost = [event.job.cell for key, event in saved.items() if key not in found]
    changed = [event.job.cell for key, event in saved.items() if found.get(key, event.digest) != event.digest]
    what = [f"{len(c)} {how} ({', '.join(c[:5])})" for how, c in (("removed", lost), ("changed", changed)) if c]
    if what:
        raise PruneboardError(
            f"rows must stay as this run saved them, but in `{store.folder}` jobs were {' and '.join(what)} before it "
            "ended; find the criterion or program that writes there, remove the folder, and run again without it."
        )


def dry_run(jobs: Sequence[Job], options: RunOptions) -> None:
    """Print what `run_jobs` would do and how long that would take; nothing is run, trained, fetched or written.

    Raises:
        PruneboardError: there is no such criterion, network or device, or data or weights that `run_jobs` needs are
            damaged, or neither at hand nor to be had.
    """
    console, suite = make_console(), jobs[0].suite
    bench, store = _workbench(options), RunStore(options.out)
    for job in {(job.criterion, job.tuned): job for job in jobs}.values():
        plugins.criterion_of(job)
    past = read_past_seconds(suite.name, [store, ResultsStore(_RESULTS)])
    n_workers = _n_at_a_time(bench, options)
    print_dry_run(jobs, _done(jobs, store, bench, options), past, n_workers, console)
    for lacking in _lacking(jobs, bench):
        console.print(lacking, soft_wrap=True)


def _lacking(jobs: Sequence[Job], bench: Workbench) -> Iterator[str]:
    """Say of data and weights that are not at hand how a run would come by them; raise where it would not."""
    for job in {job.suite.datasets_of(job.model): job for job in jobs}.values():
        names = job.suite.datasets_of(job.model)
        if look_for_dataset(names) is None:
            yield f"The data set {' or '.join(names)} is not at hand; a run fetches it."
        else:
            bench.labels(job)
            bench.reference_rows(job)
    for model in map(plugins.models().get, {job.model: None for job in jobs}):
        if model.weights is not None and look_for_weights(model.weights) is None:
            yield f"The weights of {model.name} are not at hand; a run fetches them."
        elif not _has_made_weights(model):
            yield f"The weights of {model.name} are not at hand; a run trains them."


def _done(jobs: Sequence[Job], store: RunStore, bench: Workbench, options: RunOptions) -> list[bool]:
    """Return which jobs need not run; data are needed to tell only where there are rows already."""
    if options.fresh or not (store.folder / jobs[0].suite.name).is_dir():
        return [False] * len(jobs)
    try:
        asked = [(job, bench.key(job)) for job in jobs]
    except AssetError:
        # Without the data nobody can tell, and a dry run has to work without.
        return [False] * len(jobs)
    statuses, unclean = store.statuses(asked, touch=False), _unclean(jobs, store)
    return [s not in (None, "failed") and key not in unclean for (_, key), s in zip(asked, statuses, strict=True)]


def _make_ready(jobs: Sequence[Job], bench: Workbench, console: Console) -> None:
    """Load everything once before the first job, so that what is missing is said at once and not job by job."""
    make_plugins_ready(jobs, bench, console)
    for job in {job.model: job for job in jobs}.values():
        bench.labels(job)
        bench.reference_rows(job)


def make_plugins_ready(jobs: Sequence[Job], bench: Workbench, console: Console) -> None:
    """Load the criteria and networks of jobs, and see whether these fit their data.

    Weights that are made on this machine are trained here when they are missing, before any worker needs them.

    Raises:
        PruneboardError: there is no such criterion or network, or it cannot be loaded, not be pruned like that, or does
            not fit its data.
    """
    for job in {(job.criterion, job.tuned): job for job in jobs}.values():
        plugins.criterion_of(job)
    for job in {(job.model, job.granularity): job for job in jobs}.values():
        if job.granularity not in (known := plugins.models().get(job.model).granularities):
            raise SuiteError(
                f"model `{job.model}` must be pruned by some of {known}, got {job.granularity!r} in suite "
                f"`{job.suite.name}`; correct the suite file."
            )
    for job in {job.model: job for job in jobs}.values():
        model = plugins.models().get(job.model)
        if model.made_file is not None and not _has_made_weights(model):
            console.print(f"{model.name} has no weights on this machine yet; they are trained once and kept.")
            # On the CPU wherever the jobs run, so that the same kind of machine gives the same weights.
            train_with_progress(model, model.made_file, torch.device("cpu"), console)
        # A made-up image, as not all commands may open the evaluation split; not a black one, which has no norm.
        ramp = torch.linspace(0, 1, math.prod(model.input_size)).view(1, *model.input_size)
        bench.check_outputs(job, check_network(model.name, model.load(), model.normalise(ramp)))


def _has_made_weights(model: Model) -> bool:
    """Whether weights that are made on this machine are there, or need not be made.

    Raises:
        AssetError: they are not, and a run does not make them.
    """
    if model.made_file is None or model.made_file.exists():
        return True
    if not model.made_when_used:
        raise AssetError(
            f"the weights of `{model.name}` must be made before they are used, as that takes long; make them with "
            f"`pruneboard train {model.name} --device auto`, or leave the model out with `--model`."
        )
    return False


@contextlib.contextmanager
def _execute(
    agenda: Agenda, bench: Workbench, options: RunOptions, interruption: Interruption
) -> Iterator[Iterator[Event]]:
    """Start the jobs, and end their workers however the block is left."""
    devices = local_devices(bench.device, options.n_workers, options.n_threads)
    n_threads = options.n_threads or threads_for(len(devices))
    interruption.in_workers = bool(devices) or options.address is not None
    if options.address is not None:
        cluster = dataclasses.replace(_ray_options(options, options.address), stop=interruption.stop)
        events = run_on_ray(agenda, bench, cluster)
    elif devices:
        workers = LocalWorkers(devices=devices, n_threads=n_threads, limits=options.limits, stop=interruption.stop)
        events = run_in_workers(agenda, bench, workers)
    else:
        if options.n_threads:
            torch.set_num_threads(options.n_threads)
        events = run_in_process(agenda, bench)
    with contextlib.closing(events):  # type: ignore[type-var] # both are generators
        yield events


def _print_summary(summary: RunSummary, suite: str, options: RunOptions, console: Console) -> None:
    counts = ", ".join(f"{summary.counts[status]} {status}" for status in sorted(summary.counts))
    counts = counts or ("no job finished" if summary.interrupted else "nothing to do")
    verb = "Stopped" if summary.interrupted else "Ended"
    elsewhere = f"; {summary.n_elsewhere} of them in another run" if summary.n_elsewhere else ""
    console.print(f"{verb}: {counts}{elsewhere}. Rows are in {options.out}.")
    if summary.interrupted:
        console.print("Finished jobs are kept; the same command continues.")
    elif summary.failures:
        console.print("Failed jobs are rows with their reason; the same command tries them again.")
    else:
        runs = "" if options.out == Path("runs") else f" --runs {options.out}"
        console.print(f"Next: pruneboard table {suite}{runs}")
