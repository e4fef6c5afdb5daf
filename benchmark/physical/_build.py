"""From masks or scores to a physically smaller network that was compared with the masked one."""

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from pruneboard.benchmark.counts import Size, count_sizes
from pruneboard.benchmark.errors import ModelError, PruneboardError
from pruneboard.benchmark.physical._coupled import choose, cut_coupled, find_coupling
from pruneboard.benchmark.physical._surgery import Removal, cut_exactly
from pruneboard.benchmark.physical._trace import flatten
from pruneboard.benchmark.schema import Scope
from pruneboard.benchmark.units import Layer, masked

_TOLERANCE = 1e-5
"""Largest difference of a logit from the masked network's, relative to the largest logit."""

_SMALLEST = 1e-2
"""Logits of a network that emits next to nothing are compared with this number instead."""


@dataclass(frozen=True)
class Pruned:
    """A physically pruned network.

    Attributes:
        network: a flat graph of torch's modules, in eval mode on the CPU.
        masks: what was removed, layer name to bool (n_units,), True = kept.
        removal: how each layer was cut.
        before: size of the unpruned network.
        size: size of this one, counted on itself.
        difference: largest difference of a logit from the masked network's, relative to the largest logit.
    """

    network: fx.GraphModule
    masks: dict[str, Tensor]
    removal: Removal
    before: Size
    size: Size
    difference: float

    @property
    def n_units_removed(self) -> int:
        """Number of units removed."""
        return sum(int((~mask).sum()) for mask in self.masks.values())


def prune_exactly(model: nn.Module, layers: Sequence[Layer], masks: Mapping[str, Tensor], images: Tensor) -> Pruned:
    """Remove each unit by itself: the network computes what the masked one does, and has the size that was counted.

    Args:
        model: network in eval mode; it is the same afterwards.
        layers: its layers, all of one granularity.
        masks: layer name to bool (n_units,), True = kept, for every layer.
        images: images that the network accepts, (n_images, channels, height, width), on which both are compared.

    Raises:
        ModelError: the network cannot be cut or written down, or what came out is not what the masks stand for.
    """
    with _refused(model):
        own, images, masks = _copy(model), images.cpu(), {name: mask.cpu() for name, mask in masks.items()}
        removal = cut_exactly(own, layers, masks, images[:1])
        pruned, counted = _checked(model, layers, masks, images, (own, removal))
    if pruned.size != counted:
        raise ModelError(
            f"the exact form must have the size that was counted, {counted}, but it has {pruned.size}; this network "
            "can be measured by masks only."
        )
    return pruned


def prune_coupled(
    model: nn.Module,
    layers: Sequence[Layer],
    scores: Mapping[str, Tensor],
    images: Tensor,
    *,
    rate: float,
    scope: Scope,
    generator: torch.Generator,
) -> Pruned:
    """Remove units that share a channel together: the network is a plain one, without index modules.

    Args:
        model: network in eval mode; it is the same afterwards.
        layers: its layers, all of one granularity.
        scores: layer name to finite scores (n_units,); those of units that share a channel are added.
        images: images that the network accepts, (n_images, channels, height, width), on which it is compared with the
            masked network.
        rate: fraction of units, in [0, 1).
        scope: whether channels of all layers are compared with one another, or those of one layer.
        generator: decides ties; on the CPU.

    Raises:
        ModelError: the network cannot be cut or written down, or it computes something else than the masked one.
    """
    with _refused(model):
        own, images = _copy(model), images.cpu()
        coupling = find_coupling(own, layers, images[:1])
        masks = choose(coupling, scores, rate, scope, generator)
        removal = cut_coupled(own, coupling, masks, images[:1])
        pruned, _ = _checked(model, layers, masks, images, (own, removal))
    return pruned


def _copy(model: nn.Module) -> nn.Module:
    """Copy a network to the CPU, where it is cut and compared."""
    own = copy.deepcopy(model).cpu().eval()
    for parameter in own.parameters():
        # Torch-Pruning follows gradients, and does not see frozen parameters.
        parameter.requires_grad_(parameter.is_floating_point())
    return own


@contextlib.contextmanager
def _refused(model: nn.Module) -> Iterator[None]:
    """Refuse a network by name that breaks what cuts it."""
    try:
        yield
    except PruneboardError:
        raise
    # A network that is written in an unusual way may break Torch-Pruning, torch.fx or a rule of ours anywhere.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ModelError(
            f"a network must be one that can be cut, but `{type(model).__name__}` cannot ({reason}); measure it by "
            "masks only."
        ) from error


def _checked(
    model: nn.Module,
    layers: Sequence[Layer],
    masks: Mapping[str, Tensor],
    images: Tensor,
    cut: tuple[nn.Module, Removal],
) -> tuple[Pruned, Size]:
    """Write a cut network down as a graph, compare it with the masked one, and return it with the size counted."""
    own, removal = cut
    on_cpu = all(p.device.type == "cpu" for p in model.parameters())
    whole = model if on_cpu else _copy(model)
    network = flatten(own, images[:1])
    with torch.no_grad():
        # Called as a module, torch's graph would print a traceback of its own.
        got = network.forward(images)
    with masked(whole, layers, masks), torch.no_grad():
        expected = whole(images)
    if got.shape != expected.shape:
        raise ModelError(
            f"a pruned network must keep its {expected.shape[1]} logits, but `{type(model).__name__}` has "
            f"{got.shape[1]} left: units of its last layer are logits; measure it by masks only."
        )
    difference = float((got - expected).abs().max() / expected.abs().max().clamp(min=_SMALLEST))
    if not difference <= _TOLERANCE:
        raise ModelError(
            f"a pruned network must compute what masks make of the unpruned one, but logits of `{type(model).__name__}`"
            f" differ by {difference:.2g} of the largest; measure it by masks only."
        )
    everything = {name: torch.ones_like(mask) for name, mask in masks.items()}
    before, counted = count_sizes(whole, layers, [everything, masks], images[:1])
    fewer = _products(whole, images[:1]) - _products(network, images[:1])
    size = Size(sum(p.numel() for p in network.parameters()), before.macs - fewer)
    return Pruned(network, dict(masks), removal, before, size, difference), counted


def _products(network: nn.Module, image: Tensor) -> int:
    """Count the multiply-accumulates of convolutions, matrix products and attention that one image really takes."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    return int(counter.get_total_flops()) // 2
