"""Distance from a layer's other units (FPGM), as Torch-Pruning has it.

Source: He et al. 2019, Filter Pruning via Geometric Median, arXiv 1811.00250; by Torch-Pruning (arXiv 2301.12900).
"""

import dataclasses
from typing import ClassVar

import torch_pruning as tp

from pruneboard.benchmark.adapters import TorchPruningCriterion
from pruneboard.benchmark.api import Needs


@dataclasses.dataclass(frozen=True)
class TorchPruningFPGM(TorchPruningCriterion):
    """Sum of a unit's distances from the other units of its layer, over the layer's mean: redundant ones go."""

    name: ClassVar[str] = "tp_fpgm"
    version: ClassVar[int] = 1
    family: ClassVar[str] = "weights"
    source: ClassVar[str] = "https://arxiv.org/abs/1811.00250"
    needs: ClassVar[Needs] = "nothing"

    def importance(self) -> tp.importance.Importance:
        """Return FPGM."""
        return tp.importance.FPGMImportance()
