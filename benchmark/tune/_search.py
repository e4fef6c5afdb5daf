"""Searching over a criterion's parameters, one trial after the other, with every trial on disk before the next."""

import datetime
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from pruneboard.benchmark import plugins, provenance
from pruneboard.benchmark.api import Context
from pruneboard.benchmark.errors import PruneboardError, Unsupported
from pruneboard.benchmark.runner import NoResult, attempt, generator_for
from pruneboard.benchmark.schema import ENGINE_VERSION, Status, as_hashable, digest
from pruneboard.benchmark.studies import Outcome, Study, StudyStore, Trial
from pruneboard.benchmark.tune._images import Draws, TuningBench
from pruneboard.benchmark.tune._objective import Cell, Objective
from pruneboard.benchmark.tune._propose import SAMPLERS, Sampler, importances, propose
from pruneboard.benchmark.tune._space import Configuration, Space, as_text, make_space
from pruneboard.benchmark.units import find_layers
from pruneboard.benchmark.workers import Report


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long and how a study searches; equal for all criteria that are to be compared.

    Attributes:
        n_trials: distinct configurations to try, at least 1; those that fail count.
        sampler: how they are chosen.
        draws: how images are drawn.

    Raises:
        PruneboardError: a number is out of range, or there is no such sampler.
    """

    n_trials: int = 60
    sampler: Sampler = "gp"
    draws: Draws = field(default_factory=Draws)

    def __post_init__(self) -> None:
        least = {
            "--trials": (self.n_trials, 1),
            "--draws": (self.draws.n_draws, 1),
            "--images": (1 if self.draws.n_images is None else self.draws.n_images, 1),
            "--seed": (self.draws.seed, 0),
        }
        for option, (value, limit) in least.items():
            if value < limit:
                raise PruneboardError(f"`{option}` must be at least {limit}, got {value}; give a larger number.")
        if self.sampler not in SAMPLERS:
            raise PruneboardError(f"`--sampler` must be one of {', '.join(SAMPLERS)}, got `{self.sampler}`.")


@dataclass(frozen=True)
class Search:
    """A study to be searched.

    Attributes:
        cell: what is tuned.
        study: its settings; trials and outcome are on disk.
        budget: how long and how.
    """

    cell: Cell
    study: Study
    budget: Budget


@dataclass(frozen=True, kw_only=True)
class SearchReport(Report):
    """Something happened in a search."""

    search: Search


@dataclass(frozen=True, kw_only=True)
class SearchStarted(SearchReport):
    """A worker took the search up."""

    ends: bool = False


@dataclass(frozen=True, kw_only=True)
class TrialStarted(SearchReport):
    """A configuration is being tried.

    Attributes:
        trial: the trial, without its result.
    """

    trial: Trial
    ends: bool = False


@dataclass(frozen=True, kw_only=True)
class TrialEnded(SearchReport):
    """A trial has ended and is on disk."""

    trial: Trial
    ends: bool = False


@dataclass(frozen=True, kw_only=True)
class SearchEnded(SearchReport):
    """The search has ended and its outcome is on disk.

    Attributes:
        study: the study with trials and outcome.
    """

    study: Study


def prepare(cell: Cell, budget: Budget, bench: TuningBench, untuned: str) -> Search:
    """Gather what decides a study.

    Args:
        cell: what to tune.
        budget: how long and how.
        bench: the process's workbench.
        untuned: criterion that the tuned one will be compared with.

    Raises:
        Unsupported: the criterion declines the network.
        PruneboardError: there is nothing to tune, or no image to tune on, or the network cannot be loaded.
    """
    criterion, model = cell.untuned, plugins.models().get(cell.model)
    job = cell.job(budget.draws.seeds[0])
    images, space = bench.images(job), search_space(cell, bench)
    n_reference = len({int(row) for rows in images.reference for row in rows})
    suite = cell.suite
    settings = {
        "engine": ENGINE_VERSION,
        "suite": suite.digest,
        "seeds": list(suite.seeds),
        "data": bench.dataset(job).digest,
        "model": [model.name, model.version, model.weights_digest],
        "granularity": cell.granularity,
        "criterion": [cell.criterion, criterion.version, plugins.criterion_digest(criterion)],
        "defaults": plugins.criterion_parameters(criterion),
        "space": {name: list(values) for name, values in space.values.items()},
        "shots": max(suite.shots),
        "images": len(images.validation),
        "draws": budget.draws.n_draws,
        "sampler": budget.sampler,
        "seed": budget.draws.seed,
    }
    study = Study(
        suite=suite.name,
        model=cell.model,
        granularity=cell.granularity,
        criterion=cell.criterion,
        untuned=untuned,
        # As it will be when it is read again, with lists for tuples.
        settings=json.loads(json.dumps(settings)),
        space_size=space.size,
        n_reference=0 if criterion.needs == "nothing" else n_reference,
        n_validation=len(images.validation),
    )
    return Search(cell, study, budget)


def search_space(cell: Cell, bench: TuningBench) -> Space:
    """Ask a criterion what it can tune on a network.

    Raises:
        Unsupported: it declines the network.
        PruneboardError: nothing, or it cannot say.
    """
    job = cell.job(bench.draws.seeds[0])
    loaded, criterion = bench.model(job), cell.untuned
    layers = find_layers(loaded.network, cell.granularity, loaded.probe[:1])
    context = Context(model=loaded.network, layers=layers, generator=generator_for(job, "search space"))
    names = plugins.criterion_parameters(criterion)
    space = attempt(lambda: make_space(criterion.search_space(context), names), job, bench)
    where = f"`{cell.criterion}` on `{cell.model}` ({cell.granularity})"
    if isinstance(space, NoResult) and space.status == "unsupported":
        raise Unsupported(space.reason)
    if isinstance(space, NoResult):
        raise PruneboardError(f"a criterion must name its search space to be tuned, but {where}: {space.reason}")
    if not space.size:
        raise PruneboardError(
            f"a criterion must have parameters to be tuned, but there is nothing to tune of {where}; leave it out, or "
            "declare a `search_space` in its class."
        )
    return space


def is_done(search: Search, known: Study) -> bool:
    """Whether a study that is on disk needs no further trial."""
    ended = known.outcome is not None and known.outcome.n_trials == len(known.trials)
    return ended and len(known.trials) >= _n_wanted(search, _space_of(search.study))


def run_search(search: Search, store: StudyStore, bench: TuningBench) -> Iterator[SearchReport]:
    """Try configurations until the budget is used up, beginning where the study on disk stopped.

    Raises:
        StoreError: the folder cannot be written.
        AssetError, ModelError: the network or the data cannot be loaded.
    """
    study = store.begin(search.study)
    objective, space = Objective(search.cell, bench), _space_of(study)
    n_wanted = _n_wanted(search, space)
    # A space that the budget covers is simply enumerated.
    sampler = "grid" if _n_configurations(search, space) <= n_wanted else search.budget.sampler
    while len(study.trials) < n_wanted:
        configuration, proposed_by = propose(
            space, _default(search.study), study.trials, sampler=sampler, seed=search.budget.draws.seed
        )
        started = Trial(
            number=len(study.trials),
            proposed_by=proposed_by,
            parameters=as_text(configuration),
            status="failed",
            value=None,
            reason="",
            seconds=0.0,
        )
        yield TrialStarted(search=search, trial=started)
        measured = objective(configuration)
        result = measured.result
        if isinstance(result, NoResult):
            trial = replace(started, status=result.status, reason=result.reason, seconds=measured.seconds)
        else:
            trial = replace(started, status="ok", value=result, seconds=measured.seconds)
        study = add_trial(study, trial, store)
        yield TrialEnded(search=search, trial=trial)
    study = replace(study, outcome=_outcome(search, study, bench.device))
    store.save(study)
    yield SearchEnded(search=search, study=study)


def add_trial(study: Study, trial: Trial, store: StudyStore) -> Study:
    """Write a trial to the study's table, and return the study with it."""
    longer = replace(study, trials=(*study.trials, trial))
    store.save_trials(longer)
    return longer


def _outcome(search: Search, study: Study, device: torch.device) -> Outcome:
    """Conclude a study from its trials."""
    ok = [trial for trial in study.trials if trial.value is not None]
    best = max(ok, key=lambda trial: trial.value or 0.0, default=None)
    without = next((trial for trial in study.trials if trial.value is None), None)
    searched: Configuration = {} if best is None else json.loads(best.parameters)
    criterion = plugins.with_parameters(
        search.cell.untuned, search.cell.criterion, {k: as_hashable(v) for k, v in searched.items()}
    )
    commit, clean = provenance.commit()
    results = [[trial.parameters, trial.status, trial.value] for trial in study.trials]
    failed: Status = "failed" if any(trial.status == "failed" for trial in study.trials) else "unsupported"
    return Outcome(
        status="ok" if best else failed,
        reason=without.reason if without and not best else "",
        study=digest([study.settings, results]),
        n_trials=len(study.trials),
        winner=None if best is None else best.number,
        searched={name: searched[name] for name in study.settings["space"] if best},
        parameters={} if best is None else plugins.criterion_parameters(criterion),
        value=None if best is None else best.value,
        default_value=study.trials[0].value,
        importances=importances(_space_of(study), study.trials, search.budget.draws.seed),
        versions=dict(provenance.versions()),
        commit=commit,
        clean=clean,
        device=provenance.device_name(device),
        seconds=sum(trial.seconds for trial in study.trials),
        time_utc=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _space_of(study: Study) -> Space:
    return Space({n: tuple(map(as_hashable, values)) for n, values in study.settings["space"].items()})


def _default(study: Study) -> Configuration:
    defaults: Mapping[str, Any] = study.settings["defaults"]
    return {name: as_hashable(defaults[name]) for name in study.settings["space"]}


def _n_configurations(search: Search, space: Space) -> int:
    """Count the space and the defaults, which may lie outside it."""
    return space.size + (_default(search.study) not in space)


def _n_wanted(search: Search, space: Space) -> int:
    return min(search.budget.n_trials, _n_configurations(search, space))
