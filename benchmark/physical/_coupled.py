"""Units that a residual stream couples: which they are, what they score together, and how they are cut together."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from pruneboard.benchmark.counts import live_inputs
from pruneboard.benchmark.errors import ModelError
from pruneboard.benchmark.physical._surgery import (
    Removal,
    dependency_graph,
    removed_channels,
    root_of,
    shrink_attention,
)
from pruneboard.benchmark.ranking import n_removed, rank
from pruneboard.benchmark.schema import Scope
from pruneboard.benchmark.units import Layer

Channel = tuple[str, int]
"""A module and one of its output channels, or a layer and one of its units."""


@dataclass(frozen=True)
class Bundle:
    """Units that can only be removed together, because one channel of a residual stream carries them all.

    Attributes:
        units: layers and units.
        is_removable: whether removing them is what masking them is: the channel then carries zeros to every reader.
    """

    units: tuple[Channel, ...]
    is_removable: bool


@dataclass(frozen=True)
class Coupling:
    """Which units of a network are coupled.

    Attributes:
        layers: the network's layers.
        bundles: every unit, in exactly one bundle.
    """

    layers: tuple[Layer, ...]
    bundles: tuple[Bundle, ...]

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The layers that are coupled in any channel, each combination once, in order."""
        found = dict.fromkeys(tuple(dict.fromkeys(name for name, _ in b.units)) for b in self.bundles)
        return tuple(group for group in found if len(group) > 1)

    @property
    def whole(self) -> tuple[str, ...]:
        """Layers of which some units cannot be removed."""
        kept = {name for b in self.bundles if not b.is_removable for name, _ in b.units}
        return tuple(layer.name for layer in self.layers if layer.name in kept)


class _ChannelPads(tp.pruner.function.BasePruningFunc):  # type: ignore[misc] # the library is untyped
    """Prunes pads of channels, which Torch-Pruning takes for operations that leave the channels as they are.

    Attributes:
        widths: pad to the numbers of channels before and behind it.
    """

    def __init__(self, widths: dict[nn.Module, tuple[int, int]]) -> None:
        super().__init__()
        self.widths = widths

    def prune_out_channels(self, layer: nn.ConstantPad3d, idxs: Sequence[int]) -> nn.Module:
        """Add fewer channels before and after; those between are the input's, which another group prunes."""
        n_inputs, n_outputs = self.widths[layer]
        front, back = layer.padding[4:]
        lost_front = sum(index < front for index in idxs)
        lost_back = sum(index >= n_outputs - back for index in idxs)
        layer.padding = (*layer.padding[:4], front - lost_front, back - lost_back)
        self.widths[layer] = (n_inputs, n_outputs - len(idxs))
        return layer

    def prune_in_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        """Take fewer channels."""
        n_inputs, n_outputs = self.widths[layer]
        self.widths[layer] = (n_inputs - len(idxs), n_outputs)
        return layer

    def get_out_channels(self, layer: nn.Module) -> int:
        """Return the number of channels behind a pad."""
        return self.widths[layer][1]

    def get_in_channels(self, layer: nn.Module) -> int:
        """Return the number of channels before it."""
        return self.widths[layer][0]


def _pads(model: nn.Module, example: Tensor) -> _ChannelPads:
    """Find the modules that add channels, (n, channels, height, width) being padded in its last three dimensions."""
    widths: dict[nn.Module, tuple[int, int]] = {}

    def hook(pad: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        widths[pad] = (inputs[0].shape[1], output.shape[1])

    handles = [m.register_forward_hook(hook) for m in model.modules() if isinstance(m, nn.ConstantPad3d)]
    if handles:
        with torch.no_grad():
            model(example)
    for handle in handles:
        handle.remove()
    return _ChannelPads(widths)


def _graph(model: nn.Module, example: Tensor, pads: _ChannelPads) -> Any:
    return dependency_graph(model, example, {nn.ConstantPad3d: pads} if pads.widths else None)


def find_coupling(model: nn.Module, layers: Sequence[Layer], example: Tensor) -> Coupling:
    """Find which units share a channel, by Torch-Pruning's groups and by pads of channels.

    Args:
        model: network in eval mode, on the CPU.
        layers: its layers, all of one granularity.
        example: one image that the network accepts, (1, channels, height, width).

    Raises:
        ModelError: Torch-Pruning does not follow the network.
    """
    if layers[0].granularity == "heads":
        single = (Bundle(((layer.name, unit),), True) for layer in layers for unit in range(layer.n_units))
        return Coupling(tuple(layers), tuple(single))
    finder = _Finder(model, layers, example)
    return Coupling(tuple(layers), tuple(finder.bundles()))


class _Finder:
    """Joins channels that the graph prunes together, and collects who reads them."""

    def __init__(self, model: nn.Module, layers: Sequence[Layer], example: Tensor) -> None:
        self._model, self._layers = model, layers
        self._names = {module: name for name, module in model.named_modules()}
        self._parents: dict[Channel, Channel] = {}
        self._readers: dict[Channel, list[Channel]] = {}
        self._blocked: set[Channel] = set()
        nothing = {layer.name: torch.zeros(layer.n_units, dtype=torch.bool) for layer in layers}
        self._live = live_inputs(model, layers, nothing, example)
        pads = _pads(model, example)
        graph = _graph(model, example, pads)
        for layer in layers:
            if (layer.name, 0) not in self._parents:
                module, prune, _ = root_of(model, layer)
                self._join(layer, graph.get_pruning_group(module, prune, idxs=list(range(layer.n_units))))
        for pad, (n_inputs, _) in pads.widths.items():
            name, front = self._names[pad], vars(pad)["padding"][4]
            for channel in range(n_inputs):
                self._union((f"{name} in", channel), (f"{name} out", channel + front))

    def bundles(self) -> Iterable[Bundle]:
        """Return the bundles in the order of their first units."""
        joined: dict[Channel, list[Channel]] = {}
        for layer in self._layers:
            for unit in range(layer.n_units):
                joined.setdefault(self._find((layer.name, unit)), []).append((layer.name, unit))
        blocked = {self._find(channel) for channel in self._blocked}
        for channel, readers in self._readers.items():
            if any(self._live[name][index] for name, index in readers):
                blocked.add(self._find(channel))
        return [Bundle(tuple(units), root not in blocked) for root, units in joined.items()]

    def _join(self, layer: Layer, group: Any) -> None:
        unit_layers = {layer.name for layer in self._layers}
        for position in range(len(group)):
            dependency, channels = group[position]
            module, roots = dependency.target.module, group[position].root_idxs
            name = self._names.get(module)
            reads = dependency.handler.__name__ == "prune_in_channels"
            pairs = [(int(channel), (layer.name, int(root))) for channel, root in zip(channels, roots, strict=True)]
            if isinstance(module, nn.ConstantPad3d):
                for channel, root in pairs:
                    self._union((f"{name} {'in' if reads else 'out'}", channel), root)
            elif isinstance(module, nn.Parameter):
                self._blocked.update(root for _, root in pairs)
            elif isinstance(module, nn.Conv2d | nn.Linear) and name is not None and reads:
                self._read(name, pairs)
            elif isinstance(module, nn.Conv2d | nn.Linear) and name is not None:
                for channel, root in pairs:
                    self._union((name, channel), root)
                # What a layer without units adds to the channel, no mask switches off.
                if name not in unit_layers and getattr(module, "groups", 1) == 1:
                    self._blocked.update(root for _, root in pairs)

    def _read(self, name: str, pairs: Iterable[tuple[int, Channel]]) -> None:
        for channel, root in pairs:
            if name not in self._live or channel >= len(self._live[name]):
                raise ModelError(
                    f"Torch-Pruning's graph must follow a network for its coupled form, but it gives `{name}` an input "
                    f"{channel} that it does not have; write the exact form, without `--coupled`."
                )
            self._readers.setdefault(root, []).append((name, channel))

    def _find(self, channel: Channel) -> Channel:
        while (parent := self._parents.setdefault(channel, channel)) != channel:
            channel = parent
        return channel

    def _union(self, left: Channel, right: Channel) -> None:
        self._parents[self._find(left)] = self._find(right)


def choose(
    coupling: Coupling, scores: Mapping[str, Tensor], rate: float, scope: Scope, generator: torch.Generator
) -> dict[str, Tensor]:
    """Choose the bundles to remove, least important first, and return the masks of what is then left.

    A bundle's score is the sum of its units' scores. Removal stops before the first bundle that would remove more than
    floor(rate * n_units) units, of the whole network or, for the scope `layer`, of the bundles that begin in the same
    layer. A bundle that would empty a layer is passed over.

    Args:
        coupling: the network's coupling.
        scores: layer name to finite scores (n_units,).
        rate: fraction of units, in [0, 1).
        scope: whether bundles of all layers are compared with one another, or those that begin in the same layer.
        generator: decides ties; on the CPU.
    """
    by_layer: dict[str, list[Bundle]] = {}
    for bundle in coupling.bundles:
        by_layer.setdefault(bundle.units[0][0], []).append(bundle)
    ordered = [bundle for bundles in by_layer.values() for bundle in bundles]
    sums = {
        name: torch.stack([sum((scores[n][u].double() for n, u in b.units), torch.zeros(())) for b in bundles])
        for name, bundles in by_layer.items()
    }
    masks = {layer.name: torch.ones(layer.n_units, dtype=torch.bool) for layer in coupling.layers}
    for order in rank(sums, scope, generator).groups:
        bundles = [ordered[int(position)] for position in order]
        budget = n_removed(rate, sum(len(bundle.units) for bundle in bundles))
        _remove(bundles, budget, masks)
    return masks


def _remove(bundles: Iterable[Bundle], budget: int, masks: Mapping[str, Tensor]) -> None:
    left = {name: len(mask) for name, mask in masks.items()}
    for bundle in bundles:
        counts = {name: sum(n == name for n, _ in bundle.units) for name, _ in bundle.units}
        if not bundle.is_removable or any(left[name] <= count for name, count in counts.items()):
            continue
        if len(bundle.units) > budget:
            return
        budget -= len(bundle.units)
        for name, unit in bundle.units:
            masks[name][unit] = False
            left[name] -= 1


def cut_coupled(model: nn.Module, coupling: Coupling, masks: Mapping[str, Tensor], example: Tensor) -> Removal:
    """Cut whole bundles out of a network, in place; what is left is a plain network.

    Args:
        model: network in eval mode, on the CPU.
        coupling: its coupling.
        masks: what `choose` returned, layer name to bool (n_units,).
        example: one image that the network accepts, (1, channels, height, width).
    """
    graph = _graph(model, example, _pads(model, example))
    for layer in coupling.layers:
        module, prune, per_unit = root_of(model, layer)
        n_kept = int(masks[layer.name].sum())
        width = module.in_features if layer.granularity == "heads" else module.weight.shape[0]
        # A layer that is narrow already was cut together with an earlier one.
        if width == n_kept * per_unit:
            continue
        group = graph.get_pruning_group(module, prune, idxs=removed_channels(masks[layer.name], per_unit))
        group.prune()
        if layer.granularity == "heads":
            shrink_attention(model, layer, n_kept)
    cut = [layer.name for layer in coupling.layers if not bool(masks[layer.name].all())]
    in_groups = {name for group in coupling.groups for name in group}
    return Removal(
        free=[name for name in cut if name not in in_groups],
        coupled=[group for group in coupling.groups if set(group) & set(cut)],
        whole=list(coupling.whole),
    )
