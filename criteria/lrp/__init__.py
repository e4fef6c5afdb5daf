"""Layer-wise relevance propagation, on zennit.

Source: Bach et al. 2015 (doi 10.1371/journal.pone.0130140) for the rules; Yeom et al. 2019 (arXiv 1912.08881) and
Hatefi et al. 2024 (arXiv 2408.12568) for pruning by it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import torch
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.vgg import VGG
from torch import Tensor, nn
from zennit.composites import EpsilonPlus, LayerMapComposite, layer_map_base
from zennit.core import Composite
from zennit.rules import Epsilon
from zennit.types import Activation, AvgPool, BatchNorm, Convolution, Linear, MaxPool

from pruneboard.benchmark.api import (
    AbsoluteAt,
    Batch,
    Context,
    Needs,
    SumCriterion,
    Unsupported,
    check_choice,
    pool,
    tapped,
)
from pruneboard.criteria.lrp._canonizers import MergeBatchNorm, ResidualSum

CompositeName = Literal["epsilon", "epsilon_plus"]
Output = Literal["one_hot", "logit"]

_NETWORKS = (VGG, ResNet, nn.Sequential)

# Modules with a rule, and those whose plain gradient is their rule: the winner takes all, or values only move.
_RULED = (
    *(Convolution, Linear, BatchNorm, Activation, AvgPool, MaxPool),
    *(nn.Identity, nn.Flatten, nn.Dropout, nn.ConstantPad3d),
)


@dataclasses.dataclass(frozen=True)
class LRP(SumCriterion):
    """Relevance of a unit for the label's logit, R_i summed over positions and averaged over images.

    Batch norms are merged into their convolutions, and residual sums divide relevance by contribution.

    Attributes:
        composite: rules; `epsilon` puts the epsilon rule (1e-6) everywhere, `epsilon_plus` the z+ rule on convolutions
            and the epsilon rule on linear layers.
        output: relevance that starts at the logits: 1 for the label (`one_hot`), or its logit (`logit`).
        absolute: where the absolute value is taken.
    """

    composite: CompositeName = "epsilon"
    output: Output = "one_hot"
    absolute: AbsoluteAt = "pxp"

    name: ClassVar[str] = "lrp"
    version: ClassVar[int] = 1
    family: ClassVar[str] = "attribution"
    source: ClassVar[str] = "https://arxiv.org/abs/2408.12568"
    needs: ClassVar[Needs] = "labels"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "lrp_epsilon": {"composite": "epsilon"},
        "lrp_epsilon_plus": {"composite": "epsilon_plus"},
    }

    def __post_init__(self) -> None:
        check_choice("composite", self.composite, get_args(CompositeName))
        check_choice("output", self.output, get_args(Output))
        check_choice("absolute", self.absolute, get_args(AbsoluteAt))

    def contributions(self, context: Context, batch: Batch) -> dict[str, Tensor]:
        """Propagate relevance back to every tap, then pool it, for each image and unit.

        Raises:
            Unsupported: the network holds something that no rule or canonizer covers.
        """
        check_supported(context)
        composite = self._make_composite(context)
        with composite.context(context.model) as model, tapped(model, context.layers) as taps, torch.enable_grad():
            logits = model(batch.images.detach().requires_grad_())
            start = nn.functional.one_hot(batch.labels, logits.shape[1]).to(logits.dtype)
            if self.output == "logit":
                start = start * logits.detach()
            activations = [taps[layer.name] for layer in context.layers]
            relevance = torch.autograd.grad(logits, activations, grad_outputs=start)
        return {
            layer.name: pool(layer, values, absolute=self.absolute)
            for layer, values in zip(context.layers, relevance, strict=True)
        }

    def reduce(self, contributions: Tensor) -> Tensor:
        """Average over images; `total` takes the absolute value after that."""
        scores = contributions.mean(dim=0)
        return scores.abs() if self.absolute == "total" else scores

    def _make_composite(self, context: Context) -> Composite:
        merges = [((layer.name,), layer.tap) for layer in context.layers if layer.tap != layer.name]
        canonizers = [MergeBatchNorm(merges), ResidualSum()]
        if self.composite == "epsilon_plus":
            return EpsilonPlus(canonizers=canonizers)
        return LayerMapComposite([*layer_map_base(), (Linear, Epsilon())], canonizers=canonizers)


def check_supported(context: Context) -> None:
    """Raise unless rules and canonizers cover all that the network computes.

    Raises:
        Unsupported: a module that no rule reaches, a batch norm that follows no convolution, a gate in a residual
            block, or a class of network whose residual sums are not known; the message names it.
    """
    merged = {layer.tap for layer in context.layers if layer.tap != layer.name}
    # The network itself comes last: its own parameters say less about what is missing than the module they go through.
    for name, module in sorted(context.model.named_modules(), key=lambda named: named[0] == ""):
        kind = type(module).__name__
        is_leaf = next(module.children(), None) is None
        has_parameters = next(module.parameters(recurse=False), None) is not None
        if (is_leaf or has_parameters) and not isinstance(module, _RULED):
            raise Unsupported(f"no rule for {kind} `{name or 'the network'}` in this release.")
        if isinstance(module, BatchNorm) and name not in merged:
            raise Unsupported(f"batch norm `{name}` cannot be merged: it follows no layer that holds units.")
        if isinstance(module, BasicBlock | Bottleneck) and module.se is not None:
            raise Unsupported(f"no rule for the gate of residual block `{name}` in this release.")
    if not isinstance(context.model, _NETWORKS):
        raise Unsupported(
            f"no canonizer for `{type(context.model).__name__}` in this release, so its sums might leak relevance."
        )
