"""What authors of plugins import: the contracts of a criterion and of a model, and the tools to write them."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from pruneboard.benchmark.assets import (
    Weights,
    cache_folder,
    find_weights,
    is_file,
    load_weights,
    made_weights_digest,
    read_made_weights,
)
from pruneboard.benchmark.data import scaled
from pruneboard.benchmark.errors import CriterionError, ModelError, Unsupported
from pruneboard.benchmark.schema import GRANULARITIES, Granularity, digest
from pruneboard.benchmark.units import (
    AbsoluteAt,
    Layer,
    absolute_place,
    batch_norms_after,
    by_unit,
    pool,
    tapped,
    unit_weights,
)

__all__ = [
    "ABSOLUTE_PLACES",
    "AbsoluteAt",
    "Batch",
    "Context",
    "Criterion",
    "CriterionError",
    "Granularity",
    "Layer",
    "Model",
    "Needs",
    "PerLayer",
    "PooledCriterion",
    "Recipe",
    "Scores",
    "SearchSpace",
    "SumCriterion",
    "Target",
    "Unsupported",
    "Weights",
    "batch_norms_after",
    "by_unit",
    "check_choice",
    "normalise_per_layer",
    "pool",
    "tap_gradients",
    "tapped",
    "unit_weights",
]

Needs = Literal["nothing", "images", "labels"]
"""What a criterion looks at; `labels` includes the images. It is given no more than it declares."""

Scores = dict[str, Tensor]
"""Layer name to a finite float32 tensor (n_units,); a higher score means: keep this unit longer."""


Target = Literal["loss", "logit"]
"""What is differentiated: the cross-entropy with the label, or the label's logit."""

Optimiser = Literal["adamw", "sgd"]
"""What trains a network of ours."""

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network of ours was trained; everything that decides the weights.

    Attributes:
        dataset: data set whose train split it learns.
        epochs: passes over the train split.
        batch_size: images per step.
        learning_rate: peak of the one-cycle schedule.
        weight_decay: decoupled weight decay of AdamW; added to the gradient by SGD.
        label_smoothing: in [0, 1).
        max_shift: random shift of each training image, in pixels of either sign, zero-padded.
        seed: seeds initial weights, order and augmentation.
        optimiser: AdamW, or stochastic gradient descent with momentum 0.9.
    """

    dataset: str
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    label_smoothing: float = 0.0
    max_shift: int = 0
    seed: int = 0
    optimiser: Optimiser = "adamw"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A network that suites can name.

    Attributes:
        name: registered name, lower_snake.
        version: rises when the function of the loaded network changes.
        family: `VGG`, `ResNet`, `ViT` or `MLP`, shown in tables.
        description: one or two sentences for its card.
        source: DOI or URL of the architecture.
        licence: licence of the weights.
        build: makes the network with fresh parameters; may draw from torch's global generator, which the caller seeds.
        granularities: kinds of unit it can be pruned by.
        input_size: (channels, height, width) of its images.
        mean: per channel, subtracted from pixel values scaled to [0, 1], or from coordinates.
        std: per channel, divided by afterwards.
        weights: trained weights that are shipped or published, or None for a network that is trained by its recipe
            where it is first used, because its weights are too large to ship.
        rename: maps a key of the weights file to the network's own.
        recipe: how its weights were made, when they were made here.
    """

    name: str
    version: int
    family: str
    description: str
    source: str
    licence: str
    build: Callable[[], nn.Module]
    granularities: tuple[Granularity, ...]
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: Weights | None = None
    rename: Callable[[str], str] = str
    recipe: Recipe | None = None

    def __post_init__(self) -> None:
        channels = self.input_size[0]
        if len(self.mean) != channels or len(self.std) != channels:
            raise ModelError(f"`mean` and `std` of `{self.name}` must have {channels} values, one per channel.")
        if not self.granularities or set(self.granularities) - set(GRANULARITIES):
            raise ModelError(f"`granularities` of `{self.name}` must be some of {GRANULARITIES}.")

    @property
    def made_file(self) -> Path | None:
        """Where the weights lie that are made on this machine, in the cache; None when they are shipped or published.

        The name holds a digest of the recipe, so that weights made by another recipe are never taken for these.
        """
        if self.weights is not None or self.recipe is None:
            return None
        made_by = digest([self.name, self.version, dataclasses.asdict(self.recipe)])
        return cache_folder() / "weights" / f"{self.name}-{made_by[:16]}.safetensors"

    @property
    def weights_file(self) -> Path | None:
        """The file that `load` takes, unchecked; None while there is none on this machine.

        Raises:
            AssetError: a place where it may lie cannot be looked at.
        """
        if self.weights is not None:
            return find_weights(self.weights)
        return self.made_file if self.made_file is not None and is_file(self.made_file) else None

    @property
    def weights_digest(self) -> str:
        """The `tensors_digest` of the weights that `load` takes; empty while there are none.

        Raises:
            AssetError: the weights were made on this machine and are damaged.
        """
        if self.weights is not None:
            return self.weights.digest
        return made_weights_digest(self.made_file) if self.made_file and is_file(self.made_file) else ""

    def _state(self) -> tuple[str, dict[str, Tensor]]:
        """Return the name of the weights file and its tensors, under the network's own keys."""
        if self.weights is not None:
            file, state = self.weights.file, load_weights(self.weights)
        elif self.made_file is not None and is_file(self.made_file):
            file, state = str(self.made_file), read_made_weights(self.made_file)
        else:
            raise ModelError(f"`{self.name}` has no weights yet; make them with `pruneboard train {self.name}`.")
        return file, {self.rename(key): value for key, value in state.items()}

    def load(self) -> nn.Module:
        """Build the network with its trained weights, in eval mode on the CPU.

        Raises:
            AssetError: the weights are missing or damaged.
            ModelError: the weights do not fit the network, or there are none.
        """
        file, state = self._state()
        model = self.build()
        # A key that only counts batches is missing from some published files, and no inference uses it.
        expected = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
        given = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
        for key in sorted(expected.keys() | given.keys()):
            want, got = expected.get(key), given.get(key)
            if want is None or got is None or want.shape != got.shape:
                raise ModelError(
                    f"the weights `{file}` must fit `{self.name}`, but `{key}` is "
                    f"{'absent' if got is None else tuple(got.shape)} in the file and "
                    f"{'absent' if want is None else tuple(want.shape)} in the network; get the file again."
                )
        model.load_state_dict(given, strict=False)
        return model.eval()

    def normalise(self, images: Tensor) -> Tensor:
        """Turn what a split's `inputs` gives, float32 (n_images, channels, height, width), into the network's input."""
        mean, std = (torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (self.mean, self.std))
        return (images - mean) / std

    def prepare(self, stored: Tensor) -> Tensor:
        """Turn inputs as a split has them `stored`, (n_images, channels, height, width), into the network's input."""
        return self.normalise(scaled(stored))
