"""First-order Taylor expansion of the loss when a unit is removed.

Source: Molchanov et al. 2017, arXiv 1611.06440, equation 7, in the form that Yeom et al. 2019 (arXiv 1912.08881)
compare with: the absolute value after the mean over images.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, get_args

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
class Taylor(SumCriterion):
    """Absolute mean of activation times gradient, s_i = | 1/(N P) sum over N images and P positions of a_i dL/da_i |.

    Attributes:
        target: L, the cross-entropy `loss` or the `logit` of the label.
        per_layer: division by the l2 norm of the layer's scores, as in both papers, or `none`.
    """

    target: Target = "loss"
    per_layer: PerLayer = "l2"

    name: ClassVar[str] = "taylor"
    version: ClassVar[int] = 1
    family: ClassVar[str] = "gradient"
    source: ClassVar[str] = "https://arxiv.org/abs/1611.06440"
    needs: ClassVar[Needs] = "labels"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"taylor_logit": {"target": "logit"}}

    def __post_init__(self) -> None:
        check_choice("target", self.target, get_args(Target))
        check_choice("per_layer", self.per_layer, get_args(PerLayer))

    def contributions(self, context: Context, batch: Batch) -> dict[str, Tensor]:
        """Average activation times gradient over positions, for each image and unit."""
        activations, gradients = tap_gradients(context, batch, self.target)
        return {
            layer.name: pool(layer, activations[layer.name] * gradients[layer.name], mean=True)
            for layer in context.layers
        }

    def reduce(self, contributions: Tensor) -> Tensor:
        """Average over images, then take the absolute value."""
        return normalise_per_layer(contributions.mean(dim=0).abs(), self.per_layer)
