"""A tiny network with images and labels, and a criterion asked for scores on it in every way that the checks need."""

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pruneboard.benchmark.api import Batch, Context, Criterion, Scores
from pruneboard.benchmark.contract._networks import NETWORKS, images, tiny_network
from pruneboard.benchmark.units import Layer, find_layers

N_IMAGES = 5
LABELS = (3, 0, 7, 3, 9)


@dataclass(frozen=True)
class Variation:
    """How a call differs from the usual one.

    Attributes:
        model: another network with the same layers.
        seed: seed of the generator.
        labels: other labels.
        other_images: whether the images are others.
        with_data: whether images and labels are given at all.
        batch_size: images in one pass.
        device: where everything is.
    """

    model: nn.Module | None = None
    seed: int = 0
    labels: tuple[int, ...] = LABELS
    other_images: bool = False
    with_data: bool = True
    batch_size: int = 100
    device: str = "cpu"


@dataclass
class Subject:
    """A criterion and a network.

    Attributes:
        criterion: the criterion.
        kind: kind of the network, one of `NETWORKS`.
        network: the network, which is never given away, only copies of it.
        layers: its layers.
        logits: what it gives for `images(4)` before the criterion was asked for anything.
    """

    criterion: Criterion
    kind: str
    network: nn.Module = field(init=False)
    layers: tuple[Layer, ...] = field(init=False)
    logits: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.network = tiny_network(self.kind)
        self.layers = find_layers(self.network, NETWORKS[self.kind], images(1))
        with torch.no_grad():
            self.logits = self.network(images(4))

    def context(self, how: Variation | None = None) -> Context:
        """Return what the criterion is given, as the engine gives it: no more than `needs` declares."""
        how = how or Variation()
        data = None
        if self.criterion.needs != "nothing" and how.with_data:
            labels = torch.tensor(how.labels)
            if self.criterion.needs == "images":
                labels = torch.full_like(labels, -1)
            drawn = images(N_IMAGES, seed=2 if how.other_images else 1)
            data = Batch(drawn.to(how.device), labels.to(how.device))
        model = copy.deepcopy(self.network) if how.model is None else how.model
        return Context(
            model=model.to(how.device),
            layers=self.layers,
            generator=torch.Generator().manual_seed(how.seed),
            data=data,
            batch_size=how.batch_size,
        )

    def score(self, how: Variation | None = None) -> Scores:
        """Ask for scores, and return copies of them on the CPU."""
        scores = self.criterion.score(self.context(how))
        return {name: values.detach().cpu().clone() for name, values in scores.items()}


def first_difference(scores: Scores, others: Scores, tolerance: float = 0.0) -> tuple[str, int, float, float] | None:
    """Return the layer, unit and two scores that differ most, None when all agree.

    Args:
        scores: layer name to scores (n_units,).
        others: the same.
        tolerance: relative to the largest score of the layer.
    """
    for name, values in scores.items():
        off = (values - others[name]).abs()
        if bool((off > tolerance * values.abs().max()).any()):
            unit = int(off.argmax())
            return name, unit, float(values[unit]), float(others[name][unit])
    return None


def storages(tensors: Tensor | dict[str, Tensor]) -> set[int]:
    """Return where tensors lie in memory."""
    given = tensors.values() if isinstance(tensors, dict) else [tensors]
    return {tensor.untyped_storage().data_ptr() for tensor in given}
