"""Training a model and writing its weights, with all that is known of them."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from pruneboard.benchmark.api import Model, Recipe
from pruneboard.benchmark.assets import tensors_digest
from pruneboard.benchmark.data import Dataset, Split, find_dataset
from pruneboard.benchmark.errors import AssetError, ModelError, UnknownNameError
from pruneboard.benchmark.evaluate import Accuracy, Evaluation, measure
from pruneboard.benchmark.schema import digest
from pruneboard.benchmark.store import atomic_file
from pruneboard.benchmark.training._checkpoint import Checkpoint
from pruneboard.benchmark.training._fit import Going, fit, recipe_of
from pruneboard.benchmark.training._records import Progress, TrainingResult
from pruneboard.benchmark.training._seeding import one_thread
from pruneboard.benchmark.training._start import Start, start_from_model

EVALUATION_SPLITS = ("test", "validation", "val")
"""Names of the split that a trained network is measured on; the first that a data set has is used."""

_EVALUATION_BYTES = 32 * 2**20
"""Memory of the float32 pixels of the images in one pass of the evaluation."""


def train(
    model: Model,
    *,
    device: torch.device,
    out: Path,
    overwrite: bool = False,
    progress: Progress | None = None,
    dataset: Dataset | None = None,
    start: Start | None = None,
) -> TrainingResult:
    """Train a network by its recipe and write its weights.

    The weights are those after the last epoch; the evaluation split is opened once, afterwards. On the CPU the same
    versions of the libraries on the same kind of processor give the same bits; elsewhere they may differ. A training
    that is stopped leaves its last epoch beside `out`, and the same call goes on there.

    Args:
        model: model with a recipe.
        device: where to train.
        out: the safetensors file to write; it appears only when everything has succeeded.
        overwrite: whether `out` may replace an existing file.
        progress: called after every epoch.
        dataset: what to learn; None takes the recipe's data set.
        start: weights to start from; None takes those that the recipe names.

    Raises:
        ModelError: the model has no recipe, does not fit the data or the weights that it starts from, or its loss is
            not finite.
        AssetError: the data are missing, a class has no image, or `out` exists.
        StoreError: `out` cannot be written.
    """
    recipe = recipe_of(model)
    _check_writable(out, overwrite=overwrite)
    dataset = find_dataset((recipe.dataset,)) if dataset is None else dataset
    judged_on = evaluation_split_of(dataset)
    split = training_split_of(dataset)
    if start is None and recipe.start:
        start = start_from_model(recipe.start)
    facts = _facts(model, recipe, dataset, start)
    checkpoint = Checkpoint(out.with_name(f"{out.name}.training"), digest([facts, device.type]))
    network, seconds = fit(
        model,
        split.stored(size=model.input_size, framing=model.framing),
        torch.from_numpy(split.labels),
        device=device,
        dataset=dataset,
        start=start,
        going=Going(progress, checkpoint),
    )
    state = _stored(network, recipe)
    network.load_state_dict(state)
    accuracy = _test(network, model, dataset.split(judged_on), device)
    facts |= {
        "tensors_digest": tensors_digest(state),
        "n_train": len(split),
        "n_classes": _n_outputs(network, model, device),
        "evaluation_split": judged_on,
        "test_top1": accuracy.top1,
        "test_n_images": accuracy.n_images,
    }
    # One entry only: safetensors writes several in a random order, and the file's sha256 would change with it.
    content = safetensors.torch.save(state, metadata={"pruneboard": json.dumps(facts, sort_keys=True)})
    with atomic_file(out) as temporary:
        temporary.write_bytes(content)
    checkpoint.forget()
    return TrainingResult(
        model=model.name,
        file=out,
        top1=accuracy.top1,
        n_images=accuracy.n_images,
        sha256=hashlib.sha256(content).hexdigest(),
        tensors_digest=str(facts["tensors_digest"]),
        seconds=seconds,
    )


def training_split_of(dataset: Dataset) -> Split:
    """Return the split that is learned, in which every class that the data set names has an image.

    Raises:
        AssetError: there is none, or a class has no image.
    """
    if "train" not in dataset.sources:
        raise AssetError(
            f"a data set must have a split `train` to be learned, but `{dataset.name}` has "
            f"{', '.join(sorted(dataset.sources))}; name the training images so."
        )
    split = dataset.split("train")
    absent = np.setdiff1d(np.arange(len(dataset.classes or ())), split.labels)
    if dataset.classes is not None and len(absent):
        raise AssetError(
            f"each class must have training images, but `{dataset.classes[absent[0]]}` of `{dataset.name}` has none; "
            "add some, or remove the class."
        )
    return split


def evaluation_split_of(dataset: Dataset) -> str:
    """Return the name of the split that a trained network is measured on; it is not opened.

    Raises:
        UnknownNameError: there is none.
    """
    for name in EVALUATION_SPLITS:
        if name in dataset.sources:
            return name
    raise UnknownNameError(
        f"a data set must have a split that is not learned, {' or '.join(EVALUATION_SPLITS)}, but `{dataset.name}` has "
        f"{', '.join(sorted(dataset.sources))}; set images aside for it."
    )


def _check_writable(out: Path, *, overwrite: bool) -> None:
    """Refuse before the training what could not be written after it."""
    if out.is_dir() or (out.exists() and not overwrite):
        remedy = "name a file in it" if out.is_dir() else "choose another name, or overwrite it with `--overwrite`"
        raise AssetError(f"`out` must be a new file, but `{out}` exists; {remedy}.")
    probe = out.with_name(f".{out.name}.probe")
    with atomic_file(probe):
        pass
    probe.unlink()


def _stored(network: nn.Module, recipe: Recipe) -> dict[str, Tensor]:
    """Return the weights as the file will hold them."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    if recipe.stored_as == "float32":
        return state
    rounded = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    for name, tensor in rounded.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(
                f"weights must fit into half precision, but those of `{name}` do not; store them as float32."
            )
    return rounded


def _test(network: nn.Module, model: Model, split: Split, device: torch.device) -> Accuracy:
    stored = split.stored(size=model.input_size, framing=model.framing, device=device)
    labels = torch.from_numpy(split.labels).to(device)
    batch_size = max(1, min(125, _EVALUATION_BYTES // (4 * stored[0].numel())))
    with one_thread():
        return measure(network, Evaluation(stored, labels, model.prepare, batch_size=batch_size))


@torch.no_grad()
def _n_outputs(network: nn.Module, model: Model, device: torch.device) -> int:
    return int(network(torch.zeros(1, *model.input_size, device=device)).shape[1])


def _facts(model: Model, recipe: Recipe, dataset: Dataset, start: Start | None) -> dict[str, Any]:
    """Return everything that decides the training."""
    return {
        "model": model.name,
        "version": model.version,
        "licence": model.licence,
        "input_size": model.input_size,
        "recipe": dataclasses.asdict(recipe),
        "dataset": dataset.name,
        "data_digest": dataset.digest,
        "torch": torch.__version__,
        **({"start": {"source": start.source, "digest": start.digest}} if start else {}),
    }
