"""Mean absolute activation: units that say little go first.

Source: Molchanov et al. 2017, Pruning Convolutional Neural Networks for Resource Efficient Inference, arXiv 1611.06440,
section 2.2 (mean activation), here at the tap and therefore with the absolute value.
"""

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from pruneboard.benchmark.api import Batch, Context, Needs, SumCriterion, pool, tapped


@dataclasses.dataclass(frozen=True)
class Activation(SumCriterion):
    """Absolute activation at the tap, averaged over positions and images: s_i = mean |a_i|."""

    name: ClassVar[str] = "activation"
    version: ClassVar[int] = 1
    family: ClassVar[str] = "activation"
    source: ClassVar[str] = "https://arxiv.org/abs/1611.06440"
    needs: ClassVar[Needs] = "images"

    @torch.no_grad()
    def contributions(self, context: Context, batch: Batch) -> dict[str, Tensor]:
        """Average |a| over positions, for each image and unit."""
        with tapped(context.model, context.layers) as activations:
            context.model(batch.images)
            return {layer.name: pool(layer, activations[layer.name].abs(), mean=True) for layer in context.layers}
