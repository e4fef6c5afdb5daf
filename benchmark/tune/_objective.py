"""What a configuration is worth: A_PR on the validation images."""

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pruneboard.benchmark import plugins
from pruneboard.benchmark.api import Batch, Context, Criterion, Scores, SumCriterion
from pruneboard.benchmark.evaluate import accuracies_under
from pruneboard.benchmark.ranking import masks_at, rank
from pruneboard.benchmark.runner import NoResult, attempt, context_of, generator_for, reference_of
from pruneboard.benchmark.schema import Granularity, Job, Suite
from pruneboard.benchmark.scoring import Contribute, score_all_shots
from pruneboard.benchmark.tune._images import TuningBench
from pruneboard.benchmark.tune._space import Configuration, as_text

CACHE_BYTES = 512 * 2**20
"""Contributions that are kept for trials which differ in nothing that they depend on."""


@dataclass(frozen=True)
class Cell:
    """What a study tunes: a criterion on one network and granularity of a suite.

    Attributes:
        suite: the suite.
        model: registered name of the network.
        granularity: kind of unit.
        criterion: registered name of the criterion.
    """

    suite: Suite
    model: str
    granularity: Granularity
    criterion: str

    def job(self, seed: int) -> Job:
        """Return the job that one draw of reference images is."""
        return Job(
            suite=self.suite, model=self.model, granularity=self.granularity, criterion=self.criterion, seed=seed
        )

    @property
    def untuned(self) -> Criterion:
        """The criterion with its default parameters."""
        return plugins.criteria().get(self.criterion)


@dataclass(frozen=True)
class Measured:
    """What one trial gave.

    Attributes:
        result: A_PR on the validation images, in [0, 1], or why there is none.
        seconds: time it took, in s.
    """

    result: float | NoResult
    seconds: float


class Objective:
    """A_PR as a function of the configuration: the mean over draws and rates of the accuracy on validation images.

    Args:
        cell: what is tuned.
        bench: the process's workbench.
        cache_bytes: memory for contributions that several trials share.
    """

    def __init__(self, cell: Cell, bench: TuningBench, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._cell = cell
        self._bench = bench
        self._references: dict[int, Batch | None] = {}
        self._shared = _SharedContributions(cache_bytes)

    def __call__(self, configuration: Configuration) -> Measured:
        """Measure a configuration; whatever a criterion does to fail is its result."""
        started = time.perf_counter()
        job = self._cell.job(self._bench.draws.seeds[0])
        result = attempt(lambda: self._mean(configuration), job, self._bench)
        if isinstance(result, NoResult):
            # What was computed on a network that proved to be damaged serves nobody.
            self._shared.clear()
        return Measured(result, time.perf_counter() - started)

    def _mean(self, configuration: Configuration) -> float:
        criterion = plugins.with_parameters(self._cell.untuned, self._cell.criterion, configuration)
        values = [self._at(criterion, seed) for seed in self._bench.draws.seeds]
        return sum(values) / len(values)

    def _at(self, criterion: Criterion, seed: int) -> float:
        job, suite = self._cell.job(seed), self._cell.suite
        loaded = self._bench.model(job)
        pruning = loaded.pruning(job.granularity)
        if seed not in self._references:
            self._references[seed] = reference_of(job, self._bench, loaded.plugin, criterion)
        context = context_of(job, loaded, self._references[seed])
        shots = max(suite.shots)
        scoring = score_all_shots(criterion, context, [shots], loaded.probe, self._shared.of_draw(seed))
        ranking = rank(scoring.by_shots[shots], suite.scope, generator_for(job, "ties"))
        masks = [masks_at(ranking, rate) for rate in suite.rates]
        accuracies = accuracies_under(pruning, masks, loaded.evaluation)
        return sum(accuracy.top1 for accuracy in accuracies) / len(accuracies)


class _SharedContributions:
    """Contributions by draw and by the parameters that they depend on; those not used for longest go first."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._known: OrderedDict[tuple[int, str], Scores] = OrderedDict()

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()

    def of_draw(self, draw: int) -> Contribute:
        """Return what gives the contributions of a draw's images."""

        def contribute(criterion: SumCriterion, context: Context) -> Scores:
            key = (draw, as_text(_deciding(criterion)))
            if key in self._known:
                self._known.move_to_end(key)
                # A criterion may write into what it is given, so it gets a copy.
                return _copies(self._known[key])
            if _least_bytes(context) > self._most_bytes:
                return criterion.own_contributions(context)
            contributions = criterion.all_contributions(context)
            n_bytes = _n_bytes(contributions)
            if n_bytes <= self._most_bytes:
                self._make_room(n_bytes)
                self._known[key] = _copies(contributions)
            return contributions

        return contribute

    def _make_room(self, n_bytes: int) -> None:
        while sum(map(_n_bytes, self._known.values())) + n_bytes > self._most_bytes:
            self._known.popitem(last=False)


def _copies(contributions: Scores) -> Scores:
    return {name: values.clone() for name, values in contributions.items()}


def _least_bytes(context: Context) -> int:
    """Return the size of one number per image and unit; contributions are a small multiple of it."""
    return 4 * len(context.reference.images) * sum(layer.n_units for layer in context.layers)


def _deciding(criterion: SumCriterion) -> Mapping[str, Any]:
    """Return the parameters that contributions depend on."""
    parameters = plugins.criterion_parameters(criterion)
    return {name: value for name, value in parameters.items() if name not in criterion.reduced_by}


def _n_bytes(contributions: Scores) -> int:
    return sum(values.numel() * values.element_size() for values in contributions.values())
