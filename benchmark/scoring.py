"""Calling a criterion: what it is given, what it costs, and that it leaves everything as it was."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from pruneboard.benchmark.api import Batch, Context, Criterion, Scores, SumCriterion
from pruneboard.benchmark.checks import Scoring, Snapshot, check_contributions, check_scores
from pruneboard.benchmark.errors import CriterionError, Unsupported
from pruneboard.benchmark.foreign import ForeignCriterion
from pruneboard.benchmark.provenance import peak_memory
from pruneboard.benchmark.units import Layer, tapped

_MOST_IMAGES = 100
_LEAST_IMAGES = 5
_TAP_BYTES = 18 * 2**20
"""Memory of the activations at all taps in one pass on the CPU, unless that is less than the fewest images."""


Contribute = Callable[[SumCriterion, Context], Scores]
"""Gives the contributions of every reference image of a context: layer name to (n_images, n_units, ...)."""


def compute_contributions(criterion: SumCriterion, context: Context) -> Scores:
    """Compute of the contributions of every reference image what the criterion itself reads."""
    return criterion.own_contributions(context)


@torch.no_grad()
def batch_size_for(model: nn.Module, layers: Sequence[Layer], example: torch.Tensor) -> int:
    """Return how many images one pass of a criterion should hold, by the memory that their activations take.

    A criterion keeps up to about six times the activations at the taps: those of the pass, their gradients, and what
    the graph holds.

    Args:
        model: network in eval mode.
        layers: its layers.
        example: one image that the network accepts, (1, channels, height, width).
    """
    with tapped(model, layers) as activations:
        model(example)
    n_bytes = sum(activation.numel() * activation.element_size() for activation in activations.values())
    most_bytes = _TAP_BYTES
    if example.device.type == "cuda":
        most_bytes = max(most_bytes, torch.cuda.get_device_properties(example.device).total_memory // 64)
    return min(_MOST_IMAGES, max(_LEAST_IMAGES, most_bytes // max(1, n_bytes)))


def score_all_shots(
    criterion: Criterion,
    context: Context,
    shots: Sequence[int],
    probe: torch.Tensor,
    contribute: Contribute = compute_contributions,
    kept: Mapping[str, torch.Tensor] | None = None,
) -> Scoring:
    """Score at every number of shots, and check the scores and that nothing else changed.

    Args:
        criterion: what scores.
        context: what it may look at; the reference images in shot-major order, so that k shots are a prefix.
        shots: numbers of shots in increasing order.
        probe: images whose logits must be the same before and after, (n_images, channels, height, width).
        contribute: gives the contributions of a criterion that adds them up; it may recall them.
        kept: layer name to bool (n_units,), the units that earlier steps left; the others count for nothing, not even
            in the norm of a layer. None for all.

    Raises:
        Unsupported: the criterion declines.
        CriterionError: it broke its contract.
        ForeignError: it is from elsewhere, and failed in its own process.
        Exception: whatever else it raises.
    """
    if isinstance(criterion, ForeignCriterion):
        return criterion.score_all_shots(context, shots, probe, kept)
    snapshot = Snapshot(context.model)
    before = _logits(context, probe)
    device = before.device
    try:
        with peak_memory(device) as memory:
            by_shots, seconds = _score(criterion, context, shots, _of_units_left(contribute, kept))
    except Unsupported:
        _check_unchanged(context, snapshot, probe, before)
        raise
    _check_unchanged(context, snapshot, probe, before)
    return Scoring(by_shots, seconds, memory.n_bytes)


def _score(
    criterion: Criterion, context: Context, shots: Sequence[int], contribute: Contribute
) -> tuple[dict[int, Scores], float]:
    if context.data is None:
        scores, seconds = _timed_score(criterion, context)
        return dict.fromkeys(shots, scores), seconds
    n_per_shot = len(context.data.images) // max(shots)
    if isinstance(criterion, SumCriterion):
        given = _with_first(context, len(context.data.images))
        started = time.perf_counter()
        contributions = contribute(criterion, given)
        check_contributions(contributions, context.layers, len(context.data.images))
        by_shots = {
            k: _own(criterion.reduce_prefix(context.layers, contributions, k * n_per_shot), context) for k in shots
        }
        return by_shots, time.perf_counter() - started
    by_shots = {}
    for k in shots:
        by_shots[k], seconds = _timed_score(criterion, _with_first(context, k * n_per_shot))
    return by_shots, seconds


def _of_units_left(contribute: Contribute, kept: Mapping[str, torch.Tensor] | None) -> Contribute:
    """A removed unit that feeds a residual sum still has a gradient there."""
    if kept is None or all(bool(mask.all()) for mask in kept.values()):
        return contribute

    def left(criterion: SumCriterion, context: Context) -> Scores:
        return {
            name: values.masked_fill(~kept[name].to(values.device).view(1, -1, *[1] * (values.ndim - 2)), 0.0)
            for name, values in contribute(criterion, context).items()
        }

    return left


def _timed_score(criterion: Criterion, context: Context) -> tuple[Scores, float]:
    started = time.perf_counter()
    scores = _own(criterion.score(context), context)
    return scores, time.perf_counter() - started


def _with_first(context: Context, n_images: int) -> Context:
    """Give copies of the first images, so that a criterion that writes into them harms only itself."""
    data = context.reference
    return replace(context, data=Batch(data.images[:n_images].clone(), data.labels[:n_images].clone()))


def _own(scores: Scores, context: Context) -> Scores:
    """Check scores and copy them to the CPU, which also waits for the device, in the order of the layers."""
    check_scores(scores, context.layers)
    return {layer.name: scores[layer.name].detach().cpu().clone() for layer in context.layers}


@torch.no_grad()
def _logits(context: Context, probe: torch.Tensor) -> torch.Tensor:
    return context.model(probe)  # type: ignore[no-any-return]


def _check_unchanged(context: Context, snapshot: Snapshot, probe: torch.Tensor, before: torch.Tensor) -> None:
    snapshot.check()
    if not torch.equal(_logits(context, probe), before):
        raise CriterionError(
            "a criterion must leave everything as it was, but the same network with the same state now gives other "
            "logits; undo what was patched in torch or timm in a `finally`."
        )
