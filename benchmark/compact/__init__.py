"""Exact evaluation of pruned networks that computes only what is left.

A masked network computes every unit and then sets the removed ones to zero. Here a network is written as a list of
operations once, and for each set of masks a program is made of the rows and columns of its weights that still matter:
what is removed is not computed, what is constant becomes part of a bias, and what nobody reads is left out. Operations
that are not known take and give whole values, so every network that torch can trace gives its masked form's logits.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from pruneboard.benchmark.compact._graph import Batch, NotCompactable, trace
from pruneboard.benchmark.compact._program import Facts, Probe, Program, build
from pruneboard.benchmark.units import Layer, masked

__all__ = ["TOLERANCE", "CompactNetwork", "NotCompactable", "Program", "agree"]

TOLERANCE = 1e-5
"""How far logits may lie from those of the masked network, as a fraction of the image's largest absolute logit."""

_CHECKED_FRACTIONS = (0.3, 0.6, 0.9)

_CACHE_BYTES = 8 << 20
_MOST_IMAGES = 1000

# All values of a probe are held at once.
_PROBE_BYTES = 256 << 20


class CompactNetwork:
    """A network and its layers, from which programs for masks are made.

    The network's parameters must not change while it is in use.

    Args:
        network: in eval mode; it is left as it was.
        layers: layers of one granularity.
        example: images that the network accepts, (n_images, channels, height, width).

    Raises:
        NotCompactable: torch cannot trace the network, or its programs do not give the logits of the masked network.
    """

    def __init__(self, network: nn.Module, layers: Sequence[Layer], example: Tensor) -> None:
        try:
            self._graph = trace(network, layers, example[:1])
            self._example = example[:1]
            sizes = [_size_of_one(step.shape) * example.element_size() for step in self._graph.steps]
            self._n_bytes, self._most_bytes = sum(sizes), max(sizes)
            _check(self, network, layers, example)
        except NotCompactable:
            raise
        # A network that is written in an unusual way may break a tracer or a rule of ours anywhere.
        except Exception as error:
            raise NotCompactable(f"{type(error).__name__}: {error}") from error

    @property
    def batch_size(self) -> int:
        """Images that a program takes at once without leaving a CPU's caches; small networks gain by large batches."""
        return max(1, min(_MOST_IMAGES, _CACHE_BYTES // self._most_bytes))

    def programs(self, masks: Sequence[Mapping[str, Tensor]]) -> Iterator[Program]:
        """Make the program of each set of masks: layer name to bool (n_units,), True = kept."""
        n_at_once = max(1, _PROBE_BYTES // self._n_bytes)
        for start in range(0, len(masks), n_at_once):
            some = masks[start : start + n_at_once]
            probe = Probe(self._graph, some, self._example.shape[1:], self._example)
            for at in range(len(some)):
                yield build(self._graph, Facts(self._graph, probe, at))


def _size_of_one(shape: Sequence[int | Batch]) -> int:
    return math.prod(size.per_image if isinstance(size, Batch) else size for size in shape)


@torch.no_grad()
def _check(compact: CompactNetwork, network: nn.Module, layers: Sequence[Layer], example: Tensor) -> None:
    """Hold programs of a few masks to the masked network.

    Raises:
        NotCompactable: the logits differ by more than `TOLERANCE`, or a program does not run.
    """
    masks = _some_masks(layers)
    logits = [program(example) for program in compact.programs(masks)]
    for given, ours in zip(masks, logits, strict=True):
        with masked(network, layers, given):
            expected = network(example)
        if not agree(ours, expected):
            raise NotCompactable("its logits differ from those of the masked network")


def agree(logits: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> bool:
    """Whether all logits of every image, (n_images, n_classes), differ by a fraction of the largest of at most this."""
    largest = expected.abs().amax(dim=1, keepdim=True)
    return bool(((logits - expected).abs() <= tolerance * largest).all())


def _some_masks(layers: Sequence[Layer]) -> list[dict[str, Tensor]]:
    """Return masks of many and few units at random, and masks with none or all units of every second layer."""
    generator = torch.Generator().manual_seed(0)

    def drawn(fraction: float) -> dict[str, Tensor]:
        return {layer.name: torch.rand(layer.n_units, generator=generator) >= fraction for layer in layers}

    masks = [drawn(fraction) for fraction in _CHECKED_FRACTIONS]
    for odd in (0, 1):
        half = drawn(0.5)
        masks.append({name: mask & (i % 2 == odd) for i, (name, mask) in enumerate(half.items())})
        masks.append({name: mask | (i % 2 == odd) for i, (name, mask) in enumerate(half.items())})
    return masks
