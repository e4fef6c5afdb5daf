"""What a criterion costs, beside one forward and backward pass over the same images."""

import functools
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from pruneboard.benchmark import plugins
from pruneboard.benchmark.api import Batch, Context, Criterion, Unsupported
from pruneboard.benchmark.data import draw_reference, open_dataset
from pruneboard.benchmark.provenance import peak_memory
from pruneboard.benchmark.units import find_layers

_MODELS = ("digits_resnet", "digits_vit")
_SHOTS = 10
_REPEATS = 3


@dataclass(frozen=True)
class Cost:
    """Time and memory of scoring on 10 images per class.

    Attributes:
        model: the network.
        seconds: time of scoring, in s.
        pass_seconds: time of one forward and backward pass over the same images, in s.
        n_bytes: memory that scoring adds at most; None where the system does not tell.
        pass_bytes: memory that the pass adds.
    """

    model: str
    seconds: float
    pass_seconds: float
    n_bytes: int | None
    pass_bytes: int | None


def measure_cost(criterion: Criterion) -> Cost | None:
    """Measure what a criterion costs on a network of the suite `digits`; None when it declines both that are tried."""
    for name in _MODELS:
        context = _context(name)
        if criterion.needs == "nothing":
            given = Context(model=context.model, layers=context.layers, generator=context.generator)
        else:
            given = context
        pass_seconds, pass_bytes = _best(functools.partial(_pass, context))
        try:
            seconds, n_bytes = _best(functools.partial(criterion.score, given))
        except Unsupported:
            continue
        return Cost(name, seconds, pass_seconds, n_bytes, pass_bytes)
    return None


def _context(name: str) -> Context:
    plugin, split = plugins.models().get(name), open_dataset("digits").split("train")
    rows = draw_reference(split.labels, _SHOTS, 0)
    images = plugin.normalise(split.inputs(rows, size=plugin.input_size, device=torch.device("cpu")))
    network = plugin.load()
    return Context(
        model=network,
        layers=find_layers(network, plugin.granularities[0], images[:1]),
        generator=torch.Generator().manual_seed(0),
        data=Batch(images, torch.from_numpy(split.labels[rows])),
    )


def _pass(context: Context) -> None:
    data = context.reference
    loss = nn.functional.cross_entropy(context.model(data.images), data.labels)
    torch.autograd.grad(loss, [parameter for parameter in context.model.parameters() if parameter.requires_grad])


def _best(call: Callable[[], object]) -> tuple[float, int | None]:
    """Return the shortest time of several calls, and the memory that the first one added."""
    gc.collect()
    with peak_memory(torch.device("cpu")) as memory:
        call()
    times = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times), memory.n_bytes
