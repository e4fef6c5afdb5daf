"""First-order Taylor expansion of the loss when a unit is removed.

Source: Molchanov et al. 2017, arXiv 1611.06440, equation 7, in the form that Yeom et al. 2019 (arXiv 1912.08881)
compare with: the absolute value after the mean over images.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

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
class Taylor(PooledCriterion):
    """Absolute mean of activation times gradient, s_i = | 1/(N P) sum over N images and P positions of a_i dL/da_i |.

    Attributes:
        absolute: where the absolute value is taken; after the mean over images in the 2019 paper.
        per_layer: division by the l2 norm of the layer's scores, as in both papers, or `none`.
        target: L, the cross-entropy `loss` or the `logit` of the label.
    """

    absolute: AbsoluteAt = "total"
    per_layer: PerLayer = "l2"
    target: Target = "loss"

    name: ClassVar[str] = "taylor"
    version: ClassVar[int] = 2
    family: ClassVar[str] = "gradient"
    source: ClassVar[str] = "https://arxiv.org/abs/1611.06440"
    needs: ClassVar[Needs] = "labels"
    over_positions: ClassVar[Literal["sum", "mean"]] = "mean"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"taylor_logit": {"target": "logit"}}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("target", self.target, get_args(Target))

    def search_space(self, context: Context) -> SearchSpace:
        """Add the target to what every pooled criterion can choose."""
        return {**super().search_space(context), "target": get_args(Target)}

    def values(self, context: Context, batch: Batch) -> dict[str, Tensor]:
        """Return activation times gradient at every tap."""
        activations, gradients = tap_gradients(context, batch, self.target)
        return {name: activation * gradients[name] for name, activation in activations.items()}
