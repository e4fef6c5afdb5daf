"""Accuracy of a network under the masks of a ranking, at every rate."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from pruneboard.benchmark.compact import TOLERANCE, CompactNetwork, NotCompactable, agree
from pruneboard.benchmark.counts import Size, count_sizes
from pruneboard.benchmark.ranking import Ranking, masks_at
from pruneboard.benchmark.schema import CurvePoint, Precision
from pruneboard.benchmark.units import Layer, masked

_LONGEST_REASON = 200

_N_COMPARED = 4
"""Images on which every program is held to the masked network."""

_COARSE: dict[Precision, float] = {"tf32": 1e-2, "bf16": 5e-2}
"""How far logits may lie from those of the masked network, as a fraction of the largest, where both are rounded."""


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
class Answers:
    """Which logits of a network compete.

    Attributes:
        classes: those of a task, int64 (n,), ascending; None takes all.
        others: whether logits of other classes are left `out`, or set to `zero`, which may win.
    """

    classes: Tensor | None = None
    others: Literal["out", "zero"] = "out"

    def among(self, logits: Tensor) -> Tensor:
        """Return the logits that compete, (n_images, n) or, where others are set to zero, (n_images, n_classes)."""
        if self.classes is None:
            return logits
        classes = self.classes.to(logits.device)
        own = logits[:, classes]
        return own if self.others == "out" else torch.zeros_like(logits).index_copy(1, classes, own)

    def places(self, labels: Tensor) -> Tensor:
        """Return where the logits of labels, int64 (n_images,), stand among those that compete."""
        if self.classes is None or self.others == "zero":
            return labels
        return torch.searchsorted(self.classes.to(labels.device), labels)


@dataclass(frozen=True)
class Evaluation:
    """Evaluation images on the device as they are stored, with what was already measured on them.

    Attributes:
        inputs: pixels, uint8, or coordinates, float32 (n_images, channels, height, width).
        labels: int64 (n_images,).
        prepare: turns some of `inputs` into what the network takes, float32 of the same shape.
        batch_size: images in one forward pass.
        most_at_once: where memory is short, the most images that a compact network may take at once.
        precision: what matrix products and convolutions are computed in. With float32 the masked network decides every
            prediction that rounding could change; with less, predictions are those of the compact network.
        answers: which logits compete.
        seen: accuracy by masks, so that equal masks are evaluated once whichever criterion, shot or rate made them.
    """

    inputs: Tensor
    labels: Tensor
    prepare: Callable[[Tensor], Tensor] = unchanged
    batch_size: int = 125
    most_at_once: int | None = None
    precision: Precision = "float32"
    answers: Answers = field(default_factory=Answers)
    seen: dict[bytes, Accuracy] = field(default_factory=dict)

    @property
    def n_images(self) -> int:
        """Number of images."""
        return len(self.inputs)

    def batch(self, part: slice) -> Tensor:
        """Return some of the images as the network takes them, float32 (n, channels, height, width)."""
        return self.prepare(self.inputs[part])


@dataclass(frozen=True)
class Pruning:
    """A network, the layers it is pruned by, and its compact form where it has one.

    Attributes:
        model: in eval mode; its parameters must not change while this is in use.
        layers: layers of one granularity.
        compact: makes programs that compute only what is left; None where the network has to be masked.
        why_masked: why it has to be; empty otherwise.
    """

    model: nn.Module
    layers: tuple[Layer, ...]
    compact: CompactNetwork | None = None
    why_masked: str = ""

    @property
    def how(self) -> str:
        """How accuracies under masks come about: `compact`, or `masked` with the reason."""
        return "compact" if self.compact is not None else f"masked: {self.why_masked}"


def prepare_pruning(model: nn.Module, layers: Sequence[Layer], images: Tensor) -> Pruning:
    """Bring a network into its compact form, where that is possible.

    Args:
        model: network in eval mode; it is the same afterwards.
        layers: layers of one granularity.
        images: some images, as the network takes them, on which the compact form is held to the masked network.
    """
    try:
        return Pruning(model, tuple(layers), CompactNetwork(model, layers, images))
    except NotCompactable as refusal:
        return Pruning(model, tuple(layers), why_masked=" ".join(str(refusal).split())[:_LONGEST_REASON])


@torch.no_grad()
def measure(model: nn.Module, evaluation: Evaluation) -> Accuracy:
    """Measure the network as it is."""
    with computing_in(evaluation.precision, evaluation.inputs.device.type):
        return _accuracy(_logits(model, evaluation, evaluation.batch_size), evaluation)


@contextlib.contextmanager
def computing_in(precision: Precision, device: str) -> Iterator[None]:
    """Compute matrix products and convolutions in less than float32 for the time of a block."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    try:
        if precision == "tf32":
            products.allow_tf32 = convolutions.allow_tf32 = True
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


def _logits(model: Callable[[Tensor], Tensor], evaluation: Evaluation, n_at_once: int) -> Tensor:
    """Return the logits of all images, (n_images, n_classes)."""
    starts = range(0, evaluation.n_images, n_at_once)
    return torch.cat([model(evaluation.batch(slice(start, start + n_at_once))) for start in starts])


def _accuracy(logits: Tensor, evaluation: Evaluation) -> Accuracy:
    answers = evaluation.answers
    logits, labels = answers.among(logits).float().cpu(), answers.places(evaluation.labels).cpu()
    # A stable sort gives equal logits, such as those of a network without units, to the lowest class index.
    best = logits.sort(dim=1, descending=True, stable=True).indices[:, :5]
    hits = best == labels[:, None]
    entropy = nn.functional.cross_entropy(logits.double(), labels, reduction="sum")
    n_images = len(labels)
    return Accuracy(int(hits[:, 0].sum()) / n_images, int(hits.sum()) / n_images, float(entropy) / n_images, n_images)


def accuracy_curve(
    pruning: Pruning, ranking: Ranking, rates: Sequence[float], evaluation: Evaluation
) -> list[CurvePoint]:
    """Measure accuracy and size at every rate.

    Args:
        pruning: the network; it is the same afterwards.
        ranking: order of removal.
        rates: fractions of units removed.
        evaluation: images to measure on; `evaluation.seen` must belong to this network.
    """
    return points_under(pruning, rates, [masks_at(ranking, rate) for rate in rates], evaluation)


def points_under(
    pruning: Pruning, rates: Sequence[float], masks: Sequence[Mapping[str, Tensor]], evaluation: Evaluation
) -> list[CurvePoint]:
    """Measure accuracy and size under the masks of several rates.

    Args:
        pruning: the network; it is the same afterwards.
        rates: fractions of units removed.
        masks: for each rate, layer name to bool (n_units,), True = kept.
        evaluation: images to measure on; `evaluation.seen` must belong to this network.
    """
    sizes = count_sizes(pruning.model, pruning.layers, masks, evaluation.batch(slice(1)))
    accuracies = accuracies_under(pruning, masks, evaluation)
    ordered = [[one[layer.name] for layer in pruning.layers] for one in masks]
    return [_point(*one) for one in zip(rates, ordered, accuracies, sizes, strict=True)]


def accuracies_under(pruning: Pruning, masks: Sequence[Mapping[str, Tensor]], evaluation: Evaluation) -> list[Accuracy]:
    """Measure the network under each of several sets of masks, or recall it.

    The unpruned network is one entry of `evaluation.seen` whatever the granularity, and is measured as it is.
    """
    keys = [b"" if all(bool(m.all()) for m in one.values()) else _mask_key(one) for one in masks]
    if b"" in keys and b"" not in evaluation.seen:
        evaluation.seen[b""] = measure(pruning.model, evaluation)
    new = {key: one for key, one in zip(keys, masks, strict=True) if key not in evaluation.seen}
    for key, accuracy in zip(new, _measured(pruning, list(new.values()), evaluation), strict=True):
        evaluation.seen[key] = accuracy
    return [evaluation.seen[key] for key in keys]


@torch.no_grad()
def _measured(pruning: Pruning, masks: Sequence[Mapping[str, Tensor]], evaluation: Evaluation) -> Iterator[Accuracy]:
    if pruning.compact is None:
        for one in masks:
            with masked(pruning.model, pruning.layers, one):
                yield measure(pruning.model, evaluation)
        return
    n_at_once = max(evaluation.batch_size, pruning.compact.batch_size)
    if evaluation.most_at_once is not None:
        n_at_once = min(n_at_once, evaluation.most_at_once)
    programs = pruning.compact.programs(masks)
    exact = evaluation.precision == "float32"
    tolerance = TOLERANCE if exact else _COARSE[evaluation.precision]
    for one in masks:
        with computing_in(evaluation.precision, evaluation.inputs.device.type):
            logits = _tried(lambda: _logits(next(programs), evaluation, n_at_once))
            with masked(pruning.model, pruning.layers, one):
                first = pruning.model(evaluation.batch(slice(_N_COMPARED)))
                if logits is None or not agree(logits[:_N_COMPARED], first, tolerance):
                    logits = _logits(pruning.model, evaluation, evaluation.batch_size)
                elif exact and bool((doubtful := _is_doubtful(logits, evaluation)).any()):
                    _replace(logits, doubtful, pruning.model, evaluation)
        yield _accuracy(logits, evaluation)


def _tried(predict: Callable[[], Tensor]) -> Tensor | None:
    """Return logits, or None where a program breaks on a network that broke none when it was prepared."""
    try:
        return predict()
    # Masks are the other way, whatever went wrong here.
    except Exception:  # noqa: BLE001
        return None


def _replace(logits: Tensor, doubtful: Tensor, model: nn.Module, evaluation: Evaluation) -> None:
    """Write the logits of a network over those of every batch that holds a doubtful image.

    Batches are those of `measure`, because the last bits of logits can depend on what else is in a batch.
    """
    for start in range(0, evaluation.n_images, evaluation.batch_size):
        part = slice(start, start + evaluation.batch_size)
        if bool(doubtful[part].any()):
            logits[part] = model(evaluation.batch(part))


def _is_doubtful(logits: Tensor, evaluation: Evaluation) -> Tensor:
    """Whether errors of `TOLERANCE` could move labels into or out of the first place or the first five, (n_images,)."""
    # Errors are relative to the largest of all logits, whichever compete.
    margin = 2 * TOLERANCE * logits.abs().amax(dim=1, keepdim=True)
    labels, logits = evaluation.answers.places(evaluation.labels), evaluation.answers.among(logits)
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf).topk(min(5, logits.shape[1]), dim=1).values
    # Both logits may be off, in opposite directions.
    apart = (others[:, [0, -1]] - own).abs() > margin
    return ~apart.all(dim=1)


def _mask_key(masks: Mapping[str, Tensor]) -> bytes:
    joined = hashlib.blake2b(digest_size=16)
    for name, mask in masks.items():
        joined.update(name.encode() + b"\0" + mask.numpy().tobytes())
    return joined.digest()


def _point(rate: float, masks: Sequence[Tensor], accuracy: Accuracy, size: Size) -> CurvePoint:
    return CurvePoint(
        rate=rate,
        n_units_removed=sum(int((~mask).sum()) for mask in masks),
        top1=accuracy.top1,
        top5=accuracy.top5,
        cross_entropy=accuracy.cross_entropy,
        n_images=accuracy.n_images,
        params_left=size.params,
        macs_left=size.macs,
        units_left=" ".join(str(int(mask.sum())) for mask in masks),
    )
