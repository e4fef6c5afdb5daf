"""The contract of a model, and how models of ours are trained."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn, tensor

from pruneboard.benchmark.assets import (
    Weights,
    cache_folder,
    find_weights,
    is_file,
    load_weights,
    made_weights_digest,
    read_made_weights,
    weights_digest,
)
from pruneboard.benchmark.data import WHOLE, Framing, scaled
from pruneboard.benchmark.errors import ModelError
from pruneboard.benchmark.schema import GRANULARITIES, Granularity, digest

Optimiser = Literal["adamw", "sgd"]
"""What trains a network of ours."""


_WRAPPERS = ("module.", "_orig_mod.")
"""What the keys of a network start with that was saved inside `DataParallel`, or compiled."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network of ours is trained; everything that decides the weights.

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
        flip: whether each training image is mirrored with probability 1/2.
        policy: `trivial` changes images by TrivialAugment (Mueller and Hutter 2021, arXiv 2103.10158), a few at a time.
        cutmix: probability with which a batch is mixed by CutMix (Yun et al. 2019, arXiv 1905.04899, alpha 1).
        clip_norm: largest l2 norm of the gradient of all parameters; 0 leaves it as it is.
        mixed_precision: whether a GPU computes networks in bfloat16 while they learn; a CPU computes in float32.
        start: registered name of the model whose weights it starts from, but for the classifier; empty for fresh ones.
        trains: `classifier` leaves all other layers as they are, and learns from features that are computed once.
        batch_norms: `frozen` keeps their running statistics and normalises by them, `updated` trains as usual.
        stored_as: type of the weights in the file; accuracy is measured on what is stored.

    Raises:
        ModelError: a value is out of its range, or images are to be changed at random whose features are computed once.
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
    flip: bool = False
    policy: Literal["none", "trivial"] = "none"
    cutmix: float = 0.0
    clip_norm: float = 0.0
    mixed_precision: bool = False
    start: str = ""
    trains: Literal["all", "classifier"] = "all"
    batch_norms: Literal["updated", "frozen"] = "updated"
    stored_as: Literal["float32", "float16"] = "float32"

    def __post_init__(self) -> None:
        rules = {
            "epochs": ("at least 1", self.epochs >= 1),
            "batch_size": ("at least 1", self.batch_size >= 1),
            "learning_rate": ("above 0", self.learning_rate > 0),
            "weight_decay": ("at least 0", self.weight_decay >= 0),
            "label_smoothing": ("in [0, 1)", 0 <= self.label_smoothing < 1),
            "max_shift": ("at least 0", self.max_shift >= 0),
            "seed": ("in [0, 2**63)", 0 <= self.seed < 2**63),
            "cutmix": ("in [0, 1]", 0 <= self.cutmix <= 1),
            "clip_norm": ("at least 0", self.clip_norm >= 0),
        }
        for name, (rule, is_kept) in rules.items():
            if not is_kept:
                raise ModelError(f"`{name}` of a recipe must be {rule}, got {getattr(self, name)}; correct it.")
        if self.trains == "classifier" and self.augments:
            raise ModelError(
                "a recipe that trains the classifier only must leave the images as they are, because their features "
                "are computed once; leave out `flip`, `max_shift`, `policy` and `cutmix`, or train all layers."
            )

    @property
    def augments(self) -> bool:
        """Whether training images are changed at random."""
        return self.flip or self.max_shift > 0 or self.policy != "none" or self.cutmix > 0


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
        framing: how images of another size are brought to `input_size`.
        weights: trained weights that are shipped or published, or None for a network whose weights are made by its
            recipe, because they are too large to ship.
        rename: maps a key of the weights file to the network's own.
        recipe: how its weights were made, when they were made here.
        made_when_used: whether a run that needs weights which its recipe makes makes them, because that takes little.
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
    framing: Framing = WHOLE
    weights: Weights | None = None
    rename: Callable[[str], str] = str
    recipe: Recipe | None = None
    made_when_used: bool = True

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
            return weights_digest(self.weights)
        return made_weights_digest(self.made_file) if self.made_file and is_file(self.made_file) else ""

    def _state(self) -> tuple[str, dict[str, Tensor]]:
        """Return the name of the weights file and its tensors."""
        if self.weights is not None:
            file, state = self.weights.file, load_weights(self.weights)
        elif self.made_file is not None and is_file(self.made_file):
            file, state = str(self.made_file), read_made_weights(self.made_file)
        else:
            raise ModelError(f"`{self.name}` has no weights yet; make them with `pruneboard train {self.name}`.")
        return file, state

    def load(self) -> nn.Module:
        """Build the network with its trained weights, in eval mode on the CPU.

        Raises:
            AssetError: the weights are missing or damaged.
            ModelError: the weights do not fit the network, or there are none.
        """
        return self.with_weights(*self._state())

    def with_weights(self, file: str, state: Mapping[str, Tensor], *, but: str | None = None) -> nn.Module:
        """Build the network with the weights that a file holds, in eval mode on the CPU.

        Args:
            file: for messages.
            state: tensors as the file has them; a prefix that all keys got from a wrapper of the network is cut off.
            but: start of the keys that the network keeps its own tensors of; None for no key.

        Raises:
            ModelError: they do not fit the network.
        """
        model = self.build()
        # A key that only counts batches is missing from some published files, and no inference uses it.
        expected = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
        given = {self.rename(key): value for key, value in state.items()}
        for prefix in _WRAPPERS:
            if all(key.startswith(prefix) for key in given) and not any(key.startswith(prefix) for key in expected):
                given = {self.rename(key.removeprefix(prefix)): value for key, value in state.items()}
        if but is not None:
            given = {key: value for key, value in given.items() if not key.startswith(but)}
            expected = {key: value for key, value in expected.items() if not key.startswith(but)}
        wrong = sorted(
            key
            for key in expected.keys() | given.keys()
            if not key.endswith("num_batches_tracked") and _shape(expected, key) != _shape(given, key)
        )
        if wrong:
            # Where only the first axis of one module differs, as many classes do.
            is_head = len({key.rpartition(".")[0] for key in wrong}) == 1 and all(
                key in expected and key in given and given[key].shape[1:] == expected[key].shape[1:] for key in wrong
            )
            remedy = (
                "its head has another number of classes, so give `build` as many, as `adapted` does, or train one with "
                "`pruneboard train --from`"
                if is_head
                else "name the weights of this network, or correct its `build` or `rename`"
            )
            raise ModelError(
                f"the weights `{file}` must fit `{self.name}`, but `{wrong[0]}` is {_shape(given, wrong[0])} in the "
                f"file and {_shape(expected, wrong[0])} in the network; {remedy}."
            )
        model.load_state_dict(given, strict=False)
        return model.eval()

    def normalise(self, images: Tensor) -> Tensor:
        """Turn what a split's `inputs` gives, float32 (n_images, channels, height, width), into the network's input."""
        mean, std = (tensor(v, device=images.device).view(-1, 1, 1) for v in (self.mean, self.std))
        return (images - mean) / std

    def prepare(self, stored: Tensor) -> Tensor:
        """Turn inputs as a split has them `stored`, (n_images, channels, height, width), into the network's input."""
        return self.normalise(scaled(stored))


def _shape(state: Mapping[str, Tensor], key: str) -> tuple[int, ...] | str:
    return tuple(state[key].shape) if key in state else "absent"


def adapted(
    base: Model,
    *,
    name: str,
    n_classes: int,
    input_size: tuple[int, int, int] | None = None,
    recipe: Recipe | None = None,
    weights: Weights | None = None,
) -> Model:
    """Return a model for another data set: the network of `base` with a classifier of its own.

    Args:
        base: a network of timm's.
        name: registered name of the new model.
        n_classes: outputs of its classifier.
        input_size: (channels, height, width) of its images; None for that of `base`.
        recipe: how its weights are made; `start` names the model that they start from.
        weights: where they lie, once they are made.
    """
    size = base.input_size if input_size is None else input_size
    return dataclasses.replace(
        base,
        name=name,
        version=1,
        description=f"{base.description} Adapted to another data set, with a classifier for {n_classes} classes.",
        build=functools.partial(_with_classifier, base, n_classes),
        input_size=size,
        rename=str,
        recipe=recipe,
        weights=weights,
    )


def _with_classifier(base: Model, n_classes: int) -> nn.Module:
    network = base.build()
    reset: Any = getattr(network, "reset_classifier", None)
    if reset is None:
        raise ModelError(
            f"a network must be one of timm's to get another classifier, but `{base.name}` is a "
            f"`{type(network).__name__}`; give it a `reset_classifier` and a `get_classifier`, or choose another model."
        )
    reset(n_classes)
    return network
