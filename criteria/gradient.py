"""Gradient of the loss with respect to a unit's activation.

Source: Sun et al. 2017, meProp, arXiv 1706.06197, in the form that Yeom et al. 2019 (arXiv 1912.08881) compare with.
"""

import dataclasses
from typing import ClassVar, get_args

from torch import Tensor

from pruneboard.benchmark.api import (
    Batch,
    Context,
    Needs,
    PerLayer,
    SumCriterion,
    Target,
    check_choice,
    normalise_per_layer,
    pool,
    tap_gradients,
)


@dataclasses.dataclass(frozen=True)
class Gradient(SumCriterion):
    """Absolute mean gradient, s_i = | 1/(N P) sum over N images and P positions of dL/da_i |.

    Attributes:
        target: L, the cross-entropy `loss` or the `logit` of the label.
        per_layer: division by the l2 norm of the layer's scores, as in the paper's tables, or `none`.
    """

    target: Target = "loss"
    per_layer: PerLayer = "l2"

    name: ClassVar[str] = "gradient"
    version: ClassVar[int] = 1
    family: ClassVar[str] = "gradient"
    source: ClassVar[str] = "https://doi.org/10.1016/j.patcog.2021.107899"
    needs: ClassVar[Needs] = "labels"

    def __post_init__(self) -> None:
        check_choice("target", self.target, get_args(Target))
        check_choice("per_layer", self.per_layer, get_args(PerLayer))

    def contributions(self, context: Context, batch: Batch) -> dict[str, Tensor]:
        """Average the gradient over positions, for each image and unit."""
        _, gradients = tap_gradients(context, batch, self.target)
        return {layer.name: pool(layer, gradients[layer.name], mean=True) for layer in context.layers}

    def reduce(self, contributions: Tensor) -> Tensor:
        """Average over images, then take the absolute value."""
        return normalise_per_layer(contributions.mean(dim=0).abs(), self.per_layer)
