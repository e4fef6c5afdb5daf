"""What turns a method of another library, or a plain function, into a criterion; plugin authors may import it."""

from pruneboard.benchmark.adapters._function import FunctionCriterion, ScoreFunction
from pruneboard.benchmark.adapters._torch_pruning import (
    GradientOf,
    TorchPruningCriterion,
    TorchPruningGradientCriterion,
)
from pruneboard.benchmark.adapters._zennit import ZennitCriterion

__all__ = [
    "FunctionCriterion",
    "GradientOf",
    "ScoreFunction",
    "TorchPruningCriterion",
    "TorchPruningGradientCriterion",
    "ZennitCriterion",
]
