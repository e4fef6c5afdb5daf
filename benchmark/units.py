"""Layers, the taps where their units are read, and masks that switch units off."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from timm.layers import EffectiveSEModule, GlobalResponseNormMlp, GluMlp, Mlp, PatchEmbed, SEModule
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models.vgg import ConvMlp
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from pruneboard.benchmark.errors import ModelError, Unsupported
from pruneboard.benchmark.schema import Granularity

Place = Literal["none", "token", "image", "total"]
AbsoluteAt = Literal["pxp", "none", "token", "image", "total"]
"""Where an attribution loses its sign, from the finest to the coarsest place.

`token` takes the absolute value at each spatial position or token (after the sum over the elements of a head), `image`
after the sum over positions, `total` after the sum over images, `none` nowhere. `pxp` is what the reference code of
Hatefi et al. 2024 does: `image` for filters, `token` for neurons and heads.
"""

Masks = Mapping[str, Tensor]
"""Layer name to a bool tensor (n_units,), True = kept; (n_images, n_units) masks each image differently."""


@dataclass(frozen=True)
class Layer:
    """A module whose outputs are units.

    Attributes:
        name: dotted name of the convolution, linear layer or attention module.
        granularity: kind of unit.
        n_units: number of units.
        tap: dotted name of the module where the units' activation is read and masked.
        tap_side: whether that is the tap's output or its input.
    """

    name: str
    granularity: Granularity
    n_units: int
    tap: str
    tap_side: Literal["output", "input"]


# Their convolutions compute a gate, an embedding into the residual stream, or the classifier.
_NO_UNITS_INSIDE = (SEModule, EffectiveSEModule, SqueezeExcite, PatchEmbed, ConvMlp)
_MLPS = (Mlp, GluMlp, GlobalResponseNormMlp)

# What a plain multilayer perceptron does not have.
_NOT_PLAIN = (_ConvNd, nn.MultiheadAttention)


def find_layers(model: nn.Module, granularity: Granularity, example: Tensor) -> tuple[Layer, ...]:
    """Find every layer of a granularity, in the order the modules are registered.

    Filters are the outputs of all convolutions except depthwise ones, squeeze-and-excite gates, patch embeddings and
    classifiers; their tap is the batch norm that reads the convolution's output, which one forward pass of `example`
    shows. Neurons are the outputs of both linear layers of every MLP block of a transformer; in a plain multilayer
    perceptron, a network that has linear layers and no convolution, attention or MLP block, they are the outputs of all
    linear layers but the last. Heads are read at the input of the attention's output projection.

    Args:
        model: network in eval mode.
        granularity: kind of unit.
        example: images the network accepts, (n, channels, height, width); only used for `filters`.

    Raises:
        ModelError: the network has no unit of this granularity.
    """
    match granularity:
        case "filters":
            layers = _find_filters(model, example)
        case "neurons":
            layers = _find_neurons(model)
        case "heads":
            layers = find_heads(model)
    if not layers:
        raise ModelError(
            f"a granularity needs layers of its kind, but `{type(model).__name__}` has none with `{granularity}`; "
            "choose another granularity for this network."
        )
    return layers


def _find_filters(model: nn.Module, example: Tensor) -> tuple[Layer, ...]:
    convolutions = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and _holds_filters(model, name, module)
    }
    followers = batch_norms_after(model, example)
    return tuple(
        Layer(name, "filters", conv.out_channels, followers.get(name, name), "output")
        for name, conv in convolutions.items()
    )


def _holds_filters(model: nn.Module, name: str, conv: nn.Conv2d) -> bool:
    depthwise = conv.groups > 1 and conv.groups == conv.in_channels
    parts = name.split(".")
    ancestors = (model.get_submodule(".".join(parts[:depth])) for depth in range(1, len(parts)))
    get_classifier = getattr(model, "get_classifier", None)
    classifier = get_classifier() if callable(get_classifier) else None
    return not depthwise and conv is not classifier and not any(isinstance(a, _NO_UNITS_INSIDE) for a in ancestors)


def batch_norms_after(model: nn.Module, example: Tensor) -> dict[str, str]:
    """Map the name of each convolution or linear layer to the batch norm that reads its output, where there is one.

    One forward pass is watched. The order of registration would pair a pre-activation network's last convolution of a
    block with the batch norm of the next block, which reads the residual sum.

    Args:
        model: network in eval mode.
        example: images the network accepts, (n, channels, height, width).
    """
    outputs: dict[int, tuple[str, Tensor, int]] = {}
    pairs: dict[str, str] = {}
    handles = []

    def remember(name: str, module: nn.Module) -> None:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # The tensor is kept, so its id cannot be reused within the pass.
            outputs[id(output)] = (name, output, output._version)

        handles.append(module.register_forward_hook(hook))

    def pair(name: str, norm: nn.Module) -> None:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            source = outputs.get(id(inputs[0]))
            # A function that works in place, between the two, hands on the same tensor in a later version.
            if source is not None and source[2] == inputs[0]._version:
                pairs[source[0]] = name

        handles.append(norm.register_forward_pre_hook(hook))

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            remember(name, module)
        elif isinstance(module, _BatchNorm):
            pair(name, module)
    try:
        with torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return pairs


def _find_neurons(model: nn.Module) -> tuple[Layer, ...]:
    linears = {
        f"{name}.{child}": linear
        for name, module in model.named_modules()
        if isinstance(module, _MLPS)
        for child, linear in module.named_children()
        if isinstance(linear, nn.Linear)
    }
    if not linears and not find_heads(model) and not any(isinstance(m, _NOT_PLAIN) for m in model.modules()):
        linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        # The outputs of the last one are the logits.
        linears.pop(next(reversed(linears), ""), None)
    return tuple(Layer(name, "neurons", linear.out_features, name, "output") for name, linear in linears.items())


def find_heads(model: nn.Module) -> tuple[Layer, ...]:
    """Find every attention with an output projection, its heads being the units; empty where there is none."""
    layers = []
    for name, module in model.named_modules():
        n_heads, proj = getattr(module, "num_heads", None), getattr(module, "proj", None)
        if isinstance(n_heads, int) and isinstance(proj, nn.Linear) and proj.in_features % n_heads == 0:
            layers.append(Layer(name, "heads", n_heads, f"{name}.proj", "input"))
    return tuple(layers)


def by_unit(layer: Layer, activation: Tensor) -> Tensor:
    """View a tap's activation, or anything of its shape, as (n_images, n_positions, n_units, n_elements).

    Positions are pixels of a feature map or tokens; a head has head_dim elements, every other unit one.
    """
    if layer.granularity == "filters":
        return activation.flatten(2).transpose(1, 2).unsqueeze(-1)
    n_elements = activation.shape[-1] // layer.n_units
    return activation.reshape(activation.shape[0], -1, layer.n_units, n_elements)


def pool(layer: Layer, values: Tensor, *, absolute: AbsoluteAt = "none", mean: bool = False) -> Tensor:
    """Reduce values of a tap's shape to one number per image and unit, (n_images, n_units).

    Args:
        layer: the layer the values belong to.
        values: tensor of the tap's shape.
        absolute: where the absolute value is taken; `total` is up to the caller's sum over images and acts as `none`.
        mean: average over positions instead of summing, so that large feature maps do not weigh more.
    """
    place = absolute_place(layer, absolute)
    per_position = by_unit(layer, values).sum(dim=-1)
    if place == "token":
        per_position = per_position.abs()
    pooled = per_position.mean(dim=1) if mean else per_position.sum(dim=1)
    return pooled.abs() if place == "image" else pooled


def absolute_place(layer: Layer, absolute: AbsoluteAt) -> Place:
    """Return where a layer's values lose their sign, with `pxp` resolved by the kind of unit."""
    if absolute == "pxp":
        return "image" if layer.granularity == "filters" else "token"
    return absolute


def unit_weights(model: nn.Module, layer: Layer) -> Tensor:
    """Return the weights that belong to each unit, (n_units, n_weights), detached and without biases.

    A filter owns its kernel, a neuron its row, a head its rows of the query, key and value projections and its columns
    of the output projection.

    Raises:
        Unsupported: the attention keeps its projections in an unknown layout.
    """
    module = model.get_submodule(layer.name)
    if layer.granularity != "heads":
        weight = module.weight
        if not isinstance(weight, Tensor):
            raise Unsupported(f"layer `{layer.name}` has no weight.")
        return weight.detach().flatten(1)
    qkv, proj = getattr(module, "qkv", None), module.proj
    if not isinstance(qkv, nn.Linear) or not isinstance(proj, nn.Linear):
        raise Unsupported(f"the weights of a head are read from `qkv` and `proj`, which `{layer.name}` does not have.")
    rows = qkv.weight.detach().reshape(3, layer.n_units, -1).transpose(0, 1).flatten(1)
    columns = proj.weight.detach().reshape(proj.out_features, layer.n_units, -1).transpose(0, 1).flatten(1)
    return torch.cat([rows, columns], dim=1)


@contextlib.contextmanager
def tapped(model: nn.Module, layers: Sequence[Layer]) -> Iterator[dict[str, Tensor]]:
    """Collect the activation at every tap of each forward pass inside the block, in the graph of that pass.

    The network goes on with a copy, so an in-place operation behind the tap cannot change what was collected, and
    gradients of the output with respect to the collected tensors are those at the tap.

    Yields:
        Layer name to activation of the latest forward pass.
    """
    activations: dict[str, Tensor] = {}
    handles = []
    for layer in layers:
        tap = model.get_submodule(layer.tap)

        def at_output(_m: nn.Module, _i: tuple[Tensor, ...], output: Tensor, name: str = layer.name) -> Tensor:
            activations[name] = output
            return output.clone()

        def at_input(_m: nn.Module, inputs: tuple[Tensor, ...], name: str = layer.name) -> tuple[Tensor, ...]:
            activations[name] = inputs[0]
            return (inputs[0].clone(), *inputs[1:])

        if layer.tap_side == "output":
            handles.append(tap.register_forward_hook(at_output))
        else:
            # First of all hooks, as a hook at the output is the last: a tap lies outside whatever rules a module has.
            handles.append(tap.register_forward_pre_hook(at_input, prepend=True))
    try:
        yield activations
    finally:
        for handle in handles:
            handle.remove()


def expand_mask(layer: Layer, mask: Tensor, activation: Tensor) -> Tensor:
    """Shape a mask (n_units,) or (n_images, n_units) so that it broadcasts over a tap's activation."""
    if layer.granularity == "filters":
        return mask[..., None, None]
    wide = mask.repeat_interleave(activation.shape[-1] // layer.n_units, dim=-1)
    return wide if mask.ndim == 1 else wide.reshape(wide.shape[0], *[1] * (activation.ndim - 2), -1)


@contextlib.contextmanager
def masked(model: nn.Module, layers: Sequence[Layer], masks: Masks) -> Iterator[nn.Module]:
    """Switch units off inside the block: their activation at the tap is zero, whatever the biases before it.

    Args:
        model: network; restored on exit, hooks included.
        layers: layers that `masks` may name.
        masks: layer name to mask; layers not named, and layers all kept, are left alone.

    Yields:
        The network.

    Raises:
        ModelError: a mask names no layer or has another number of units.
    """
    known = {layer.name: layer for layer in layers}
    handles = []
    try:
        for name, mask in masks.items():
            layer = known.get(name)
            if layer is None or mask.dtype != torch.bool or mask.shape[-1] != layer.n_units:
                expected = f"bool, {layer.n_units} units" if layer else f"one of the {len(known)} layers"
                raise ModelError(
                    f"a mask must fit its layer ({expected}), got `{name}` with {mask.dtype} {tuple(mask.shape)}."
                )
            if not bool(mask.all()):
                handles.append(_mask_tap(model, layer, mask))
        yield model
    finally:
        for handle in handles:
            handle.remove()


def _mask_tap(model: nn.Module, layer: Layer, mask: Tensor) -> torch.utils.hooks.RemovableHandle:
    tap = model.get_submodule(layer.tap)
    # The tap may be a batch norm without parameters.
    removed = ~mask.to(next(model.parameters()).device)

    def at_output(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.masked_fill(expand_mask(layer, removed, output), 0.0)

    def at_input(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].masked_fill(expand_mask(layer, removed, inputs[0]), 0.0), *inputs[1:])

    if layer.tap_side == "output":
        return tap.register_forward_hook(at_output)
    return tap.register_forward_pre_hook(at_input)
