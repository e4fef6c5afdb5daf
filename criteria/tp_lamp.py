"""Layer-adaptive magnitude (LAMP) for whole units, as Torch-Pruning has it.

Source: Lee et al. 2021, arXiv 2010.07611; by Torch-Pruning (arXiv 2301.12900).
"""

import dataclasses
from typing import ClassVar

import torch_pruning as tp

from pruneboard.benchmark.adapters import TorchPruningCriterion
from pruneboard.benchmark.api import Needs


@dataclasses.dataclass(frozen=True)
class TorchPruningLAMP(TorchPruningCriterion):
    """Squared magnitude of a unit over the sum of those of its layer that are not smaller."""

    name: ClassVar[str] = "tp_lamp"
    version: ClassVar[int] = 1
    family: ClassVar[str] = "weights"
    source: ClassVar[str] = "https://arxiv.org/abs/2010.07611"
    needs: ClassVar[Needs] = "nothing"

    def importance(self) -> tp.importance.Importance:
        """Return LAMP."""
        return tp.importance.LAMPImportance()
