"""Transfer: which recipe adapts a pretrained network to another data set."""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pruneboard.benchmark.api import Model, Recipe, adapted
from pruneboard.benchmark.data import Dataset
from pruneboard.benchmark.errors import AssetError
from pruneboard.benchmark.training._train import training_split_of

_EPOCHS = {"classifier": 30, "all": 5}
_BATCH_SIZES = {"classifier": 100, "all": 32}
_LEARNING_RATES = {"classifier": 0.001, "all": 0.0005}


@dataclass(frozen=True, kw_only=True)
class AdaptOptions:
    """Choices of a transfer; None takes what suits the layers that are trained.

    Attributes:
        layers: `classifier` leaves all others as they are; `all` trains the whole network, which takes far longer.
        size: height and width that images are brought to, in pixels; None for those of the pretrained network.
        epochs: passes over the training split.
        batch_size: images per step.
        learning_rate: peak of the one-cycle schedule.
        seed: of the classifier's first weights, the order and the augmentation.
        half: whether the weights are stored in half precision.
    """

    layers: Literal["classifier", "all"] = "classifier"
    size: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    seed: int = 0
    half: bool = False


def adapt_to(base: Model, dataset: Dataset, options: AdaptOptions, start: str = "") -> Model:
    """Return the model that adapts a pretrained network to a data set, with its recipe.

    When all layers learn, images are mirrored and shifted by a sixteenth of their size, labels are smoothed by 0.1, and
    batch norms keep the statistics of the pretrained network, as few images give poor ones.

    Args:
        base: the pretrained network.
        dataset: what to learn; its classes decide the outputs.
        options: how.
        start: registered name of the model that it starts from; empty where the weights come from a file.

    Raises:
        AssetError: there is no training split, or a class has no image.
        ModelError: an option is out of its range.
    """
    everything = options.layers == "all"
    size = base.input_size if options.size is None else (base.input_size[0], options.size, options.size)
    recipe = Recipe(
        dataset=dataset.name,
        epochs=_EPOCHS[options.layers] if options.epochs is None else options.epochs,
        batch_size=_BATCH_SIZES[options.layers] if options.batch_size is None else options.batch_size,
        learning_rate=_LEARNING_RATES[options.layers] if options.learning_rate is None else options.learning_rate,
        weight_decay=0.01,
        label_smoothing=0.1 if everything else 0.0,
        max_shift=size[1] // 16 if everything else 0,
        flip=everything,
        seed=options.seed,
        start=start,
        trains=options.layers,
        batch_norms="frozen",
        stored_as="float16" if options.half else "float32",
    )
    name = re.sub(r"\W+", "_", f"{base.name}_{dataset.name}".lower())
    return adapted(base, name=name, n_classes=_n_classes(dataset), input_size=size, recipe=recipe)


def _n_classes(dataset: Dataset) -> int:
    labels = np.unique(training_split_of(dataset).labels)
    n_classes = int(labels[-1]) + 1 if dataset.classes is None else len(dataset.classes)
    absent = np.setdiff1d(np.arange(n_classes), labels)
    if len(absent):
        raise AssetError(
            f"each class must have training images, but label {absent[0]} of `{dataset.name}` has none; number the "
            f"classes from 0 to {len(labels) - 1} without gaps."
        )
    return n_classes
