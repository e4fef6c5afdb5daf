"""Random scores as Torch-Pruning draws them, a control of the adapter.

Source: Fang et al. 2023, DepGraph, arXiv 2301.12900; by Torch-Pruning (arXiv 2301.12900).
"""

import dataclasses
from typing import ClassVar

import torch_pruning as tp

from pruneboard.benchmark.adapters import TorchPruningCriterion
from pruneboard.benchmark.api import Needs


@dataclasses.dataclass(frozen=True)
class TorchPruningRandom(TorchPruningCriterion):
    """Uniform random scores in each layer."""

    name: ClassVar[str] = "tp_random"
    version: ClassVar[int] = 1
    family: ClassVar[str] = "control"
    source: ClassVar[str] = "https://arxiv.org/abs/2301.12900"
    needs: ClassVar[Needs] = "nothing"
    deterministic: ClassVar[bool] = False

    def importance(self) -> tp.importance.Importance:
        """Return the random importance."""
        return tp.importance.RandomImportance()
