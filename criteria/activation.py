"""Mean activation: units that say little go first.

Source: Molchanov et al. 2017, Pruning Convolutional Neural Networks for Resource Efficient Inference, arXiv 1611.06440,
section 2.2 (mean activation), here at the tap and therefore with the absolute value.
"""

import dataclasses
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from pruneboard.benchmark.api import (
    AbsoluteAt,
    Batch,
    Context,
    Needs,
    PooledCriterion,
    SearchSpace,
    check_choice,
    tapped,
)

Norm = Literal["l1", "l2", "signed"]


@dataclasses.dataclass(frozen=True)
class Activation(PooledCriterion):
    """Activation at the tap, averaged over positions and images: s_i = mean |a_i| by default.

    Attributes:
        absolute: where the absolute value of what `norm` gives is taken; only matters when that is `signed`.
        per_layer: division by the l2 norm of the layer's scores, or `none`.
        norm: `l1` averages |a|, `l2` averages a^2, `signed` averages a.
    """

    absolute: AbsoluteAt = "none"
    norm: Norm = "l1"

    name: ClassVar[str] = "activation"
    version: ClassVar[int] = 2
    family: ClassVar[str] = "activation"
    source: ClassVar[str] = "https://arxiv.org/abs/1611.06440"
    needs: ClassVar[Needs] = "images"
    over_positions: ClassVar[Literal["sum", "mean"]] = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("norm", self.norm, get_args(Norm))

    def search_space(self, context: Context) -> SearchSpace:
        """Add the norm to what every pooled criterion can choose."""
        return {**super().search_space(context), "norm": get_args(Norm)}

    @torch.no_grad()
    def values(self, context: Context, batch: Batch) -> dict[str, Tensor]:
        """Return |a|, a^2 or a at every tap."""
        with tapped(context.model, context.layers) as activations:
            context.model(batch.images)
            match self.norm:
                case "l1":
                    return {name: a.abs() for name, a in activations.items()}
                case "l2":
                    return {name: a.square() for name, a in activations.items()}
                case "signed":
                    return dict(activations)
