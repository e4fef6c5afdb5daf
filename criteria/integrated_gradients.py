"""Integrated gradients of the label's logit with respect to a unit.

Source: Sundararajan et al. 2017, Axiomatic Attribution for Deep Networks, arXiv 1703.01365, equation 1, at a hidden
layer. The reference code of Hatefi et al. 2024 leaves out the difference of activations; this is the full form.
"""

import dataclasses
from typing import ClassVar, get_args

import torch
from torch import Tensor

from pruneboard.benchmark.api import (
    AbsoluteAt,
    Batch,
    Context,
    CriterionError,
    Needs,
    SumCriterion,
    check_choice,
    pool,
    tap_gradients,
)


@dataclasses.dataclass(frozen=True)
class IntegratedGradients(SumCriterion):
    """Change of activation times mean gradient on the straight line from a baseline image x' to the image x.

    R_i = (a_i(x) - a_i(x')) * 1/m sum over k of df_c/da_i at x' + (k - 1/2)/m (x - x'), with k = 1..m. The baseline is
    zero after normalisation, that is the mean colour.

    Attributes:
        steps: m, number of points on the line (midpoint rule), at least 1.
        absolute: where the absolute value is taken.
    """

    steps: int = 20
    absolute: AbsoluteAt = "pxp"

    name: ClassVar[str] = "integrated_gradients"
    version: ClassVar[int] = 1
    family: ClassVar[str] = "attribution"
    source: ClassVar[str] = "https://arxiv.org/abs/1703.01365"
    needs: ClassVar[Needs] = "labels"

    def __post_init__(self) -> None:
        check_choice("absolute", self.absolute, get_args(AbsoluteAt))
        if self.steps < 1:
            raise CriterionError(f"`steps` must be at least 1, got {self.steps}.")

    def contributions(self, context: Context, batch: Batch) -> dict[str, Tensor]:
        """Integrate along the line, then pool, for each image and unit."""
        start = Batch(torch.zeros_like(batch.images), batch.labels)
        at_start, _ = tap_gradients(context, start, "logit")
        at_end, _ = tap_gradients(context, batch, "logit")
        mean_gradient = {layer.name: torch.zeros_like(at_end[layer.name]) for layer in context.layers}
        for step in range(self.steps):
            point = Batch(batch.images * ((step + 0.5) / self.steps), batch.labels)
            _, gradients = tap_gradients(context, point, "logit")
            for name, gradient in gradients.items():
                mean_gradient[name] += gradient / self.steps
        return {
            layer.name: pool(
                layer,
                (at_end[layer.name] - at_start[layer.name]) * mean_gradient[layer.name],
                absolute=self.absolute,
            )
            for layer in context.layers
        }

    def reduce(self, contributions: Tensor) -> Tensor:
        """Average over images; `total` takes the absolute value after that."""
        scores = contributions.mean(dim=0)
        return scores.abs() if self.absolute == "total" else scores
