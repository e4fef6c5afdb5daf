"""Reversible changes that let rules on modules see what timm's blocks compute between their modules.

A residual sum written as `x + shortcut` is invisible to rules on modules: relevance would flow whole into both branches
and double in every block. Here the sum becomes a module, which a rule divides by contribution. Attention and the
pooling of tokens carry relevance by functions of their own.
"""

import copy
import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from timm.layers import Attention
from timm.models._efficientnet_blocks import ConvBnAct, DepthwiseSeparableConv, InvertedResidual
from timm.models.resnet import BasicBlock, Bottleneck
from timm.models.vgg import ConvMlp
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from zennit.canonizers import AttributeCanonizer, NamedMergeBatchNorm
from zennit.layer import Sum

from pruneboard.benchmark.api import Unsupported
from pruneboard.criteria.lrp._attention import SoftmaxRule, attend, gated
from pruneboard.criteria.lrp._flow import relevance_in, relevance_out


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


class Blocks(AttributeCanonizer):  # type: ignore[misc] # zennit is untyped
    """Lets relevance through the residual blocks, attentions and token pooling of timm.

    Args:
        softmax: rule of the softmax of attentions.
    """

    def __init__(self, softmax: SoftmaxRule) -> None:
        super().__init__(functools.partial(_attributes, softmax))
        self.softmax = softmax

    def copy(self) -> "Blocks":
        """Copy, as zennit does for every module it applies to."""
        return Blocks(self.softmax)


def _attributes(softmax: SoftmaxRule, _name: str, module: nn.Module) -> dict[str, Any] | None:
    def own(forward: Callable[..., Tensor]) -> types.MethodType:
        return types.MethodType(forward, module)

    # Subclasses may compute something else, so only the very classes count.
    match type(module):
        case cls if cls is BasicBlock:
            return {"residual_sum": Sum(), "forward": own(_basic_block)}
        case cls if cls is Bottleneck:
            return {"residual_sum": Sum(), "forward": own(_bottleneck)}
        case cls if cls in (ConvBnAct, DepthwiseSeparableConv, InvertedResidual) and module.has_skip:
            branch: Any = copy.copy(module)
            branch.has_skip = False
            return {"residual_sum": Sum(), "forward": own(functools.partial(_with_skip, branch.forward))}
        case cls if cls is Block:
            return {"residual_sum1": Sum(), "residual_sum2": Sum(), "forward": own(_transformer_block)}
        case cls if cls is Attention:
            return {"forward": own(functools.partial(_attention, softmax))}
        case cls if cls is ConvMlp:
            return {"forward": own(_conv_mlp)}
        case cls if cls is VisionTransformer:
            pool: Any = module.pool
            return {"pool": own(functools.partial(_pooled, pool))}
    return None


def _add(residual_sum: nn.Module, branch: Tensor, shortcut: Tensor) -> Tensor:
    return residual_sum(torch.stack([branch, shortcut], dim=-1))  # type: ignore[no-any-return]


def _basic_block(block: Any, x: Tensor) -> Tensor:
    branch = block.bn1(block.conv1(x))
    branch = block.aa(block.act1(block.drop_block(branch)))
    branch = block.bn2(block.conv2(branch))
    return block.act2(_add(block.residual_sum, branch, _shortcut(block, x)))  # type: ignore[no-any-return]


def _bottleneck(block: Any, x: Tensor) -> Tensor:
    branch = block.act1(block.bn1(block.conv1(x)))
    branch = block.bn2(block.conv2(branch))
    branch = block.aa(block.act2(block.drop_block(branch)))
    branch = block.bn3(block.conv3(branch))
    return block.act3(_add(block.residual_sum, branch, _shortcut(block, x)))  # type: ignore[no-any-return]


def _shortcut(block: Any, x: Tensor) -> Tensor:
    return x if block.downsample is None else block.downsample(x)


def _with_skip(branch: Callable[[Tensor], Tensor], block: Any, x: Tensor) -> Tensor:
    return _add(block.residual_sum, branch(x), x)


def _transformer_block(block: Any, x: Tensor, attn_mask: Tensor | None = None, *, is_causal: bool = False) -> Tensor:
    attention = block.attn(block.norm1(x), attn_mask=attn_mask, is_causal=is_causal)
    x = _add(block.residual_sum1, block.ls1(attention), x)
    return _add(block.residual_sum2, block.ls2(block.mlp(block.norm2(x))), x)


def _attention(
    softmax: SoftmaxRule, attention: Any, x: Tensor, attn_mask: Tensor | None = None, *, is_causal: bool = False
) -> Tensor:
    if attn_mask is not None or is_causal:
        raise Unsupported("no rule for attention with a mask; run the network without masks.")
    n_images, n_tokens, _ = x.shape
    projected = attention.qkv(x).reshape(n_images, n_tokens, 3, attention.num_heads, attention.head_dim)
    q, k, v = projected.permute(2, 0, 3, 1, 4).unbind(0)
    heads = attend(attention.q_norm(q), attention.k_norm(k), v, attention.scale, softmax)
    joined = attention.norm(heads.transpose(1, 2).reshape(n_images, n_tokens, attention.attn_dim))
    if attention.gate is not None:
        joined = gated(joined, attention.gate(x), softmax)
    return attention.proj(joined)  # type: ignore[no-any-return]


def _conv_mlp(block: Any, x: Tensor) -> Tensor:
    size = (max(block.input_kernel_size, x.shape[-2]), max(block.input_kernel_size, x.shape[-1]))
    if size != tuple(x.shape[-2:]):
        x = relevance_out(adaptive_avg_pool2d(relevance_in(x), size))
    return block.act2(block.fc2(block.drop(block.act1(block.fc1(x)))))  # type: ignore[no-any-return]


def _pooled(pool: Callable[..., Tensor], _network: Any, x: Tensor, pool_type: str | None = None) -> Tensor:
    return relevance_out(pool(relevance_in(x), pool_type=pool_type))
