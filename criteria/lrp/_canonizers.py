"""Reversible changes that let zennit's rules see what timm's residual blocks compute.

A residual sum written as `x += shortcut` is invisible to rules on modules: relevance would flow whole into both
branches and double in every block. Here the sum becomes a module, which a rule divides by contribution.
"""

import types
from typing import Any

import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn
from zennit.canonizers import AttributeCanonizer, NamedMergeBatchNorm
from zennit.layer import Sum


class MergeBatchNorm(NamedMergeBatchNorm):  # type: ignore[misc]
    """Merges batch norms into named convolutions exactly.

    zennit leaves the `eps` of a merged norm in place, so that it still divides by sqrt(1 + eps): 0.05 % at the eps of
    1e-3 that some networks have.
    """

    def register(self, linears: list[nn.Module], batch_norm: Any) -> None:
        """Merge, then make the norm the identity."""
        super().register(linears, batch_norm)
        self.eps = batch_norm.eps
        batch_norm.eps = 0.0

    def remove(self) -> None:
        """Give both their own parameters back."""
        self.batch_norm.eps = self.eps
        super().remove()


class ResidualSum(AttributeCanonizer):  # type: ignore[misc] # zennit is untyped
    """Gives every BasicBlock and Bottleneck of timm a `Sum` module for its residual sum."""

    def __init__(self) -> None:
        super().__init__(_residual_attributes)

    def copy(self) -> "ResidualSum":
        """Copy, as zennit does for every module it applies to."""
        return ResidualSum()


def _residual_attributes(_name: str, module: nn.Module) -> dict[str, Any] | None:
    if isinstance(module, BasicBlock):
        return {"residual_sum": Sum(), "forward": types.MethodType(_basic_block_forward, module)}
    if isinstance(module, Bottleneck):
        return {"residual_sum": Sum(), "forward": types.MethodType(_bottleneck_forward, module)}
    return None


def _basic_block_forward(block: Any, x: Tensor) -> Any:
    branch = block.bn1(block.conv1(x))
    branch = block.aa(block.act1(block.drop_block(branch)))
    branch = block.bn2(block.conv2(branch))
    return block.act2(_add_shortcut(block, branch, x))


def _bottleneck_forward(block: Any, x: Tensor) -> Any:
    branch = block.act1(block.bn1(block.conv1(x)))
    branch = block.bn2(block.conv2(branch))
    branch = block.aa(block.act2(block.drop_block(branch)))
    branch = block.bn3(block.conv3(branch))
    return block.act3(_add_shortcut(block, branch, x))


def _add_shortcut(block: Any, branch: Tensor, x: Tensor) -> Any:
    shortcut = x if block.downsample is None else block.downsample(x)
    return block.residual_sum(torch.stack([branch, shortcut], dim=-1))
