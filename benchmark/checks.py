"""Checks of what a plugin did: its scores, and that it left the network as it was."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruneboard.benchmark.api import Scores
from pruneboard.benchmark.errors import CriterionError
from pruneboard.benchmark.units import Layer

_ROWS = 1024
_PLAIN = (bool, int, float, str, tuple, type(None))


@dataclass(frozen=True)
class Scoring:
    """Scores at every number of shots, and what they cost.

    Attributes:
        by_shots: number of shots to checked scores that share memory with nothing; a criterion that needs no data has
            one and the same scores for all.
        seconds: time of scoring at the largest number of shots.
        peak_bytes: memory added at most, None where the system does not tell.
    """

    by_shots: dict[int, Scores]
    seconds: float
    peak_bytes: int | None


def check_scores(scores: object, layers: Sequence[Layer]) -> None:
    """Check scores against the contract: a finite float32 tensor (n_units,) for every layer, and for nothing else.

    Raises:
        CriterionError: naming the layer, what was expected and what came.
    """
    if not isinstance(scores, Mapping):
        raise CriterionError(f"scores must be a dict of layer names to tensors, got `{type(scores).__name__}`.")
    _check_names(scores, layers)
    for layer in layers:
        values = scores[layer.name]
        if not isinstance(values, Tensor) or values.dtype != torch.float32 or values.shape != (layer.n_units,):
            got = f"{values.dtype} {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise CriterionError(f"scores of `{layer.name}` must be float32 ({layer.n_units},), got {got}.")
        _check_plain("scores of", layer, values)
        _check_finite(layer, values)


def check_contributions(contributions: object, layers: Sequence[Layer], n_images: int) -> None:
    """Check contributions: a finite floating-point tensor (n_images, n_units, ...) for every layer and nothing else.

    Raises:
        CriterionError: naming the layer, what was expected and what came.
    """
    if not isinstance(contributions, Mapping):
        raise CriterionError(f"contributions must be a dict of layer names, got `{type(contributions).__name__}`.")
    _check_names(contributions, layers)
    for layer in layers:
        values = contributions[layer.name]
        expected = (n_images, layer.n_units)
        if not isinstance(values, Tensor) or not values.is_floating_point() or values.shape[:2] != expected:
            got = f"{values.dtype} {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise CriterionError(f"contributions to `{layer.name}` must be floating point {expected}, got {got}.")
        _check_plain("contributions to", layer, values)
        _check_finite(layer, values)


def _check_plain(what: str, layer: Layer, values: Tensor) -> None:
    """Whatever is done with a tensor of a class of its own is done by that class, which is foreign code."""
    if type(values) not in (Tensor, nn.Parameter):
        raise CriterionError(
            f"{what} `{layer.name}` must be a plain `torch.Tensor`, got `{type(values).__qualname__}`; return "
            "`values.as_subclass(torch.Tensor)`."
        )


def _check_names(scores: Mapping[Any, Any], layers: Sequence[Layer]) -> None:
    wanted = {layer.name for layer in layers}
    missing, extra = sorted(wanted - scores.keys()), sorted(map(str, scores.keys() - wanted))
    if missing or extra:
        raise CriterionError(
            f"every layer and nothing else must be scored; missing: {missing or 'none'}, unknown: {extra or 'none'}."
        )


def _check_finite(layer: Layer, values: Tensor) -> None:
    # Some rows at a time, because telling which values are finite takes several times their memory.
    n_bad = sum(int((~torch.isfinite(part)).sum()) for part in torch.split(values, _ROWS))
    if n_bad:
        raise CriterionError(
            f"scores must be finite, but {n_bad} of {values.numel()} values of `{layer.name}` are NaN or infinite."
        )


class Snapshot:
    """What a network was before a plugin saw it.

    Args:
        model: network to remember; its parameters and buffers are copied.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        # The copies are paired with the tensors and modules themselves, so that no id is reused behind our back.
        self._tensors = {name: (tensor, tensor.detach().clone()) for name, tensor in _tensors(model)}
        self._traits = _traits(model)

    def check(self) -> None:
        """Compare with the network as it is now, bit for bit.

        Raises:
            CriterionError: something changed; the message names the first difference.
        """
        now = dict(_tensors(self._model))
        changed = sorted(self._tensors.keys() ^ now.keys()) or [
            name
            for name, (tensor, copy) in self._tensors.items()
            if now[name] is not tensor or not _same_bits(copy, tensor)
        ]
        traits = _traits(self._model)
        changed += [name for name in {**self._traits, **traits} if self._traits.get(name) != traits.get(name)]
        if changed:
            raise CriterionError(
                f"a criterion must leave the model as it was, but {changed[0]} changed "
                f"({len(changed)} differences); restore it in a `finally`, or work on a copy."
            )


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _traits(model: nn.Module) -> dict[str, Any]:
    """Everything but the tensors: modules, hooks, modes, overridden methods, options, and who requires a gradient."""
    traits: dict[str, Any] = {}
    for name, module in model.named_modules():
        hooks = {kind: tuple(hooks) for kind, hooks in vars(module).items() if kind.endswith("hooks")}
        # Options such as `eps` or `inplace`, and methods that were overridden for this one module.
        own = {k: v for k, v in vars(module).items() if callable(v) or isinstance(v, _PLAIN)}
        traits[f"module `{name}`"] = (module, hooks, own)
    for name, parameter in model.named_parameters():
        traits[f"parameter `{name}`"] = (parameter.requires_grad, parameter.grad is None)
    return traits


def _same_bits(before: Tensor, after: Tensor) -> bool:
    if before.shape != after.shape or before.dtype != after.dtype or before.device != after.device:
        return False
    # NaN differs from itself, and -0.0 equals 0.0, so bits are compared.
    return torch.equal(_bits(before), _bits(after))


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
