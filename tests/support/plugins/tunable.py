"""Criteria to tune whose best parameters are known; only tests that put this folder on the path find them."""

import dataclasses
import os
import signal
import time
from typing import ClassVar

import torch
from torch import Tensor

from pruneboard.benchmark.api import Batch, Context, Criterion, Needs, SearchSpace, SumCriterion, Unsupported

LETTERS = ("a", "b", "c")


class _Declared:
    version: ClassVar[int] = 1
    family: ClassVar[str] = "control"
    source: ClassVar[str] = "https://example.org"
    needs: ClassVar[Needs] = "nothing"


@dataclasses.dataclass(frozen=True)
class Tunable(_Declared, Criterion):
    """Norms of weights, with more signs turned for every parameter that is not `b`; the best is b, b, b."""

    first: str = "a"
    second: str = "a"
    third: str = "default"

    name: ClassVar[str] = "tunable"

    def search_space(self, context: Context) -> SearchSpace:
        """Three letters for each of three; the default of the third is none of them."""
        return {"first": LETTERS, "second": LETTERS, "third": LETTERS}

    def score(self, context: Context) -> dict[str, Tensor]:
        """Take norms, and turn the sign of one unit in six for each wrong parameter, of four for `first`."""
        wrong = 4 * (self.first != "b") + (self.second != "b") + (self.third != "b")
        scores = {}
        for layer in context.layers:
            norms = context.model.get_submodule(layer.name).weight.detach().flatten(1).norm(dim=1)
            turned = torch.arange(layer.n_units, device=norms.device) % 6 < wrong
            scores[layer.name] = torch.where(turned, -norms, norms) / norms.norm()
        return scores


@dataclasses.dataclass(frozen=True)
class Fragile(_Declared, SumCriterion):
    """Mean inputs, unless it does what `way` says; `flip` belongs to the reduction only.

    Attributes:
        way: `fine`, or how it goes wrong.
        flip: whether the order is reversed.
    """

    way: str = "fine"
    flip: bool = False

    name: ClassVar[str] = "fragile"
    needs: ClassVar[Needs] = "labels"
    reduced_by: ClassVar[frozenset[str]] = frozenset({"flip"})
    ways: ClassVar[tuple[str, ...]] = ("fine", "raises", "declines", "damages")

    def search_space(self, context: Context) -> SearchSpace:
        """All ways, forwards and backwards."""
        return {"way": self.ways, "flip": (False, True)}

    def contributions(self, context: Context, batch: Batch) -> dict[str, Tensor]:
        """Let units differ by their place, and each image by its brightness."""
        bright = batch.images.mean((1, 2, 3))
        made = {layer.name: bright[:, None] + torch.arange(layer.n_units) for layer in context.layers}
        match self.way:
            case "raises":
                raise ValueError("not this configuration")
            case "declines":
                raise Unsupported("not on this network")
            case "damages":
                next(context.model.parameters()).data.add_(1)
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "slow":
                time.sleep(0.3)
        return made

    def reduce(self, layer: object, contributions: Tensor) -> Tensor:
        """Write into what it was given, which must not reach other trials."""
        contributions *= -1 if self.flip else 1
        return contributions.mean(dim=0)


@dataclasses.dataclass(frozen=True)
class Lethal(Fragile):
    """One that ends the process in one configuration."""

    name: ClassVar[str] = "lethal"

    def search_space(self, context: Context) -> SearchSpace:
        """Once fine, once not."""
        return {"way": ("fine", "killed")}


@dataclasses.dataclass(frozen=True)
class Slow(Fragile):
    """One that takes its time, so that it can be interrupted."""

    speed: int = 0

    name: ClassVar[str] = "slow_one"

    def search_space(self, context: Context) -> SearchSpace:
        """Many slow configurations."""
        return {"way": ("slow",), "flip": (False, True), "speed": tuple(range(20))}


@dataclasses.dataclass(frozen=True)
class Declining(Fragile):
    """One that declines every network."""

    way: str = "declines"

    name: ClassVar[str] = "declining"
    ways: ClassVar[tuple[str, ...]] = ("declines",)
