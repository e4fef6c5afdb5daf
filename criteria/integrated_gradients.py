"""Integrated gradients of the label's logit with respect to a unit.

Source: Sundararajan et al. 2017, Axiomatic Attribution for Deep Networks, arXiv 1703.01365, equation 1, at a hidden
layer. The reference code of Hatefi et al. 2024 leaves out the difference of activations; this is the full form.
"""

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from pruneboard.benchmark.api import Batch, Context, CriterionError, Needs, PooledCriterion, tap_gradients


@dataclasses.dataclass(frozen=True)
class IntegratedGradients(PooledCriterion):
    """Change of activation times mean gradient on the straight line from a baseline image x' to the image x.

    R_i = (a_i(x) - a_i(x')) * 1/m sum over k of df_c/da_i at x' + (k - 1/2)/m (x - x'), with k = 1..m. The baseline is
    zero after normalisation, that is the mean colour.

    Attributes:
        absolute: where the absolute value is taken.
        per_layer: division by the l2 norm of the layer's scores, or `none`.
        steps: m, number of points on the line (midpoint rule), at least 1.
    """

    steps: int = 20

    name: ClassVar[str] = "integrated_gradients"
    version: ClassVar[int] = 2
    family: ClassVar[str] = "attribution"
    source: ClassVar[str] = "https://arxiv.org/abs/1703.01365"
    needs: ClassVar[Needs] = "labels"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise CriterionError(f"`steps` must be at least 1, got {self.steps}.")

    def values(self, context: Context, batch: Batch) -> dict[str, Tensor]:
        """Integrate along the line, at every tap."""
        start = Batch(torch.zeros_like(batch.images), batch.labels)
        at_start, _ = tap_gradients(context, start, "logit")
        at_end, _ = tap_gradients(context, batch, "logit")
        mean_gradient = {name: torch.zeros_like(activation) for name, activation in at_end.items()}
        for step in range(self.steps):
            point = Batch(batch.images * ((step + 0.5) / self.steps), batch.labels)
            _, gradients = tap_gradients(context, point, "logit")
            for name, gradient in gradients.items():
                mean_gradient[name] += gradient / self.steps
        return {name: (at_end[name] - at_start[name]) * gradient for name, gradient in mean_gradient.items()}
