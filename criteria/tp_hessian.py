"""Optimal brain damage with the diagonal of the empirical Fisher matrix, as Torch-Pruning has it.

Source: LeCun et al. 1989, Optimal Brain Damage, NeurIPS 2; by Torch-Pruning (arXiv 2301.12900).
"""

import dataclasses
from typing import ClassVar

import torch_pruning as tp

from pruneboard.benchmark.adapters import GradientOf, TorchPruningGradientCriterion
from pruneboard.benchmark.api import Needs


@dataclasses.dataclass(frozen=True)
class TorchPruningHessian(TorchPruningGradientCriterion):
    """Sum over a unit's weights of w^2 times the mean squared gradient of an image's loss, over the layer's mean."""

    name: ClassVar[str] = "tp_hessian"
    version: ClassVar[int] = 1
    family: ClassVar[str] = "gradient"
    source: ClassVar[str] = (
        "https://proceedings.neurips.cc/paper/1989/hash/6c9882bbac1c7093bd25041881277658-Abstract.html"
    )
    needs: ClassVar[Needs] = "labels"
    gradient_of: ClassVar[GradientOf] = "squared"

    def importance(self) -> tp.importance.Importance:
        """Return the importance by the Hessian's diagonal."""
        return tp.importance.HessianImportance()
