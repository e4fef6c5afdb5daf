"""Which configuration to try next, and which parameters mattered: what is asked of Optuna.

Source: Akiba et al. 2019, Optuna, arXiv 1907.10902; the importances are those of Hutter et al. 2014, fANOVA.
"""

import json
import warnings
from collections.abc import Sequence
from typing import Literal, get_args

import optuna

from pruneboard.benchmark.schema import as_hashable, digest
from pruneboard.benchmark.studies import Trial
from pruneboard.benchmark.tune._space import Configuration, Space, as_text

Sampler = Literal["gp", "tpe", "grid"]
"""How configurations are chosen: by a Gaussian process, by Parzen estimators, or all of them in seeded order."""

SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)

# fANOVA fits regression trees: from fewer trials they say nothing.
_FEWEST_FOR_IMPORTANCES = 10


def propose(
    space: Space, default: Configuration, trials: Sequence[Trial], *, sampler: Sampler, seed: int
) -> tuple[Configuration, str]:
    """Return the next configuration, which was not tried yet, and what proposed it.

    It depends on the arguments only, so that a study that was interrupted goes on as if it had not been. The defaults
    come first. A sampler that repeats a configuration is not asked again: a random one takes its place.
    """
    number = len(trials)
    if number == 0:
        return default, "default"
    tried = {trial.parameters for trial in trials}
    stream = [seed, number]
    if sampler == "grid":
        return space.untried(tried, stream), "grid"
    study = _study(space, trials, _make_sampler(sampler, int(digest(stream)[:7], 16)))
    asked = study.ask(_distributions(space)).params
    suggested = {name: as_hashable(json.loads(asked[name])) for name in space.values}
    if as_text(suggested) in tried:
        return space.untried(tried, stream), "random"
    return suggested, sampler


def importances(space: Space, trials: Sequence[Trial], seed: int) -> dict[str, float]:
    """Return the share of each parameter in the variance of the value, largest first; empty when it cannot be told.

    Method: fANOVA on the trials that lie in the space, which estimates the variance over the whole of it.
    """
    study = _study(space, trials, optuna.samplers.RandomSampler(seed=seed))
    values = [trial.value for trial in study.trials]
    if len(values) < _FEWEST_FOR_IMPORTANCES or len(set(values)) < 2 or len(space.values) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in found.items()}


def _study(space: Space, trials: Sequence[Trial], sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    """Make a study in memory of the trials that have a value and lie in the space."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    distributions = _distributions(space)
    for trial in trials:
        configuration = json.loads(trial.parameters)
        if trial.value is not None and configuration in space:
            params = {name: as_text(configuration[name]) for name in space.values}
            study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=trial.value))
    return study


def _distributions(space: Space) -> dict[str, optuna.distributions.BaseDistribution]:
    return {
        name: optuna.distributions.CategoricalDistribution([as_text(value) for value in values])
        for name, values in space.values.items()
    }


def _make_sampler(sampler: Sampler, seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if sampler == "tpe":
            return optuna.samplers.TPESampler(seed=seed, multivariate=True)
        # A configuration always gives the same value, so the surrogate need not expect noise.
        return optuna.samplers.GPSampler(seed=seed, deterministic_objective=True)
