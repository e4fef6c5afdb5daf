"""First-order Taylor expansion in the weights, as Torch-Pruning has it.

Source: Molchanov et al. 2019, arXiv 1906.10771; by Torch-Pruning (arXiv 2301.12900).
"""

import dataclasses
from typing import ClassVar

import torch_pruning as tp

from pruneboard.benchmark.adapters import GradientOf, TorchPruningGradientCriterion
from pruneboard.benchmark.api import Needs


@dataclasses.dataclass(frozen=True)
class TorchPruningTaylor(TorchPruningGradientCriterion):
    """Sum over a unit's weights of |w dL/dw|, L the mean cross-entropy, over the layer's mean."""

    name: ClassVar[str] = "tp_taylor"
    version: ClassVar[int] = 1
    family: ClassVar[str] = "gradient"
    source: ClassVar[str] = "https://arxiv.org/abs/1906.10771"
    needs: ClassVar[Needs] = "labels"
    gradient_of: ClassVar[GradientOf] = "loss"

    def importance(self) -> tp.importance.Importance:
        """Return the Taylor importance."""
        return tp.importance.TaylorImportance()
