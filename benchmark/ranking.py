"""Scores to an order of units, and an order to nested masks."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pruneboard.benchmark.schema import Scope, n_removed

__all__ = ["Ranking", "masks_at", "n_removed", "rank"]


@dataclass(frozen=True)
class Ranking:
    """Units from least to most important.

    Attributes:
        layers: layer name and number of units, in the order of the scores.
        groups: each an order in which units are removed, as positions in the concatenation of all layers; one group
            over everything for the scope `global`, one per layer for the scope `layer`.
    """

    layers: tuple[tuple[str, int], ...]
    groups: tuple[Tensor, ...]

    @property
    def n_units(self) -> int:
        """Number of units in all layers."""
        return sum(size for _, size in self.layers)


def rank(
    scores: Mapping[str, Tensor],
    scope: Scope,
    generator: torch.Generator,
    kept: Mapping[str, Tensor] | None = None,
) -> Ranking:
    """Order units by their scores, least important first; units of equal score come in seeded random order.

    Args:
        scores: layer name to finite scores (n_units,).
        scope: `global` compares the units of all layers with one another (Hatefi et al. 2024), `layer` only those of
            the same layer.
        generator: decides ties; on the CPU.
        kept: layer name to bool (n_units,), the units that an earlier step left; those it removed come first, whatever
            their scores. None for all.
    """
    layers = tuple((name, len(values)) for name, values in scores.items())
    flat = torch.cat([values.detach().cpu() for values in scores.values()])
    shuffled = torch.randperm(len(flat), generator=generator)
    order = shuffled[torch.argsort(flat[shuffled], stable=True)]
    if kept is not None:
        left = torch.cat([kept[name] for name in scores])
        order = torch.cat([order[~left[order]], order[left[order]]])
    if scope == "global":
        return Ranking(layers, (order,))
    owner = torch.repeat_interleave(torch.arange(len(layers)), torch.tensor([size for _, size in layers]))
    return Ranking(layers, tuple(order[owner[order] == index] for index in range(len(layers))))


def masks_at(ranking: Ranking, rate: float) -> dict[str, Tensor]:
    """Return the masks at a rate, layer name to bool (n_units,), True = kept; they nest as the rate grows."""
    kept = torch.ones(ranking.n_units, dtype=torch.bool)
    for group in ranking.groups:
        kept[group[: n_removed(rate, len(group))]] = False
    parts = torch.split(kept, [size for _, size in ranking.layers])
    return {name: part for (name, _), part in zip(ranking.layers, parts, strict=True)}
