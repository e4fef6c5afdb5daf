"""Which rule each module follows, and which networks the rules cover.

Depth groups: Hatefi et al. 2024 (arXiv 2408.12568), section 3.3 and code: low, middle and high hidden layers, and the
fully connected layers of the classifier.
"""

from collections.abc import Callable, Mapping
from math import ceil
from typing import Any, Literal

import torch
from timm.layers import (
    GELU,
    Attention,
    BatchNormAct2d,
    BlurPool2d,
    ClassifierHead,
    Conv2dSame,
    DropPath,
    GELUTanh,
    HardSigmoid,
    HardSwish,
    LayerNorm,
    LayerNormFp32,
    LayerScale,
    Mlp,
    NormMlpClassifierHead,
    PatchEmbed,
    QuickGELU,
    RmsNorm,
    SelectAdaptivePool2d,
    Swish,
)
from timm.models._efficientnet_blocks import ConvBnAct, DepthwiseSeparableConv, InvertedResidual
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.vgg import VGG, ConvMlp
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn
from zennit.composites import COMPOSITES
from zennit.core import Composite, Hook
from zennit.layer import Sum
from zennit.types import Activation, AvgPool, BatchNorm, MaxPool

from pruneboard.benchmark.api import Unsupported
from pruneboard.criteria.lrp._rules import AlphaBeta, DetachedLayerNorm, Epsilon, Gamma, Pass, Rule

RuleName = Literal["epsilon", "gamma", "alpha2_beta1", "z_plus"]
Depth = Literal["low", "mid", "high", "fc"]
Rules = Mapping[Depth, RuleName]
ModuleMap = Callable[[str, nn.Module], Hook | None]
"""Name of a module and the module to its rule, or None."""

# Rules that split weights by sign need to know how the module uses them, so subclasses do not count.
_LINEAR = (nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv2dSame, nn.Linear)
_AVERAGING = (Sum, AvgPool, BlurPool2d)
_LAYER_NORMS = (nn.LayerNorm, LayerNorm, LayerNormFp32)
_ELEMENTWISE = (Activation, BatchNorm, LayerScale, RmsNorm, GELU, GELUTanh, QuickGELU, Swish, HardSwish, HardSigmoid)

# Their plain gradient is their rule: the winner takes all, values only move, or nothing happens.
_MOVING = (MaxPool, nn.ReLU, nn.Identity, nn.Flatten, nn.Dropout, DropPath, nn.ConstantPad3d)

# What these compute between their modules is nothing, or a canonizer covers it.
_CONTAINERS = (
    *(nn.Sequential, nn.ModuleList, VGG, ConvMlp, ClassifierHead, NormMlpClassifierHead, SelectAdaptivePool2d),
    *(ResNet, BasicBlock, Bottleneck, EfficientNet, ConvBnAct, DepthwiseSeparableConv, InvertedResidual),
    *(VisionTransformer, Block, Attention, Mlp, PatchEmbed, BatchNormAct2d),
)


def by_depth(
    network: nn.Module, rules: Rules, projections: RuleName | None, gamma_conv: float, gamma_linear: float
) -> ModuleMap:
    """Return the map from modules to rules with a rule for each depth group.

    Args:
        network: the network that the map is for.
        rules: rule of convolutions and linear layers of each group.
        projections: rule of the projections of attentions, or None for that of their group.
        gamma_conv: gamma of convolutions.
        gamma_linear: gamma of linear layers.
    """
    groups = depth_groups(network)

    def rule(name: str, module: nn.Module) -> Hook | None:
        if type(module) not in _LINEAR:
            return _base_rule(module)
        in_attention = "." in name and type(network.get_submodule(name.rpartition(".")[0])) is Attention
        chosen = projections if in_attention and projections else rules[groups[name]]
        return _rule(chosen, gamma_linear if isinstance(module, nn.Linear) else gamma_conv)

    return rule


def from_zennit(name: str) -> ModuleMap:
    """Return the map of a registered composite of zennit, which decides first, and of the rules for what it ignores.

    The bounds of pixels that some first layers ask for are set to -3 and 3: relevance of pixels scores no unit.
    """
    bounds = {"low": torch.tensor(-3.0), "high": torch.tensor(3.0)} if name == "epsilon_gamma_box" else {}
    composite = COMPOSITES[name](**bounds)
    visited: dict[str, Any] = {}

    def rule(name: str, module: nn.Module) -> Hook | None:
        return composite.module_map(visited, name, module) or (
            None if isinstance(module, _LINEAR) else _base_rule(module)
        )

    return rule


def composite_names() -> tuple[str, ...]:
    """Return the names of zennit's composites."""
    return tuple(sorted(COMPOSITES))


def make_composite(module_map: ModuleMap, canonizers: list[Any]) -> Composite:
    """Return the map as zennit wants it."""
    return Composite(lambda _context, name, module: module_map(name, module), canonizers=canonizers)


def _rule(name: RuleName, gamma: float) -> Rule:
    match name:
        case "epsilon":
            return Epsilon()
        case "gamma":
            return Gamma(gamma)
        case "alpha2_beta1":
            return AlphaBeta(2.0, 1.0)
        case "z_plus":
            return AlphaBeta(1.0, 0.0)


def _base_rule(module: nn.Module) -> Rule | None:
    if isinstance(module, _AVERAGING):
        return Epsilon()
    if type(module) in _LAYER_NORMS:
        return DetachedLayerNorm()
    if isinstance(module, _ELEMENTWISE) and not isinstance(module, nn.ReLU):
        return Pass()
    return None


def check_supported(network: nn.Module, norms: Mapping[str, str], module_map: ModuleMap) -> None:
    """Raise unless rules and canonizers cover all that the network computes.

    Args:
        network: the network, before canonizers change it.
        norms: name of each layer that a batch norm is merged into to that of the norm.
        module_map: rules of the modules.

    Raises:
        Unsupported: the message names the module and says what would support it.
    """
    merged = set(norms.values())
    weights = {id(network.get_submodule(layer).weight) for layer in norms}
    if len(merged) < len(norms) or len(weights) < len(norms):
        raise Unsupported("no rule for batch norms that are used twice, or behind layers that share their weights.")
    for name, module in _deepest_first(network):
        kind, where = type(module).__name__, f"`{name}`" if name else "the network itself"
        if isinstance(module, BatchNorm) and name not in merged:
            raise Unsupported(f"batch norm {where} cannot be merged: it follows no convolution or linear layer.")
        if isinstance(module, BatchNorm) and (module.weight is None or module.running_mean is None):
            raise Unsupported(f"batch norm {where} cannot be merged: it has no scale or no running statistics.")
        if isinstance(module, nn.Conv2d | nn.Linear) and "weight" not in module._parameters:
            raise Unsupported(
                f"no rule for {kind} {where}: its weight is computed anew in every pass; make it permanent."
            )
        if getattr(module, "se", None) is not None and not isinstance(module.se, nn.Identity):
            raise Unsupported(f"no rule for the gate of residual block {where}; it needs a canonizer of its own.")
        if isinstance(module, VisionTransformer) and module.attn_pool is not None:
            raise Unsupported("no rule for attention pooling; it needs a canonizer of its own.")
        if _only_contains(module) or isinstance(module, _MOVING):
            continue
        if module_map(name, module) is not None:
            continue
        if type(module) in _LINEAR or _base_rule(module) is not None:
            raise Unsupported(f"the composite leaves {kind} {where} without a rule; choose one that covers it.")
        is_leaf = next(module.children(), None) is None
        needs = "a rule in criteria/lrp/_composites.py" if is_leaf else "a canonizer in criteria/lrp/_canonizers.py"
        raise Unsupported(f"no rule for {kind} {where}; it needs {needs}.")


def _only_contains(module: nn.Module) -> bool:
    return type(module) in _CONTAINERS or type(module).forward is nn.Sequential.forward


def _deepest_first(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Leaves say more about what is missing than the modules around them, and the network itself says least."""
    return sorted(network.named_modules(), key=lambda named: -named[0].count(".") if named[0] else 1)


def depth_groups(network: nn.Module) -> dict[str, Depth]:
    """Return the depth group of every convolution and linear layer, by its name.

    The hidden layers are cut into items: the blocks or stages that the network's trunk consists of, or single layers
    where the trunk is one sequence of them. The first quarter of the items (rounded up) is low, the last quarter high;
    what comes before the first item belongs to it, and a layer between the last one and the classifier to that. The
    classifier and the linear layers or `pre_logits` before it are `fc`.

    This gives the lists of Hatefi et al.'s code for VGG-16 (with and without batch norm), ResNet-18 and 50, and
    ViT-B/16 and L/16.
    """
    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, _LINEAR)]
    fc = _classifier_layers(network, layers)
    hidden = [name for name, _ in layers if name not in fc]
    items = _items(network, hidden)
    index = {name: position for position, item in enumerate(items) for name in item}
    n_outer = ceil(len(items) / 4)
    groups: dict[str, Depth] = dict.fromkeys(fc, "fc")
    last_seen = 0
    for name in hidden:
        last_seen = index.get(name, last_seen)
        depth: Depth = "mid"
        if last_seen < n_outer:
            depth = "low"
        elif last_seen >= len(items) - n_outer:
            depth = "high"
        groups[name] = depth
    return groups


def _classifier_layers(network: nn.Module, layers: list[tuple[str, nn.Module]]) -> set[str]:
    """The last linear layer, those after the last convolution or block before it, and VGG's `pre_logits`."""
    hidden_classifier = {
        f"{name}.{child}"
        for name, module in network.named_modules()
        if isinstance(module, ConvMlp)
        for child, _ in module.named_children()
    }
    names = [name for name, _ in layers]
    fc = {name for name in names if name in hidden_classifier}
    has_convolutions = any(not isinstance(module, nn.Linear) for _, module in layers)
    for name, module in reversed(layers):
        if name in hidden_classifier:
            continue
        in_block = any(isinstance(network.get_submodule(parent), Block) for parent in _parents(name))
        if not isinstance(module, nn.Linear) or in_block:
            break
        fc.add(name)
        if not has_convolutions:
            break
    return fc


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts))]


def _items(network: nn.Module, hidden: list[str]) -> list[list[str]]:
    """Cut the hidden layers into the items of the trunk; layers outside of it belong to none."""

    def grouped(prefix: str) -> dict[str, list[str]]:
        children: dict[str, list[str]] = {}
        for name in hidden:
            if name.startswith(prefix):
                children.setdefault(name[len(prefix) :].partition(".")[0], []).append(name)
        return children

    if isinstance(network, nn.Sequential):
        return list(grouped("").values())
    containers = {
        child: names
        for child, names in grouped("").items()
        if isinstance(network.get_submodule(child), nn.Sequential | nn.ModuleList) and not _is_stem(network, child)
    }
    if len(containers) == 1:
        return list(grouped(f"{next(iter(containers))}.").values())
    return list(containers.values()) or [[name] for name in hidden]


def _is_stem(network: nn.Module, child: str) -> bool:
    """A deep stem of a ResNet is a sequence as well, of convolutions instead of blocks."""
    return isinstance(network, ResNet) and not child.startswith("layer")
