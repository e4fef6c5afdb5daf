"""Training: a network of ours by its recipe, so that anyone can make its weights again, or what is left of one."""

import contextlib
import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from pruneboard.benchmark.api import Model, Recipe
from pruneboard.benchmark.assets import tensors_digest
from pruneboard.benchmark.data import Dataset, find_dataset
from pruneboard.benchmark.errors import AssetError, ModelError
from pruneboard.benchmark.evaluate import Accuracy, Evaluation, measure
from pruneboard.benchmark.pruned import PrunedNetwork
from pruneboard.benchmark.schema import FineTuning
from pruneboard.benchmark.store import atomic_file


@dataclass(frozen=True, kw_only=True)
class TrainingStep:
    """Progress after one epoch.

    Attributes:
        epoch: epochs done, from 1.
        n_epochs: epochs in all.
        loss: mean training loss of the epoch, in nat, label smoothing included.
        top1: fraction of the epoch's shifted images that were classified rightly while the network was learning.
        learning_rate: of the epoch's last step.
        seconds: since the start of the training.
    """

    epoch: int
    n_epochs: int
    loss: float
    top1: float
    learning_rate: float
    seconds: float


Progress = Callable[[TrainingStep], None]


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a training produced.

    Attributes:
        model: name of the model.
        file: the weights, in safetensors.
        top1: accuracy on the test split, in [0, 1].
        n_images: images of the test split.
        sha256: of the file.
        tensors_digest: of the tensors, whatever the file's layout and metadata.
        seconds: of the training alone.
    """

    model: str
    file: Path
    top1: float
    n_images: int
    sha256: str
    tensors_digest: str
    seconds: float


def train(
    model: Model, *, device: torch.device, out: Path, overwrite: bool = False, progress: Progress | None = None
) -> TrainingResult:
    """Train a network from scratch by its recipe and write its weights.

    The weights are those after the last epoch; the test split is looked at once, afterwards. On the CPU the same
    versions of the libraries on the same kind of processor give the same bits; elsewhere they may differ.

    Args:
        model: model with a recipe.
        device: where to train.
        out: the safetensors file to write; it appears only when everything has succeeded.
        overwrite: whether `out` may replace an existing file.
        progress: called after every epoch.

    Raises:
        ModelError: the model has no recipe, does not fit the data, or its loss is not finite.
        AssetError: the data are missing, or `out` exists.
        StoreError: `out` cannot be written.
    """
    recipe = _recipe(model)
    _check_writable(out, overwrite=overwrite)
    dataset = find_dataset((recipe.dataset,))
    split = dataset.split("train")
    inputs, labels = split.inputs(size=model.input_size), torch.from_numpy(split.labels)
    started = time.perf_counter()
    network = fit(model, inputs, labels, device=device, progress=progress)
    seconds = time.perf_counter() - started
    accuracy = _test(network, model, dataset, device)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    found = tensors_digest(state)
    content = safetensors.torch.save(state, metadata=_metadata(model, recipe, dataset, accuracy, found))
    with atomic_file(out) as temporary:
        temporary.write_bytes(content)
    return TrainingResult(
        model=model.name,
        file=out,
        top1=accuracy.top1,
        n_images=accuracy.n_images,
        sha256=hashlib.sha256(content).hexdigest(),
        tensors_digest=found,
        seconds=seconds,
    )


def fit(
    model: Model, inputs: Tensor, labels: Tensor, *, device: torch.device, progress: Progress | None = None
) -> nn.Module:
    """Train a network by its recipe on the images given, on one CPU thread, and return it in eval mode.

    Every step sees the next images of a random order, each shifted at random. All parameters decay; the learning rate
    rises from 1/25 of its peak over the first 30 % of the steps and falls to nearly zero, both along a cosine.

    Args:
        model: model with a recipe.
        inputs: training images as a split's `inputs` gives them, float32 (n_images, channels, height, width).
        labels: int64 (n_images,).
        device: where to train.
        progress: called after every epoch.

    Raises:
        ModelError: the model has no recipe, or the loss is not finite.
    """
    recipe = _recipe(model)
    generator = torch.Generator().manual_seed(recipe.seed)
    n_steps = recipe.epochs * math.ceil(len(inputs) / recipe.batch_size)
    images, labels = inputs.to(device), labels.to(device)
    started = time.perf_counter()
    with _one_thread(), _seeded(recipe.seed, device):
        network = model.build().to(device).train()
        optimiser = _optimiser(network, recipe)
        schedule = OneCycleLR(optimiser, recipe.learning_rate, total_steps=n_steps, cycle_momentum=False)
        for epoch in range(1, recipe.epochs + 1):
            loss_sum, n_right = 0.0, 0
            order = torch.randperm(len(images), generator=generator).to(device)
            for chosen in torch.split(order, recipe.batch_size):
                shifted = random_shift(images[chosen], recipe.max_shift, generator)
                logits = network(model.normalise(shifted))
                loss = cross_entropy(logits, labels[chosen], label_smoothing=recipe.label_smoothing)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                learning_rate = schedule.get_last_lr()[0]
                schedule.step()
                loss_sum += float(loss.detach()) * len(chosen)
                n_right += int((logits.argmax(dim=1) == labels[chosen]).sum())
            if not math.isfinite(loss_sum):
                raise ModelError(
                    f"the training loss must be finite, but it is not in epoch {epoch} of `{model.name}`; lower the "
                    f"recipe's `learning_rate`, {recipe.learning_rate}."
                )
            if progress is not None:
                progress(
                    TrainingStep(
                        epoch=epoch,
                        n_epochs=recipe.epochs,
                        loss=loss_sum / len(images),
                        top1=n_right / len(images),
                        learning_rate=float(learning_rate),
                        seconds=time.perf_counter() - started,
                    )
                )
    return network.eval()


@dataclass(frozen=True)
class TrainingImages:
    """What a network is trained on.

    Attributes:
        stored: images as they are kept, (n_images, channels, height, width).
        labels: int64 (n_images,).
        prepare: turns some of `stored` into what the network takes.
    """

    stored: Tensor
    labels: Tensor
    prepare: Callable[[Tensor], Tensor]


def finetune(pruned: PrunedNetwork, recipe: FineTuning, data: TrainingImages, generator: torch.Generator) -> float:
    """Train what is left of a network, and return the mean loss of the last epoch, in nat.

    Args:
        pruned: its removed units stay zero; it is in eval mode again afterwards.
        recipe: how to train; every call begins with a fresh optimiser.
        data: images and labels.
        generator: decides the order of the images, on the CPU.

    Raises:
        ModelError: the loss is not finite.
    """
    network, device = pruned.network, data.labels.device
    optimiser = _finetuning_optimiser(network, recipe)
    network.train()
    if recipe.batch_norms == "frozen":
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
    total = 0.0
    try:
        with torch.enable_grad(), _seeded(int(torch.randint(2**31, (1,), generator=generator)), device):
            for _ in range(recipe.epochs):
                total = 0.0
                order = torch.randperm(len(data.labels), generator=generator).to(device)
                for chosen in torch.split(order, recipe.batch_size):
                    logits = network(data.prepare(data.stored[chosen]))
                    loss = cross_entropy(logits, data.labels[chosen])
                    optimiser.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    pruned.hold()
                    optimiser.step()
                    pruned.hold()
                    total += float(loss.detach()) * len(chosen)
                if not math.isfinite(total):
                    raise ModelError(
                        f"the loss of fine-tuning must be finite, got {total}; lower `learning_rate`, "
                        f"{recipe.learning_rate}, in the suite file."
                    )
    finally:
        network.eval()
        optimiser.zero_grad()
    return total / len(data.labels)


def _finetuning_optimiser(network: nn.Module, recipe: FineTuning) -> Optimizer:
    if recipe.optimiser == "sgd":
        return SGD(
            network.parameters(), recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
    return AdamW(network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)


def random_shift(images: Tensor, max_shift: int, generator: torch.Generator) -> Tensor:
    """Shift each image by whole pixels in [-max_shift, max_shift] along each axis and fill with zeros.

    Args:
        images: (n_images, channels, height, width).
        max_shift: 0 leaves the images as they are and draws nothing.
        generator: on the CPU.
    """
    if max_shift == 0:
        return images
    n_images, n_channels, height, width = images.shape
    padded = pad(images, [max_shift] * 4)
    offsets = torch.randint(2 * max_shift + 1, (2, n_images, 1), generator=generator).to(images.device)
    rows = offsets[0] + torch.arange(height, device=images.device)
    columns = offsets[1] + torch.arange(width, device=images.device)
    image = torch.arange(n_images, device=images.device).view(-1, 1, 1, 1)
    channel = torch.arange(n_channels, device=images.device).view(1, -1, 1, 1)
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _optimiser(network: nn.Module, recipe: Recipe) -> Optimizer:
    if recipe.optimiser == "sgd":
        return SGD(network.parameters(), lr=recipe.learning_rate, momentum=0.9, weight_decay=recipe.weight_decay)
    return AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)


def _recipe(model: Model) -> Recipe:
    if model.recipe is None:
        raise ModelError(
            f"a model must have a recipe to be trained, but `{model.name}` has none; its weights were made elsewhere."
        )
    return model.recipe


def _check_writable(out: Path, *, overwrite: bool) -> None:
    """Refuse before the training what could not be written after it."""
    if out.is_dir() or (out.exists() and not overwrite):
        remedy = "name a file in it" if out.is_dir() else "choose another name, or overwrite it with `--overwrite`"
        raise AssetError(f"`out` must be a new file, but `{out}` exists; {remedy}.")
    probe = out.with_name(f".{out.name}.probe")
    with atomic_file(probe):
        pass
    probe.unlink()


def _test(network: nn.Module, model: Model, dataset: Dataset, device: torch.device) -> Accuracy:
    split = dataset.split("test")
    stored, labels = split.stored(size=model.input_size, device=device), torch.from_numpy(split.labels).to(device)
    with _one_thread():
        return measure(network, Evaluation(stored, labels, model.prepare))


def _metadata(model: Model, recipe: Recipe, dataset: Dataset, accuracy: Accuracy, found_digest: str) -> dict[str, str]:
    facts = {
        "model": model.name,
        "version": model.version,
        "licence": model.licence,
        "recipe": dataclasses.asdict(recipe),
        "data_digest": dataset.digest,
        "tensors_digest": found_digest,
        "torch": torch.__version__,
        "test_top1": accuracy.top1,
        "test_n_images": accuracy.n_images,
    }
    # One entry only: safetensors writes several in a random order, and the file's sha256 would change with it.
    return {"pruneboard": json.dumps(facts, sort_keys=True)}


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one CPU thread: sums split over several threads round differently."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, which initial weights and dropout draw from, and restore them afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
