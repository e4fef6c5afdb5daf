"""What authors of plugins import: the contracts of a criterion and of a model, and the tools to write them."""

from pruneboard.benchmark.api._criteria import (
    ABSOLUTE_PLACES,
    Batch,
    Context,
    Criterion,
    PerLayer,
    PooledCriterion,
    Scores,
    SearchSpace,
    SumCriterion,
    Target,
    check_choice,
    normalise_per_layer,
    tap_gradients,
)
from pruneboard.benchmark.api._models import Model, Recipe, adapted
from pruneboard.benchmark.assets import Weights
from pruneboard.benchmark.data import Framing
from pruneboard.benchmark.errors import CriterionError, Unsupported
from pruneboard.benchmark.schema import Granularity, Needs
from pruneboard.benchmark.units import AbsoluteAt, Layer, batch_norms_after, by_unit, pool, tapped, unit_weights

__all__ = [
    "ABSOLUTE_PLACES",
    "AbsoluteAt",
    "Batch",
    "Context",
    "Criterion",
    "CriterionError",
    "Framing",
    "Granularity",
    "Layer",
    "Model",
    "Needs",
    "PerLayer",
    "PooledCriterion",
    "Recipe",
    "Scores",
    "SearchSpace",
    "SumCriterion",
    "Target",
    "Unsupported",
    "Weights",
    "adapted",
    "batch_norms_after",
    "by_unit",
    "check_choice",
    "normalise_per_layer",
    "pool",
    "tap_gradients",
    "tapped",
    "unit_weights",
]
