"""Weight magnitude as Torch-Pruning has it by default.

Source: Li et al. 2017, arXiv 1608.08710; by Torch-Pruning (arXiv 2301.12900).
"""

import dataclasses
from typing import ClassVar

import torch_pruning as tp

from pruneboard.benchmark.adapters import TorchPruningCriterion
from pruneboard.benchmark.api import Needs


@dataclasses.dataclass(frozen=True)
class TorchPruningMagnitude(TorchPruningCriterion):
    """Sum of squares of a unit's weights, averaged with its batch norm's squared scale, over the layer's mean."""

    name: ClassVar[str] = "tp_magnitude"
    version: ClassVar[int] = 1
    family: ClassVar[str] = "weights"
    source: ClassVar[str] = "https://arxiv.org/abs/1608.08710"
    needs: ClassVar[Needs] = "nothing"

    def importance(self) -> tp.importance.Importance:
        """Return the L2 magnitude, normalised by the mean."""
        return tp.importance.MagnitudeImportance(p=2)
