"""Accuracy of a network under the masks of a ranking, at every rate."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pruneboard.benchmark.counts import Size, count_sizes
from pruneboard.benchmark.ranking import Ranking, masks_at
from pruneboard.benchmark.schema import CurvePoint
from pruneboard.benchmark.units import Layer, masked


@dataclass(frozen=True)
class Accuracy:
    """Quality of predictions on the evaluation images.

    Attributes:
        top1: fraction whose largest logit is the label's; of equal logits the lowest class index wins.
        top5: fraction whose label is among the five largest logits.
        cross_entropy: mean over images, in nat.
        n_images: number of images.
    """

    top1: float
    top5: float
    cross_entropy: float
    n_images: int


def unchanged(inputs: Tensor) -> Tensor:
    """Return inputs that already are what the network takes."""
    return inputs


@dataclass(frozen=True)
class Evaluation:
    """Evaluation images on the device as they are stored, with what was already measured on them.

    Attributes:
        inputs: pixels, uint8, or coordinates, float32 (n_images, channels, height, width).
        labels: int64 (n_images,).
        prepare: turns some of `inputs` into what the network takes, float32 of the same shape.
        batch_size: images in one forward pass.
        seen: accuracy by masks, so that equal masks are evaluated once whichever criterion, shot or rate made them.
    """

    inputs: Tensor
    labels: Tensor
    prepare: Callable[[Tensor], Tensor] = unchanged
    batch_size: int = 125
    seen: dict[bytes, Accuracy] = field(default_factory=dict)

    @property
    def n_images(self) -> int:
        """Number of images."""
        return len(self.inputs)

    def batch(self, part: slice) -> Tensor:
        """Return some of the images as the network takes them, float32 (n, channels, height, width)."""
        return self.prepare(self.inputs[part])


@torch.no_grad()
def measure(model: nn.Module, evaluation: Evaluation) -> Accuracy:
    """Measure the network as it is."""
    top1 = top5 = 0
    cross_entropy = 0.0
    for start in range(0, evaluation.n_images, evaluation.batch_size):
        part = slice(start, start + evaluation.batch_size)
        logits, labels = model(evaluation.batch(part)), evaluation.labels[part]
        # A stable sort gives equal logits, such as those of a network without units, to the lowest class index.
        best = logits.sort(dim=1, descending=True, stable=True).indices[:, :5]
        hits = best == labels[:, None]
        top1 += int(hits[:, 0].sum())
        top5 += int(hits.sum())
        cross_entropy += float(nn.functional.cross_entropy(logits.double(), labels, reduction="sum"))
    n_images = evaluation.n_images
    return Accuracy(top1 / n_images, top5 / n_images, cross_entropy / n_images, n_images)


def accuracy_curve(
    model: nn.Module,
    layers: Sequence[Layer],
    ranking: Ranking,
    rates: Sequence[float],
    evaluation: Evaluation,
) -> list[CurvePoint]:
    """Measure accuracy and size at every rate.

    Args:
        model: network in eval mode; it is the same afterwards.
        layers: the layers that were ranked.
        ranking: order of removal.
        rates: fractions of units removed.
        evaluation: images to measure on; `evaluation.seen` must belong to this network.
    """
    masks = [masks_at(ranking, rate) for rate in rates]
    sizes = count_sizes(model, layers, masks, evaluation.batch(slice(1)))
    return [
        _point(rate, at_rate, accuracy_under(model, layers, at_rate, evaluation), size)
        for rate, at_rate, size in zip(rates, masks, sizes, strict=True)
    ]


def accuracy_under(
    model: nn.Module, layers: Sequence[Layer], masks: Mapping[str, Tensor], evaluation: Evaluation
) -> Accuracy:
    """Measure the network under masks, or recall it; the unpruned network is one entry whatever the granularity."""
    key = b"" if all(bool(m.all()) for m in masks.values()) else _mask_key(masks)
    if key not in evaluation.seen:
        with masked(model, layers, masks):
            evaluation.seen[key] = measure(model, evaluation)
    return evaluation.seen[key]


def _mask_key(masks: Mapping[str, Tensor]) -> bytes:
    joined = hashlib.blake2b(digest_size=16)
    for name, mask in masks.items():
        joined.update(name.encode() + b"\0" + mask.numpy().tobytes())
    return joined.digest()


def _point(rate: float, masks: Mapping[str, Tensor], accuracy: Accuracy, size: Size) -> CurvePoint:
    return CurvePoint(
        rate=rate,
        n_units_removed=sum(int((~mask).sum()) for mask in masks.values()),
        top1=accuracy.top1,
        top5=accuracy.top5,
        cross_entropy=accuracy.cross_entropy,
        n_images=accuracy.n_images,
        params_left=size.params,
        macs_left=size.macs,
    )
