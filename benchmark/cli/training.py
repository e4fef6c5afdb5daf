"""`pruneboard train`: a model by its recipe, or a pretrained one for another data set."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.progress import Progress

from pruneboard.benchmark import plugins
from pruneboard.benchmark.api import Model
from pruneboard.benchmark.assets import is_folder, recorded_facts
from pruneboard.benchmark.cli._console import make_console
from pruneboard.benchmark.data import Dataset, open_dataset, open_folder
from pruneboard.benchmark.errors import PruneboardError, UnknownNameError
from pruneboard.benchmark.provenance import resolve_device
from pruneboard.benchmark.training import (
    AdaptOptions,
    Start,
    TrainingResult,
    TrainingStep,
    adapt_to,
    start_from_file,
    start_from_model,
    train,
)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Choices of `pruneboard train`, as its options name them.

    Attributes:
        model: registered name.
        start: weights of a transfer, as a file or a model's name; None trains by the model's recipe.
        dataset: name or folder of the data set; None takes the recipe's.
        layers: what a transfer trains.
        size: pixels that a transfer brings images to; None takes the model's.
        changes: fields of the recipe with the values they get; None leaves them.
        half: whether weights are stored in half precision.
        out: file to write; None takes the place where `load` looks for weights that the recipe makes on this machine,
            or the present folder for all others.
        device: name of the device, or `auto`.
        overwrite: whether an existing file may be replaced.
    """

    model: str
    start: str | None
    dataset: str | None
    layers: Literal["classifier", "all"]
    size: int | None
    changes: Mapping[str, int | float | None]
    half: bool
    out: Path | None
    device: str
    overwrite: bool


def train_model(options: TrainOptions) -> bool:
    """Train a model, and return whether Ctrl-C stopped it.

    Raises:
        PruneboardError: the model has no recipe, data or weights do not fit it, or the file cannot be written.
    """
    console = make_console()
    model, dataset, start = _transfer(options) if options.start is not None else _by_recipe(options)
    own = plugins.models().get(options.model)
    default = model.made_file if model == own and model.made_file is not None else Path(f"{model.name}.safetensors")
    out = options.out or default
    device = resolve_device(options.device)
    try:
        result = train_with_progress(
            model, out, device, console, overwrite=options.overwrite, dataset=dataset, start=start
        )
    except KeyboardInterrupt:
        console.print("Stopped; no weights were written. The same command continues.")
        return True
    if options.start is not None:
        _say_how_to_register(options.model, model, result, console)
    return False


def _by_recipe(options: TrainOptions) -> tuple[Model, Dataset | None, None]:
    if options.size is not None or options.layers != "classifier":
        raise PruneboardError("`--size` and `--layers` must come with `--from`, as recipes say both; add that.")
    model = plugins.models().get(options.model)
    dataset = None if options.dataset is None else _open(options.dataset)
    changes = {name: value for name, value in options.changes.items() if value is not None}
    stored = {"stored_as": "float16"} if options.half else {}
    named = {} if dataset is None else {"dataset": dataset.name}
    if model.recipe is not None and (changes or stored or named):
        model = replace(model, recipe=replace(model.recipe, **changes, **stored, **named))  # type: ignore[arg-type]
    return model, dataset, None


def _transfer(options: TrainOptions) -> tuple[Model, Dataset, Start]:
    if options.dataset is None:
        raise PruneboardError("`--from` must come with `--dataset`, the data set to adapt the network to; add that.")
    base, given = plugins.models().get(options.model), options.start or ""
    dataset = _open(options.dataset)
    if given in plugins.models().names():
        start = start_from_model(given)
    else:
        start = start_from_file(base, Path(given))
        if start.digest == base.weights_digest:
            start = replace(start, source=base.name)
    known = start.source if start.source in plugins.models().names() else ""
    adapt = AdaptOptions(layers=options.layers, size=options.size, half=options.half)
    changes = {name: value for name, value in options.changes.items() if value is not None}
    return adapt_to(base, dataset, replace(adapt, **changes), known), dataset, start  # type: ignore[arg-type]


def _open(name: str) -> Dataset:
    """Open a data set by its name, or by the path of its folder."""
    try:
        return open_dataset(name)
    except UnknownNameError:
        folder = Path(name).expanduser()
        if not is_folder(folder):
            raise
    return open_folder(folder.resolve().name, folder)


def _say_how_to_register(base: str, model: Model, result: TrainingResult, console: Console) -> None:
    """Print what makes the weights a model of pruneboard."""
    n_classes = recorded_facts(result.file)["n_classes"]
    module = _module_of(base)
    console.print(
        "To name it in a suite, put the weights into a folder that PRUNEBOARD_WEIGHTS names, and this into a file that "
        "PRUNEBOARD_PLUGINS names:\n"
    )
    console.print(
        f"""from pruneboard.benchmark.api import Weights, adapted
from pruneboard.models import {module}

{model.name} = adapted(
    {module}.{base},
    name="{model.name}",
    n_classes={n_classes},
    input_size={model.input_size},
    weights=Weights(
        file="{result.file.name}",
        digest="{result.tensors_digest}",
        sha256="{result.sha256}",
    ),
)""",
        highlight=False,
        soft_wrap=True,
    )


def _module_of(name: str) -> str:
    """Return the module of `pruneboard.models` that defines a model."""
    model, package = plugins.models().get(name), "pruneboard.models."
    homes = [
        home for home, module in sys.modules.items() if home.startswith(package) and model in vars(module).values()
    ]
    return homes[0].removeprefix(package) if homes else "your_module"


def train_with_progress(
    model: Model,
    out: Path,
    device: torch.device,
    console: Console,
    *,
    overwrite: bool = False,
    dataset: Dataset | None = None,
    start: Start | None = None,
) -> TrainingResult:
    """Train a model, with a bar for its epochs and a line for its result."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"training {model.name}", total=None)

        def update(step: TrainingStep) -> None:
            description = f"training {model.name}, loss {step.loss:.3f}, top-1 {step.top1:.3f}"
            progress.update(task, completed=step.epoch, total=step.n_epochs, description=description)

        result = train(
            model, device=device, out=out, progress=update, overwrite=overwrite, dataset=dataset, start=start
        )
    console.print(f"{out}: test accuracy {result.top1:.4f}, {result.seconds:.0f} s, sha256 {result.sha256}")
    return result
