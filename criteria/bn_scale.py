"""Batch-norm scale: filters whose batch norm multiplies by little go first.

Source: Liu et al. 2017, Learning Efficient Convolutional Networks through Network Slimming, arXiv 1708.06519.
"""

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from pruneboard.benchmark.api import Context, Criterion, Needs, Unsupported


@dataclasses.dataclass(frozen=True)
class BatchNormScale(Criterion):
    """Absolute scale of the batch norm at a filter's tap, s_i = |gamma_i|."""

    name: ClassVar[str] = "bn_scale"
    version: ClassVar[int] = 1
    family: ClassVar[str] = "weights"
    source: ClassVar[str] = "https://arxiv.org/abs/1708.06519"
    needs: ClassVar[Needs] = "nothing"

    def score(self, context: Context) -> dict[str, Tensor]:
        """Read the scale of every tap.

        Raises:
            Unsupported: a tap is no batch norm with a scale, or all scales are equal because they were folded away.
        """
        scores = {}
        for layer in context.layers:
            tap = context.model.get_submodule(layer.tap)
            if not isinstance(tap, _BatchNorm) or tap.weight is None:
                raise Unsupported(f"needs a batch norm with a scale behind every layer; `{layer.name}` has none.")
            scores[layer.name] = tap.weight.detach().abs().float()
        if bool((torch.cat(list(scores.values())).diff() == 0).all()):
            raise Unsupported("all batch-norm scales are equal (folded into the convolutions), so they rank nothing.")
        return scores
