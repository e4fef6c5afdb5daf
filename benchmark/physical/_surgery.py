"""Cutting units out of a network: where a layer is free by Torch-Pruning's groups, elsewhere by index modules."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pruneboard.benchmark.counts import live_inputs
from pruneboard.benchmark.errors import ModelError
from pruneboard.benchmark.physical._modules import Constant, Gather, Scatter
from pruneboard.benchmark.units import Layer

GATHER, SCATTER, INNER = "gather", "scatter", "inner"
"""Names of the parts of `Indexed`; tracing gives the inner part the name of the module it stands for."""


class Indexed(nn.Module):
    """A narrow module between a gather and a scatter, in the place of the wide one.

    Attributes:
        gather: picks the inputs that are not always zero; None where all are.
        inner: the narrow module.
        scatter: puts the outputs that are left to their places; None where all are.
    """

    def __init__(self, gather: Gather | None, inner: nn.Module, scatter: Scatter | None) -> None:
        super().__init__()
        self.gather, self.inner, self.scatter = gather, inner, scatter

    def forward(self, x: Tensor) -> Tensor:
        """Return the wide output."""
        if self.gather is not None:
            x = self.gather(x)
        x = self.inner(x)
        return x if self.scatter is None else self.scatter(x)


class Headless(nn.Module):
    """An attention without heads: what its output projection makes of zeros."""

    def __init__(self, proj: Constant) -> None:
        super().__init__()
        self.proj = proj

    def forward(self, x: Tensor, *_: object, **__: object) -> Tensor:
        """Return the constant for every token of `x`."""
        result: Tensor = self.proj(x)
        return result


@dataclass
class Removal:
    """How the units of each layer were removed.

    Attributes:
        free: layers cut by Torch-Pruning's groups, with every layer that reads them.
        indexed: layers cut by themselves, whose outputs an index module puts back to their places.
        empty: layers without units left, replaced by what they emit.
        readers: layers of which inputs that are always zero were cut.
        coupled: layers cut together, by groups.
        whole: layers that were left as they are because cutting them would change what the network computes.
    """

    free: list[str] = field(default_factory=list)
    indexed: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    readers: list[str] = field(default_factory=list)
    coupled: list[tuple[str, ...]] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)


def cut_exactly(model: nn.Module, layers: Sequence[Layer], masks: Mapping[str, Tensor], example: Tensor) -> Removal:
    """Cut every removed unit by itself out of a network, in place; it computes what masks make it compute.

    Args:
        model: network in eval mode, on the CPU.
        layers: its layers, all of one granularity.
        masks: layer name to bool (n_units,), True = kept, for every layer.
        example: one image that the network accepts, (1, channels, height, width).

    Raises:
        ModelError: a convolution in groups would lose some of its channels.
    """
    surgery = _Surgery(model, layers, masks, example)
    surgery.cut_free_layers()
    surgery.cut_other_layers()
    return surgery.removal


def dependency_graph(model: nn.Module, example: Tensor, pruners: Mapping[Any, Any] | None = None) -> Any:
    """Return Torch-Pruning's dependency graph of a network, without its warnings about loose parameters.

    Args:
        model: network in eval mode.
        example: one image that the network accepts, (1, channels, height, width).
        pruners: modules to what prunes them, for modules that the library does not know.
    """
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        return tp.DependencyGraph().build_dependency(model, example, customized_pruners=pruners, verbose=False)


def part_of(model: nn.Module, name: str) -> Any:
    """Return a module by its dotted name, with the attributes of its class, which nothing declares."""
    return model.get_submodule(name)


def root_of(model: nn.Module, layer: Layer) -> tuple[Any, Any, int]:
    """Return what Torch-Pruning prunes for a layer: module, function, and channels of it for each unit."""
    module = part_of(model, layer.name)
    if layer.granularity == "heads":
        proj = part_of(model, layer.tap)
        return proj, tp.prune_linear_in_channels, int(proj.in_features) // layer.n_units
    return module, tp.prune_conv_out_channels if isinstance(module, nn.Conv2d) else tp.prune_linear_out_channels, 1


def removed_channels(mask: Tensor, per_unit: int) -> list[int]:
    """Return the channels of the removed units, units in order with `per_unit` channels each."""
    return [int(i) for i in (~mask).repeat_interleave(per_unit).nonzero().flatten()]


def shrink_attention(model: nn.Module, layer: Layer, n_heads: int) -> None:
    """Tell an attention how many heads it has left after its weights were cut."""
    attention = model.get_submodule(layer.name)
    vars(attention).update(num_heads=n_heads)
    if hasattr(attention, "attn_dim"):
        vars(attention).update(attn_dim=model.get_submodule(layer.tap).in_features)


class _Surgery:
    def __init__(self, model: nn.Module, layers: Sequence[Layer], masks: Mapping[str, Tensor], example: Tensor) -> None:
        self.removal = Removal()
        self._model = model
        self._layers = layers
        self._masks = {name: mask.cpu() for name, mask in masks.items()}
        self._live = live_inputs(model, layers, self._masks, example)
        # Inputs that each layer still has, as positions among those it had.
        self._present = {name: torch.arange(len(live)) for name, live in self._live.items()}
        self._names = {module: name for name, module in model.named_modules()}
        self._example = example
        self._done: set[str] = set()

    def cut_free_layers(self) -> None:
        """Cut the layers whose outputs nothing else is added to or paired with."""
        partly = [layer for layer in self._layers if self._masks[layer.name].any() and not self._is_whole(layer)]
        if not partly:
            return
        graph = dependency_graph(self._model, self._example)
        for layer in partly:
            module, prune, per_unit = root_of(self._model, layer)
            gone = removed_channels(self._masks[layer.name], per_unit)
            group = graph.get_pruning_group(module, prune, idxs=gone)
            if graph.check_pruning_group(group) and self._is_free(layer, module, group, gone):
                self._cut(layer, group)

    def _is_whole(self, layer: Layer) -> bool:
        return bool(self._masks[layer.name].all())

    def _is_free(self, layer: Layer, root: nn.Module, group: Any, gone: list[int]) -> bool:
        """Whether a group holds, beside the layer and its tap, only layers that read zeros from it."""
        tap = self._model.get_submodule(layer.tap)
        qkv = getattr(self._model.get_submodule(layer.name), "qkv", None)
        for dependency, channels in group:
            member = dependency.target.module
            if member is root or (member is tap and isinstance(tap, _BatchNorm)):
                if sorted(int(i) for i in channels) != gone:
                    return False
            elif member is qkv and layer.granularity == "heads":
                continue
            elif member in self._names:
                name = self._names[member]
                reads = dependency.handler.__name__ == "prune_in_channels" and getattr(member, "groups", 1) == 1
                if not reads or name not in self._live or not self._are_dead(name, list(channels)):
                    return False
            elif isinstance(member, nn.Parameter):
                return False
        return True

    def _are_dead(self, reader: str, channels: list[int]) -> bool:
        present = self._present[reader]
        # Where the graph cannot follow a network, it names channels that a layer does not have.
        return max(channels) < len(present) and not self._live[reader][present[channels]].any()

    def _cut(self, layer: Layer, group: Any) -> None:
        for dependency, channels in group:
            name = self._names.get(dependency.target.module)
            if name in self._present and dependency.handler.__name__ == "prune_in_channels":
                left = torch.ones(len(self._present[name]), dtype=torch.bool)
                left[list(channels)] = False
                self._present[name] = self._present[name][left]
        group.prune()
        if layer.granularity == "heads":
            shrink_attention(self._model, layer, int(self._masks[layer.name].sum()))
        self._done.add(layer.name)
        self.removal.free.append(layer.name)

    def cut_other_layers(self) -> None:
        """Cut what is left by index modules: coupled layers, empty ones, and inputs that are always zero."""
        for layer in self._layers:
            if layer.granularity == "heads" and not self._masks[layer.name].any():
                self._cut_attention(layer)
        by_name = {layer.name: layer for layer in self._layers if layer.granularity != "heads"}
        for name in self._live:
            if name in self._done:
                kept = None
            else:
                kept = self._masks[name] if name in by_name and not self._is_whole(by_name[name]) else None
            live = self._live[name][self._present[name]]
            if name in self._names.values() and (kept is not None or not live.all()):
                self._cut_module(name, live, kept)
                if kept is not None:
                    self._cut_tap(by_name[name], kept)

    def _cut_attention(self, layer: Layer) -> None:
        proj = part_of(self._model, layer.tap)
        constant = _constant(proj, proj.bias, torch.ones(int(proj.out_features), dtype=torch.bool))
        self._replace(layer.name, Headless(constant))
        inside = [name for name in self._names.values() if name.startswith(f"{layer.name}.")]
        self._names = {module: name for module, name in self._names.items() if name not in inside}
        self.removal.empty.append(layer.name)

    def _cut_module(self, name: str, live: Tensor, kept: Tensor | None) -> None:
        """Narrow a convolution or linear layer to its live inputs and kept outputs."""
        module = part_of(self._model, name)
        dim = 1 if isinstance(module, nn.Conv2d) else -1
        if getattr(module, "groups", 1) > 1:
            new = _narrow_depthwise(name, module, live, kept)
        else:
            outputs = torch.ones(module.weight.shape[0], dtype=torch.bool) if kept is None else kept
            gather: Gather | None = None
            if not outputs.any():
                inner: nn.Module = _constant(module, None, torch.ones_like(outputs))
            elif not live.any():
                inner = _constant(module, module.bias, outputs)
            else:
                gather = None if live.all() else gather_of(live, dim)
                inner = _narrow(module, live, outputs)
            new = Indexed(gather, inner, None)
        self._replace(name, new)
        if kept is None:
            self.removal.readers.append(name)

    def _cut_tap(self, layer: Layer, kept: Tensor) -> None:
        """Narrow a layer's batch norm, and put what it emits to its places."""
        module = self._model.get_submodule(layer.tap)
        dim = 1 if layer.granularity == "filters" else -1
        if not kept.any():
            if layer.tap != layer.name:
                self._replace(layer.tap, nn.Identity())
            self.removal.empty.append(layer.name)
            return
        if isinstance(module, Indexed):
            module.scatter = scatter_of(kept, dim)
        else:
            self._replace(layer.tap, Indexed(None, _narrow_norm(module, kept), scatter_of(kept, dim)))
        self.removal.indexed.append(layer.name)

    def _replace(self, name: str, module: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        setattr(self._model.get_submodule(parent), child, module)


def gather_of(kept: Tensor, dim: int) -> Gather:
    """Make the module that picks the kept channels, bool (n_channels,)."""
    module = Gather(int(kept.sum()), dim)
    module.index = kept.nonzero().flatten()
    return module


def scatter_of(kept: Tensor, dim: int, bias: Tensor | None = None) -> Scatter:
    """Make the module that puts kept channels to their places, bool (n_channels,)."""
    module = Scatter(int(kept.sum()), len(kept), dim, bias is not None)
    module.index = kept.nonzero().flatten()
    if bias is not None:
        module.bias = nn.Parameter(bias.detach().clone())
    return module


def _constant(module: Any, bias: Tensor | None, kept: Tensor) -> Constant:
    """Make what a convolution or linear layer emits whose inputs are all zero: the bias of its kept outputs."""
    reach, stride = None, (1, 1)
    if isinstance(module, nn.Conv2d):
        stride = (module.stride[0], module.stride[1])
        reach = (_reach(module, 0), _reach(module, 1))
    made = Constant(int(kept.sum()), bias is not None, reach, stride)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach()[kept].clone())
    return made


def _reach(conv: nn.Conv2d, axis: int) -> int:
    # Padding `same`, and timm's form of it for strides above 1: one output for each stride begun.
    if isinstance(conv.padding, str) or type(conv).__name__ == "Conv2dSame":
        return -1 if conv.padding != "valid" else -conv.dilation[axis] * (conv.kernel_size[axis] - 1) - 1
    return 2 * conv.padding[axis] - conv.dilation[axis] * (conv.kernel_size[axis] - 1) - 1


def _narrow(module: Any, live: Tensor, kept: Tensor) -> Any:
    """Narrow a convolution or linear layer to its live inputs and kept outputs, in place."""
    module.weight = nn.Parameter(module.weight.detach()[kept][:, live].clone())
    if module.bias is not None:
        module.bias = nn.Parameter(module.bias.detach()[kept].clone())
    inputs, outputs = int(live.sum()), int(kept.sum())
    if isinstance(module, nn.Conv2d):
        module.in_channels, module.out_channels = inputs, outputs
    else:
        vars(module).update(in_features=inputs, out_features=outputs)
    return module


def _narrow_depthwise(name: str, module: Any, live: Tensor, kept: Tensor | None) -> nn.Module:
    """Narrow a depthwise convolution to its live channels; a channel that is not live emits its bias."""
    if kept is not None or module.groups != len(live):
        raise ModelError(
            f"a unit can be removed exactly from a convolution of one group or of one channel per group, but `{name}` "
            f"has {module.groups} groups of {len(live) // module.groups} channels; measure this network by masks only."
        )
    outputs = live.repeat_interleave(module.weight.shape[0] // len(live))
    bias = module.bias
    if not live.any():
        return Indexed(None, _constant(module, bias, torch.ones_like(outputs)), None)
    module.bias = None
    module.weight = nn.Parameter(module.weight.detach()[outputs].clone())
    n_live = int(live.sum())
    vars(module).update(in_channels=n_live, out_channels=int(outputs.sum()), groups=n_live)
    return Indexed(gather_of(live, 1), module, scatter_of(outputs, 1, bias))


def _narrow_norm(norm: Any, kept: Tensor) -> Any:
    """Narrow a batch norm to the kept channels, in place."""
    for name in ("weight", "bias"):
        if getattr(norm, name) is not None:
            setattr(norm, name, nn.Parameter(getattr(norm, name).detach()[kept].clone()))
    for name in ("running_mean", "running_var"):
        setattr(norm, name, getattr(norm, name)[kept].clone())
    vars(norm).update(num_features=int(kept.sum()))
    return norm
