"""Gradient of the loss with respect to a unit's activation.

Source: Sun et al. 2017, meProp, arXiv 1706.06197, in the form that Yeom et al. 2019 (arXiv 1912.08881) compare with.
"""

import dataclasses
from typing import ClassVar, Literal, get_args

from torch import Tensor

from pruneboard.benchmark.api import (
    AbsoluteAt,
    Batch,
    Context,
    Needs,
    PerLayer,
    PooledCriterion,
    SearchSpace,
    Target,
    check_choice,
    tap_gradients,
)


@dataclasses.dataclass(frozen=True)
class Gradient(PooledCriterion):
    """Absolute mean gradient, s_i = | 1/(N P) sum over N images and P positions of dL/da_i |.

    Attributes:
        absolute: where the absolute value is taken; after the mean over images in the paper.
        per_layer: division by the l2 norm of the layer's scores, as in the paper's tables, or `none`.
        target: L, the cross-entropy `loss` or the `logit` of the label.
    """

    absolute: AbsoluteAt = "total"
    per_layer: PerLayer = "l2"
    target: Target = "loss"

    name: ClassVar[str] = "gradient"
    version: ClassVar[int] = 2
    family: ClassVar[str] = "gradient"
    source: ClassVar[str] = "https://doi.org/10.1016/j.patcog.2021.107899"
    needs: ClassVar[Needs] = "labels"
    over_positions: ClassVar[Literal["sum", "mean"]] = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("target", self.target, get_args(Target))

    def search_space(self, context: Context) -> SearchSpace:
        """Add the target to what every pooled criterion can choose."""
        return {**super().search_space(context), "target": get_args(Target)}

    def values(self, context: Context, batch: Batch) -> dict[str, Tensor]:
        """Return the gradient at every tap."""
        return tap_gradients(context, batch, self.target)[1]
