"""Random scores, the control that every criterion has to beat."""

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from pruneboard.benchmark.api import Context, Criterion, Needs


@dataclasses.dataclass(frozen=True)
class Random(Criterion):
    """Uniform random scores over the units of all layers together.

    One draw decides a unit whatever the size of its layer, so that a global ranking takes the same expected share of
    every layer.
    """

    name: ClassVar[str] = "random"
    version: ClassVar[int] = 1
    family: ClassVar[str] = "control"
    source: ClassVar[str] = "https://doi.org/10.1016/j.patcog.2021.107899"
    needs: ClassVar[Needs] = "nothing"
    deterministic: ClassVar[bool] = False

    def score(self, context: Context) -> dict[str, Tensor]:
        """Draw U(0, 1) for each unit."""
        return {layer.name: torch.rand(layer.n_units, generator=context.generator) for layer in context.layers}
