"""Training a network by its recipe on images that are given."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from pruneboard.benchmark.api import Model, Recipe
from pruneboard.benchmark.data import Dataset, check_outputs, scaled
from pruneboard.benchmark.errors import ModelError
from pruneboard.benchmark.training._augment import Augmentation
from pruneboard.benchmark.training._checkpoint import Checkpoint
from pruneboard.benchmark.training._records import Progress, TrainingStep
from pruneboard.benchmark.training._seeding import continued, freeze_batch_norms, global_states, one_thread, seeded
from pruneboard.benchmark.training._start import Start, begin_with, classifier_of

_IMAGES_AT_ONCE = 50
"""Images whose features are computed in one pass."""


@dataclass(frozen=True)
class Going:
    """How a training is watched and continued.

    Attributes:
        progress: called after every epoch.
        checkpoint: keeps the last epoch; None keeps none.
    """

    progress: Progress | None = None
    checkpoint: Checkpoint | None = None


def recipe_of(model: Model) -> Recipe:
    """Return the recipe of a model.

    Raises:
        ModelError: it has none.
    """
    if model.recipe is None:
        raise ModelError(
            f"a model must have a recipe to be trained, but `{model.name}` has none; its weights were made elsewhere. "
            "Adapt it to a data set with `--from` and `--dataset`."
        )
    return model.recipe


def fit(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    device: torch.device,
    dataset: Dataset | None = None,
    start: Start | None = None,
    going: Going | None = None,
) -> tuple[nn.Module, float]:
    """Train a network by its recipe on the images given, on one CPU thread, and return it in eval mode.

    Every step sees the next images of a random order, each changed at random as the recipe says. All parameters decay;
    the learning rate rises from 1/25 of its peak over the first 30 % of the steps and falls to nearly zero, both along
    a cosine.

    Args:
        model: model with a recipe.
        inputs: training images as a split has them stored, or as its `inputs` gives them,
            (n_images, channels, height, width).
        labels: int64 (n_images,).
        device: where to train.
        dataset: where they are from, whose classes the network must have; None for anywhere.
        start: weights that the network starts from; None draws fresh ones.
        going: how the training is watched and continued.

    Returns:
        The network, and the seconds that all epochs took.

    Raises:
        AssetError: the network has other outputs than the data set has classes.
        ModelError: the model has no recipe, the network cannot start from these weights, or the loss is not finite.
    """
    recipe, going = recipe_of(model), going or Going()
    with one_thread(), seeded(recipe.seed, device):
        network = model.build()
        if start is not None:
            begin_with(network, start)
        network.to(device)
        images = Images(inputs.to(device), labels.to(device))
        n_classes = _check_outputs(network, model, images, dataset)
        if recipe.trains == "classifier":
            classifier = classifier_of(network)[1]
            known = Images(_features(network, classifier, model, images.stored), images.labels)
            learner = _Learner(classifier, recipe, known, lambda values, _: values)
        else:
            augmentation = Augmentation(recipe, n_classes)

            def changed(stored: Tensor, generator: torch.Generator) -> Tensor:
                return model.normalise(augmentation.change(scaled(stored), generator))

            learner = _Learner(network, recipe, images, changed, augmentation)
        learner.learn(model.name, going)
    return network.eval(), learner.seconds


@dataclass(frozen=True)
class Images:
    """What a network is trained on.

    Attributes:
        stored: images as they are kept, or their features; the first axis is that of the images.
        labels: int64 (n_images,).
    """

    stored: Tensor
    labels: Tensor


class _Learner:
    """A module in training, with all that decides its next epoch.

    Args:
        module: what learns.
        recipe: how.
        images: what from.
        prepare: turns some of what is stored into the module's input.
        augmentation: mixes batches; None never does.
    """

    def __init__(
        self,
        module: nn.Module,
        recipe: Recipe,
        images: Images,
        prepare: Callable[[Tensor, torch.Generator], Tensor],
        augmentation: Augmentation | None = None,
    ) -> None:
        self._module = module
        self._recipe = recipe
        self._images = images
        self._prepare = prepare
        self._augmentation = augmentation
        self._generator = torch.Generator().manual_seed(recipe.seed)
        self._optimiser = _optimiser(module, recipe)
        n_steps = recipe.epochs * math.ceil(len(images.labels) / recipe.batch_size)
        self._schedule = OneCycleLR(self._optimiser, recipe.learning_rate, total_steps=n_steps, cycle_momentum=False)
        self.seconds = 0.0

    def learn(self, name: str, going: Going) -> None:
        """Go through all epochs, from behind the last one that was kept."""
        state = going.checkpoint.load() if going.checkpoint is not None else None
        if state is None:
            self._learn_from(1, name, going)
        else:
            self._restore(state)
            with continued(state["global generators"], self._images.labels.device):
                self._learn_from(int(state["epoch"]) + 1, name, going)

    def _learn_from(self, first: int, name: str, going: Going) -> None:
        for epoch in range(first, self._recipe.epochs + 1):
            started = time.perf_counter()
            loss, top1, learning_rate = self._epoch()
            self.seconds += time.perf_counter() - started
            if not math.isfinite(loss):
                raise ModelError(
                    f"the training loss must be finite, but it is not in epoch {epoch} of `{name}`; lower the "
                    f"recipe's `learning_rate`, {self._recipe.learning_rate}."
                )
            if going.checkpoint is not None:
                going.checkpoint.save(lambda done=epoch: self._state(done))  # type: ignore[misc]
            if going.progress is not None:
                going.progress(
                    TrainingStep(
                        epoch=epoch,
                        n_epochs=self._recipe.epochs,
                        loss=loss,
                        top1=top1,
                        learning_rate=learning_rate,
                        seconds=self.seconds,
                    )
                )

    def _epoch(self) -> tuple[float, float, float]:
        """Return the mean loss, the fraction classified rightly, and the last learning rate."""
        recipe, labels = self._recipe, self._images.labels
        self._module.train()
        if recipe.batch_norms == "frozen":
            freeze_batch_norms(self._module)
        # Sums stay on the device: reading them in every step would make a GPU wait.
        loss_sum = torch.zeros((), device=labels.device)
        n_right = torch.zeros((), dtype=torch.int64, device=labels.device)
        learning_rate = 0.0
        order = torch.randperm(len(labels), generator=self._generator).to(labels.device)
        for chosen in torch.split(order, recipe.batch_size):
            inputs, wanted = self._prepare(self._images.stored[chosen], self._generator), labels[chosen]
            if self._augmentation is not None:
                inputs, wanted = self._augmentation.mix(inputs, wanted, self._generator)
            with torch.autocast(
                labels.device.type, torch.bfloat16, enabled=recipe.mixed_precision and labels.device.type == "cuda"
            ):
                logits = self._module(inputs)
                loss = cross_entropy(logits, wanted, label_smoothing=recipe.label_smoothing)
            self._optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if recipe.clip_norm > 0:
                nn.utils.clip_grad_norm_(self._module.parameters(), recipe.clip_norm)
            self._optimiser.step()
            learning_rate = float(self._schedule.get_last_lr()[0])
            self._schedule.step()
            loss_sum += loss.detach() * len(chosen)
            largest = wanted if wanted.ndim == 1 else wanted.argmax(dim=1)
            n_right += (logits.detach().argmax(dim=1) == largest).sum()
        return float(loss_sum) / len(labels), int(n_right) / len(labels), learning_rate

    def _state(self, epoch: int) -> dict[str, Any]:
        return {
            "epoch": epoch,
            "seconds": self.seconds,
            "module": self._module.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
            "generator": self._generator.get_state(),
            "global generators": global_states(self._images.labels.device),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self._module.load_state_dict(state["module"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        self._generator.set_state(state["generator"])
        self.seconds = float(state["seconds"])


@torch.no_grad()
def _check_outputs(network: nn.Module, model: Model, images: Images, dataset: Dataset | None) -> int:
    """Return the number of outputs, which has to be that of classes."""
    network.eval()
    try:
        n_classes = int(network(model.prepare(images.stored[:1])).shape[1])
    # How a network refuses images is its own affair; timm's transformers assert their size.
    except (AssertionError, RuntimeError) as error:
        size = " x ".join(map(str, model.input_size))
        raise ModelError(f"`{model.name}` must take images of {size}, but {error}; choose another size.") from error
    if dataset is not None:
        check_outputs(model.name, n_classes, dataset, images.labels.cpu().numpy())
    return n_classes


@torch.no_grad()
def _features(network: nn.Module, classifier: nn.Module, model: Model, stored: Tensor) -> Tensor:
    """Return what reaches the classifier for every image, (n_images, n_features)."""
    network.eval()
    found: list[Tensor] = []
    handle = classifier.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    try:
        for part in torch.split(stored, _IMAGES_AT_ONCE):
            network(model.prepare(part))
    finally:
        handle.remove()
    return torch.cat(found)


def _optimiser(module: nn.Module, recipe: Recipe) -> Optimizer:
    if recipe.optimiser == "sgd":
        return SGD(module.parameters(), lr=recipe.learning_rate, momentum=0.9, weight_decay=recipe.weight_decay)
    return AdamW(module.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
