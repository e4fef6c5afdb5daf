"""Batch-norm scale as Torch-Pruning has it: over the mean of its layer.

Source: Liu et al. 2017, Network Slimming, arXiv 1708.06519; by Torch-Pruning (arXiv 2301.12900).
"""

import dataclasses
from typing import ClassVar

import torch_pruning as tp

from pruneboard.benchmark.adapters import TorchPruningCriterion
from pruneboard.benchmark.api import Needs


@dataclasses.dataclass(frozen=True)
class TorchPruningBNScale(TorchPruningCriterion):
    """Absolute scale of the batch norm at a filter's tap, over the layer's mean."""

    name: ClassVar[str] = "tp_bn_scale"
    version: ClassVar[int] = 1
    family: ClassVar[str] = "weights"
    source: ClassVar[str] = "https://arxiv.org/abs/1708.06519"
    needs: ClassVar[Needs] = "nothing"

    def importance(self) -> tp.importance.Importance:
        """Return the batch-norm scale."""
        return tp.importance.BNScaleImportance()
