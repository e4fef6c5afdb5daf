"""The contract of a criterion, and the tools to write one."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from pruneboard.benchmark.errors import CriterionError
from pruneboard.benchmark.schema import Needs
from pruneboard.benchmark.units import AbsoluteAt, Layer, absolute_place, pool, tapped

Scores = dict[str, Tensor]
"""Layer name to a finite float32 tensor (n_units,); a higher score means: keep this unit longer."""


Target = Literal["loss", "logit"]
"""What is differentiated: the cross-entropy with the label, or the label's logit."""

PerLayer = Literal["none", "l2"]
"""Normalisation of scores within a layer."""

ABSOLUTE_PLACES: tuple[AbsoluteAt, ...] = ("none", "token", "image", "total")
"""The different places of the absolute value; `pxp` stands for one of them, by the kind of unit."""

SearchSpace = Mapping[str, tuple[Any, ...]]
"""Parameter name to the values that tuning may give it; each value can be written as JSON."""


_MOST_VALUES = 2**20
"""Values that a step of a reduction holds in memory of its own."""


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Raise unless an option has one of its allowed values.

    Raises:
        CriterionError: `value` is not in `choices`.
    """
    if value not in choices:
        raise CriterionError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}.")


@dataclasses.dataclass(frozen=True)
class Batch:
    """Some reference images and their labels.

    Attributes:
        images: normalised images, float32 (n_images, channels, height, width).
        labels: class indices, int64 (n_images,).
    """

    images: Tensor
    labels: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Context:
    """All that a criterion may look at.

    Attributes:
        model: the unpruned network in eval mode; it must be left as it was, bit for bit, hooks included.
        layers: the layers whose units are scored.
        generator: the job's source of randomness, on the CPU.
        data: reference images and labels, as far as the criterion's `needs` declares them.
        batch_size: images that one pass should hold at most.
    """

    model: nn.Module
    layers: tuple[Layer, ...]
    generator: torch.Generator
    data: Batch | None = None
    batch_size: int = 100

    @property
    def reference(self) -> Batch:
        """The reference images and labels.

        Raises:
            CriterionError: the criterion's `needs` is `nothing`, so it was given none.
        """
        if self.data is None:
            raise CriterionError('a criterion that declares needs = "nothing" gets no images; declare "images".')
        return self.data

    def batches(self) -> Iterator[Batch]:
        """Iterate over the reference images in order, at most `batch_size` at a time."""
        data = self.reference
        for start in range(0, len(data.images), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield Batch(data.images[part], data.labels[part])


def tap_gradients(context: Context, batch: Batch, target: Target) -> tuple[Scores, Scores]:
    """Return the activation at every tap and each image's gradient of its own target with respect to it.

    Both are detached and of the tap's shape. Images do not mix: the network is in eval mode, so the gradient of the sum
    over images holds each image's own.
    """
    with tapped(context.model, context.layers) as taps, torch.enable_grad():
        # A graph must exist even where no parameter before the tap requires a gradient.
        logits = context.model(batch.images.detach().requires_grad_())
        if target == "loss":
            objective = nn.functional.cross_entropy(logits, batch.labels, reduction="sum")
        else:
            objective = logits.gather(1, batch.labels[:, None]).sum()
        names = [layer.name for layer in context.layers]
        gradients = torch.autograd.grad(objective, [taps[name] for name in names])
    return {name: taps[name].detach() for name in names}, dict(zip(names, gradients, strict=True))


def normalise_per_layer(scores: Tensor, how: PerLayer) -> Tensor:
    """Divide a layer's scores (n_units,) by their l2 norm; scores that are all zero, and `none`, stay as they are."""
    norm = scores.norm()
    return scores / norm if how == "l2" and norm > 0 else scores


@dataclasses.dataclass(frozen=True)
class Criterion(ABC):
    """A way to score units; subclass it as a frozen dataclass whose fields are the parameters.

    Set these in every subclass:

    Attributes:
        name: registered name, lower_snake, equal to the stem of the file unless that would shadow a standard module.
        version: rises when scores change.
        family: `control`, `weights`, `activation`, `gradient` or `attribution`.
        source: DOI or URL of the publication.
        needs: what it looks at; less is fairer to whoever has few images.
        deterministic: whether the same context gives the same scores without the generator.
        presets: further registered names, each with the parameters that differ from the defaults.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    family: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[Needs]
    deterministic: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @abstractmethod
    def score(self, context: Context) -> Scores:
        """Score every unit of every layer in `context.layers`.

        Raises:
            Unsupported: the criterion does not apply to this network; the message is shown as the reason.
        """

    def search_space(self, context: Context) -> SearchSpace:
        """Return which parameters are worth tuning on this network, and their values; empty when there are none.

        `context.data` is None: a search space depends on the network and its layers, not on images.
        """
        return {}


def _gather(context: Context, contribute: Callable[[Batch], Scores]) -> Scores:
    """Collect contributions batch by batch in tensors of their final size, so that none is ever held twice.

    Raises:
        CriterionError: a batch gives other layers, shapes or types than the first, or not one row for each image.
    """
    n_images = len(context.reference.images)
    whole: Scores = {}
    start = 0
    for batch in context.batches():
        given = {name: values.detach() for name, values in contribute(batch).items()}
        stop = start + len(batch.images)
        if not whole:
            whole = {name: values.new_empty((n_images, *values.shape[1:])) for name, values in given.items()}
        for name in whole.keys() | given.keys():
            expected = (whole[name].dtype, (stop - start, *whole[name].shape[1:])) if name in whole else "nothing"
            got = (given[name].dtype, tuple(given[name].shape)) if name in given else "nothing"
            if expected != got:
                raise CriterionError(
                    f"contributions to `{name}` must be one row per image and alike in all batches, {expected} in this "
                    f"one of {stop - start} images, got {got}; return the same for every batch."
                )
        for name, values in given.items():
            whole[name][start:stop] = values
        start = stop
    return whole


@dataclasses.dataclass(frozen=True)
class SumCriterion(Criterion):
    """A criterion that adds up one contribution per image, so that all numbers of shots come from one pass.

    Attributes:
        reduced_by: parameters that only `reduce` reads; criteria that differ in nothing else share contributions.
    """

    reduced_by: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def contributions(self, context: Context, batch: Batch) -> Scores:
        """Return each image's contribution to each unit.

        An image's contribution must not depend on the other images of the batch.

        Returns:
            Layer name to (n_images, n_units), or (n_images, n_units, n_parts) where `reduce` needs several numbers.
        """

    def reduce(self, layer: Layer, contributions: Tensor) -> Tensor:
        """Turn the contributions of all images to a layer, float64 (n_images, n_units, ...), into scores (n_units,)."""
        return contributions.mean(dim=0)

    def all_contributions(self, context: Context) -> Scores:
        """Return the contributions of every reference image: layer name to (n_images, n_units, ...)."""
        return _gather(context, lambda batch: self.contributions(context, batch))

    def own_contributions(self, context: Context) -> Scores:
        """Return of all contributions what the criterion's own `reduce` reads, so that no more need be kept."""
        return self.all_contributions(context)

    def reduce_prefix(self, layers: Sequence[Layer], contributions: Scores, n_images: int) -> Scores:
        """Score from the first `n_images` contributions to each layer."""
        scores: Scores = {}
        # One memory for all layers: what is freed in between is hardly ever fit for the next, and would add up.
        precise = torch.empty(0, dtype=torch.float64)
        for layer in sorted(layers, key=lambda layer: -contributions[layer.name].numel()):
            given = contributions[layer.name][:n_images]
            if not scores:
                precise = torch.empty(given.numel(), dtype=torch.float64, device=given.device)
            own = precise[: given.numel()].view(given.shape).copy_(given)
            scores[layer.name] = self.reduce(layer, own).float()
        return {layer.name: scores[layer.name] for layer in layers}

    def score(self, context: Context) -> Scores:
        """Score from all reference images."""
        contributions = self.own_contributions(context)
        return self.reduce_prefix(context.layers, contributions, len(context.reference.images))


@dataclasses.dataclass(frozen=True)
class PooledCriterion(SumCriterion):
    """A criterion that has one value per image at every position of every tap, and pools them into scores.

    Attributes:
        absolute: where the absolute value is taken.
        per_layer: division by the l2 norm of the layer's scores, or `none`.
        over_positions: whether positions are summed, or averaged so that large feature maps do not weigh more.
    """

    absolute: AbsoluteAt = "pxp"
    per_layer: PerLayer = "none"

    over_positions: ClassVar[Literal["sum", "mean"]] = "sum"
    reduced_by: ClassVar[frozenset[str]] = frozenset({"absolute", "per_layer"})

    def __post_init__(self) -> None:
        check_choice("absolute", self.absolute, get_args(AbsoluteAt))
        check_choice("per_layer", self.per_layer, get_args(PerLayer))

    def search_space(self, context: Context) -> SearchSpace:
        """Every place of the absolute value, with and without normalisation per layer."""
        return {"absolute": ABSOLUTE_PLACES, "per_layer": get_args(PerLayer)}

    @abstractmethod
    def values(self, context: Context, batch: Batch) -> Scores:
        """Return each image's values at every tap: layer name to a tensor of the shape of the tap's activation."""

    def contributions(self, context: Context, batch: Batch) -> Scores:
        """Pool with and without the absolute value at each position: layer name to (n_images, n_units, 2)."""
        values = self.values(context, batch)
        mean = self.over_positions == "mean"
        return {
            layer.name: torch.stack(
                [pool(layer, values[layer.name], absolute=place, mean=mean) for place in ("none", "token")], dim=-1
            )
            for layer in context.layers
        }

    def own_contributions(self, context: Context) -> Scores:
        """Keep the one part that the place of the absolute value needs, and let it stand for both without a copy."""
        ours = ("contributions", "all_contributions", "reduce", "reduce_prefix")
        if any(getattr(type(self), name) is not getattr(PooledCriterion, name) for name in ours):
            # A plugin's own way may read both.
            return self.all_contributions(context)
        part = {layer.name: int(absolute_place(layer, self.absolute) == "token") for layer in context.layers}

        def contribute(batch: Batch) -> Scores:
            parts = self.contributions(context, batch)
            return {name: values[..., part.get(name, 0)] for name, values in parts.items()}

        return {name: kept.unsqueeze(-1).expand(*kept.shape, 2) for name, kept in _gather(context, contribute).items()}

    def reduce(self, layer: Layer, contributions: Tensor) -> Tensor:
        """Average over images, with the absolute value where it belongs, then normalise."""
        signed, by_token = contributions.unbind(dim=-1)
        match absolute_place(layer, self.absolute):
            case "none":
                scores = signed.mean(dim=0)
            case "token":
                scores = by_token.mean(dim=0)
            case "image":
                scores = _mean_absolute(signed)
            case "total":
                scores = signed.mean(dim=0).abs()
        return normalise_per_layer(scores, self.per_layer)


def _mean_absolute(values: Tensor) -> Tensor:
    """Return the mean absolute value of each column of (n_images, n_units), some columns at a time to save memory."""
    n_columns = max(1, _MOST_VALUES // max(1, len(values)))
    return torch.cat([part.abs().mean(dim=0) for part in torch.split(values, n_columns, dim=1)])
