"""A network whose removed units are zero in its weights, stay so while it is trained, and are never scored again."""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pruneboard.benchmark.compact import agree
from pruneboard.benchmark.counts import live_inputs
from pruneboard.benchmark.errors import ModelError
from pruneboard.benchmark.units import Layer, masked


class PrunedNetwork:
    """A copy of a network from which units are removed step by step.

    What belongs to a removed unit is set to zero: its weights and bias, scale and shift of the batch norm behind it,
    and the weights that would read it. So a criterion that looks at weights sees those of a physically smaller network.

    Args:
        network: in eval mode; it is copied.
        layers: its layers of one granularity.
        probe: images that the network accepts, (n_images, channels, height, width).

    Attributes:
        network: the copy, in eval mode.
        layers: its layers.
        masks: layer name to bool (n_units,), True = still there.
    """

    def __init__(self, network: nn.Module, layers: Sequence[Layer], probe: Tensor) -> None:
        self.network = copy.deepcopy(network)
        self.layers = tuple(layers)
        self.masks = {layer.name: torch.ones(layer.n_units, dtype=torch.bool) for layer in layers}
        self._probe = probe
        # Which elements of which parameters are zero for good, bool of the parameter's shape.
        self._zero: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def remove(self, masks: Mapping[str, Tensor]) -> None:
        """Remove all units that masks do not keep.

        Args:
            masks: layer name to bool (n_units,), True = kept.

        Raises:
            ModelError: a unit would come back, or the network with zeros does not give the masked network's logits.
        """
        for name, mask in masks.items():
            if bool((mask & ~self.masks[name]).any()):
                raise ModelError(f"a removed unit must not come back, but masks of `{name}` keep one; nest the masks.")
        with masked(self.network, self.layers, masks):
            expected = self.network(self._probe)
        self.masks = {name: mask.clone() for name, mask in masks.items()}
        self._zero = list(self._zeros())
        self.hold()
        if not agree(self.network(self._probe), expected):
            raise ModelError(
                f"`{type(self.network).__name__}` with the weights of removed units set to zero must compute what the "
                "masked network does, but it does not; prune it by the protocol `one_shot`."
            )

    @torch.no_grad()
    def restore(self, masks: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
        """Bring a fresh copy to where another one was.

        Args:
            masks: its masks.
            weights: its state, or empty where only its removed units differ from the original's.
        """
        if weights:
            self.network.load_state_dict(weights)
        self.remove(masks)

    @torch.no_grad()
    def hold(self) -> None:
        """Set to zero what belongs to removed units, also in gradients, so that no optimiser moves it."""
        for parameter, zero in self._zero:
            parameter.masked_fill_(zero, 0.0)
            if parameter.grad is not None:
                parameter.grad.masked_fill_(zero, 0.0)

    def _zeros(self) -> list[tuple[Tensor, Tensor]]:
        found: list[tuple[Tensor, Tensor]] = []
        for layer in self.layers:
            removed = ~self.masks[layer.name]
            if bool(removed.any()):
                found += self._rows(layer, removed)
        for name, live in live_inputs(self.network, self.layers, self.masks, self._probe[:1]).items():
            module = self.network.get_submodule(name)
            if not bool(live.all()) and isinstance(module, nn.Conv2d | nn.Linear):
                found += _columns(module, ~live)
        return found

    def _rows(self, layer: Layer, removed: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return what makes a layer's removed units."""
        modules = [self.network.get_submodule(name) for name in dict.fromkeys((layer.name, layer.tap))]
        if layer.granularity == "heads":
            attention = modules[0]
            qkv = getattr(attention, "qkv", None)
            if not isinstance(qkv, nn.Linear):
                # Without such a layer the weights that read the head are what is set to zero.
                return []
            modules, removed = [qkv], removed.repeat_interleave(qkv.out_features // (3 * len(removed))).repeat(3)
        return [
            (parameter, _along_first(removed, parameter))
            for module in modules
            for parameter in module.parameters(recurse=False)
        ]


def _along_first(index: Tensor, parameter: Tensor) -> Tensor:
    shaped = index.to(parameter.device).view(-1, *[1] * (parameter.ndim - 1))
    return shaped.expand_as(parameter)


def _columns(module: nn.Conv2d | nn.Linear, dead: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the weights that read inputs which are always zero."""
    groups = module.groups if isinstance(module, nn.Conv2d) else 1
    weight = module.weight
    if groups == 1:
        return [(weight, dead.to(weight.device).view(1, -1, *[1] * (weight.ndim - 2)).expand_as(weight))]
    if groups == len(dead):
        return [(weight, _along_first(dead.repeat_interleave(len(weight) // groups), weight))]
    return []
