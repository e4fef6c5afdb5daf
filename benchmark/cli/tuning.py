"""The command that tunes: searches with their progress, the runs that follow, and the comparison."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pruneboard.benchmark import plugins
from pruneboard.benchmark.cli._console import make_console
from pruneboard.benchmark.cli._progress import RunSummary
from pruneboard.benchmark.cli.running import RunOptions, make_plugins_ready, run_jobs
from pruneboard.benchmark.cli.tables import print_comparison
from pruneboard.benchmark.errors import PruneboardError, SuiteError, Unsupported
from pruneboard.benchmark.executors import local_devices, threads_for
from pruneboard.benchmark.provenance import resolve_device
from pruneboard.benchmark.schema import GRANULARITIES, Granularity, Job, Suite, SuiteModel
from pruneboard.benchmark.studies import Study, StudyStore
from pruneboard.benchmark.suites import expand
from pruneboard.benchmark.tune import (
    Budget,
    Cell,
    Search,
    SearchEnded,
    SearchReport,
    SearchStarted,
    TrialEnded,
    TrialStarted,
    TuningBench,
    is_done,
    prepare,
    search_in_process,
    search_in_workers,
)


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """Choices of `pruneboard tune`, as its options name them.

    Attributes:
        criteria: registered names.
        models: only these networks; all of the suite when empty.
        granularities: only these kinds of unit; all of the networks when empty.
        budget: how long and how each study searches.
        search_only: stop after the search.
        run: how jobs are run.
    """

    criteria: Sequence[str]
    models: Sequence[str]
    granularities: Sequence[str]
    budget: Budget
    search_only: bool
    run: RunOptions


@dataclass
class TuneSummary:
    """How tuning went.

    Attributes:
        studies: those that ended, now or before.
        interrupted: whether Ctrl-C ended it.
        runs: how the jobs went that followed, if any did.
    """

    studies: list[Study] = field(default_factory=list)
    interrupted: bool = False
    runs: RunSummary | None = None

    @property
    def n_failed(self) -> int:
        """Number of failed studies and jobs."""
        n_jobs = self.runs.n_failed if self.runs else 0
        return n_jobs + sum(study.outcome is not None and study.outcome.status == "failed" for study in self.studies)


def tune(name: str, suite: Suite, options: TuneOptions) -> TuneSummary:
    """Search over the parameters of criteria, then measure them tuned and untuned on the suite.

    Args:
        name: how the user named the suite, for messages.
        suite: the suite.
        options: what to tune, and how.

    Raises:
        PruneboardError: bad input, found before any trial, or a search or run that cannot go on.
    """
    console, summary = make_console(), TuneSummary()
    for criterion in options.criteria:
        _check_tunable(criterion)
    cells = [
        Cell(suite, model.name, granularity, criterion)
        for criterion in dict.fromkeys(options.criteria)
        for model in _chosen(suite, options)
        for granularity in model.granularities
    ]
    bench = TuningBench(resolve_device(options.run.device), options.budget.draws)
    store = StudyStore(options.run.out)
    try:
        searches = _prepare(cells, options.budget, bench, console)
    except KeyboardInterrupt:
        summary.interrupted = True
        console.print("Stopped before the first trial; the same command continues.")
        return summary
    todo = []
    for search in searches:
        known = store.begin(search.study, fresh=options.run.fresh)
        if is_done(search, known):
            summary.studies.append(known)
        else:
            todo.append(search)
    _print_start(suite, searches, todo, options, console)
    with _search(todo, store, bench, options.run.n_workers) as reports:
        try:
            _follow(reports, todo, summary, console)
        except KeyboardInterrupt:
            summary.interrupted = True
            console.print("Stopped. Finished trials are kept; the same command continues.")
            return summary
    for study in summary.studies:
        _print_study(study, console)
    tuned = tuned_jobs(suite, summary.studies)
    if tuned and not options.search_only:
        jobs = [*tuned, *_partner_jobs(tuned, summary.studies)]
        summary.runs = run_jobs(name, jobs, options.run)
        summary.interrupted = summary.runs.interrupted
        print_comparison(suite, options.run.out, summary.studies)
    return summary


def tuned_jobs(suite: Suite, studies: Sequence[Study]) -> list[Job]:
    """Return the jobs that measure what studies chose, on all seeds of the suite."""
    jobs = []
    for study in studies:
        cell = _cell_of(suite, study)
        if cell is not None and study.tuned is not None:
            jobs += [replace(cell.job(seed), criterion=study.tuned_name, tuned=study.tuned) for seed in suite.seeds]
    return jobs


def run_tuned(
    suite: Suite, source: Suite, folders: Sequence[Path], models: Sequence[str], criteria: Sequence[str]
) -> list[Job]:
    """Return the jobs of tuned criteria that were chosen before: from the first folder that has studies of a cell.

    Args:
        suite: the suite.
        source: the suite of the studies, most often the same.
        folders: run folder and results folder.
        models: only these networks; all when empty.
        criteria: only these criteria, by their untuned names; all when empty.

    Raises:
        UnknownNameError: there is no such model in the suite, or no such criterion.
        SuiteError: the studies may have seen what this suite judges by.
        PruneboardError: no study of the suite has ended.
    """
    expand(suite, models=models)
    _check_source(suite, source)
    for criterion in criteria:
        plugins.criteria().get(criterion)
    found: dict[str, Study] = {}
    for folder in reversed(folders):
        for study in StudyStore(folder).read(source.name):
            wanted = (not models or study.model in models) and (not criteria or study.criterion in criteria)
            if wanted and study.tuned is not None:
                if _is_current(source, study):
                    found[study.name] = study
                else:
                    make_console(stderr=True).print(
                        f"note: the study {study} is of another version of the suite or criterion and is left out."
                    )
    jobs = tuned_jobs(suite, list(found.values()))
    if not jobs:
        places = " or ".join(f"`{folder}`" for folder in folders)
        raise PruneboardError(
            f"`--tuned` must find parameters that were tuned, but there are none for suite `{source.name}` in "
            f"{places}; make them with `pruneboard tune CRITERION --suite {source.name}`."
        )
    return jobs


def _check_source(suite: Suite, source: Suite) -> None:
    """Studies validate on images that are no reference images of their own suite; they must be none of this one too."""
    names = [model.name for model in suite.models]
    same_data = all(suite.datasets_of(name) == source.datasets_of(name) for name in names)
    same_split = suite.reference_split == source.reference_split
    no_other_images = set(suite.seeds) <= set(source.seeds) and max(suite.shots) <= max(source.shots)
    if not (same_data and same_split and no_other_images):
        raise SuiteError(
            f"`grid.tuned_on` must be a suite that draws from the same split of the same data sets, with at least the "
            f"same seeds and as many shots, got `{source.name}` in suite `{suite.name}`; name another, or leave it out."
        )


def untuned_partner(suite: Suite, criterion: str) -> str:
    """Return the criterion of the suite that is `criterion` with its default parameters, else the name itself."""
    if criterion in suite.criteria:
        return criterion
    default = plugins.criteria().get(criterion)
    same = [name for name in suite.criteria if plugins.criteria().get(name) == default]
    return same[0] if same else criterion


def _prepare(cells: Sequence[Cell], budget: Budget, bench: TuningBench, console: Console) -> list[Search]:
    """Load everything once before the first trial, and say which criteria decline which networks."""
    make_plugins_ready([cell.job(0) for cell in cells], bench, console)
    searches = []
    # One network after the other, so that each is loaded once.
    for cell in sorted(cells, key=lambda cell: cell.model):
        try:
            searches.append(prepare(cell, budget, bench, untuned_partner(cell.suite, cell.criterion)))
        except Unsupported as refusal:
            console.print(f"unsupported: {cell.criterion} on {cell.model} ({cell.granularity}): {refusal}")
    return searches


def _check_tunable(name: str) -> None:
    base = plugins.criteria().get(name).name
    if base != name:
        raise PruneboardError(
            f"`tune` must be given a criterion that is no preset, but `{name}` is a preset of `{base}`; tune `{base}`."
        )


def _chosen(suite: Suite, options: TuneOptions) -> list[SuiteModel]:
    """Return the suite's networks, and their kinds of unit, that options name."""
    expand(suite, models=options.models)
    for granularity in options.granularities:
        if granularity not in GRANULARITIES:
            raise SuiteError(f"`--granularity` must be one of {', '.join(GRANULARITIES)}, got `{granularity}`.")
    chosen = []
    for model in suite.models:
        if options.models and model.name not in options.models:
            continue
        granularities: tuple[Granularity, ...] = model.granularities
        if options.granularities:
            granularities = tuple(g for g in granularities if g in options.granularities)
        if options.models and not granularities:
            raise SuiteError(
                f"`--granularity` must be one by which suite `{suite.name}` prunes `{model.name}`, "
                f"{' or '.join(model.granularities)}, got {', '.join(options.granularities)}."
            )
        if granularities:
            chosen.append(replace(model, granularities=granularities))
    if not chosen:
        raise SuiteError(
            f"`--granularity` must be one by which suite `{suite.name}` prunes a network, got "
            f"{', '.join(options.granularities)}; see `pruneboard show {suite.name}`."
        )
    return chosen


def _cell_of(suite: Suite, study: Study) -> Cell | None:
    for model in suite.models:
        for granularity in model.granularities:
            if (model.name, granularity) == (study.model, study.granularity):
                return Cell(suite, model.name, granularity, study.criterion)
    return None


def _is_current(suite: Suite, study: Study) -> bool:
    if study.criterion not in plugins.criteria().names():
        return False
    criterion = plugins.criteria().get(study.criterion)
    # The source may have been edited since: its version says whether the parameters still mean the same.
    now = [study.criterion, criterion.version]
    return bool(study.settings["suite"] == suite.digest and study.settings["criterion"][:2] == now)


def _partner_jobs(tuned: Sequence[Job], studies: Sequence[Study]) -> list[Job]:
    partners = {study.tuned_name: study.untuned for study in studies}
    return [replace(job, criterion=partners[job.criterion], tuned=None) for job in tuned]


@contextlib.contextmanager
def _search(
    searches: Sequence[Search], store: StudyStore, bench: TuningBench, n_workers: int | None
) -> Iterator[Iterator[SearchReport]]:
    """Start the searches, and end their workers however the block is left."""
    devices = local_devices(bench.device, n_workers)
    if not devices or not searches:
        reports = search_in_process(searches, store, bench)
    else:
        reports = search_in_workers(searches, store, bench, devices=devices, n_threads=threads_for(len(devices)))
    with contextlib.closing(reports):  # type: ignore[type-var] # both are generators
        yield reports


def _follow(
    reports: Iterator[SearchReport], searches: Sequence[Search], summary: TuneSummary, console: Console
) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("trials"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[best]}", style="dim"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks = {}
        best: dict[str, float] = {}
        for report in reports:
            study = report.search.study
            if isinstance(report, SearchStarted) and study.name not in tasks:
                tasks[study.name] = progress.add_task(str(study), total=report.search.budget.n_trials, best="")
            elif isinstance(report, TrialStarted):
                progress.update(tasks[study.name], completed=report.trial.number)
            elif isinstance(report, TrialEnded):
                trial = report.trial
                if trial.status == "failed":
                    progress.console.print(f"failed: {study} trial {trial.number} {trial.parameters}: {trial.reason}")
                elif trial.value is not None:
                    best[study.name] = max(trial.value, best.get(study.name, 0.0))
                text = f"best A_PR {100 * best[study.name]:.2f} %" if study.name in best else ""
                progress.update(tasks[study.name], completed=trial.number + 1, best=text)
            elif isinstance(report, SearchEnded):
                summary.studies.append(report.study)
                progress.remove_task(tasks.pop(study.name))
                if not console.is_terminal:
                    n_trials = len(report.study.trials)
                    console.print(f"[{len(summary.studies)}/{len(searches)}] {study}: {n_trials} trials")


def _print_start(
    suite: Suite, searches: Sequence[Search], todo: Sequence[Search], options: TuneOptions, console: Console
) -> None:
    if not searches:
        return
    study = searches[0].study
    console.print(
        f"{suite.title}: {len(searches)} studies of at most {options.budget.n_trials} trials each, "
        f"{len(searches) - len(todo)} done before, {len(todo)} to search; A_PR on {study.n_validation} images of "
        f"`{suite.reference_split}` that no seed draws."
    )


def _print_study(study: Study, console: Console) -> None:
    outcome = study.outcome
    if outcome is None:
        return
    if outcome.value is None:
        console.print(f"{study}: {outcome.status} in all of {outcome.n_trials} trials: {outcome.reason}")
        return
    default = "no value" if outcome.default_value is None else f"{100 * outcome.default_value:.2f} %"
    chosen = ", ".join(f"{name}={value}" for name, value in outcome.searched.items())
    console.print(
        f"{study}: A_PR on validation images from {default} to {100 * outcome.value:.2f} % in {outcome.n_trials} of "
        f"{study.space_size} configurations: {chosen}"
    )
