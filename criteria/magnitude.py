"""Weight magnitude: units with small weights go first.

Source: Li et al. 2017, Pruning Filters for Efficient ConvNets, arXiv 1608.08710; with the normalisation per layer that
Yeom et al. 2019 (arXiv 1912.08881) compare LRP with.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor

from pruneboard.benchmark.api import (
    Context,
    Criterion,
    Needs,
    PerLayer,
    SearchSpace,
    check_choice,
    normalise_per_layer,
    unit_weights,
)

Norm = Literal["l1", "l2"]


@dataclasses.dataclass(frozen=True)
class Magnitude(Criterion):
    """Norm of a unit's own weights, s_i = ||w_i||_p, divided by the l2 norm of the layer's scores.

    Attributes:
        norm: p = 1 or 2.
        per_layer: `l2` makes layers of different width comparable; `none` leaves the norms as they are.
    """

    norm: Norm = "l1"
    per_layer: PerLayer = "l2"

    name: ClassVar[str] = "magnitude"
    version: ClassVar[int] = 1
    family: ClassVar[str] = "weights"
    source: ClassVar[str] = "https://arxiv.org/abs/1608.08710"
    needs: ClassVar[Needs] = "nothing"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"magnitude_l2": {"norm": "l2"}}

    def __post_init__(self) -> None:
        check_choice("norm", self.norm, get_args(Norm))
        check_choice("per_layer", self.per_layer, get_args(PerLayer))

    def search_space(self, context: Context) -> SearchSpace:
        """Both norms, with and without normalisation per layer."""
        return {"norm": get_args(Norm), "per_layer": get_args(PerLayer)}

    def score(self, context: Context) -> dict[str, Tensor]:
        """Take the norm of each unit's weights."""
        p = 1 if self.norm == "l1" else 2
        norms = {layer.name: unit_weights(context.model, layer).norm(p=p, dim=1) for layer in context.layers}
        return {name: normalise_per_layer(scores, self.per_layer) for name, scores in norms.items()}
